"""Dialogues of the MMTP binding with the real client side of the wire."""

from __future__ import annotations

from accessgw.model.reasons import CloseReason
from protocols.mmtp import events
from protocols.mmtp.handshake import StreamCursor
from protocols.mmtp.statuses import Status
from tests.core.gateway_fakes import Device, Gateway


def test_hello_welcome_call_response() -> None:
    gateway = Gateway()
    device = gateway.device(token="ok:alice", app="shop", app_version="2.1", call_base=100)
    (welcomed,) = device.take(events.WelcomeReceived)
    assert welcomed.welcome.result == 0
    assert len(welcomed.welcome.session) == 32
    assert len(welcomed.welcome.mac_key) == 32
    assert device.connection.is_established

    number = device.call("payments.pay", b'{"amount":1}', headers=[("x-note", "n")], timeout=5.0)
    exchange = gateway.upstreams.last
    assert (exchange.cluster, exchange.request.method, exchange.request.target) == ("c", "POST", "/payments.pay")
    assert exchange.request.body == b'{"amount":1}'
    headers = dict(exchange.request.headers)
    assert headers["x-note"] == "n"
    assert headers["x-device-id"] == "d1"
    assert headers["x-user-id"] == "alice"
    assert headers["x-app"] == "shop"
    assert headers["x-call-id"] == f"{100:016x}"
    assert headers["x-zone"] == "z1"
    assert headers["x-deadline-ms"] == "5000"
    assert exchange.request.deadline == gateway.clock.seconds() + 5.0

    exchange.answer(200, b'{"ok":true}', [("content-type", "application/json"), ("connection", "close")])
    (response,) = device.take(events.ResponseReceived)
    assert (response.call, response.status, response.body, response.more) == (number, 0, b'{"ok":true}', False)
    assert response.headers == [("content-type", "application/json")]
    (record,) = gateway.records
    assert (record.operation, record.device, record.user, record.status, record.http_status) == (
        "payments.pay", "d1", "alice", 0, 200,
    )  # fmt: skip
    assert gateway.call_counters.open == 0


def test_everything_of_one_turn_leaves_in_one_write() -> None:
    gateway = Gateway()
    device = gateway.device()
    for _ in range(3):
        device.wire.request("gw.time", [], b"")
    before = len(device.connection.written)
    device.send()
    assert len(device.connection.written) == before + 1
    assert len(device.take(events.ResponseReceived)) == 3

    device.call("a"), device.call("b")
    before = len(device.connection.written)
    for exchange in gateway.upstreams.exchanges:
        exchange.answer(200, b"x")
    assert len(device.connection.written) == before
    assert len(device.take(events.ResponseReceived)) == 2
    assert len(device.connection.written) == before + 1


def test_calls_before_welcome_wait_for_it() -> None:
    gateway = Gateway()
    gateway.authenticator.hold = True
    device = Device(gateway).hello()
    device.call("pay", b"early")
    assert not gateway.upstreams.exchanges
    gateway.authenticator.let_go()
    device.listen()
    assert device.take(events.WelcomeReceived)
    assert gateway.upstreams.last.request.body == b"early"


def test_a_refused_hello_is_answered_and_closed() -> None:
    gateway = Gateway()
    device = Device(gateway).hello(token="wrong")
    (welcomed,) = device.take(events.WelcomeReceived)
    assert welcomed.welcome.result == Status.AUTH
    assert device.connection.closed is CloseReason.AUTH_FAILED
    assert not device.connection.is_established
    assert gateway.session_counters.auth_failures == {"none": 1}
    assert len(gateway.sessions.registry) == 0


def test_hello_cursors_reach_the_push_side_but_for_strangers_streams() -> None:
    gateway = Gateway()
    gateway.device(
        token="ok:alice",
        cursors=[
            StreamCursor("user", "alice", "orders", 1, 5),
            StreamCursor("user", "bob", "orders", 1, 5),
            StreamCursor("device", "d2", "x", 1, 1),
            StreamCursor("topic", "news", "n", 1, 2),
            StreamCursor("broadcast", "", "b", 1, 3),
        ],
    )
    ((_, _, cursors),) = [entry for entry in gateway.pushes.log if entry[0] == "attach"]
    assert [(str(c.stream.scope), c.stream.id, c.seq) for c in cursors] == [
        ("user", "alice", 5), ("topic", "news", 2), ("broadcast", "", 3),
    ]  # fmt: skip
