"""Round trips of every codec, and what hostile bytes do to them."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.mmtp import Goaway, Hello, Limits, Status, StreamCursor, Welcome, encode_push
from protocols.mmtp.attributes import RequestAttributes, decode_request_attributes, encode_request_attributes
from protocols.mmtp.bodies import StreamDecompressor, begin, compress
from protocols.mmtp.events import PushReceived, StreamNoted
from protocols.mmtp.frames import FrameType, cut, encode_frame
from protocols.mmtp.handshake import (
    SCOPES,
    decode_cursor,
    decode_goaway,
    decode_hello,
    decode_welcome,
    encode_cursor,
    encode_goaway,
    encode_hello,
    encode_welcome,
)
from protocols.mmtp.headers import HeaderCodec
from protocols.mmtp.push_receiver import PushReceiver
from protocols.mmtp.pushes import encode_announcement
from protocols.mmtp.settings import ALLOWED, DEFAULTS, apply, decode_settings, encode_settings, settings_of
from protocols.mmtp.short import (
    ShortAnswer,
    ShortCall,
    ShortRequest,
    ShortResponse,
    decode_short_request,
    decode_short_response,
    encode_short_request,
    encode_short_response,
    verify_tag,
)
from protocols.mmtp.short_auth import COUNTER_WINDOW, CounterWindow
from protocols.mmtp.tickets import (
    DeviceTicket,
    GrantedTickets,
    ShownCertificate,
    decode_certificate,
    decode_tickets,
    encode_certificate,
    encode_tickets,
)
from protocols.mmtp.varint import decode_varint, encode_varint

LIMITS = Limits()
few = settings(max_examples=25, deadline=None)
U64 = st.integers(0, 2**64 - 1)
TEXT = st.text(max_size=20)
SECONDS = st.integers(0, 10**13).map(lambda ms: ms / 1000)
CURSORS = st.builds(StreamCursor, st.sampled_from(SCOPES), TEXT, TEXT, U64, st.integers(0, 2**63))
SETTINGS = st.fixed_dictionaries({}, optional={key: st.integers(*bounds) for key, bounds in ALLOWED.items()})
CAPABILITIES = st.frozensets(st.text(string.ascii_lowercase, min_size=1, max_size=8), max_size=4)
NAMES = st.text(string.ascii_lowercase + string.digits + "-_.!", min_size=1, max_size=12)
VALUES = st.text(st.characters(exclude_characters="\0\r\n", exclude_categories=("Cs",)), max_size=30)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=12)
OPERATIONS = st.text(string.ascii_letters + "./-订单", min_size=1, max_size=20)
BODIES = st.binary(max_size=400) | st.integers(0, 3000).map(lambda n: b"ab" * n)

HELLOS = st.builds(
    Hello,
    device=st.text(min_size=1, max_size=40),
    token=TEXT,
    app=TEXT,
    app_version=TEXT,
    capabilities=CAPABILITIES,
    boot=U64,
    counter=U64,
    time=st.none() | SECONDS,
    call_base=U64,
    cursors=st.lists(CURSORS, max_size=3),
    settings=SETTINGS,
    network=U64,
    last_close=U64,
    attributes=st.dictionaries(TEXT, TEXT, max_size=3),
    tickets=U64,
    plain=st.booleans(),
    certificate=st.none() | st.builds(ShownCertificate, st.binary(min_size=32, max_size=32), U64),
)
TICKETS = st.builds(DeviceTicket, st.binary(min_size=17, max_size=17), st.binary(min_size=32, max_size=32))
WELCOMES = st.builds(
    Welcome,
    result=U64,
    message=TEXT,
    session=TEXT,
    mac_key=st.sampled_from([b"", b"k" * 32]),
    time=SECONDS,
    capabilities=CAPABILITIES,
    settings=SETTINGS,
    heartbeat=SECONDS,
    idle_timeout=SECONDS,
    zone=TEXT,
    addresses=st.lists(st.text(min_size=1, max_size=10), max_size=3),
    addresses_valid=SECONDS,
    retry_after=SECONDS,
    tickets=st.none() | st.builds(GrantedTickets, U64, U64, st.lists(TICKETS, max_size=16).map(tuple)),
)
GOAWAYS = st.builds(Goaway, status=U64, message=TEXT, last_call=st.integers(-1, 2**60), address=TEXT, delay=SECONDS)


def whole(decode: Callable[[bytes, int, int], Any], data: bytes) -> Any:
    """Decode from the middle of other bytes, to see that the bounds are kept."""
    return decode(b"\xff\xff" + data + b"\xff", 2, 2 + len(data))


@few
@given(U64)
def test_varint_round_trip(value: int) -> None:
    coded = encode_varint(value)
    assert whole(decode_varint, coded) == (value, 2 + len(coded))
    assert len(coded) == max(1, -(-value.bit_length() // 7))


@few
@given(st.binary(max_size=12))
def test_a_varint_has_one_form(data: bytes) -> None:
    try:
        value, end = decode_varint(data, 0, len(data))
    except RemoteError as error:
        assert error.code == Status.PROTOCOL
    else:
        assert encode_varint(value) == data[:end]


@pytest.mark.parametrize("value", [-1, 2**64])
def test_a_varint_out_of_range_is_our_error(value: int) -> None:
    with pytest.raises(LocalError):
        encode_varint(value)


@few
@given(HELLOS)
def test_hello_round_trip(hello: Hello) -> None:
    if len(hello.device.encode()) <= 256:
        assert whole(decode_hello, encode_hello(hello)) == hello


@few
@given(WELCOMES)
def test_welcome_round_trip(welcome: Welcome) -> None:
    assert whole(decode_welcome, encode_welcome(welcome)) == welcome


@few
@given(GOAWAYS)
def test_goaway_round_trip(goaway: Goaway) -> None:
    assert whole(decode_goaway, encode_goaway(goaway)) == goaway


def test_a_goaway_message_is_cut_between_characters() -> None:
    message = decode_goaway(*_span(encode_goaway(Goaway(message="x" + "报" * 200)))).message
    assert message == "x" + "报" * 85


def _span(data: bytes) -> tuple[bytes, int, int]:
    return data, 0, len(data)


@few
@given(CURSORS)
def test_cursor_round_trip(cursor: StreamCursor) -> None:
    assert whole(decode_cursor, encode_cursor(cursor)) == cursor


@few
@given(SETTINGS)
def test_settings_round_trip(chosen: dict[int, int]) -> None:
    assert whole(decode_settings, encode_settings(chosen)) == chosen
    assert settings_of(apply(LIMITS, chosen)) == {k: v for k, v in chosen.items() if v != DEFAULTS[k]}


@pytest.mark.parametrize("limits", [Limits(max_open_calls=128), Limits(max_frame=1000), Limits(push_window=0)])
def test_limits_that_the_protocol_does_not_allow(limits: Limits) -> None:
    with pytest.raises(LocalError):
        settings_of(limits)


@few
@given(st.builds(RequestAttributes, st.none() | U64, st.none() | SECONDS, st.booleans(), st.none() | SECONDS))
def test_request_attributes_round_trip(attributes: RequestAttributes) -> None:
    coded = encode_request_attributes(attributes)
    if coded:
        assert whole(decode_request_attributes, coded) == (attributes, 2 + len(coded))
    else:
        assert attributes == RequestAttributes()


@few
@given(st.lists(st.tuples(OPERATIONS, HEADERS), max_size=4))
def test_header_blocks_round_trip_with_one_table(lists: list[tuple[str, list[tuple[str, str]]]]) -> None:
    sender, receiver = HeaderCodec(), HeaderCodec()
    for operation, headers in lists:
        block = sender.encode(operation, headers, LIMITS, LIMITS)
        assert receiver.decode_request(block, LIMITS) == (operation, headers)
        assert sum(len(n) + len(v.encode()) + 32 for n, v in [(":op", operation), *headers]) >= len(block)


@few
@given(st.lists(HEADERS, max_size=4), st.integers(0, 4096))
def test_header_blocks_follow_a_smaller_table(lists: list[list[tuple[str, str]]], table: int) -> None:
    sender, receiver = HeaderCodec(), HeaderCodec()
    small = replace(LIMITS, header_table=table)
    first = [("a", "b")]
    assert receiver.decode_response(sender.encode(None, first, LIMITS, LIMITS), LIMITS) == first
    for headers in lists:
        assert receiver.decode_response(sender.encode(None, headers, LIMITS, small), small) == headers


def test_blocks_of_indexed_fields_alone() -> None:
    sender, receiver = HeaderCodec(), HeaderCodec()
    headers = [("a", "b"), ("accept-encoding", "gzip, deflate"), ("x", "订单")]
    for _ in range(3):
        block = sender.encode("pay", headers, LIMITS, LIMITS)
        assert receiver.decode_request(block, LIMITS) == ("pay", headers)
    assert len(block) == 4
    for bad, code in ((b"\xfe", Status.COMPRESSION), (b"\x80", Status.COMPRESSION), (b"\xc0" * 65, Status.PROTOCOL)):
        with pytest.raises(RemoteError) as caught:
            receiver.decode_response(bad, LIMITS)
        assert caught.value.code == code
    receiver.decode_response(b"\x40\x01b\x7f\x80\x1e" + b"v" * 3967, LIMITS)
    with pytest.raises(RemoteError) as caught:
        receiver.decode_response(b"\xbe" * 20, LIMITS)
    assert caught.value.code == Status.COMPRESSION


def test_an_encoder_that_never_indexes_needs_no_table_update() -> None:
    block = b"\x00\x03:op\x01a"
    assert HeaderCodec().decode_request(block, replace(LIMITS, header_table=0)) == ("a", [])


@pytest.mark.parametrize("name", ["authorization", "cookie", "set-cookie", "proxy-authorization", "x-session-token"])
def test_credentials_are_never_indexed(name: str) -> None:
    codec = HeaderCodec()
    codec.encode("op", [], LIMITS, LIMITS)
    block = codec.encode("op", [(name, "secret")], LIMITS, LIMITS)
    assert block[0] == 0xBE, "the operation is indexed"
    assert block[1] & 0xF0 == 0x10, "never-indexed literal (RFC 7541 section 6.2.3)"
    assert codec.encode("op", [(name, "secret")], LIMITS, LIMITS) == block


@few
@given(BODIES)
def test_bodies_round_trip_in_any_parts(body: bytes) -> None:
    packed = compress(body)
    if packed is None:
        return
    assert len(packed) < len(body)
    assert begin(2, packed, False, True, LIMITS) == (body, None)
    middle = len(packed) // 2
    for cuts in ([middle], [1, 2, 3, middle], list(range(len(packed)))):
        stream = StreamDecompressor(LIMITS)
        places = [0, *cuts, len(packed)]
        parts = [stream.feed(packed[a:b], False) for a, b in pairwise(places)]
        assert b"".join(parts) + stream.feed(b"", True) == body


PUSHES = st.builds(
    lambda **k: k,
    body=BODIES,
    coding=st.sampled_from([0, 2]),
    ttl=st.none() | SECONDS,
    priority=st.integers(0, 2),
    collapse=TEXT,
    gap=st.integers(0, 1000),
)


@few
@given(CURSORS, U64, st.lists(PUSHES, max_size=4), st.sampled_from(["", "truncated", "history_lost"]))
def test_pushes_round_trip(cursor: StreamCursor, alias: int, pushes: list[dict[str, Any]], note: str) -> None:
    receiver = PushReceiver(LIMITS)

    def take(frame: bytes) -> Any:
        start, stop, _ = cut(frame, 0, len(frame), LIMITS.max_frame)
        assert stop == len(frame)
        return receiver.came(frame[0] & 15, frame, start, stop, zstd=True)[0]

    noted = take(encode_announcement(alias, cursor, note))
    assert noted == (StreamNoted(cursor.scope, cursor.id, cursor.biz, note, cursor.epoch, cursor.seq) if note else None)
    seq = cursor.seq
    for index, push in enumerate(pushes):
        seq += 1 + push["gap"]
        expected = PushReceived(
            alias, cursor.scope, cursor.id, cursor.biz, cursor.epoch, seq, push["body"],
            push["ttl"], push["collapse"], push["priority"], push["gap"], index,
        )  # fmt: skip
        assert take(encode_push(alias, **push)) == expected


CALLS = st.lists(st.builds(ShortCall, U64, OPERATIONS, HEADERS, BODIES, st.booleans(), st.none() | SECONDS), max_size=3)


@few
@given(CALLS, TEXT, U64, SECONDS, st.lists(CURSORS, max_size=2), st.integers(0, 50), st.booleans())
def test_short_request_round_trip(
    calls: list[ShortCall], session: str, counter: int, time: float, cursors: list[StreamCursor], most: int, zstd: bool
) -> None:
    request = ShortRequest(session, counter, time, None, cursors, most, calls)
    data = encode_short_request(request, mac_key=b"k" * 32, listener="h", zstd=zstd)
    decoded = decode_short_request(data, LIMITS)
    assert verify_tag(decoded, b"k" * 32, "H")
    assert not verify_tag(decoded, b"j" * 32, "h")
    assert not verify_tag(decoded, b"k" * 32, "other")
    assert not verify_tag(replace(decoded, counter=decoded.counter ^ 1), b"k" * 32, "h")
    assert not verify_tag(replace(decoded, content=decoded.content + b"\0"), b"k" * 32, "h")
    assert replace(decoded, tag=b"", content=b"") == request


@few
@given(CALLS, HELLOS)
def test_short_request_with_hello_round_trip(calls: list[ShortCall], hello: Hello) -> None:
    if len(hello.device.encode()) > 256:
        return
    decoded = decode_short_request(encode_short_request(ShortRequest(hello=hello, calls=calls)), LIMITS)
    assert (decoded.hello, decoded.calls) == (hello, calls)


def test_the_bodies_of_a_short_request_are_bounded_together():
    calls = [ShortCall(number, "pay", [], bytes(40_000), False, None) for number in range(3)]
    data = encode_short_request(ShortRequest("s", calls=calls), mac_key=b"k", zstd=True)
    assert len(data) < 1000
    assert len(decode_short_request(data, Limits(max_body=120_000)).calls) == 3
    with pytest.raises(RemoteError) as refused:
        decode_short_request(data, Limits(max_body=119_999))
    assert refused.value.code == Status.COMPRESSION


@few
@given(
    st.lists(
        st.builds(ShortAnswer, st.integers(0, 15), U64, HEADERS, BODIES),
        max_size=3,
        unique_by=lambda answer: answer.index,
    ),
    st.booleans(),
)
def test_short_response_round_trip(answers: list[ShortAnswer], zstd: bool) -> None:
    pushes = [
        PushReceived(0, "user", "u", "orders", 1, 5, b"x" * 300, gap=2),
        PushReceived(1, "broadcast", "", "news", 3, 1, b"n", ttl=2.5, collapse="k", priority=1),
        PushReceived(0, "user", "u", "orders", 1, 9, b"y", gap=3),
    ]
    notes = [StreamNoted("broadcast", "", "news", "truncated", 3, 0)]
    response = ShortResponse(0, 5.0, 1.5, "m", Welcome(session="s"), answers, notes, pushes, more_pushes=True)
    decoded = decode_short_response(encode_short_response(response, zstd=zstd), LIMITS, zstd=zstd)
    assert [replace(p, alias=0, index=0) for p in decoded.pushes] == [replace(p, alias=0, index=0) for p in pushes]
    assert replace(decoded, pushes=[]) == replace(response, pushes=[])


def test_a_larger_answer_than_a_frame_fits_into_a_short_response() -> None:
    body = bytes(range(256)) * 2000
    data = encode_short_response(ShortResponse(answers=[ShortAnswer(0, 0, [], body)]))
    assert decode_short_response(data, LIMITS).answers[0].body == body


@few
@given(st.lists(st.integers(0, 300), max_size=200))
def test_counters_are_accepted_once_and_within_the_window(counters: list[int]) -> None:
    window = CounterWindow()
    used: set[int] = set()
    for counter in counters:
        expected = counter not in used and (not used or counter > max(used) - COUNTER_WINDOW)
        assert window.accept(counter) == expected
        if expected:
            used.add(counter)


def test_counters_may_jump_far() -> None:
    window = CounterWindow()
    assert window.accept(2**64 - 1)
    assert not window.accept(2**64 - 1)
    assert not window.accept(0)


DECODERS: list[Callable[[bytes], Any]] = [
    lambda data: decode_hello(data, 0, len(data)),
    lambda data: decode_welcome(data, 0, len(data)),
    lambda data: decode_goaway(data, 0, len(data)),
    lambda data: decode_settings(data, 0, len(data)),
    lambda data: decode_request_attributes(data, 0, len(data)),
    lambda data: HeaderCodec().decode_request(data, LIMITS),
    lambda data: HeaderCodec().decode_response(data, LIMITS),
    lambda data: decode_short_request(data, LIMITS),
    lambda data: decode_short_response(data, LIMITS, zstd=True),
]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(DECODERS), st.binary(max_size=60))
def test_hostile_bytes_raise_only_remote_errors(decode: Callable[[bytes], Any], data: bytes) -> None:
    try:
        decode(data)
    except RemoteError as error:
        assert Status(error.code) is not Status.OK


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_mutated_short_connections_raise_only_remote_errors(data: st.DataObject) -> None:
    request = encode_short_request(
        ShortRequest(hello=Hello("d"), calls=[ShortCall(1, "op", [("a", "b")], b"body", True, 2.0)], max_pushes=3)
    )
    response = encode_short_response(
        ShortResponse(
            answers=[ShortAnswer(0, 0, [("a", "b")], b"z" * 300)],
            pushes=[PushReceived(0, "user", "u", "b", 1, 1, b"x")],
        ),
        zstd=True,
    )
    original = data.draw(st.sampled_from([request, response]))
    mutated = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    decode = DECODERS[-2] if original is request else DECODERS[-1]
    try:
        decode(bytes(mutated[: data.draw(st.integers(0, len(mutated)))]))
    except RemoteError as error:
        assert Status(error.code) is not Status.OK


@few
@given(st.integers(0, 15), st.integers(0, 300))
def test_frames_are_cut_as_they_were_joined(kind: int, size: int) -> None:
    if kind < 2:
        return
    flags = 1 if kind == FrameType.ACK else 0
    frame = encode_frame(kind, flags, b"x" * size)
    for end in range(len(frame)):
        start, _, needed = cut(frame, 0, end, 300) if end else (-1, 0, 1)
        assert start == -1
        assert end < needed <= len(frame)
    start, stop, needed = cut(frame + b"more", 0, len(frame) + 4, 300)
    assert (frame[start:stop], needed) == (b"x" * size, len(frame))


def test_tickets_of_another_size_are_refused() -> None:
    granted = GrantedTickets(60, 0, (DeviceTicket(b"i" * 17, b"k" * 32),))
    coded = encode_tickets(granted)
    assert len(coded) == 2 + 49
    for wrong in (coded[:-1], coded + b"x", b"", b"\x3c", coded[:2] + 17 * coded[2:]):
        with pytest.raises(RemoteError):
            decode_tickets(wrong, 0, len(wrong))
    for ticket in (DeviceTicket(b"i", b"k" * 32), DeviceTicket(b"i" * 17, b"k")):
        with pytest.raises(LocalError):
            encode_tickets(GrantedTickets(60, 0, (ticket,)))
    with pytest.raises(LocalError):
        encode_tickets(GrantedTickets(60, 0, granted.tickets * 17))
    assert "kkk" not in repr(granted)


def test_a_certificate_of_another_size_is_refused() -> None:
    coded = encode_certificate(ShownCertificate(b"f" * 32, 5))
    for wrong in (coded[:-1], coded + b"x", coded[:20], b""):
        with pytest.raises(RemoteError):
            decode_certificate(wrong, 0, len(wrong))
    with pytest.raises(LocalError):
        encode_certificate(ShownCertificate(b"f", 5))
