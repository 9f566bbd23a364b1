"""Attributes of REQUEST and RESPONSE (specification, section 6.3)."""

from __future__ import annotations

from typing import NamedTuple

from protocols.errors import RemoteError
from protocols.mmtp.fields import expect_end, field, milliseconds_field, read_fields, read_milliseconds, read_u64, sized
from protocols.mmtp.statuses import Status
from protocols.mmtp.varint import decode_varint

CALL_ID = 1
TIMEOUT = 2
RESENT = 3
AGE = 4
_REQUEST_KEYS = (CALL_ID, TIMEOUT, RESENT, AGE)


class RequestAttributes(NamedTuple):
    """What a REQUEST says beside its headers."""

    call_id: int | None = None
    """None: base + n."""
    timeout: float | None = None
    """Seconds."""
    resent: bool = False
    age: float | None = None
    """Seconds since the call was made, of a repetition."""


NO_ATTRIBUTES = RequestAttributes()


def encode_request_attributes(attributes: RequestAttributes) -> bytes:
    """The attributes with their length; empty when there are none."""
    parts = b""
    if attributes.call_id is not None:
        parts += field(CALL_ID, attributes.call_id.to_bytes(8, "big"))
    if attributes.timeout is not None:
        parts += milliseconds_field(TIMEOUT, max(0.0, attributes.timeout))
    if attributes.resent:
        parts += field(RESENT, b"")
    if attributes.age is not None:
        parts += milliseconds_field(AGE, max(0.0, attributes.age))
    return sized(parts) if parts else b""


def attributes_end(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """Where the attributes at `pos` begin and end. Raises RemoteError(PROTOCOL)."""
    size, pos = decode_varint(data, pos, end)
    if pos + size > end:
        raise RemoteError(Status.PROTOCOL, f"attributes: expected at most {end - pos} bytes, got length {size}")
    return pos, pos + size


def decode_request_attributes(data: bytes, pos: int, end: int) -> tuple[RequestAttributes, int]:
    """The attributes at `pos`, and the position after them."""
    pos, stop = attributes_end(data, pos, end)
    call_id: int | None = None
    timeout: float | None = None
    resent = False
    age: float | None = None
    for key, start, after in read_fields(data, pos, stop, _REQUEST_KEYS):
        if key == CALL_ID:
            call_id = read_u64(data, start, after)
        elif key == TIMEOUT:
            timeout = read_milliseconds(data, start, after)
        elif key == AGE:
            age = read_milliseconds(data, start, after)
        else:
            expect_end(start, after)
            resent = True
    return RequestAttributes(call_id, timeout, resent, age), stop


def skip_response_attributes(data: bytes, pos: int, end: int) -> int:
    """The position after the attributes of a RESPONSE, of which none is defined."""
    pos, stop = attributes_end(data, pos, end)
    read_fields(data, pos, stop, ())
    return stop


def read_block(data: bytes, pos: int, end: int) -> tuple[bytes, int]:
    """The header block after its length at `pos`, and the position of the body."""
    size, pos = decode_varint(data, pos, end)
    stop = pos + size
    if stop > end:
        raise RemoteError(Status.PROTOCOL, f"header block: expected at most {end - pos} bytes, got length {size}")
    return data[pos:stop], stop
