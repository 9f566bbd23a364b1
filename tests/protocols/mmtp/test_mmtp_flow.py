"""What waits for credit: bodies of calls, pushes and their acknowledgements."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalError
from protocols.mmtp import Goaway, Limits, Status, StreamCursor, Welcome, encode_push
from protocols.mmtp.events import (
    CallDrained,
    CallReset,
    DataReceived,
    PingReceived,
    PongReceived,
    PushesAcked,
    PushReceived,
    RequestReceived,
    ResponseReceived,
)
from protocols.mmtp.frames import FrameType, encode_data, encode_frame, encode_window
from protocols.mmtp.settings import CALL_WINDOW, CONNECTION_WINDOW
from protocols.mmtp.varint import decode_varint
from tests.protocols.mmtp.dialogue import split_frames
from tests.protocols.mmtp.pair import HELLO, REQUEST_A, Pair, refused

# ------------------------------------------------------------------ credit


def test_large_bodies_are_split_and_drained() -> None:
    pair = Pair()
    body = random.Random(3).randbytes(400_000)
    call = pair.device.request("up", [], body)
    pair.run()
    assert pair.device.unsent(call) == 400_000 - 65536
    came = b""
    while pair.gateway_saw:
        for event in pair.gateway_saw:
            assert isinstance(event, RequestReceived | DataReceived)
            came += event.body if isinstance(event, RequestReceived) else event.data
            pair.gateway.consumed(call, event.wire_size)
        pair.gateway_saw.clear()
        pair.run()
    assert came == body
    assert pair.device_saw == [CallDrained(call)]
    pair.gateway.respond(call, 0, [], body)
    pair.run()
    came = b""
    while pair.device_saw:
        events, pair.device_saw = pair.device_saw, []
        for event in events:
            if isinstance(event, ResponseReceived | DataReceived):
                came += event.body if isinstance(event, ResponseReceived) else event.data
                pair.device.consumed(call, event.wire_size)
        pair.run()
    assert came == body
    assert pair.device.open_calls() == pair.gateway.open_calls() == 0


def test_a_compressed_body_larger_than_the_credit_is_one_zstd_stream() -> None:
    pair = Pair(gateway=Limits(call_window=50))
    body = bytes(range(256)) * 20
    pair.device.request("up", [], body)
    pair.run()
    first = pair.gateway_saw[0]
    assert isinstance(first, RequestReceived)
    assert (first.wire_size, first.more) == (50, True)
    came = first.body
    pair.gateway.consumed(0, 50)
    while True:
        pair.gateway_saw.clear()
        pair.run()
        if not pair.gateway_saw:
            break
        for event in pair.gateway_saw:
            assert isinstance(event, DataReceived)
            came += event.data
            pair.gateway.consumed(0, event.wire_size)
    assert came == body


def test_more_than_the_credit_is_an_error() -> None:
    gateway = Pair(gateway=Limits(call_window=100)).gateway
    gateway.receive(encode_request(b"x" * 100, more=True), 0.0)
    assert refused(gateway, encode_data(0, b"y", True)) is Status.FLOW_CONTROL
    gateway = Pair(gateway=Limits(connection_window=150)).gateway
    gateway.receive(encode_request(b"x" * 100), 0.0)
    assert refused(gateway, encode_request(b"x" * 100)) is Status.FLOW_CONTROL


def test_the_default_credit_holds_until_settings_are_acknowledged() -> None:
    pair = Pair(gateway=Limits(call_window=0), welcome=False)
    pair.device.send_hello(HELLO)
    pair.device.request("a", [], random.Random(1).randbytes(65536))
    pair.run()
    pair.gateway.send_welcome(Welcome())
    pair.run()
    assert not pair.gateway.closed
    assert refused(pair.gateway, encode_request(b"x")) is Status.FLOW_CONTROL


def test_settings_may_be_changed_both_ways_while_bodies_wait() -> None:
    pair = Pair()
    pair.gateway.update_settings({CALL_WINDOW: 10})
    pair.run()
    call = pair.device.request("a", [], b"0123456789abcdefghij")
    pair.run()
    assert pair.device.unsent(call) == 10
    pair.gateway.update_settings({CALL_WINDOW: 15})
    pair.run()
    assert pair.device.unsent(call) == 5
    pair.gateway.update_settings({CALL_WINDOW: 5})
    pair.gateway.update_settings({CALL_WINDOW: 100})
    pair.run()
    assert pair.device.unsent(call) == 0
    assert not pair.gateway.closed


def test_all_windows_at_zero() -> None:
    """Nothing but bodies waits."""
    zero = Limits(call_window=0, connection_window=0, push_window_bytes=0)
    pair = Pair(zero, zero)
    first = pair.device.request("a", [("x", "y")], b"body")
    pair.device.ping()
    pair.run()
    assert [type(event) for event in pair.gateway_saw] == [RequestReceived, PingReceived]
    request = pair.gateway_saw[0]
    assert isinstance(request, RequestReceived)
    assert (request.body, request.more) == (b"", True)
    assert PongReceived() in pair.device_saw
    pair.gateway.respond(first, 0, [("x", "y")], b"answer")
    second = pair.device.request("b", [], b"")
    pair.gateway.introduce_stream(1, StreamCursor("user", "u", "b", 1, 0))
    assert pair.gateway.push_room(10)
    pair.gateway.send_push(1, 1, encode_push(1, b"one"), 3, 1)
    assert not pair.gateway.push_room(1)
    pair.run()
    assert any(isinstance(event, PushReceived) for event in pair.device_saw)
    pair.device.ack()
    pair.device.reset(second, Status.CANCELLED)
    pair.run()
    assert PushesAcked([1]) in pair.gateway_saw
    assert CallReset(second, Status.CANCELLED) in pair.gateway_saw
    pair.gateway.reset(second, Status.CANCELLED)
    pair.gateway.go_away(Goaway(Status.DRAINING))
    pair.run()
    assert CallReset(second, Status.CANCELLED) in pair.device_saw
    assert pair.gateway.unsent(first) == 6
    pair.device.update_settings({CALL_WINDOW: 6, CONNECTION_WINDOW: 6})
    pair.run()
    assert DataReceived(first, b"answer", False, 6) in pair.device_saw


def test_bytes_of_ended_and_refused_calls_go_back_to_the_connection() -> None:
    pair = Pair(gateway=Limits(max_open_calls=1))
    body = random.Random(5).randbytes(60_000)
    for _ in range(40):
        call = pair.device.request("a", [], body)
        pair.run()
        assert pair.device.unsent(call) == 0, "the connection's credit ran out"
        pair.gateway.respond(call, 0, [], body)  # neither side ever calls consumed()
        pair.run()
        pair.gateway_saw.clear()
    gateway = Pair(gateway=Limits(max_open_calls=0)).gateway
    frame = encode_request(body)
    given_back = 0
    for _ in range(10):
        gateway.receive(frame, 0.0)
        given_back += sum(window_of(f) for f in split_frames(gateway.to_send(0.0)) if f[0] == 0xD0)
    assert given_back >= 10 * 60_000 - 65_536


def window_of(frame: bytes) -> int:
    return decode_varint(frame, 3, len(frame))[0]


def encode_request(body: bytes, more: bool = False) -> bytes:
    return encode_frame(FrameType.REQUEST, int(more), REQUEST_A[2:] + body)


def test_giving_back_more_than_came_is_our_error() -> None:
    pair = Pair()
    call = pair.device.request("a", [], b"abc", more=True)
    pair.run()
    pair.gateway.consumed(call, 2)
    with pytest.raises(LocalError):
        pair.gateway.consumed(call, 2)
    pair.gateway.consumed(call, 1)
    pair.gateway.consumed(call + 1, 100)


# ------------------------------------------------------------------ pushes


def with_stream(device: Limits | None = None) -> Pair:
    pair = Pair(device)
    pair.gateway.introduce_stream(1, StreamCursor("user", "u", "b", 1, 0))
    return pair


def push(pair: Pair, seq: int, body: bytes = b"x") -> None:
    pair.gateway.send_push(1, seq, encode_push(1, body), len(body), seq)


def test_the_push_window_counts_pushes_and_bytes() -> None:
    pair = with_stream(Limits(push_window=3, push_window_bytes=100))
    push(pair, 1, b"a" * 500)  # one always fits
    assert not pair.gateway.push_room(0)
    with pytest.raises(LocalError):
        push(pair, 2)
    pair.run()
    pair.device.ack()
    pair.device.ping()
    pair.run()
    for seq in (2, 3, 4):
        push(pair, seq, b"b" * 30)
    assert not pair.gateway.push_room(1)
    pair.run()
    assert not pair.device.closed
    assert refused(pair.device, encode_push(1, b"c")) is Status.FLOW_CONTROL


def test_a_window_for_pushes_widens_it() -> None:
    pair = with_stream()
    push(pair, 1, b"a" * 60_000)
    assert not pair.gateway.push_room(10_000)
    pair.gateway.receive(encode_window(1, 10_000), 0.0)
    assert pair.gateway.push_room(10_000)
    assert refused(pair.gateway, encode_window(1, 2**31 - 1)) is Status.FLOW_CONTROL


def test_acks_wait_for_eight_or_the_timer_or_company() -> None:
    pair = with_stream()
    for seq in range(1, 12):
        push(pair, seq)
    pair.run()
    pair.device.ack(3)
    assert pair.device.next_timer() == pytest.approx(0.2)
    assert pair.device.to_send(0.1) == b""
    assert pair.device.to_send(0.2) == b"\x20\x03"
    assert pair.device.next_timer() is None
    pair.device.ack(8)
    assert pair.device.to_send(0.2) == b"\x20\x08"
    with pytest.raises(LocalError):
        pair.device.ack()
    pair.gateway.receive(b"\x20\x03\x20\x08", 0.3)
    assert pair.gateway.events() == [PushesAcked([1, 2, 3]), PushesAcked([4, 5, 6, 7, 8, 9, 10, 11])]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_acks_in_any_order_reach_the_gateway(data: st.DataObject) -> None:
    pair = with_stream()
    count = data.draw(st.integers(1, 30))
    for seq in range(1, count + 1):
        push(pair, seq)
    pair.run()
    left = list(range(count))
    expected: list[int] = []
    while left:
        if data.draw(st.booleans()):
            size = data.draw(st.integers(1, len(left)))
            pair.device.ack(size)
            taken, left = left[:size], left[size:]
        else:
            taken = sorted(data.draw(st.sets(st.sampled_from(left), min_size=1)))
            pair.device.ack_ranges(taken)
            left = [index for index in left if index not in taken]
        expected += [index + 1 for index in taken]
        if data.draw(st.booleans()):
            pair.now += 1.0
            pair.run()
    pair.now += 1.0
    pair.run()
    acked = [token for event in pair.gateway_saw if isinstance(event, PushesAcked) for token in event.tokens]
    assert sorted(acked) == sorted(expected) == list(range(1, count + 1))
    assert pair.gateway.push_room(65536)


def test_pushes_go_in_order_and_only_to_known_streams() -> None:
    pair = with_stream()
    push(pair, 5)
    with pytest.raises(LocalError):
        push(pair, 5)
    with pytest.raises(LocalError):
        pair.gateway.send_push(2, 1, encode_push(2, b""), 0, None)


def test_a_group_shares_the_bytes_of_a_push() -> None:
    frame = encode_push(7, b"news" * 100, coding=2, gap=2)
    for start in (4, 4):
        pair = Pair()
        pair.gateway.introduce_stream(7, StreamCursor("broadcast", "", "news", 1, start))
        pair.gateway.send_push(7, 7, frame, 400, None)
        pair.run()
        [event] = pair.device_saw
        assert isinstance(event, PushReceived)
        assert (event.seq, event.gap, event.body) == (7, 2, b"news" * 100)
