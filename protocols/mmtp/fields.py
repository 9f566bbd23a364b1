"""Key-value coding of HELLO, WELCOME, SETTINGS, GOAWAY and attributes (specification, section 3)."""

from __future__ import annotations

from collections.abc import Container

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.statuses import Status
from protocols.mmtp.varint import decode_varint, encode_varint

MAX_FIELDS = 512
_MAX_MILLISECONDS = (1 << 53) - 1


def field(key: int, value: bytes) -> bytes:
    """One field."""
    return encode_varint(key) + encode_varint(len(value)) + value


def varint_field(key: int, value: int) -> bytes:
    """One field whose value is a varint."""
    return field(key, encode_varint(value))


def string_field(key: int, value: str) -> bytes:
    """One field whose value is UTF-8; nothing for the empty string."""
    return field(key, value.encode()) if value else b""


def milliseconds_field(key: int, seconds: float) -> bytes:
    """One field with `seconds` as a varint of milliseconds. Raises LocalError for what no clock says."""
    if not 0 <= seconds <= _MAX_MILLISECONDS / 1000:
        raise LocalError(f"field {key}: expected seconds of at least 0, got {seconds}")
    return varint_field(key, round(seconds * 1000))


def sized(value: bytes) -> bytes:
    """`value` after its length."""
    return encode_varint(len(value)) + value


def read_fields(
    data: bytes, pos: int, end: int, known: Container[int], repeated: Container[int] = ()
) -> list[tuple[int, int, int]]:
    """The known fields of data[pos:end] in order, as (key, start, stop) of their values.

    Raises RemoteError(PROTOCOL) for unknown odd keys, for second ones not in `repeated`, for values that run
    over the end, and above MAX_FIELDS fields.
    """
    found: list[tuple[int, int, int]] = []
    seen: set[int] = set()
    count = 0
    while pos < end:
        key, pos = decode_varint(data, pos, end)
        size, pos = decode_varint(data, pos, end)
        stop = pos + size
        if stop > end:
            raise RemoteError(Status.PROTOCOL, f"field {key}: expected at most {end - pos} bytes, got length {size}")
        count += 1
        if count > MAX_FIELDS:
            raise RemoteError(Status.PROTOCOL, f"fields: expected at most {MAX_FIELDS}")
        if key in known:
            if key in seen and key not in repeated:
                raise RemoteError(Status.PROTOCOL, f"field {key}: came twice")
            seen.add(key)
            found.append((key, pos, stop))
        elif key & 1:
            raise RemoteError(Status.PROTOCOL, f"field {key}: unknown, and odd keys must be understood")
        pos = stop
    return found


def read_varint(data: bytes, pos: int, end: int) -> int:
    """A value that is exactly one varint."""
    value, pos = decode_varint(data, pos, end)
    expect_end(pos, end)
    return value


def read_string(data: bytes, pos: int, end: int) -> str:
    """A value that is UTF-8."""
    try:
        return data[pos:end].decode()
    except UnicodeDecodeError as error:
        raise RemoteError(Status.PROTOCOL, f"string: expected UTF-8, {error.reason}") from None


def read_sized(data: bytes, pos: int, end: int) -> tuple[str, int]:
    """A string after its length, and the position after it."""
    size, pos = decode_varint(data, pos, end)
    if pos + size > end:
        raise RemoteError(Status.PROTOCOL, f"string: expected at most {end - pos} bytes, got length {size}")
    return read_string(data, pos, pos + size), pos + size


def read_milliseconds(data: bytes, pos: int, end: int) -> float:
    """A value in milliseconds, as seconds."""
    value = read_varint(data, pos, end)
    if value > _MAX_MILLISECONDS:
        raise RemoteError(Status.PROTOCOL, f"milliseconds: expected at most 2^53-1, got {value}")
    return value / 1000


def read_u64(data: bytes, pos: int, end: int) -> int:
    """A value of 8 bytes, highest first."""
    if end - pos != 8:
        raise RemoteError(Status.PROTOCOL, f"number: expected 8 bytes, got {end - pos}")
    return int.from_bytes(data[pos:end], "big")


def expect_end(pos: int, end: int) -> None:
    """Raises RemoteError(PROTOCOL) when a value has bytes left over."""
    if pos != end:
        raise RemoteError(Status.PROTOCOL, f"value: {end - pos} bytes left over")
