"""Frames: their types and flags, cutting them from bytes, and joining them (specification, section 1.2)."""

from __future__ import annotations

from enum import IntEnum

from protocols.errors import RemoteError
from protocols.mmtp.statuses import Status
from protocols.mmtp.varint import encode_varint


class FrameType(IntEnum):
    """High half of a frame's first byte."""

    PING = 0
    PONG = 1
    ACK = 2
    REQUEST = 3
    RESPONSE = 4
    DATA = 5
    RESET = 6
    PUSH = 7
    HELLO = 8
    WELCOME = 9
    SETTINGS = 10
    DICT = 11
    TABLE = 12
    WINDOW = 13
    GOAWAY = 14
    EXT = 15


MORE = 1
"""REQUEST, RESPONSE, DATA: the body goes on in DATA."""
ATTRIBUTES = 8
"""REQUEST, RESPONSE, PUSH: a sequence of fields comes along."""
ANSWER_WANTED = 1
"""PING: a PONG, please."""
RANGES = 1
"""ACK: ranges instead of a number."""
ACKNOWLEDGEMENT = 1
"""SETTINGS: answers the peer's settings."""
CRITICAL = 1
"""EXT: fail if the type is unknown."""
CODING_SHIFT = 1

LAST_KIND = 4
"""Highest kind of DICT and TABLE that needs no capability (retire)."""


class TableKind(IntEnum):
    """Flags of TABLE."""

    OFFER = 0
    WANT = 1
    CHUNK = 2
    HAVE = 3
    RETIRE = 4
    START = 5
    CHECKPOINT = 6
    CHECKPOINT_ACK = 7


_ALLOWED_FLAGS = bytes((1, 0, 1, 15, 15, 1, 0, 14, 0, 0, 1, 15, 15, 0, 0, 1))
_BAD_FIRST = bytes(1 if first & 15 & ~_ALLOWED_FLAGS[first >> 4] else 0 for first in range(256))
ACK_PLAIN = FrameType.ACK << 4

INCOMPLETE = -1


def cut(data: bytes, pos: int, end: int, max_frame: int) -> tuple[int, int, int]:
    """Where the payload of the frame at `pos` lies: (start, stop, needed).

    When the frame is not complete, start is INCOMPLETE and `needed` is the least number of bytes, counted
    from `pos`, with which another attempt can succeed. The payload of PING and PONG is empty, that of a
    plain ACK is its varint. Raises RemoteError: PROTOCOL for reserved flags and bad lengths, FRAME_SIZE
    for a payload above `max_frame`.
    """
    first = data[pos]
    if _BAD_FIRST[first]:
        raise RemoteError(Status.PROTOCOL, f"frame 0x{first:02x}: reserved flag bits are set")
    start = pos + 1
    if first < 0x20:
        return start, start, 1
    length = shift = 0
    while True:
        if start >= end:
            return INCOMPLETE, 0, start - pos + 1
        byte = data[start]
        start += 1
        length |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
        if shift > 28:
            raise RemoteError(Status.FRAME_SIZE, "frame length: longer than 5 bytes")
    if shift and not byte:
        raise RemoteError(Status.PROTOCOL, "frame length: not in its shortest form")
    if first == ACK_PLAIN:
        return pos + 1, start, start - pos
    if length > max_frame:
        raise RemoteError(Status.FRAME_SIZE, f"frame 0x{first:02x}: expected at most {max_frame} bytes, got {length}")
    stop = start + length
    if stop > end:
        return INCOMPLETE, 0, stop - pos
    return start, stop, stop - pos


def encode_frame(kind: int, flags: int, payload: bytes) -> bytes:
    """A frame with a length; not for PING, PONG and plain ACK."""
    size = len(payload)
    if size < 128:
        return bytes((kind << 4 | flags, size)) + payload
    return bytes((kind << 4 | flags,)) + encode_varint(size) + payload


def frame_head(kind: int, flags: int, size: int) -> bytes:
    """The bytes before a payload of `size` bytes."""
    if size < 128:
        return bytes((kind << 4 | flags, size))
    return bytes((kind << 4 | flags,)) + encode_varint(size)


PING_FRAME = b"\x00"
PING_ANSWER_FRAME = b"\x01"
PONG_FRAME = b"\x10"
SETTINGS_ACK_FRAME = b"\xa1\x00"


def encode_data(call: int, data: bytes, more: bool) -> bytes:
    """DATA of a call; `call` is the absolute number."""
    return frame_head(FrameType.DATA, MORE if more else 0, len(data) + 1) + bytes((call & 127,)) + data


def encode_reset(call: int, status: int) -> bytes:
    """RESET of a call; `call` is the absolute number."""
    return encode_frame(FrameType.RESET, 0, bytes((call & 127,)) + encode_varint(status))


def encode_window(target: int, increment: int) -> bytes:
    """WINDOW for a target as on the wire: 0 connection, 1 pushes, call byte + 2."""
    return encode_frame(FrameType.WINDOW, 0, encode_varint(target) + encode_varint(increment))


def encode_ack(count: int) -> bytes:
    """ACK of the `count` oldest unacknowledged pushes."""
    return b"\x20" + encode_varint(count)
