"""Profile H with libnghttp2: its encoder, and a decoder whose table is here, so that a field that is indexed costs a
look-up and a literal that is Huffman-coded one call. See protocols.mmtp.hpack_backends."""

from __future__ import annotations

from hpack import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from protocols._native.nghttp2 import Deflater, decode_string
from protocols.errors import LocalError, RemoteError
from protocols.mmtp._hpack import MAX_TABLE_UPDATES
from protocols.mmtp.events import Headers
from protocols.mmtp.header_rules import is_credential
from protocols.mmtp.statuses import Status

_Entry = tuple[tuple[str, str], int]
"""A field and its size as RFC 7541 section 4.1 counts it."""
_STATIC: list[_Entry] = [
    (("", ""), 0),
    *(((name.decode(), value.decode()), 32 + len(name) + len(value)) for name, value in HeaderTable.STATIC_TABLE),
]
_DEFAULT_TABLE = 4096
_LONGEST_INTEGER = 5


class NativeEncoder:
    """See hpack_backends.BlockEncoder."""

    __slots__ = ("_deflater",)

    def __init__(self) -> None:
        self._deflater = Deflater()

    def encode(self, fields: Headers, table: int) -> bytes:
        try:
            return self._deflater.encode([(name, value, is_credential(name)) for name, value in fields], table)
        except ValueError as error:
            raise LocalError(f"headers: {error}") from None


class NativeDecoder:
    """See hpack_backends.BlockDecoder."""

    __slots__ = ("_entries", "_free", "_table")

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        """The dynamic table, oldest first: index 62 is the last."""
        self._table = _DEFAULT_TABLE
        self._free = _DEFAULT_TABLE

    def decode(self, block: bytes, max_size: int, max_fields: int, table: int) -> Headers:
        if self._table > table and not self._entries:
            self._table = self._free = table
        try:
            return self._decode(block, max_size, table)
        except (HPACKError, IndexError, ValueError) as error:
            raise RemoteError(Status.COMPRESSION, f"header block: {error}") from None

    def _decode(self, block: bytes, max_size: int, allowed: int) -> Headers:
        entries = self._entries
        fields: Headers = []
        pos = updates = 0
        end = len(block)
        while pos < end:
            byte = block[pos]
            if byte >= 0x80:
                index = byte & 0x7F
                pos += 1
                if index == 0x7F:
                    index, pos = _integer(block, pos, index)
                if not index:
                    raise ValueError("index 0")
                field, weight = _STATIC[index] if index <= 61 else entries[61 - index]
            elif byte & 0xE0 == 0x20:
                updates += 1
                if fields or updates > MAX_TABLE_UPDATES:
                    raise ValueError(f"expected at most {MAX_TABLE_UPDATES} table size updates, at its beginning")
                size, pos = _integer(block, pos + 1, 0x1F) if byte & 0x1F == 0x1F else (byte & 0x1F, pos + 1)
                if size > allowed:
                    raise ValueError(f"table size: expected at most {allowed}, got {size}")
                self._resize(size)
                continue
            else:
                mask = 0x3F if byte & 0x40 else 0x0F
                index = byte & mask
                pos += 1
                if index == mask:
                    index, pos = _integer(block, pos, mask)
                if index:
                    name = (_STATIC[index] if index <= 61 else entries[61 - index])[0][0]
                    # Names are mostly ASCII, but need not be.
                    weight = 32 + (len(name) if name.isascii() else len(name.encode()))
                else:
                    raw, pos = _string(block, pos)
                    name = raw.decode()
                    weight = 32 + len(raw)
                raw, pos = _string(block, pos)
                weight += len(raw)
                field = (name, raw.decode())
                if byte & 0x40:
                    self._add(field, weight)
            fields.append(field)
            max_size -= weight
            if max_size < 0:
                raise ValueError("more than its bound when expanded")
        if self._table > allowed:
            raise ValueError(f"table size: expected a reduction to {allowed}")
        return fields

    def _add(self, field: tuple[str, str], weight: int) -> None:
        self._free -= weight
        if self._free < 0:
            self._evict()
        if weight <= self._table:
            self._entries.append((field, weight))
        else:
            self._free = self._table

    def _resize(self, size: int) -> None:
        self._free += size - self._table
        self._table = size
        self._evict()

    def _evict(self) -> None:
        """Drop the oldest entries until nothing is owed; the table may then be empty."""
        free = self._free
        count = 0
        for _, weight in self._entries:
            if free >= 0:
                break
            free += weight
            count += 1
        del self._entries[:count]
        self._free = free


def _integer(block: bytes, pos: int, value: int) -> tuple[int, int]:
    """An integer whose prefix is full (RFC 7541 section 5.1), and the place after it."""
    shift = 0
    while True:
        byte = block[pos]
        pos += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, pos
        shift += 7
        if shift >= 7 * _LONGEST_INTEGER:
            raise ValueError(f"integer of more than {_LONGEST_INTEGER} bytes")


def _string(block: bytes, pos: int) -> tuple[bytes, int]:
    """A string literal (RFC 7541 section 5.2), and the place after it."""
    start = pos
    first = block[pos]
    size = first & 0x7F
    pos += 1
    if size == 0x7F:
        size, pos = _integer(block, pos, size)
    end = pos + size
    if end > len(block):
        raise ValueError("string: truncated")
    if first < 0x80:
        return block[pos:end], end
    value = decode_string(block[start:end])
    # libnghttp2 bounds a string, which max_headers does as well; hpack has the last word.
    return (decode_huffman(block[pos:end]) if value is None else value), end
