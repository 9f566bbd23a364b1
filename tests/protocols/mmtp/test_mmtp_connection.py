"""The connection object: any split of the bytes, hostile bytes, floods, credit, closing."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.mmtp import Connection, Goaway, Hello, Limits, Role, Status, StreamCursor, Welcome, encode_push
from protocols.mmtp.events import (
    CallDrained,
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
from protocols.mmtp.state import ConnectionState
from protocols.mmtp.varint import decode_varint, encode_varint
from tests.protocols.mmtp.dialogue import blocks, split_frames

HELLO = Hello("d1", capabilities=frozenset(("zstd",)), call_base=100)


class Pair:
    """A device and a gateway, with a perfect wire between them."""

    def __init__(self, device: Limits | None = None, gateway: Limits | None = None, *, welcome: bool = True) -> None:
        self.now = 0.0
        self.device = Connection(Role.CLIENT, limits=device or Limits(), now=0.0)
        self.gateway = Connection(Role.SERVER, limits=gateway or Limits(), now=0.0)
        self.device_saw: list[Event] = []
        self.gateway_saw: list[Event] = []
        self.up = self.down = b""
        """All bytes of each direction."""
        if welcome:
            self.device.send_hello(HELLO)
            self.run()
            self.gateway.send_welcome(Welcome())
            self.run()
            self.device_saw.clear()
            self.gateway_saw.clear()

    def run(self) -> None:
        while True:
            up, down = self.device.to_send(self.now), self.gateway.to_send(self.now)
            self.up += up
            self.down += down
            if up:
                self.gateway.receive(up, self.now)
            if down:
                self.device.receive(down, self.now)
            self.device_saw += self.device.events()
            self.gateway_saw += self.gateway.events()
            if not up and not down:
                return


def rich_dialogue() -> Pair:
    """Every frame type of both directions at least once."""
    pair = Pair(Limits(push_window=32), Limits(max_open_calls=20), welcome=False)
    pair.device.send_hello(replace(HELLO, cursors=[StreamCursor("user", "u", "b", 1, 2)]))
    pair.device.ping(False)
    pair.device.request("early", [("a", "b")], b"x")
    pair.run()
    pair.gateway.reset(0, Status.EARLY_DATA_REFUSED)
    pair.gateway.send_welcome(Welcome(session="s", mac_key=b"k" * 32))
    pair.run()
    for body in (b"", b"raw", b"packed" * 100):
        call = pair.device.request("op", [("authorization", "t"), ("x", "y")], body, timeout=3.0)
        pair.run()
        pair.gateway.respond(call, 0, [("z", "w")], body)
        pair.run()
    upload = pair.device.request("up", [], b"first", more=True)
    pair.device.send_data(upload, b"second" * 30, True)
    pair.device.ping()
    pair.run()
    pair.gateway.respond(upload, 404, [], b"head", more=True)
    pair.device.reset(upload, Status.CANCELLED)
    pair.run()
    pair.gateway.send_data(upload, b"tail", False)
    pair.gateway.introduce_stream(3, StreamCursor("topic", "t", "b", 1, 9))
    for seq in range(10, 14):
        pair.gateway.send_push(3, seq, encode_push(3, b"push" * 100, coding=2), 400, seq)
    pair.gateway.note_stream(StreamCursor("topic", "t", "b", 2, 0), 3, "history_lost")
    pair.gateway.ping()
    pair.run()
    pair.device.ack(2)
    pair.device.ack_ranges([3])
    pair.device.update_settings({CALL_WINDOW: 30000})
    pair.gateway.update_settings({CONNECTION_WINDOW: 300000})
    pair.run()
    pair.gateway.go_away(Goaway(Status.DRAINING, "bye"))
    pair.device.go_away(Goaway())
    pair.run()
    return pair


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


def refused(connection: Connection, data: bytes) -> Status:
    with pytest.raises(RemoteError) as caught:
        connection.receive(data, 0.0)
    return Status(caught.value.code)


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


REQUEST_A = b"\x30\x08\x07\x00\x03:op\x01a"


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
