"""Short connections: calls and pending pushes in one HTTP exchange (specification, section 12)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.attributes import (
    RequestAttributes,
    decode_request_attributes,
    encode_request_attributes,
    read_block,
    skip_response_attributes,
)
from protocols.mmtp.bodies import EXPLICIT, RAW, Declined, begin, compress
from protocols.mmtp.events import Headers, PushReceived, StreamNoted
from protocols.mmtp.fields import (
    expect_end,
    milliseconds_field,
    read_fields,
    read_milliseconds,
    read_string,
    read_varint,
    sized,
    string_field,
    varint_field,
)
from protocols.mmtp.fields import field as one_field
from protocols.mmtp.frames import ATTRIBUTES, CODING_SHIFT, INCOMPLETE, MORE, FrameType, cut, encode_frame, encode_reset
from protocols.mmtp.handshake import (
    Hello,
    StreamCursor,
    Welcome,
    decode_cursor,
    decode_hello,
    decode_welcome,
    encode_cursor,
    encode_hello,
    encode_welcome,
)
from protocols.mmtp.headers import HeaderCodec
from protocols.mmtp.hpack_backends import Backend
from protocols.mmtp.push_receiver import PushReceiver
from protocols.mmtp.pushes import encode_announcement, encode_push
from protocols.mmtp.settings import DEFAULT_LIMITS, Limits
from protocols.mmtp.short_auth import TAG_SIZE, compute_tag, milliseconds, tags_equal
from protocols.mmtp.statuses import Status
from protocols.mmtp.varint import decode_varint, encode_varint

CONTENT_TYPE = "application/mmtp"
PATH = "/mmtp"
FORMAT = 1
FORM_SESSION = 0
FORM_HELLO = 1
MAX_CALLS = 16

_CURSOR = 2
_MAX_PUSHES = 4
_TIME = 2
_RETRY_AFTER = 4
_MORE_PUSHES = 6
_MESSAGE = 8


@dataclass(slots=True)
class ShortCall:
    """One call of a short request."""

    call_id: int
    operation: str
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    resent: bool = False
    timeout: float | None = None
    """Seconds that the device still waits."""
    age: float | None = None
    """Seconds since the device made the call, of a repetition."""
    secret: bool = False
    """Its body travels raw; not itself on the wire."""


@dataclass(slots=True)
class ShortRequest:
    """The body of `POST /mmtp`: either of a session, or with a HELLO."""

    session: str = ""
    counter: int = 0
    time: float = 0.0
    """Wall clock of the gateway as the device estimates it, seconds."""
    hello: Hello | None = None
    cursors: list[StreamCursor] = field(default_factory=list)
    """With a HELLO they stand there."""
    max_pushes: int = 0
    calls: list[ShortCall] = field(default_factory=list)
    tag: bytes = b""
    content: bytes = b""
    """What the tag covers; both filled by decoding."""


@dataclass(slots=True)
class ShortAnswer:
    """The last frame of one call: an answer, or with `reset` a refusal."""

    index: int
    """Place of the call in the request."""
    status: int
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    reset: bool = False
    secret: bool = False
    """Its body travels raw; not itself on the wire."""


@dataclass(slots=True)
class ShortResponse:
    """The body of the answer to `POST /mmtp`."""

    status: int = 0
    time: float = 0.0
    """Gateway's wall clock, seconds."""
    retry_after: float = 0.0
    message: str = ""
    welcome: Welcome | None = None
    answers: list[ShortAnswer] = field(default_factory=list)
    notes: list[StreamNoted] = field(default_factory=list)
    pushes: list[PushReceived] = field(default_factory=list)
    """In the order of their streams; alias and index are of no meaning."""
    more_pushes: bool = False
    secret_biz: frozenset[str] = frozenset()
    """Pushes of these travel raw; not itself on the wire."""


def encode_short_request(
    request: ShortRequest,
    *,
    mac_key: bytes = b"",
    listener: str = "",
    zstd: bool = False,
    hpack: Backend | None = None,
) -> bytes:
    """The body of the POST; with a session `mac_key` and `listener` make the tag. `zstd`: the session has the
    capability. `hpack` codes the header blocks, the one chosen at import unless given. Raises LocalError for more than
    MAX_CALLS calls."""
    if len(request.calls) > MAX_CALLS:
        raise LocalError(f"calls: expected at most {MAX_CALLS}, got {len(request.calls)}")
    fields = b"" if request.hello is not None else b"".join(
        one_field(_CURSOR, encode_cursor(cursor)) for cursor in request.cursors
    )  # fmt: skip
    if request.max_pushes:
        fields += varint_field(_MAX_PUSHES, request.max_pushes)
    parts = [sized(fields)]
    if request.hello is not None:
        parts.append(encode_frame(FrameType.HELLO, 0, encode_hello(request.hello)))
    headers = HeaderCodec(hpack)
    for call in request.calls:
        attributes = encode_request_attributes(RequestAttributes(call.call_id, call.timeout, call.resent, call.age))
        block = headers.encode(call.operation, call.headers, DEFAULT_LIMITS, DEFAULT_LIMITS)
        packed = compress(call.body) if zstd and request.hello is None and not call.secret else None
        flags = ATTRIBUTES | (EXPLICIT << CODING_SHIFT if packed is not None else 0)
        body = call.body if packed is None else packed
        parts.append(encode_frame(FrameType.REQUEST, flags, attributes + sized(block) + body))
    content = b"".join(parts)
    if request.hello is not None:
        return bytes((FORMAT, FORM_HELLO)) + content
    tag = compute_tag(mac_key, listener, request.session, counter=request.counter, time=request.time, content=content)
    return b"".join((
        bytes((FORMAT, FORM_SESSION)),
        sized(request.session.encode()),
        request.counter.to_bytes(8, "big"),
        milliseconds(request.time),
        tag,
        content,
    ))  # fmt: skip


def decode_short_request(
    data: bytes, limits: Limits, *, zstd: bool = True, verify: Callable[[ShortRequest], None] | None = None
) -> ShortRequest:
    """The inverse of encode_short_request. Raises RemoteError.

    `zstd`: bodies of coding 2 are taken with a session. `verify` is called with what is there before the frames of a
    request with a session are read: a stranger's bodies must not be expanded, so it should raise where verify_tag is
    false.
    """
    _expect_format(data)
    if len(data) < 2 or data[1] not in (FORM_SESSION, FORM_HELLO):
        raise RemoteError(Status.PROTOCOL, "short request: expected form 0 or 1")
    request = ShortRequest()
    end = len(data)
    pos = 2
    with_hello = data[1] == FORM_HELLO
    if not with_hello:
        size, pos = decode_varint(data, pos, end)
        if pos + size + 16 + TAG_SIZE > end:
            raise RemoteError(Status.PROTOCOL, "short request: cut off")
        request.session = read_string(data, pos, pos + size)
        pos += size
        request.counter = int.from_bytes(data[pos : pos + 8], "big")
        ticks = int.from_bytes(data[pos + 8 : pos + 16], "big")
        if ticks >> 53:
            raise RemoteError(Status.PROTOCOL, f"short request: expected milliseconds below 2^53, got {ticks}")
        request.time = ticks / 1000
        request.tag = data[pos + 16 : pos + 16 + TAG_SIZE]
        pos += 16 + TAG_SIZE
    request.content = data[pos:]
    if verify is not None and not with_hello:
        verify(request)
    start, pos = _fields_end(data, pos, end)
    for key, value, after in read_fields(data, start, pos, (_CURSOR, _MAX_PUSHES), (_CURSOR,)):
        if key == _CURSOR:
            request.cursors.append(decode_cursor(data, value, after))
        else:
            request.max_pushes = read_varint(data, value, after)
    reading = _Reading(limits, zstd and not with_hello, limits.max_body)
    while pos < end:
        first, start, pos = _next_frame(data, pos, end)
        kind = first >> 4
        if kind == FrameType.HELLO and with_hello and request.hello is None:
            if pos - start > limits.max_hello:
                raise RemoteError(Status.FRAME_SIZE, f"HELLO: expected at most {limits.max_hello} bytes")
            request.hello = decode_hello(data, start, pos)
        elif kind == FrameType.REQUEST and (request.hello is not None) == with_hello:
            if len(request.calls) == MAX_CALLS:
                raise RemoteError(Status.PROTOCOL, f"short request: expected at most {MAX_CALLS} calls")
            request.calls.append(_decode_call(reading, first & 15, data, start, pos))
        else:
            raise RemoteError(Status.PROTOCOL, f"short request: {FrameType(kind).name} is not allowed here")
    if with_hello and request.hello is None:
        raise RemoteError(Status.PROTOCOL, "short request: expected HELLO")
    return request


def verify_tag(request: ShortRequest, mac_key: bytes, listener: str) -> bool:
    """Whether a decoded request was made by whoever has the session's key; `listener` is the HTTP host header."""
    expected = compute_tag(
        mac_key, listener, request.session, counter=request.counter, time=request.time, content=request.content
    )
    return tags_equal(expected, request.tag)


def encode_short_response(response: ShortResponse, *, zstd: bool = False, hpack: Backend | None = None) -> bytes:
    """The body of the answer; `hpack` as there. Pushes of one stream must be in the order of their numbers, or
    LocalError."""
    fields = b"".join((
        milliseconds_field(_TIME, response.time) if response.time else b"",
        milliseconds_field(_RETRY_AFTER, response.retry_after) if response.retry_after else b"",
        one_field(_MORE_PUSHES, b"") if response.more_pushes else b"",
        string_field(_MESSAGE, response.message),
    ))  # fmt: skip
    parts = [bytes((FORMAT,)), encode_varint(response.status), sized(fields)]
    if response.welcome is not None:
        parts.append(encode_frame(FrameType.WELCOME, 0, encode_welcome(response.welcome)))
    headers = HeaderCodec(hpack)
    for answer in response.answers:
        if answer.reset:
            parts.append(encode_reset(answer.index, answer.status))
            continue
        block = headers.encode(None, answer.headers, DEFAULT_LIMITS, DEFAULT_LIMITS)
        packed = compress(answer.body) if zstd and not answer.secret else None
        head = bytes((answer.index,)) + encode_varint(answer.status) + sized(block)
        if packed is None:
            parts.append(encode_frame(FrameType.RESPONSE, 0, head + answer.body))
        else:
            parts.append(encode_frame(FrameType.RESPONSE, EXPLICIT << CODING_SHIFT, head + packed))
    parts.extend(_encode_pushes(response, EXPLICIT if zstd else 0))
    return b"".join(parts)


def _encode_pushes(response: ShortResponse, coding: int) -> list[bytes]:
    parts: list[bytes] = []
    aliases: dict[tuple[str, str, str], int] = {}
    following: dict[int, tuple[int, int]] = {}
    for note in response.notes:
        alias = aliases.setdefault((note.scope, note.id, note.biz), len(aliases))
        cursor = StreamCursor(note.scope, note.id, note.biz, note.epoch, note.floor)
        parts.append(encode_announcement(alias, cursor, note.note))
        following[alias] = (note.epoch, note.floor + 1)
    for push in response.pushes:
        alias = aliases.setdefault((push.scope, push.id, push.biz), len(aliases))
        before = push.seq - 1 - push.gap
        epoch, expected = following.get(alias, (-1, 0))
        if epoch != push.epoch:
            parts.append(encode_announcement(alias, StreamCursor(push.scope, push.id, push.biz, push.epoch, before)))
            expected = before + 1
        if push.seq < expected:
            raise LocalError(f"push: expected a number of at least {expected}, got {push.seq}")
        following[alias] = (push.epoch, push.seq + 1)
        parts.append(
            encode_push(
                alias,
                push.body,
                coding=RAW if push.biz in response.secret_biz else coding,
                ttl=push.ttl,
                priority=push.priority,
                collapse=push.collapse,
                gap=push.seq - expected,
            )
        )
    return parts


def decode_short_response(data: bytes, limits: Limits, *, zstd: bool = False) -> ShortResponse:
    """The inverse of encode_short_response. Raises RemoteError."""
    _expect_format(data)
    end = len(data)
    response = ShortResponse()
    response.status, pos = decode_varint(data, 1, end)
    start, pos = _fields_end(data, pos, end)
    for key, value, after in read_fields(data, start, pos, (_TIME, _RETRY_AFTER, _MORE_PUSHES, _MESSAGE)):
        if key == _TIME:
            response.time = read_milliseconds(data, value, after)
        elif key == _RETRY_AFTER:
            response.retry_after = read_milliseconds(data, value, after)
        elif key == _MORE_PUSHES:
            expect_end(value, after)
            response.more_pushes = True
        else:
            response.message = read_string(data, value, after)
    reading = _Reading(limits, zstd, MAX_CALLS * limits.max_body)
    receiver = PushReceiver(limits)
    while pos < end:
        first, start, pos = _next_frame(data, pos, end)
        kind = first >> 4
        if kind == FrameType.WELCOME and response.welcome is None:
            response.welcome = decode_welcome(data, start, pos)
        elif kind == FrameType.RESPONSE:
            _answered(response, _decode_answer(reading, first & 15, data, start, pos))
        elif kind == FrameType.RESET:
            index = _call_byte(data, start, pos)
            status, after = decode_varint(data, start + 1, pos)
            expect_end(after, pos)
            _answered(response, ShortAnswer(index, status, reset=True))
        elif kind == FrameType.PUSH:
            event, _ = receiver.came(first & 15, data, start, pos, zstd=zstd)
            if isinstance(event, PushReceived):
                reading.took(event.body)
                response.pushes.append(event)
            elif event is not None:
                response.notes.append(event)
        else:
            raise RemoteError(Status.PROTOCOL, f"short response: {FrameType(kind).name} is not allowed here")
    return response


def _expect_format(data: bytes) -> None:
    if not data or data[0] != FORMAT:
        raise RemoteError(
            Status.VERSION, f"short connection: expected version {FORMAT}, got {data[:1].hex() or 'nothing'}"
        )


def _fields_end(data: bytes, pos: int, end: int) -> tuple[int, int]:
    size, pos = decode_varint(data, pos, end)
    if pos + size > end:
        raise RemoteError(Status.PROTOCOL, f"fields: expected at most {end - pos} bytes, got length {size}")
    return pos, pos + size


def _next_frame(data: bytes, pos: int, end: int) -> tuple[int, int, int]:
    """First byte, start and end of the payload of the frame at `pos`; HTTP has bounded its size."""
    start, stop, _ = cut(data, pos, end, end)
    if start == INCOMPLETE:
        raise RemoteError(Status.PROTOCOL, "short connection: a frame is cut off")
    return data[pos], start, stop


def _answered(response: ShortResponse, answer: ShortAnswer) -> None:
    if any(other.index == answer.index for other in response.answers):
        raise RemoteError(Status.PROTOCOL, f"short response: call {answer.index} has an answer")
    response.answers.append(answer)


def _call_byte(data: bytes, start: int, stop: int) -> int:
    if start == stop or data[start] >= MAX_CALLS:
        raise RemoteError(Status.PROTOCOL, f"call byte: expected 0..{MAX_CALLS - 1}")
    return data[start]


class _Reading:
    """What the calls of one exchange share."""

    __slots__ = ("_room", "_zstd", "headers", "limits")

    def __init__(self, limits: Limits, zstd: bool, room: int) -> None:
        """`room`: bytes of all bodies together, expanded."""
        self.limits = limits
        self.headers = HeaderCodec()
        self._zstd = zstd
        self._room = room

    def body(self, flags: int, body: bytes) -> bytes:
        try:
            expanded = begin(flags >> CODING_SHIFT & 3, body, False, self._zstd, self.limits)[0]
        except Declined as error:
            raise RemoteError(Status.DICTIONARY_MISS, f"short connection: {error}") from None
        self.took(expanded)
        return expanded

    def took(self, expanded: bytes) -> None:
        """One more body is there. Raises RemoteError(COMPRESSION)."""
        self._room -= len(expanded)
        if self._room < 0:
            raise RemoteError(Status.COMPRESSION, "short connection: the bodies expand to more than is taken")


def _decode_call(reading: _Reading, flags: int, data: bytes, start: int, stop: int) -> ShortCall:
    if flags & MORE or not flags & ATTRIBUTES:
        raise RemoteError(Status.PROTOCOL, "short request: expected whole calls with a call id")
    attributes, start = decode_request_attributes(data, start, stop)
    if attributes.call_id is None:
        raise RemoteError(Status.PROTOCOL, "short request: expected a call id")
    block, start = read_block(data, start, stop)
    operation, fields = reading.headers.decode_request(block, reading.limits)
    body = reading.body(flags, data[start:stop])
    return ShortCall(attributes.call_id, operation, fields, body, attributes.resent, attributes.timeout, attributes.age)


def _decode_answer(reading: _Reading, flags: int, data: bytes, start: int, stop: int) -> ShortAnswer:
    if flags & MORE:
        raise RemoteError(Status.PROTOCOL, "short response: expected whole answers")
    index = _call_byte(data, start, stop)
    start += 1
    if flags & ATTRIBUTES:
        start = skip_response_attributes(data, start, stop)
    status, start = decode_varint(data, start, stop)
    block, start = read_block(data, start, stop)
    fields = reading.headers.decode_response(block, reading.limits)
    return ShortAnswer(index, status, fields, reading.body(flags, data[start:stop]))
