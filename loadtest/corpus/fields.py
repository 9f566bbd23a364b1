"""One message, two encodings: JSON by the fields' names, protobuf by their numbers."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def as_it_is(name: str) -> str:
    """The spelling of most services."""
    return name


@cache
def with_underscores(name: str) -> str:
    """The spelling of the older ones."""
    return re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), name)


@cache
def renamed(name: str) -> str:
    """The spelling of an app that is newer than all that training has seen: a quarter of the names have changed."""
    return name + ("Info", "Value", "V2")[len(name) % 3] if zlib.crc32(name.encode()) % 4 == 0 else name


class Digest(str):
    """Hexadecimal digits: text in JSON, bytes in protobuf."""


class Cents(int):
    """An amount: a decimal string in JSON, a whole number in protobuf."""


class Fields(list[tuple[str, int, Any]]):
    """(name, number, value) in order; None leaves the field out.
    Values: str, int, bool, float, Fields, or a list of those."""


Names = Callable[[str], str]
"""How a service spells the name of a field."""


def to_json(fields: Fields, names: Names) -> bytes:
    """Without blanks, not escaped to ASCII, as a server of today writes it."""
    return json.dumps(_plain(fields, names), ensure_ascii=False, separators=(",", ":")).encode()


def _plain(value: Any, names: Names) -> Any:
    if isinstance(value, Fields):
        return {names(name): _plain(inner, names) for name, _, inner in value if inner is not None}
    if isinstance(value, list):
        return [_plain(inner, names) for inner in value]
    if isinstance(value, Cents):
        return f"{value // 100}.{value % 100:02d}"
    return value


def to_protobuf(fields: Fields) -> bytes:
    """The wire format of proto3: varints, little-endian doubles, length-delimited; zero values are left out."""
    out = bytearray()
    for _, number, value in fields:
        for inner in value if isinstance(value, list) and not isinstance(value, Fields) else (value,):
            if isinstance(inner, Fields):
                _delimited(out, number, to_protobuf(inner))
            elif isinstance(inner, Digest):
                _delimited(out, number, bytes.fromhex(inner))
            elif isinstance(inner, str):
                _delimited(out, number, inner.encode())
            elif isinstance(inner, float):
                _varint(out, number << 3 | 1)
                out += struct.pack("<d", inner)
            elif inner:
                _varint(out, number << 3)
                _varint(out, int(inner) % 2**64)
    return bytes(out)


def _delimited(out: bytearray, number: int, data: bytes) -> None:
    if data:
        _varint(out, number << 3 | 2)
        _varint(out, len(data))
        out += data


def _varint(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
