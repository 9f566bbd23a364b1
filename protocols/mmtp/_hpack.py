"""Profile H on the package hpack; see protocols.mmtp.hpack_backends."""

from __future__ import annotations

import re
from typing import cast

from hpack import Decoder, Encoder, HPACKError

from protocols.errors import RemoteError
from protocols.mmtp.events import Headers
from protocols.mmtp.header_rules import is_credential
from protocols.mmtp.statuses import Status

MAX_TABLE_UPDATES = 2
"""RFC 7541 section 4.2: at most two dynamic table size updates begin a block."""

_SHORT_CODES = re.compile(r"[A-Za-z0-9 %*,./:;=&_-]*")
"""Characters whose Huffman code is at most 8 bits: only then is the coded form never longer than the raw one."""


class HpackEncoder:
    """See hpack_backends.BlockEncoder."""

    __slots__ = ("_encoder",)

    def __init__(self) -> None:
        self._encoder = Encoder()

    def encode(self, fields: Headers, table: int) -> bytes:
        encoder = self._encoder
        if encoder.header_table_size != table:
            encoder.header_table_size = table
        return encoder.encode(()) + b"".join([
            encoder.encode(
                ((name, value, is_credential(name)),), huffman=_SHORT_CODES.fullmatch(value) is not None
            )
            for name, value in fields
        ])  # fmt: skip


class HpackDecoder:
    """See hpack_backends.BlockDecoder."""

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = Decoder()

    def decode(self, block: bytes, max_size: int, max_fields: int, table: int) -> Headers:
        decoder = self._decoder
        decoder.max_header_list_size = max_size
        decoder.max_allowed_table_size = table
        if decoder.header_table_size > table and not decoder.header_table.dynamic_entries:
            decoder.header_table_size = table
        if min(block) >= 0x80:
            fields = _all_indexed(decoder, block, max_size, max_fields)
            if fields is not None:
                return fields
        _check_table_updates(block)
        try:
            # hpack decodes to str unless told otherwise, and its tuples are plain pairs to everybody else.
            return cast("Headers", decoder.decode(block))
        except (HPACKError, IndexError, ValueError) as error:
            raise RemoteError(Status.COMPRESSION, f"header block: {type(error).__name__}") from None


def _all_indexed(decoder: Decoder, block: bytes, max_size: int, max_fields: int) -> Headers | None:
    """A block of nothing but one-byte indexed fields (RFC 7541 section 6.1), which steady traffic is made of, without
    the cost of hpack's general loop. None leaves anything unusual to hpack."""
    if len(block) > max_fields or decoder.header_table_size > decoder.max_allowed_table_size:
        return None
    entry = decoder.header_table.get_by_index
    size = 0
    fields: Headers = []
    try:
        for byte in block:
            if byte == 0xFF:
                return None
            name, value = entry(byte & 0x7F)
            size += len(name) + len(value) + 32
            fields.append((name.decode(), value.decode()))
    except (HPACKError, UnicodeDecodeError):
        return None
    return fields if size <= max_size else None


def _check_table_updates(block: bytes) -> None:
    """hpack would follow any number of size updates, one per byte."""
    pos = updates = 0
    while pos < len(block) and block[pos] & 0xE0 == 0x20:
        updates += 1
        if updates > MAX_TABLE_UPDATES:
            raise RemoteError(Status.COMPRESSION, f"header block: more than {MAX_TABLE_UPDATES} table size updates")
        long = block[pos] & 0x1F == 0x1F
        pos += 1
        while long and pos < len(block):
            long = block[pos] > 127
            pos += 1
