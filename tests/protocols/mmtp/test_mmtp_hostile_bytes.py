"""Any bytes at a connection: any split of fair ones, mutated ones, bombs, what is too large, floods."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.mmtp import Connection, Limits, Role, Status, StreamCursor, Welcome, encode_push
from protocols.mmtp.events import (
    CallReset,
    DataReceived,
    Event,
    GoawayReceived,
    HelloReceived,
    PingReceived,
    PongReceived,
    PushesAcked,
    PushReceived,
    RequestReceived,
    ResponseReceived,
    WelcomeReceived,
)
from protocols.mmtp.frames import FrameType, encode_data, encode_frame, encode_window
from protocols.mmtp.settings import CALL_WINDOW, CONNECTION_WINDOW
from protocols.mmtp.varint import encode_varint
from tests.protocols.mmtp.dialogue import split_frames
from tests.protocols.mmtp.pair import HELLO, REQUEST_A, Pair, refused, rich_dialogue


def replayed_gateway() -> Connection:
    """A gateway that has sent what the rich dialogue's sent, and received HELLO."""
    gateway = Connection(Role.SERVER, limits=Limits(max_open_calls=20), now=0.0)
    gateway.receive(next(split_frames(DIALOGUE.up)), 0.0)
    gateway.send_welcome(Welcome())
    gateway.introduce_stream(3, StreamCursor("topic", "t", "b", 1, 9))
    for seq in range(10, 14):
        gateway.send_push(3, seq, encode_push(3, b"push"), 4, seq)
    gateway.ping()
    gateway.update_settings({CONNECTION_WINDOW: 300000})
    return gateway


def replayed_device() -> Connection:
    """A device that has sent what the rich dialogue's sent."""
    device = Connection(Role.CLIENT, limits=Limits(push_window=32), now=0.0)
    device.send_hello(HELLO)
    for _ in range(5):
        device.request("op", [], b"", more=True)
    device.ping()
    device.update_settings({CALL_WINDOW: 30000})
    return device


def feed(connection: Connection, parts: list[bytes]) -> tuple[list[Event], int | None, bytes]:
    """Events, the code of the error if there was one, and all that the connection sends."""
    events: list[Event] = []
    code: int | None = None
    connection.to_send(0.0)
    for part in parts:
        try:
            connection.receive(part, 1.0)
        except RemoteError as error:
            code = error.code
        events += connection.events()
    return events, code, connection.to_send(1.0)


DIALOGUE = rich_dialogue()
UP = DIALOGUE.up[len(next(split_frames(DIALOGUE.up))) :]
"""Without HELLO: the gateway has to answer it before it can be answered."""
REPLAYS = [(UP, replayed_gateway), (DIALOGUE.down, replayed_device)]
ROLES = pytest.mark.parametrize(("data", "replayed"), REPLAYS, ids=["gateway", "device"])


@ROLES
def test_every_split_gives_the_same_events(data: bytes, replayed: Callable[[], Connection]) -> None:
    whole = feed(replayed(), list(split_frames(data)))
    assert len(whole[0]) > 9
    assert whole[1] is None, Status(whole[1] or 0)
    for place in range(len(data)):
        assert feed(replayed(), [data[:place], data[place:]]) == whole, f"cut at {place}"
    assert feed(replayed(), [data[i : i + 1] for i in range(len(data))]) == whole


def test_every_split_of_hello_gives_the_same_event() -> None:
    hello = next(split_frames(DIALOGUE.up))
    whole = feed(Connection(Role.SERVER, limits=Limits(), now=0.0), [hello])
    for place in range(len(hello)):
        assert feed(Connection(Role.SERVER, limits=Limits(), now=0.0), [hello[:place], hello[place:]]) == whole


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.sampled_from(REPLAYS))
def test_random_splits_give_the_same_events(sizes: list[int], replay: tuple[bytes, Callable[[], Connection]]) -> None:
    data, replayed = replay
    parts, start = [], 0
    for size in sizes:
        parts.append(data[start : start + size])
        start += size
    parts.append(data[start:])
    assert feed(replayed(), parts) == feed(replayed(), [data])


def test_the_rich_dialogue_shows_every_event() -> None:
    seen = {type(event) for event in DIALOGUE.device_saw + DIALOGUE.gateway_saw}
    for kind in (
        HelloReceived, WelcomeReceived, RequestReceived, ResponseReceived, DataReceived, CallReset, PushReceived,
        PushesAcked, PingReceived, PongReceived, GoawayReceived,
    ):  # fmt: skip
        assert kind in seen, kind
    assert {frame[0] >> 4 for frame in split_frames(DIALOGUE.up)} == {0, 1, 2, 3, 5, 6, 8, 10, 14}
    assert {frame[0] >> 4 for frame in split_frames(DIALOGUE.down)} == {0, 1, 4, 5, 6, 7, 9, 10, 14}


# ------------------------------------------------------------------ hostile bytes


def must_be_a_remote_error(connection: Connection, data: bytes) -> None:
    try:
        connection.receive(data, 1.0)
    except RemoteError as error:
        assert Status(error.code) is not Status.OK
        assert connection.closed
        assert connection.to_send(1.0)
        connection.receive(data, 1.0)
        assert connection.to_send(1.0) == b""
    connection.events()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_random_bytes(data: bytes, welcomed: bool, gateway: bool) -> None:
    pair = Pair(welcome=welcomed)
    if not welcomed:
        pair.device.send_hello(HELLO)
    must_be_a_remote_error(pair.gateway if gateway else pair.device, data)


def test_mutated_dialogues() -> None:
    generator = random.Random(20)
    for data, replayed in REPLAYS:
        errors = 0
        for _ in range(1000):
            mutated = bytearray(data)
            for _ in range(generator.randint(1, 3)):
                place = generator.randrange(len(mutated))
                match generator.randrange(4):
                    case 0:
                        mutated[place] = generator.randrange(256)
                    case 1:
                        mutated[place] ^= 1 << generator.randrange(8)
                    case 2:
                        del mutated[place : place + generator.randint(1, 5)]
                    case _:
                        mutated[place:place] = generator.randbytes(generator.randint(1, 5))
            code = feed(replayed(), [bytes(mutated)])[1]
            if code is not None:
                assert Status(code) is not Status.OK
                errors += 1
        assert errors > 200


def test_events_before_a_violation_are_kept_and_the_error_comes_once() -> None:
    pair = Pair()
    pair.device.request("a", [], b"")
    with pytest.raises(RemoteError) as caught:
        pair.gateway.receive(pair.device.to_send(0.0) + b"\x10" + b"\x00", 0.0)
    assert caught.value.code == Status.PROTOCOL
    assert [type(event) for event in pair.gateway.events()] == [RequestReceived]
    assert pair.gateway.closing_status == Status.PROTOCOL
    pair.device.receive(pair.gateway.to_send(0.0), 0.0)
    [goaway] = pair.device.events()
    assert isinstance(goaway, GoawayReceived)
    assert (goaway.goaway.status, goaway.goaway.last_call) == (Status.PROTOCOL, 0)
    pair.gateway.respond(0, 0, [], b"late")
    pair.gateway.reset(0, 0)
    pair.gateway.send_push(1, 1, b"", 0, None)
    assert pair.gateway.to_send(0.0) == b""


# ------------------------------------------------------------------ bombs, oversize, floods


def test_a_compression_bomb_in_one_frame_and_in_parts() -> None:
    bomb = bytes.fromhex("01 28b52ffd0040") + bytes.fromhex("02001000") * 2000 + bytes.fromhex("03001000")
    block = bytes.fromhex("06 00033a6f700161".replace(" ", ""))[1:]
    payload = bytes((len(block),)) + block + bomb
    size = len(payload)
    head = bytes((0x34, size & 127 | 128, size >> 7))
    assert refused(Pair().gateway, head + payload) is Status.COMPRESSION
    gateway = Pair().gateway
    gateway.receive(bytes((0x35, len(block) + 1, len(block))) + block, 0.0)
    assert refused(gateway, encode_data(0, bomb, True)) is Status.COMPRESSION


def test_a_body_beyond_the_largest_is_refused_even_if_the_ratio_is_fair() -> None:
    pair = Pair(gateway=Limits(max_body=1000))
    pair.device.request("op", [], random.Random(1).randbytes(600) * 2)
    assert refused(pair.gateway, pair.device.to_send(0.0)) is Status.COMPRESSION


def test_oversized_headers() -> None:
    insert = b"\x40\x01a\x7f" + b"\xa1\x1e" + b"x" * 4000
    block = insert + b"\xbe" * 20
    frame = encode_frame(FrameType.REQUEST, 0, encode_varint(len(block)) + block)
    assert refused(Pair().gateway, frame) is Status.COMPRESSION


def test_too_many_header_fields() -> None:
    block = b"\x00\x03:op\x01a" + b"\x00\x01a\x01b" * 64
    frame = encode_frame(FrameType.REQUEST, 0, encode_varint(len(block)) + block)
    assert refused(Pair().gateway, frame) is Status.PROTOCOL


def test_a_sender_does_not_send_what_the_peer_would_refuse() -> None:
    pair = Pair(gateway=Limits(max_headers=4096))
    before = pair.device.open_calls()
    for headers in ([("x", "y" * 5000)], [(f"h{i}", "") for i in range(64)], [("X", "y")], [("x", "a\nb")], [("", "")]):
        with pytest.raises(LocalError):
            pair.device.request("op", headers, b"")
    with pytest.raises(LocalError):
        pair.device.request("", [], b"")
    assert pair.device.open_calls() == before
    assert pair.device.to_send(0.0) == b""
    pair.device.request("op", [("x", "ok")], b"")
    pair.run()
    assert isinstance(pair.gateway_saw[0], RequestReceived)


@pytest.mark.parametrize(
    ("before", "frame"),
    [
        (b"", b"\x00"),
        (b"", b"\x01"),
        (REQUEST_A, b"\x60\x02\x00\x0c"),
        (b"", b"\xa0\x00"),
        (b"", b"\xd0\x02\x00\x01"),
        (b"\x31" + REQUEST_A[1:], b"\x51\x01\x00"),
        (b"", b"\xb0\x01\x00"),
        (b"", b"\xf0\x01\x00"),
        (b"", b"\xe0\x00"),
    ],
    ids=["ping", "ping answered", "reset", "settings", "small window", "empty data", "dict", "ext", "goaway"],
)
def test_a_flood_of_control_frames(before: bytes, frame: bytes) -> None:
    pair = Pair()
    pair.gateway.receive(before + frame * 200, 0.0)
    pair.gateway.receive(frame * 20, 1.0)
    with pytest.raises(RemoteError) as caught:
        pair.gateway.receive(frame, 1.0)
    assert caught.value.code == Status.OVERLOAD


def test_large_windows_are_no_flood() -> None:
    pair = Pair()
    pair.gateway.receive(encode_window(0, 1024) * 5000, 0.0)
    assert not pair.gateway.closed


def test_heartbeats_at_a_fair_rate_go_on_for_ever() -> None:
    gateway = Pair().gateway
    for second in range(2000):
        gateway.receive(b"\x00" * 20, float(second))
    assert not gateway.closed


def test_a_device_survives_many_streams_but_no_flood_of_announcements() -> None:
    pair = Pair()
    for alias in range(1024):
        pair.gateway.introduce_stream(alias, StreamCursor("topic", str(alias), "b", 1, 0))
    pair.run()
    with pytest.raises(LocalError):
        pair.gateway.introduce_stream(1024, StreamCursor("topic", "t", "b", 1, 0))
    for _ in range(201):
        pair.gateway.introduce_stream(1, StreamCursor("topic", "t", "b", 1, 0))
    with pytest.raises(RemoteError) as caught:
        pair.run()
    assert caught.value.code == Status.OVERLOAD
