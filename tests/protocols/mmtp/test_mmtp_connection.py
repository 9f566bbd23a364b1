"""The connection object: its hand-shake, its end, numbers and states of calls."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest

from protocols.errors import LocalError
from protocols.mmtp import Connection, Goaway, Hello, Limits, Role, Status, StreamCursor, Welcome
from protocols.mmtp.events import CallReset, DataReceived, GoawayReceived, RequestReceived, ResponseReceived
from protocols.mmtp.state import ConnectionState
from tests.protocols.mmtp.dialogue import blocks
from tests.protocols.mmtp.pair import HELLO, REQUEST_A, Pair, refused, rich_dialogue

# ------------------------------------------------------------------ hand-shake and closing


def test_a_hello_that_does_not_come() -> None:
    gateway = Connection(Role.SERVER, limits=Limits(hello_timeout=5.0), now=10.0)
    assert gateway.next_timer() == 15.0
    gateway.receive(b"\x80\x20\x01", 14.0)
    gateway.handle_timer(14.9)
    assert not gateway.closed
    gateway.handle_timer(15.0)
    assert gateway.closed
    assert gateway.closing_status == Status.DEADLINE
    assert gateway.to_send(15.0)[0] == 0xE0
    assert gateway.next_timer() is None


def test_a_complete_hello_ends_the_timer() -> None:
    pair = Pair()
    assert pair.gateway.next_timer() is None
    pair.gateway.handle_timer(1e9)
    assert not pair.gateway.closed


def test_a_large_hello_is_refused_at_its_length() -> None:
    gateway = Connection(Role.SERVER, limits=Limits(max_hello=100), now=0.0)
    assert refused(gateway, b"\x80\x65") is Status.FRAME_SIZE


def test_a_hello_that_no_gateway_takes_is_our_error() -> None:
    device = Connection(Role.CLIENT, limits=Limits(), now=0.0)
    cursors = [StreamCursor("topic", f"topic-{number}", "b", 1, number) for number in range(1000)]
    with pytest.raises(LocalError):
        device.send_hello(replace(HELLO, cursors=cursors))
    assert device.to_send(0.0) == b""
    device.send_hello(replace(HELLO, cursors=cursors[:300]))
    gateway = Connection(Role.SERVER, limits=Limits(), now=0.0)
    gateway.receive(device.to_send(0.0), 0.0)
    assert len(gateway.events()) == 1


def test_connections_leave_no_cycles_behind() -> None:
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            rich_dialogue()
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_refusal_closes() -> None:
    pair = Pair(welcome=False)
    pair.device.send_hello(HELLO)
    pair.device.request("a", [], b"")
    pair.run()
    pair.gateway.send_welcome(Welcome(Status.AUTH, "no"))
    pair.run()
    assert pair.gateway.closed
    assert pair.device.closed
    assert pair.gateway.closing_status == Status.AUTH
    assert pair.device.request("a", [], b"") == -1


def test_the_end_of_the_transport_closes() -> None:
    pair = Pair()
    pair.gateway.receive(b"\x30", 0.0)
    pair.gateway.receive_eof(1.0)
    assert pair.gateway.closed
    assert pair.gateway.state is ConnectionState.CLOSED
    assert pair.gateway.to_send(1.0) == b""


def test_nothing_is_sent_before_its_time() -> None:
    pair = Pair(welcome=False)
    with pytest.raises(LocalError):
        pair.device.request("a", [], b"")
    with pytest.raises(LocalError):
        pair.device.ping()
    with pytest.raises(LocalError):
        pair.gateway.send_welcome(Welcome())
    with pytest.raises(LocalError, match="RESPONSE is not allowed in state AWAIT_HELLO"):
        pair.gateway.respond(0, 0, [], b"")
    pair.device.send_hello(HELLO)
    with pytest.raises(LocalError):
        pair.device.send_hello(HELLO)
    pair.device.request("a", [], b"")
    pair.run()
    with pytest.raises(LocalError):
        pair.gateway.introduce_stream(1, StreamCursor("user", "u", "b", 1, 0))


def test_roles_keep_to_their_calls() -> None:
    pair = Pair()
    for act in (
        lambda: pair.gateway.request("a", [], b""),
        lambda: pair.device.respond(0, 0, [], b""),
        pair.gateway.ack,
        lambda: pair.device.push_room(1),
    ):
        with pytest.raises(LocalError):
            act()


def test_a_welcome_never_names_what_hello_did_not() -> None:
    device = Connection(Role.CLIENT, limits=Limits(), now=0.0)
    device.send_hello(Hello("d"))
    assert refused(device, b"\x90\x06\x06\x04zstd") is Status.PROTOCOL


def test_without_the_capability_nothing_is_compressed() -> None:
    pair = Pair(welcome=False)
    pair.device.send_hello(Hello("d"))
    pair.run()
    pair.gateway.send_welcome(Welcome(capabilities=frozenset(("zstd",))))
    pair.run()
    pair.device.request("a", [], b"x" * 1000)
    pair.run()
    pair.gateway.respond(0, 0, [], b"y" * 1000)
    pair.run()
    assert b"x" * 1000 in pair.up
    assert b"y" * 1000 in pair.down


# ------------------------------------------------------------------ calls


def test_a_128th_call_may_not_meet_an_open_one() -> None:
    pair = Pair()
    held = pair.device.request("held", [], b"")
    for _ in range(127):
        call = pair.device.request("op", [], b"")
        pair.run()
        pair.gateway.respond(call, 0, [], b"")
        pair.run()
    with pytest.raises(LocalError):
        pair.device.request("op", [], b"")
    assert refused(pair.gateway, REQUEST_A) is Status.PROTOCOL
    assert held == 0


def test_call_bytes_wrap_around() -> None:
    pair = Pair()
    for number in range(300):
        assert pair.device.request("op", [], str(number).encode()) == number
        pair.run()
        request = pair.gateway_saw.pop()
        assert isinstance(request, RequestReceived)
        assert (request.call, request.call_id) == (number, 100 + number)
        pair.gateway.respond(number, 64, [], request.body)
        pair.run()
        response = pair.device_saw.pop()
        assert isinstance(response, ResponseReceived)
        assert (response.call, response.status, response.body) == (number, 64, str(number).encode())


def test_calls_beyond_the_limit_are_refused_and_counted() -> None:
    gateway = Pair(gateway=Limits(max_open_calls=2)).gateway
    gateway.receive(REQUEST_A * 4, 0.0)
    assert [event.call for event in gateway.events() if isinstance(event, RequestReceived)] == [0, 1]
    assert gateway.to_send(0.0) == b"\x60\x02\x02\x08\x60\x02\x03\x08"
    gateway.respond(0, 0, [], b"")
    gateway.receive(REQUEST_A, 0.0)
    assert [event.call for event in gateway.events() if isinstance(event, RequestReceived)] == [4]


def test_a_device_keeps_to_the_limit() -> None:
    pair = Pair(gateway=Limits(max_open_calls=2))
    for _ in range(2):
        pair.device.request("a", [], b"")
    with pytest.raises(LocalError):
        pair.device.request("a", [], b"")


def test_an_answer_may_not_come_twice() -> None:
    pair = Pair()
    pair.device.request("a", [], b"")
    pair.run()
    pair.gateway.respond(0, 0, [], b"", more=True)
    with pytest.raises(LocalError):
        pair.gateway.respond(0, 0, [], b"")
    pair.gateway.send_data(0, b"x", False)
    for act in (
        lambda: pair.gateway.respond(0, 0, [], b""),
        lambda: pair.gateway.send_data(0, b"", False),
        lambda: pair.gateway.reset(0, 1),
    ):
        with pytest.raises(LocalError):
            act()
    pair.run()
    assert [type(event) for event in pair.device_saw] == [ResponseReceived, DataReceived]


def test_goaway_refuses_later_calls_and_names_the_last() -> None:
    pair = Pair()
    pair.device.request("a", [], b"")
    pair.run()
    pair.gateway.go_away(Goaway())
    late = pair.device.request("b", [], b"x" * 100)
    pair.run()
    assert CallReset(late, Status.DRAINING) in pair.device_saw
    [goaway] = [event.goaway for event in pair.device_saw if isinstance(event, GoawayReceived)]
    assert goaway.last_call == 0
    pair.gateway.go_away(Goaway(Status.OVERLOAD))
    pair.run()
    assert [event.goaway.last_call for event in pair.device_saw if isinstance(event, GoawayReceived)] == [0, 0]
    with pytest.raises(LocalError):
        pair.device.request("c", [], b"")
    pair.gateway.respond(0, 0, [], b"done")
    pair.run()
    assert isinstance(pair.device_saw[-1], ResponseReceived)


def test_dictionaries_and_tables_are_declined() -> None:
    pair = Pair()
    for kind in range(5):
        pair.gateway.receive(bytes((0xB0 | kind, 2, 1, 0)) + bytes((0xC0 | kind, 2, 1, 0)), 0.0)
    assert pair.gateway.to_send(0.0) == b""
    assert not pair.gateway.closed


def test_bodies_of_reserved_codings_are_declined_by_a_device() -> None:
    for coding in (1, 3):
        pair = Pair()
        pair.device.request("a", [], b"")
        pair.device.to_send(0.0)
        assert refused(pair.device, bytes((0x40 | coding << 1, 4, 0, 0, 0, 1))) is Status.DICTIONARY_MISS


def test_the_specification_has_dialogues() -> None:
    assert len(blocks("dialogue")) > 12
