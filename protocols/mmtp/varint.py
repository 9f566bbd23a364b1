"""Unsigned LEB128 in its shortest form (specification, section 1.1)."""

from __future__ import annotations

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.statuses import Status

MAX_VARINT = (1 << 64) - 1
_SHORT = tuple(bytes((value,)) for value in range(128))


def encode_varint(value: int) -> bytes:
    """`value` as 1 to 10 bytes. Raises LocalError outside 0..2^64 - 1."""
    if 0 <= value < 128:
        return _SHORT[value]
    if not 0 <= value <= MAX_VARINT:
        raise LocalError(f"varint: expected 0..2^64-1, got {value}")
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """The number at `pos` and the position after it; nothing at `end` or later is read.

    Raises RemoteError(PROTOCOL) when it is cut off, not in its shortest form, or above 2^64 - 1.
    """
    if pos < end:
        byte = data[pos]
        if byte < 128:
            return byte, pos + 1
    value = 0
    shift = 0
    while pos < end:
        byte = data[pos]
        pos += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if byte == 0:
                raise RemoteError(Status.PROTOCOL, "varint: not in its shortest form")
            if value > MAX_VARINT:
                break
            return value, pos
        shift += 7
        if shift > 63:
            break
    if shift > 63 or value > MAX_VARINT:
        raise RemoteError(Status.PROTOCOL, "varint: above 2^64 - 1")
    raise RemoteError(Status.PROTOCOL, "varint: cut off")
