"""Short connections: form with HELLO, form with a session, tags, counters, clocks, and calls over both ways."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest

from accessgw.core.interfaces.stores import StoreUnavailable
from accessgw.core.short import MAX_ANSWER, MAX_REQUEST, ShortConnections
from accessgw.model.http import HttpRequest
from accessgw.model.pushes import Scope, StoredPush, StreamKey
from accessgw.model.route_settings import RouteSettings
from protocols.mmtp import events
from protocols.mmtp.handshake import Hello, StreamCursor, Welcome
from protocols.mmtp.settings import Limits
from protocols.mmtp.short import (
    ShortCall,
    ShortRequest,
    ShortResponse,
    decode_short_response,
    encode_short_request,
)
from protocols.mmtp.statuses import Status
from tests.core.gateway_fakes import FakeConnection, FakeExchangeOfHttp, Gateway

HOST = "gw.example:7443"


class Phone:
    """The device's end of short connections."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.handler = ShortConnections(gateway.services, 30.0)
        self.welcome = Welcome()
        self.counter = 0

    def post(self, body: bytes, host: str = HOST) -> FakeExchangeOfHttp:
        request = HttpRequest("POST", "/mmtp", [("host", host)], FakeConnection().info)
        exchange = FakeExchangeOfHttp(request)
        exchange.upload = self.handler(exchange)
        exchange.upload.data(body)
        exchange.upload.finished()
        return exchange

    def hello(self, *calls: ShortCall, max_pushes: int = 0, **hello: Any) -> FakeExchangeOfHttp:
        hello = {"device": "d1", "token": "ok:alice", **hello}
        return self.post(
            encode_short_request(ShortRequest(hello=Hello(**hello), calls=list(calls), max_pushes=max_pushes))
        )

    def join(self, **hello: Any) -> Phone:
        response = read(self.hello(**hello))
        assert response.status == 0
        assert response.welcome is not None
        self.welcome = response.welcome
        return self

    def encode(self, *calls: ShortCall, key: bytes | None = None, listener: str = HOST, **fields: Any) -> bytes:
        self.counter += 1
        fields = {"session": self.welcome.session, "counter": self.counter, "time": self.gateway.wall(), **fields}
        return encode_short_request(
            ShortRequest(calls=list(calls), **fields), mac_key=key or self.welcome.mac_key, listener=listener
        )

    def ask(self, *calls: ShortCall, **fields: Any) -> FakeExchangeOfHttp:
        return self.post(self.encode(*calls, **fields))


def read(exchange: FakeExchangeOfHttp, zstd: bool = False) -> ShortResponse:
    assert exchange.status == 200, exchange.body
    assert dict(exchange.headers)["content-type"] == "application/mmtp"
    return decode_short_response(exchange.body, Limits(), zstd=zstd)


def pay(call_id: int = 1, body: bytes = b"{}", **more: Any) -> ShortCall:
    return ShortCall(call_id, "pay", [], body, **more)


def test_with_hello_the_device_is_welcomed_and_its_calls_answered() -> None:
    gateway = Gateway()
    exchange = Phone(gateway).hello(pay(5), ShortCall(6, "gw.time"))
    assert exchange.status == 0  # a call is still in flight
    gateway.upstreams.last.answer(200, b"paid")
    response = read(exchange)
    assert response.welcome is not None
    assert response.welcome.result == 0
    assert len(response.welcome.mac_key) == 32
    answers = {answer.index: (answer.status, answer.body) for answer in response.answers}
    assert answers[0] == (0, b"paid")
    assert answers[1][0] == 0
    assert dict(gateway.upstreams.last.request.headers)["x-call-id"] == f"{5:016x}"
    assert gateway.presence.log == []  # it does not count as a connection
    assert gateway.records[-1].binding == "mmtp-short"


def test_with_a_session_calls_are_answered() -> None:
    gateway = Gateway()
    phone = Phone(gateway).join()
    exchange = phone.ask(pay(body=b"one"))
    gateway.upstreams.last.answer(404, b"no", [("x-a", "b")])
    (answer,) = read(exchange).answers
    assert (answer.status, answer.headers, answer.body) == (404, [("x-a", "b")], b"no")
    assert dict(gateway.upstreams.last.request.headers)["x-user-id"] == "alice"


def test_bodies_of_a_stranger_are_not_looked_at() -> None:
    """1 MiB can stand for 200: only who has the session's key may have that expanded."""
    phone = Phone(Gateway()).join()
    broken = [ShortCall(1, "pay", [], b"\x01 no zstd frame")]
    assert read(phone.post(coded(phone, broken, bytes(32)))).status == Status.SESSION_UNKNOWN
    exchange = phone.post(coded(phone, broken, phone.welcome.mac_key))
    assert (exchange.status, exchange.body.startswith(b"body: ")) == (400, True)


def coded(phone: Phone, calls: list[ShortCall], key: bytes) -> bytes:
    """A short request whose bodies are sent as they are, with the mark of coding 2."""
    with patch("protocols.mmtp.short.compress", lambda body: body):
        phone.counter += 1
        request = ShortRequest(
            calls=calls, session=phone.welcome.session, counter=phone.counter, time=phone.gateway.wall()
        )
        return encode_short_request(request, mac_key=key, listener=HOST, zstd=True)


def test_a_hello_does_not_take_the_long_connection_over() -> None:
    gateway = Gateway()
    device = gateway.device(token="ok:alice", generation=(5, 5))
    (welcomed,) = device.take(events.WelcomeReceived)
    phone = Phone(gateway).join(boot=1, counter=1)
    assert phone.welcome.session == welcomed.welcome.session
    assert phone.welcome.mac_key == welcomed.welcome.mac_key
    assert device.connection.closed is None
    stranger = read(Phone(gateway).hello(token="ok:mallory", boot=9))
    assert stranger.status == Status.REPLACED
    assert device.connection.closed is None


def test_bad_credentials() -> None:
    gateway = Gateway()
    response = read(Phone(gateway).hello(pay(), token="wrong"))
    assert (response.status, response.answers) == (Status.AUTH, [])
    assert not gateway.upstreams.exchanges


@pytest.mark.parametrize("attack", ["session", "key", "listener", "body", "time", "counter"])
def test_whatever_is_not_what_was_signed_is_an_unknown_session(attack: str) -> None:
    gateway = Gateway()
    phone = Phone(gateway).join()
    if attack == "session":
        body = phone.encode(pay(), session="0" * 32)
    elif attack == "key":
        body = phone.encode(pay(), key=b"k" * 32)
    elif attack == "listener":
        body = phone.encode(pay(), listener="other.example")
    else:
        good = bytearray(phone.encode(pay(body=b"amount=1")))
        place = {"counter": 2 + 33 + 7, "time": 2 + 33 + 15, "body": len(good) - 1}[attack]
        good[place] ^= 1
        body = bytes(good)
    assert read(phone.post(body)).status == Status.SESSION_UNKNOWN
    assert not gateway.upstreams.exchanges
    assert read(phone.ask(ShortCall(1, "gw.time"), counter=1)).status == 0  # and no counter was used up


def test_a_time_of_all_ones_breaks_nothing() -> None:
    phone = Phone(Gateway()).join()
    body = bytearray(phone.encode(pay()))
    body[2 + 33 + 8 : 2 + 33 + 16] = b"\xff" * 8
    exchange = phone.post(bytes(body))
    assert exchange.status == 400 or read(exchange).status == Status.SESSION_UNKNOWN


def test_a_replayed_request_is_refused() -> None:
    gateway = Gateway()
    phone = Phone(gateway).join()
    body = phone.encode(ShortCall(1, "gw.time"))
    assert read(phone.post(body)).status == 0
    assert read(phone.post(body)).status == Status.AUTH


def test_the_counter_window() -> None:
    phone = Phone(Gateway()).join()

    def status(counter: int) -> int:
        return read(phone.ask(counter=counter)).status

    assert status(100) == 0
    assert status(37) == 0  # 63 below the highest
    assert status(37) == Status.AUTH
    assert status(36) == Status.AUTH  # 64 below
    assert status(101) == 0
    assert status(99) == 0
    assert status(2**64 - 1) == 0
    assert status(102) == Status.AUTH


def test_the_clock_may_be_off_by_thirty_seconds() -> None:
    gateway = Gateway()
    phone = Phone(gateway).join()
    for off, expected in ((29.9, 0), (-29.9, 0), (30.1, Status.AUTH), (-30.1, Status.AUTH)):
        response = read(phone.ask(time=gateway.wall() + off))
        assert response.status == expected, off
        assert response.time == pytest.approx(gateway.wall())


def test_an_expired_or_revoked_session_is_unknown() -> None:
    gateway = Gateway()
    phone = Phone(gateway).join(token=f"ok:alice:{gateway.wall() + 10}")
    gateway.clock.advance(11.0)
    assert read(phone.ask(pay())).status == Status.SESSION_UNKNOWN
    phone = Phone(gateway).join()
    gateway.sessions.revoke("d1")
    assert read(phone.ask(pay())).status == Status.SESSION_UNKNOWN
    assert not gateway.upstreams.exchanges


def test_the_same_call_over_both_ways_is_executed_once() -> None:
    gateway = Gateway()
    device = gateway.device(token="ok:alice", call_base=70)
    (welcomed,) = device.take(events.WelcomeReceived)
    phone = Phone(gateway)
    phone.welcome = welcomed.welcome
    device.call("pay", b"{}")
    exchange = phone.ask(pay(70, resent=True))
    gateway.upstreams.last.answer(200, b"paid")
    assert [a.body for a in read(exchange).answers] == [b"paid"]
    (response,) = device.take(events.ResponseReceived)
    assert response.body == b"paid"
    (again,) = read(phone.ask(pay(70, resent=True))).answers
    assert again.body == b"paid"
    assert len(gateway.upstreams.exchanges) == 1


def test_a_client_that_goes_away_leaves_its_calls_running() -> None:
    gateway = Gateway()
    phone = Phone(gateway).join()
    exchange = phone.ask(pay(9))
    exchange.upload.aborted()
    gateway.upstreams.last.answer(200, b"paid")
    (answer,) = read(phone.ask(pay(9, resent=True))).answers
    assert answer.body == b"paid"
    assert len(gateway.upstreams.exchanges) == 1


def test_an_answer_that_does_not_fit_is_refused_alone() -> None:
    gateway = Gateway()
    phone = Phone(gateway).join()
    exchange = phone.ask(ShortCall(1, "big"), ShortCall(2, "gw.time"))
    gateway.upstreams.last.answer(200, b"x" * (MAX_ANSWER + 1))
    answers = {answer.index: answer.status for answer in read(exchange).answers}
    assert answers == {0: Status.FRAME_SIZE, 1: 0}


def test_pending_pushes_come_along() -> None:
    gateway = Gateway()
    key = StreamKey(Scope.USER, "alice", "orders")
    gateway.pushes.waiting = [
        (key, 3, StoredPush(seq=5, body=b"five", appended_at=0.0)),
        (key, 3, StoredPush(seq=8, body=b"eight", appended_at=0.0, expires_at=gateway.wall() + 20)),
        (key, 3, StoredPush(seq=9, body=b"nine", appended_at=0.0)),
    ]
    phone = Phone(gateway).join()
    mine = StreamCursor("user", "alice", "orders", 3, 4)
    response = read(phone.ask(max_pushes=2, cursors=[mine, StreamCursor("user", "bob", "orders", 3, 4)]))
    assert [(p.scope, p.id, p.biz, p.epoch, p.seq, p.body, p.ttl) for p in response.pushes] == [
        ("user", "alice", "orders", 3, 5, b"five", None),
        ("user", "alice", "orders", 3, 8, b"eight", 20.0),
    ]
    assert response.more_pushes
    ((_, cursors, limit),) = [entry for entry in gateway.pushes.log if entry[0] == "pending"]
    assert [(c.stream.id, c.seq) for c in cursors] == [("alice", 4)]
    assert limit == 2


def test_malformed_requests() -> None:
    phone = Phone(Gateway())
    assert phone.post(b"\x01\x00").status == 400
    assert phone.post(b"\x01\x07").status == 400
    assert phone.post(b"x" * (MAX_REQUEST + 1)).status == 413
    assert read(phone.post(b"\x02\x00")).status == Status.VERSION


def test_a_logout_over_a_short_connection_is_answered_and_voids_the_key() -> None:
    gateway = Gateway()
    phone = Phone(gateway).join()
    exchange = phone.ask(ShortCall(9, "gw.logout", [], b""))
    gateway.clock.advance(0)
    (answer,) = read(exchange).answers
    assert (answer.status, answer.reset) == (0, False)
    assert read(phone.ask(pay())).status == Status.SESSION_UNKNOWN


def test_a_busy_gateway_says_when_to_try_again() -> None:
    phone = Phone(Gateway()).join()
    phone.gateway.store.fail = StoreUnavailable("disk full")
    (answer,) = read(phone.ask(pay(7))).answers
    assert (answer.status, answer.headers, answer.reset) == (Status.OVERLOAD, [("retry-after", "1")], False)


def test_secret_answers_and_pushes_travel_raw() -> None:
    gateway = Gateway(
        RouteSettings(operation="pay", cluster="c"), RouteSettings(operation="key.get", cluster="c", secret=True)
    )
    gateway.services.is_secret = {"password", "letters"}.__contains__
    for operation, biz, raw in (("pay", "orders", False), ("key.get", "letters", True)):
        phone = Phone(gateway).join(device=biz, capabilities=frozenset({"zstd"}))
        stored = StoredPush(1, b"a push " * 100, 0.0)
        gateway.pushes.waiting = [(StreamKey(Scope.USER, "alice", biz), 1, stored)]
        exchange = phone.ask(ShortCall(len(biz), operation, [], b"{}"), max_pushes=1)
        gateway.upstreams.last.answer(200, b"an answer " * 100)
        response = read(exchange, zstd=True)
        assert response.answers[0].body == b"an answer " * 100
        assert response.pushes[0].body == stored.body
        assert (exchange.body.count(b"an answer"), exchange.body.count(b"a push")) == ((100, 100) if raw else (1, 1))
