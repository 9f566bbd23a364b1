"""Application tables of profile D: header names with the types of their values, known pairs (specification, 7.2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.digests import digest_of
from protocols.mmtp.fields import sized
from protocols.mmtp.header_rules import OPERATION, is_credential, is_header_name, is_header_value
from protocols.mmtp.statuses import Status
from protocols.mmtp.varint import decode_varint, encode_varint

MAX_TABLE = 64 * 1024
"""Bytes of an encoded table."""
MAX_TABLE_NAMES = 1024
MAX_TABLE_PAIRS = 1024
MAX_ENUM = 1024
"""Values of one enum."""
MAX_NAME = 128
"""Bytes of a name in a table."""
MAX_VALUE = 256
"""Bytes of a value in a table."""
MAX_TABLE_ID = (1 << 32) - 1


class ValueType(IntEnum):
    """How values of a header are coded, when they fit; it says nothing about how often they change."""

    STRING = 0
    HEX = 1
    """Lower-case hexadecimal digits, an even number."""
    UINT = 2
    """Decimal without leading zeros, below 2^64 - 1."""
    TIME = 3
    """As UINT, below 2^53; coded as the difference to the last one of this direction."""
    ENUM = 4
    """One of the table's values for this name."""


@dataclass(frozen=True, slots=True)
class TableName:
    """A header name, the type of its values and, of an enum, the values."""

    name: str
    type: ValueType = ValueType.STRING
    values: tuple[str, ...] = ()


_SMALL = tuple(map(str, range(127)))
_SMALL_CODES = {value: encode_varint(index + 1) for index, value in enumerate(_SMALL)}


class Kind:
    """What coding a header's values needs: the type as a plain number and the values of one-byte codes, both ways."""

    __slots__ = ("codes", "type", "values")

    def __init__(self, type_: int, values: tuple[str, ...] = ()) -> None:
        self.type = type_
        self.values = values
        """Of an enum; of uint, those whose code is one byte; value n has the code n + 1."""
        if type_ == ValueType.UINT:
            self.values = _SMALL
            self.codes = _SMALL_CODES
        else:
            self.codes = {value: encode_varint(index + 1) for index, value in enumerate(values)}


STRING_KIND = Kind(int(ValueType.STRING))


@dataclass(frozen=True, slots=True)
class AppTable:
    """The names and pairs that the two sides know beforehand. Immutable; equal tables have equal bytes.

    Raises LocalError for what an encoded table could not say or its bounds forbid.
    """

    id: int
    """1..2^32 - 1; 1 is the generic table, 0 stands for profile H on the wire."""
    version: int
    names: tuple[TableName, ...]
    pairs: tuple[tuple[str, str], ...] = ()
    """Names of them are in `names`."""
    encoded: bytes = field(init=False, repr=False, compare=False)
    digest: bytes = field(init=False, repr=False, compare=False)
    """First 8 bytes of the SHA-256 of `encoded`."""
    index: dict[str, int] = field(init=False, repr=False, compare=False)
    """Name -> its place in `names`."""
    pair_index: dict[tuple[str, str], int] = field(init=False, repr=False, compare=False)
    kinds: dict[str, Kind] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = tuple(self.names)
        pairs = tuple((name, value) for name, value in self.pairs)
        _check(self.id, self.version, names, pairs)
        index = {entry.name: place for place, entry in enumerate(names)}
        encoded = _encode(self.id, self.version, names, pairs, index)
        if len(encoded) > MAX_TABLE:
            raise LocalError(f"table: expected at most {MAX_TABLE} bytes, got {len(encoded)}")
        for attribute, value in (
            ("names", names),
            ("pairs", pairs),
            ("encoded", encoded),
            ("digest", digest_of(encoded)),
            ("index", index),
            ("pair_index", {pair: place for place, pair in enumerate(pairs)}),
            ("kinds", {entry.name: Kind(int(entry.type), entry.values) for entry in names}),
        ):
            object.__setattr__(self, attribute, value)

    def kind(self, name: str) -> Kind:
        """How values of `name` are coded."""
        return self.kinds.get(name, STRING_KIND)


def decode_table(data: bytes) -> AppTable:
    """The table that `data` is the encoding of. Raises RemoteError(COMPRESSION)."""
    if len(data) > MAX_TABLE:
        raise _malformed(f"expected at most {MAX_TABLE} bytes, got {len(data)}")
    try:
        return _decode(data)
    except RemoteError as error:
        raise _malformed(str(error)) from None
    except LocalError as error:
        raise _malformed(str(error).removeprefix("table: ")) from None


def _decode(data: bytes) -> AppTable:
    end = len(data)
    table_id, pos = decode_varint(data, 0, end)
    version, pos = decode_varint(data, pos, end)
    count, pos = _count(data, pos, end, MAX_TABLE_NAMES, "names")
    names = []
    for _ in range(count):
        code, pos = decode_varint(data, pos, end)
        if code & 7 > ValueType.ENUM:
            raise _malformed(f"value type: expected 0..{int(ValueType.ENUM)}, got {code & 7}")
        name, pos = _text(data, pos, end, code >> 3, MAX_NAME)
        values = []
        if code & 7 == ValueType.ENUM:
            size, pos = _count(data, pos, end, MAX_ENUM, "values")
            for _ in range(size):
                length, pos = decode_varint(data, pos, end)
                value, pos = _text(data, pos, end, length, MAX_VALUE)
                values.append(value)
        names.append(TableName(name, ValueType(code & 7), tuple(values)))
    count, pos = _count(data, pos, end, MAX_TABLE_PAIRS, "pairs")
    pairs = []
    for _ in range(count):
        index, pos = decode_varint(data, pos, end)
        if index >= len(names):
            raise _malformed(f"pair: expected one of {len(names)} names, got number {index}")
        length, pos = decode_varint(data, pos, end)
        value, pos = _text(data, pos, end, length, MAX_VALUE)
        pairs.append((names[index].name, value))
    if pos != end:
        raise _malformed(f"{end - pos} bytes left over")
    return AppTable(table_id, version, tuple(names), tuple(pairs))


def _count(data: bytes, pos: int, end: int, most: int, what: str) -> tuple[int, int]:
    count, pos = decode_varint(data, pos, end)
    if count > most:
        raise _malformed(f"expected at most {most} {what}, got {count}")
    return count, pos


def _text(data: bytes, pos: int, end: int, size: int, most: int) -> tuple[str, int]:
    if size > most or pos + size > end:
        raise _malformed(f"text: expected at most {min(most, end - pos)} bytes, got length {size}")
    try:
        return data[pos : pos + size].decode(), pos + size
    except UnicodeDecodeError as error:
        raise _malformed(f"text: expected UTF-8, {error.reason}") from None


def _encode(
    table_id: int,
    version: int,
    names: tuple[TableName, ...],
    pairs: tuple[tuple[str, str], ...],
    index: dict[str, int],
) -> bytes:
    out = [encode_varint(table_id), encode_varint(version), encode_varint(len(names))]
    for entry in names:
        out += encode_varint(len(entry.name) << 3 | entry.type), entry.name.encode()
        if entry.type == ValueType.ENUM:
            out.append(encode_varint(len(entry.values)))
            out += [sized(value.encode()) for value in entry.values]
    out.append(encode_varint(len(pairs)))
    for name, value in pairs:
        out += encode_varint(index[name]), sized(value.encode())
    return b"".join(out)


def _check(table_id: int, version: int, names: tuple[TableName, ...], pairs: tuple[tuple[str, str], ...]) -> None:
    if not 1 <= table_id <= MAX_TABLE_ID or not 0 <= version <= MAX_TABLE_ID:
        raise LocalError(f"table: expected id 1..{MAX_TABLE_ID} and a version up to it, got {table_id}, {version}")
    if len(names) > MAX_TABLE_NAMES or len(pairs) > MAX_TABLE_PAIRS:
        raise LocalError(
            f"table: expected at most {MAX_TABLE_NAMES} names and {MAX_TABLE_PAIRS} pairs, "
            f"got {len(names)} and {len(pairs)}"
        )
    for entry in names:
        name = entry.name
        if (name != OPERATION and not is_header_name(name)) or len(name) > MAX_NAME:
            raise LocalError(f"table: expected a lower-case name of at most {MAX_NAME} bytes, got {name[:MAX_NAME]!r}")
        if (entry.type == ValueType.ENUM) != bool(entry.values):
            raise LocalError(f"table: {name}: an enum has values, and nothing else has")
        if len(entry.values) > MAX_ENUM or len(set(entry.values)) != len(entry.values):
            raise LocalError(f"table: {name}: expected at most {MAX_ENUM} values, each once")
        if entry.values and is_credential(name):
            raise LocalError(f"table: {name}: a credential has no known values")
        for value in entry.values:
            _check_value(name, value)
    _distinct("name", [entry.name for entry in names])
    _distinct("pair", pairs)
    known = {entry.name for entry in names}
    for name, value in pairs:
        if name not in known or is_credential(name):
            raise LocalError(f"table: pair of {name!r}: expected one of the names, and no credential")
        _check_value(name, value)


def _check_value(name: str, value: str) -> None:
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise LocalError(f"table: {name}: a value is not Unicode text") from None
    if size > MAX_VALUE or not is_header_value(value):
        raise LocalError(f"table: {name}: expected values of at most {MAX_VALUE} bytes on one line, got {size} bytes")


def _distinct(what: str, entries: Iterable[object]) -> None:
    seen = set()
    for entry in entries:
        if entry in seen:
            raise LocalError(f"table: {what} {entry!r} came twice")
        seen.add(entry)


def _malformed(text: str) -> RemoteError:
    return RemoteError(Status.COMPRESSION, text if text.startswith("table: ") else f"table: {text}")


def _generic() -> AppTable:
    types = {
        ValueType.STRING: (
            ":op accept accept-language accept-encoding user-agent app-id app-version platform os-version "
            "device-id device-model channel network-type authorization cookie set-cookie location cache-control etag "
            "if-none-match last-modified if-modified-since retry-after server content-encoding content-language "
            "x-zone x-user-id x-session-id x-forwarded-for traceparent"
        ),
        ValueType.HEX: "trace-id span-id x-trace-id x-span-id sign x-sign nonce x-request-id",
        ValueType.UINT: "content-length version sequence retry-count result-code",
        ValueType.TIME: "timestamp ts server-time",
    }
    media = ("application/json", "application/json; charset=utf-8", "application/x-protobuf", "application/protobuf")
    names = [TableName(name, type_) for type_, text in types.items() for name in text.split()]
    names.insert(1, TableName("content-type", ValueType.ENUM, (*media, "text/plain", "application/octet-stream")))
    pairs = (
        ("platform", "android"),
        ("platform", "ios"),
        ("cache-control", "no-store"),
        ("cache-control", "no-cache"),
        ("network-type", "wifi"),
        ("network-type", "4g"),
        ("network-type", "5g"),
        ("result-code", "0"),
    )
    return AppTable(1, 1, tuple(names), pairs)


GENERIC = _generic()
"""Table 1: part of the specification, so every peer that speaks profile D has it."""
