"""Dialogues of the MMTP binding with the real client side of the wire."""

from __future__ import annotations

import pytest

from accessgw.core.interfaces.pushes import OutgoingPush
from accessgw.model.pushes import Scope, StreamKey
from accessgw.model.reasons import CloseReason
from protocols.mmtp import HeaderMemory, Hello, events
from protocols.mmtp.bundles import Bundle
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.frames import encode_ack
from protocols.mmtp.handshake import Goaway, StreamCursor
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


def early_with_states(gateway: Gateway, body: bytes) -> Device:
    """A device that does not wait for WELCOME and names header states and dictionaries."""
    device = Device(gateway)
    bundle = Bundle([Dictionary(5, b"12345678", ["q*"])])
    capabilities = frozenset(("template", "dict"))
    device.wire.send_hello(Hello("d1", token="ok", capabilities=capabilities), HeaderMemory(), bundle)
    device.wire.request("pay", [], body)
    device.send()
    return device


def test_calls_that_need_what_is_not_there_are_refused_and_repeated() -> None:
    gateway = Gateway()
    gateway.authenticator.hold = True
    device = early_with_states(gateway, b"early")
    gateway.authenticator.let_go()
    assert [event.status for event in device.take(events.CallReset)] == [Status.STATE_MISS]
    assert not gateway.upstreams.exchanges
    device.call("pay", b"early", call_id=0)
    assert gateway.upstreams.last.request.body == b"early"


def test_what_the_wire_held_is_handled_after_welcome() -> None:
    gateway = Gateway()
    device = Device(gateway)
    bundle = Bundle([Dictionary(5, b"12345678", ["q*"])])
    device.wire.send_hello(Hello("d1", token="ok", capabilities=frozenset(("dict",))), None, bundle)
    device.call("pay", b"early")
    assert gateway.upstreams.last.request.body == b"early"


def test_bytes_that_turn_out_wrong_at_welcome_end_the_connection() -> None:
    gateway = Gateway()
    gateway.authenticator.hold = True
    device = early_with_states(gateway, b"")
    device.binding.data_received(bytes.fromhex("30 01 05"))
    gateway.authenticator.let_go()
    assert device.connection.closed is CloseReason.PROTOCOL_ERROR


def test_a_refused_hello_is_answered_and_closed() -> None:
    gateway = Gateway()
    device = Device(gateway).hello(token="wrong")
    (welcomed,) = device.take(events.WelcomeReceived)
    assert welcomed.welcome.result == Status.AUTH
    assert device.connection.closed is CloseReason.AUTH_FAILED
    assert device.connection.info.device == "d1"
    assert gateway.session_counters.auth_failures == {"none": 1}
    assert len(gateway.sessions.registry) == 0


def test_what_is_no_device_id_does_not_get_into_the_log() -> None:
    for name in ("a b", "line\nfeed"):
        device = Device(Gateway()).hello(name)
        assert device.take(events.WelcomeReceived)[0].welcome.result == Status.PROTOCOL
        assert device.connection.info.device == ""


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


# -------------------------------------------------------------------- the end of connections


def test_a_protocol_error_ends_the_connection_with_its_status() -> None:
    gateway = Gateway()
    device = gateway.device()
    device.call("a")
    device.binding.data_received(b"\x10")  # a PONG that nobody asked for
    (goaway,) = device.take(events.GoawayReceived)
    assert goaway.goaway.status == Status.PROTOCOL
    assert device.connection.closed is CloseReason.PROTOCOL_ERROR
    assert device.connection.detail.startswith("status 1: ")
    device.lose("protocol_error")
    gateway.upstreams.last.answer(200, b"kept")  # harmless
    assert gateway.session_counters.connected == 0


def test_calls_before_the_violation_are_processed() -> None:
    gateway = Gateway()
    device = gateway.device()
    device.wire.request("pay", [], b"{}")
    device.binding.data_received(device.wire.to_send(0.0) + b"\x10")
    assert len(gateway.upstreams.exchanges) == 1
    assert device.connection.closed is CloseReason.PROTOCOL_ERROR


def test_a_flood_of_control_frames_has_its_own_reason() -> None:
    gateway = Gateway()
    device = gateway.device()
    device.binding.data_received(b"\x01" * 300)
    assert device.connection.closed is CloseReason.FLOOD


def test_a_hello_that_never_comes() -> None:
    gateway = Gateway()
    device = Device(gateway)
    device.binding.data_received(b"\x80")
    gateway.clock.pump([0.25] * 22)
    assert device.connection.written[0][:5] == bytes((0xE0, 30, 1, 1, Status.DEADLINE))
    assert device.connection.closed is CloseReason.HELLO_TIMEOUT


def test_held_events_before_welcome_are_bounded() -> None:
    gateway = Gateway()
    gateway.authenticator.hold = True
    device = Device(gateway).hello()
    window = bytes.fromhex("d005 00 ffffff07")
    for _ in range(64):
        device.wire.request("gw.time", [], b"")
    device.send()
    assert device.connection.closed is None
    # DATA for ended calls, WINDOW and the like make no events; empty DATA is a control frame.
    device.binding.data_received(window)
    assert device.connection.closed is None
    assert len(device.binding._handshake.held) == 64
    gateway.authenticator.let_go()
    assert len(device.take(events.ResponseReceived)) == 64


def test_an_aged_connection_says_goaway_and_closes_when_its_calls_are_done() -> None:
    gateway = Gateway()
    device = gateway.device()
    device.call("pay")
    device.binding.aged()
    (goaway,) = device.take(events.GoawayReceived)
    assert (goaway.goaway.status, goaway.goaway.last_call) == (Status.DRAINING, 0)
    assert device.connection.closed is None
    gateway.upstreams.last.answer(200, b"x")
    assert [r.body for r in device.take(events.ResponseReceived)] == [b"x"]
    assert device.connection.closed is CloseReason.MAX_AGE


def test_an_aged_connection_without_calls_closes_at_once() -> None:
    device = Gateway().device()
    device.binding.aged()
    device.listen()
    assert device.take(events.GoawayReceived)
    assert device.connection.closed is CloseReason.MAX_AGE


def test_drain_lets_calls_finish_and_refuses_later_ones() -> None:
    gateway = Gateway()
    device = gateway.device()
    device.call("pay")
    device.binding.go_away(Status.DRAINING, "other:7443", 5.0)
    late = device.wire.request("late", [], b"")
    device.send()
    (goaway,) = device.take(events.GoawayReceived)
    assert (goaway.goaway.address, goaway.goaway.delay) == ("other:7443", 5.0)
    assert [(e.call, e.status) for e in device.take(events.CallReset)] == [(late, Status.DRAINING)]
    gateway.upstreams.last.answer(200, b"x")
    assert device.take(events.ResponseReceived)
    assert device.connection.closed is None  # the device leaves, or the drain's own bound ends it


def test_a_device_that_says_goodbye_is_told_apart_from_one_that_vanishes() -> None:
    gateway = Gateway()
    device = gateway.device()
    device.wire.go_away(Goaway())
    device.send()
    device.lose(CloseReason.PEER_CLOSED)
    assert gateway.presence.log[-1] == ("disconnect", "d1", "peer_goaway")


def test_a_defect_of_ours_costs_one_connection() -> None:
    gateway = Gateway()
    device = gateway.device()

    def fails(call: object, responder: object) -> None:
        raise ZeroDivisionError

    gateway.services.calls.start = fails  # type: ignore[method-assign,assignment]
    device.call("pay")
    (goaway,) = device.take(events.GoawayReceived)
    assert goaway.goaway.status == Status.INTERNAL
    assert device.connection.closed is CloseReason.INTERNAL


def test_a_compressed_body_that_is_declined_cancels_the_call_and_nothing_else() -> None:
    gateway = Gateway()
    device = gateway.device(capabilities=frozenset({"zstd"}))
    number = device.wire.request("pay", [], b"")
    frame = bytearray(device.wire.to_send(0.0))
    frame[0] |= 2 << 1  # coding 2
    frame[1] += 1
    device.binding.data_received(bytes(frame) + b"\x09")  # algorithm 9
    device.listen()
    assert [(e.call, e.status) for e in device.take(events.CallReset)] == [(number, Status.DICTIONARY_MISS)]
    assert device.connection.closed is None
    device.call("gw.time")
    assert device.take(events.ResponseReceived)


def test_an_answer_that_the_wire_cannot_carry_costs_its_call() -> None:
    gateway = Gateway()
    device = gateway.device()
    device.call("pay")
    gateway.upstreams.last.answer(200, b"x", [(f"x-{n}", "v") for n in range(100)])
    assert [e.status for e in device.take(events.CallReset)] == [Status.INTERNAL]
    assert device.connection.closed is None


# -------------------------------------------------------------------- pushes


STREAM = StreamKey(Scope.USER, "alice", "orders")


def outgoing(seq: int, body: bytes = b"hello", **more: object) -> OutgoingPush:
    return OutgoingPush(STREAM, 3, 1, seq, body, **more)


def test_pushes_and_their_acknowledgements() -> None:
    gateway = Gateway()
    device = gateway.device(token="ok:alice")
    link = device.binding
    link.introduce(3, STREAM, 1, 6)
    assert link.send_push(outgoing(7, ttl=5.0, collapse="k", priority=1), 0)
    assert link.send_push(outgoing(10), 2)
    pushes = device.take(events.PushReceived)
    assert [(p.scope, p.id, p.biz, p.epoch, p.seq, p.body, p.gap) for p in pushes] == [
        ("user", "alice", "orders", 1, 7, b"hello", 0),
        ("user", "alice", "orders", 1, 10, b"hello", 2),
    ]
    assert (pushes[0].ttl, pushes[0].collapse, pushes[0].priority) == (5.0, "k", 1)
    gateway.pushes.log.clear()
    device.wire.ack(2)
    device.wire.ping(False)
    device.send()
    assert gateway.pushes.log == [("acked", [(3, 7), (3, 10)])]  # and that was no activity
    device.call("gw.time")
    assert ("activity",) in gateway.pushes.log


def test_an_acknowledgement_that_comes_alone() -> None:
    gateway = Gateway()
    device = gateway.device(token="ok:alice")
    device.binding.introduce(3, STREAM, 1, 0)
    assert all(device.binding.send_push(outgoing(seq), 0) for seq in (1, 2))
    device.listen()
    gateway.pushes.log.clear()
    device.binding.data_received(encode_ack(2))
    assert gateway.pushes.log == [("acked", [(3, 1), (3, 2)])]
    device.binding.data_received(encode_ack(1))
    assert device.connection.closed is CloseReason.PROTOCOL_ERROR


def test_a_defect_in_an_acknowledgement_costs_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway()
    device = gateway.device(token="ok:alice")
    device.binding.introduce(3, STREAM, 1, 0)
    device.binding.send_push(outgoing(1), 0)
    monkeypatch.setattr(gateway.pushes, "acked", lambda *_: 1 / 0)
    device.binding.data_received(encode_ack(1))
    assert device.connection.closed is CloseReason.INTERNAL


def test_long_work_writes_what_it_has_sent() -> None:
    gateway = Gateway()
    device = gateway.device()
    device.binding.introduce(3, STREAM, 1, 0)
    written = len(device.connection.written)
    assert device.binding.send_push(outgoing(1), 0)
    assert len(device.connection.written) == written
    gateway.services.flusher.flush()
    assert len(device.connection.written) > written
    gateway.clock.advance(0)
    assert [p.seq for p in device.take(events.PushReceived)] == [1]


def test_a_full_window_takes_no_push() -> None:
    gateway = Gateway()
    device = gateway.device()
    device.binding.introduce(3, STREAM, 1, 0)
    assert all(device.binding.send_push(outgoing(seq), 0) for seq in range(1, 65))
    assert not device.binding.send_push(outgoing(65), 0)
    device.listen()
    device.wire.ack(1)
    device.wire.ping(False)
    device.send()
    assert device.binding.send_push(outgoing(65), 0)


def test_a_body_is_encoded_once_per_group_and_compressed_for_those_who_can() -> None:
    gateway = Gateway()
    plain = gateway.device(device="d1")
    zstd = [gateway.device(device=f"z{n}", capabilities=frozenset({"zstd"})) for n in range(2)]
    push = outgoing(1, b"abcd" * 500)
    for device in (plain, *zstd):
        device.binding.introduce(3, STREAM, 1, 0)
        assert device.binding.send_push(push, 0)
    assert len(push.encodings) == 2
    sizes = sorted(len(shared.frame) for shared in push.encodings.values())
    assert sizes[0] < 100
    assert sizes[1] > 2000
    for device in (plain, *zstd):
        assert [p.body for p in device.take(events.PushReceived)] == [b"abcd" * 500]


def test_notes_about_streams() -> None:
    gateway = Gateway()
    device = gateway.device()
    device.binding.stream_note(3, STREAM, "truncated", 2, 40)
    (note,) = device.take(events.StreamNoted)
    assert (note.note, note.epoch, note.floor) == ("truncated", 2, 40)


def test_a_link_that_is_closed_takes_nothing() -> None:
    gateway = Gateway()
    device = gateway.device()
    device.binding.close(CloseReason.OPERATOR, Status.DRAINING)
    device.binding.introduce(3, STREAM, 1, 0)
    assert not device.binding.send_push(outgoing(1), 0)
    device.binding.close(CloseReason.REPLACED, Status.REPLACED)
    assert device.connection.closed is CloseReason.OPERATOR
    assert [e.goaway.status for e in device.take(events.GoawayReceived)] == [Status.DRAINING]


def test_a_drained_connection_tells_the_push_side() -> None:
    gateway = Gateway()
    device = gateway.device()
    device.binding.drained()
    assert ("writable",) in gateway.pushes.log


# -------------------------------------------------------------------- tracing


def test_a_watched_device_shows_its_frames_and_calls() -> None:
    gateway = Gateway()
    seen: list[dict[str, object]] = []
    stop = gateway.tracing.watch("d1", seen.append)
    device = gateway.device(call_base=16)
    other = gateway.device(device="d2")
    other.call("gw.time")
    device.call("pay", b"12")
    gateway.upstreams.last.answer(200, b"345")
    assert [(e.get("kind"), e.get("direction"), e.get("frame")) for e in seen] == [
        ("connect", None, None),
        ("frame", "in", "hello"),
        ("frame", "out", "welcome"),
        ("frame", "in", "request"),
        ("call", None, None),
        ("frame", "out", "response"),
    ]
    assert seen[0]["peer"] == "127.0.0.1"
    assert seen[3]["operation"] == "pay"
    assert (seen[4]["call_id"], seen[4]["bytes_out"]) == (f"{16:016x}", 3)
    stop()
    device.binding.retrace()
    device.call("gw.time")
    assert len(seen) == 6


def test_a_trace_shows_what_the_wire_says_by_itself_and_the_end() -> None:
    gateway = Gateway()
    seen: list[dict[str, object]] = []
    gateway.tracing.watch("d1", seen.append)
    device = gateway.device()
    del seen[:]
    device.binding.go_away(Status.DRAINING, "", 0.0)
    device.binding.flush()
    device.binding.connection_lost(CloseReason.PEER_CLOSED, "end of file")
    goaway, close = seen
    assert (goaway["direction"], goaway["frame"], goaway["status"]) == ("out", "goaway", Status.DRAINING)
    assert (close["kind"], close["reason"], close["detail"]) == ("close", "peer_closed", "end of file")


def test_a_trace_shows_a_refused_hello() -> None:
    gateway = Gateway()
    seen: list[dict[str, object]] = []
    gateway.tracing.watch("d1", seen.append)
    device = Device(gateway).hello(token="wrong")
    device.binding.connection_lost(device.connection.closed, device.connection.detail)
    assert [e.get("frame", e["kind"]) for e in seen] == ["connect", "hello", "welcome", "close"]
    assert (seen[2]["result"], seen[3]["reason"]) == (Status.AUTH, "auth_failed")


def test_watching_begins_on_a_live_connection() -> None:
    gateway = Gateway()
    device = gateway.device()
    changed: list[str] = []
    gateway.tracing.changed = changed.append
    seen: list[dict[str, object]] = []
    stop = gateway.tracing.watch("d1", seen.append)
    assert changed == ["d1"]
    device.binding.retrace()
    device.call("gw.time")
    assert [e["frame"] for e in seen if e["kind"] == "frame"] == ["request", "response"]
    stop()
    assert changed == ["d1", "d1"]
