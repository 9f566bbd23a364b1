"""Pushes that many connections share, and acknowledgements that come alone: the short ways do what the long ones do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.mmtp import Connection, Hello, Limits, Role
from protocols.mmtp.events import PushesAcked
from protocols.mmtp.frames import PING_FRAME, encode_ack
from protocols.mmtp.handshake import StreamCursor, Welcome
from protocols.mmtp.pushes import PushFrame, encode_push
from protocols.mmtp.settings import PUSH_WINDOW

WINDOW = 8


def push(seq: int) -> PushFrame:
    return PushFrame(3, seq, encode_push(3, b"push"), 4, f"#{seq}")


def gateway(pushes: int = 0) -> Connection:
    """A gateway after the hand-shake, with a stream and so many pushes under way."""
    device = Connection(Role.CLIENT, limits=Limits(), now=0.0)
    device.send_hello(Hello(device="d", settings={PUSH_WINDOW: WINDOW}))
    made = Connection(Role.SERVER, limits=Limits(), now=0.0)
    made.receive(device.to_send(0.0), 0.0)
    made.events()
    made.send_welcome(Welcome())
    made.introduce_stream(3, StreamCursor("topic", "t", "b", 1, 0))
    for seq in range(1, pushes + 1):
        assert made.offer_push(push(seq))
    made.to_send(0.0)
    return made


def test_one_push_goes_to_many() -> None:
    shared = push(1)
    gateways = [gateway() for _ in range(3)]
    for each in gateways:
        assert each.offer_push(shared)
        assert each.to_send(0.0) == shared.frame
        assert each.acked_alone(encode_ack(1)) == ["#1"]


def test_a_full_window_takes_no_more() -> None:
    full = gateway(WINDOW)
    assert not full.offer_push(push(WINDOW + 1))
    assert full.to_send(0.0) == b""
    assert full.acked_alone(encode_ack(2)) == ["#1", "#2"]
    assert full.offer_push(push(WINDOW + 1))


def test_a_stream_that_was_not_introduced() -> None:
    with pytest.raises(LocalError, match="introduced"):
        gateway().offer_push(PushFrame(4, 1, b"", 0, None))


def test_a_closed_connection_takes_none() -> None:
    closed = gateway(1)
    closed.receive_eof(0.0)
    assert not closed.offer_push(push(2))
    assert closed.acked_alone(encode_ack(1)) is None


@pytest.mark.parametrize(
    "data", [b"", b"\x20", b"\x21\x01", PING_FRAME * 2, encode_ack(1) * 2, encode_ack(200), b"\x20\x00"]
)
def test_what_is_no_ack_alone_changes_nothing(data: bytes) -> None:
    one = gateway(2)
    assert one.acked_alone(data) is None
    assert one.acked_alone(encode_ack(2)) == ["#1", "#2"]


def test_not_in_the_middle_of_a_frame() -> None:
    one = gateway(1)
    one.receive(b"\xd0\x02", 0.0)  # the head of a WINDOW
    assert one.acked_alone(encode_ack(1)) is None


def test_not_before_events_that_nobody_took() -> None:
    one = gateway(2)
    one.receive(encode_ack(1), 0.0)
    assert one.acked_alone(encode_ack(1)) is None
    one.events()
    assert one.acked_alone(encode_ack(1)) == ["#2"]


def test_neither_before_hello_nor_on_the_device() -> None:
    assert Connection(Role.SERVER, limits=Limits(), now=0.0).acked_alone(encode_ack(1)) is None
    assert Connection(Role.CLIENT, limits=Limits(), now=0.0).acked_alone(encode_ack(1)) is None


@given(st.integers(0, WINDOW), st.lists(st.one_of(st.integers(0, 10).map(encode_ack), st.just(b"\x21\x02\x01\x01"))))
def test_the_short_way_does_what_the_long_way_does(pushes: int, reads: list[bytes]) -> None:
    short, long = gateway(pushes), gateway(pushes)
    for data in reads:
        try:
            long.receive(data, 0.0)
            refused = False
        except RemoteError:
            refused = True
        expected = [token for event in long.events() if isinstance(event, PushesAcked) for token in event.tokens]
        tokens = short.acked_alone(data)
        if tokens is None:
            try:
                short.receive(data, 0.0)
            except RemoteError:
                assert refused
            tokens = [token for event in short.events() if isinstance(event, PushesAcked) for token in event.tokens]
        assert tokens == expected
        assert short.closed == long.closed
