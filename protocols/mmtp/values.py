"""Typed values in header blocks of profile D: hex, uint, time, enum, strings in the code of RFC 7541, appendix B."""

from __future__ import annotations

from functools import lru_cache

from hpack import HPACKError
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.header_rules import is_header_value
from protocols.mmtp.statuses import Status
from protocols.mmtp.tables import Kind, ValueType
from protocols.mmtp.varint import encode_varint

MAX_UINT = (1 << 64) - 2
MAX_TIME = (1 << 53) - 1
STRING, HEX, UINT, TIME, ENUM = (int(type_) for type_ in ValueType)

_BITS = [f"{code:0{size}b}" for code, size in zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)]
_CACHED = 64
"""Longer strings are not kept in the caches, which all connections share; credentials never are."""
_ESCAPE = b"\0"


def malformed(text: str) -> RemoteError:
    """The error of a header block that does not decode."""
    return RemoteError(Status.COMPRESSION, f"header block: {text}")


def huffman(raw: bytes) -> bytes:
    """`raw` in the code of RFC 7541, padded with ones."""
    bits = "".join([_BITS[byte] for byte in raw])
    size = -(-len(bits) // 8)
    return int(bits.ljust(size * 8, "1"), 2).to_bytes(size, "big") if size else b""


def _string(value: str) -> bytes:
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        raise LocalError(f"header value: expected Unicode text, got {value[:64]!r}") from None
    if not is_header_value(value):
        raise LocalError(f"header value: NUL, CR or LF in {value[:64]!r}")
    coded = huffman(raw)
    if len(coded) < len(raw):
        return encode_varint(len(coded) << 1 | 1) + coded
    return encode_varint(len(raw) << 1) + raw


def _text(raw: bytes, coded: int) -> str:
    try:
        value = (decode_huffman(raw) if coded else raw).decode()
    except (HPACKError, UnicodeDecodeError) as error:
        raise malformed(f"string: {type(error).__name__}") from None
    if not is_header_value(value):
        raise malformed("NUL, CR or LF in a value")
    return value


_cached_string = lru_cache(1024)(_string)
_cached_text = lru_cache(1024)(_text)


def encode_string(value: str, secret: bool = False) -> bytes:
    """`value` after its length, in Huffman code when that is shorter. Raises LocalError for what no header may have."""
    return _string(value) if secret or len(value) > _CACHED else _cached_string(value)


def decode_string(data: bytes, pos: int, secret: bool = False) -> tuple[str, int]:
    """The string at `pos` and the position after it. Raises RemoteError, and IndexError at the end of the data."""
    code = data[pos]
    pos += 1
    if code > 127:
        code, pos = decode_number(data, pos - 1)
    end = pos + (code >> 1)
    if end > len(data):
        raise malformed(f"string: expected at most {len(data) - pos} bytes, got length {code >> 1}")
    raw = data[pos:end]
    return (_text if secret or len(raw) > _CACHED else _cached_text)(raw, code & 1), end


def decode_number(data: bytes, pos: int) -> tuple[int, int]:
    """The varint at `pos` and the position after it. Raises RemoteError, and IndexError at the end of the data."""
    byte = data[pos]
    pos += 1
    if byte < 128:
        return byte, pos
    value = byte & 127
    for shift in range(7, 70, 7):
        byte = data[pos]
        pos += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if not byte or value >> 64:
                break
            return value, pos
    raise malformed("number: not in its shortest form, or above 2^64 - 1")


def hex_bytes(value: str) -> bytes | None:
    """The bytes of a value that fits the type hex."""
    try:
        raw = bytes.fromhex(value)
    except ValueError:
        return None
    return raw if raw and raw.hex() == value else None


def uint_of(value: str, most: int = MAX_UINT) -> int | None:
    """The number of a value that fits the type uint (or time, with MAX_TIME)."""
    if len(value) > 20:
        return None
    try:
        number = int(value)
    except ValueError:
        return None
    return number if 0 <= number <= most and str(number) == value else None


def encode_value(kind: Kind, value: str, time: int, secret: bool = False) -> tuple[bytes, int]:
    """A value in full, and the last time after it. Raises LocalError for what no header may have."""
    type_ = kind.type
    if type_ == STRING:
        return encode_string(value, secret), time
    if type_ == HEX:
        raw = hex_bytes(value)
        if raw is not None:
            return encode_varint(len(raw) + 1) + raw, time
    elif (code := kind.codes.get(value)) is not None:
        return code, time
    elif type_ == UINT:
        number = uint_of(value)
        if number is not None:
            return encode_varint(number + 1), time
    elif type_ == TIME:
        number = uint_of(value, MAX_TIME)
        if number is not None:
            return encode_varint(time_code(number - time)), number
    return _ESCAPE + encode_string(value, secret), time


def time_code(difference: int) -> int:
    """Zig-zag, plus one for the escape."""
    return (difference << 1) + 1 if difference >= 0 else -difference << 1


def decode_value(kind: Kind, data: bytes, pos: int, time: int, secret: bool = False) -> tuple[str, int, int]:
    """A value in full, the position after it and the last time after it. Raises RemoteError, and IndexError at the
    end."""
    type_ = kind.type
    if type_ == STRING:
        return *decode_string(data, pos, secret), time
    code, pos = decode_number(data, pos)
    if not code:
        return *decode_string(data, pos, secret), time
    if type_ == HEX:
        end = pos + code - 1
        if code == 1 or end > len(data):
            raise malformed(f"hex: expected 1..{len(data) - pos} bytes, got length {code - 1}")
        return data[pos:end].hex(), end, time
    if type_ == UINT:
        return str(code - 1), pos, time
    if type_ == ENUM:
        if code > len(kind.values):
            raise malformed(f"enum: expected one of {len(kind.values)} values, got number {code - 1}")
        return kind.values[code - 1], pos, time
    time = time_after(code, time)
    return str(time), pos, time


def time_after(code: int, time: int) -> int:
    """The time that `code`, not 0, means after `time`. Raises RemoteError outside 0..MAX_TIME."""
    time += code >> 1 if code & 1 else -(code >> 1)
    if not 0 <= time <= MAX_TIME:
        raise malformed(f"time: expected 0..2^53-1, got {time}")
    return time


def width(value: str) -> int:
    """Bytes of a value in UTF-8."""
    return len(value) if value.isascii() else len(value.encode())
