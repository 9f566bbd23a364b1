"""Header blocks, profile H: HPACK with bounds (specification, section 7; RFC 7541)."""

from __future__ import annotations

import re
from typing import ClassVar, cast

from hpack import Decoder, Encoder, HPACKError

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.events import Event, Headers
from protocols.mmtp.settings import Limits
from protocols.mmtp.statuses import Status

OPERATION = ":op"
MAX_OPERATION = 256
MAX_TABLE_UPDATES = 2
"""RFC 7541 section 4.2: at most two dynamic table size updates begin a block."""

_CREDENTIALS = frozenset(("authorization", "cookie", "set-cookie", "proxy-authorization"))
_NAME = re.compile(r"[a-z0-9!#$%&'*+\-.^_`|~]+")
_BAD_VALUE = re.compile(r"[\0\r\n]")
_SHORT_CODES = re.compile(r"[A-Za-z0-9 %*,./:;=&_-]*")
"""Characters whose Huffman code is at most 8 bits: only then is the coded form never longer than the raw one."""
FRAME_RESERVE = 1024
"""Room in a frame for what is not headers: attributes, lengths."""


def check_operation(operation: str) -> None:
    """Raises LocalError for what is not an operation."""
    if not 1 <= len(operation.encode(errors="replace")) <= MAX_OPERATION or _BAD_VALUE.search(operation):
        raise LocalError(f"operation: expected 1..{MAX_OPERATION} bytes on one line, got {operation!r}")


def _to_send(operation: str | None, headers: Headers, peer: Limits) -> Headers:
    """`headers` after `:op` if there is an operation. Raises LocalError for what the peer would not accept."""
    fields: Headers = []
    size = 0
    if operation is not None:
        check_operation(operation)
        fields.append((OPERATION, operation))
        size = 35 + len(operation.encode())
    for name, value in headers:
        if not _NAME.fullmatch(name):
            raise LocalError(f"header: expected a lower-case name, got {name!r}")
        if _BAD_VALUE.search(value):
            raise LocalError(f"header {name}: NUL, CR or LF in its value")
        fields.append((name, value))
        size += 32 + len(name) + (len(value) if value.isascii() else len(value.encode()))
    bound = min(peer.max_headers, peer.max_frame - FRAME_RESERVE)
    if size > bound or len(fields) > peer.max_header_fields:
        raise LocalError(
            f"headers: the peer takes {bound} bytes in {peer.max_header_fields} fields, got {size} in {len(fields)}"
        )
    return fields


def operation_of(fields: Headers) -> str:
    """The operation that begins the list of a REQUEST. Raises RemoteError(PROTOCOL)."""
    if not fields or fields[0][0] != OPERATION:
        raise RemoteError(Status.PROTOCOL, "headers: expected :op first")
    operation = fields[0][1]
    if not 1 <= len(operation.encode()) <= MAX_OPERATION or _BAD_VALUE.search(operation):
        raise RemoteError(Status.PROTOCOL, f"operation: expected 1..{MAX_OPERATION} bytes on one line")
    return operation


class HeaderCodec:
    """The HPACK states of one connection, both directions; made at the first block, since they weigh 2.8 KB.

    `protocols.mmtp.profiles.Profiles` takes its place where the sides agreed on profile D.
    """

    __slots__ = ("_decoder", "_encoder")

    missing: ClassVar[bool] = False
    """Blocks of requests cannot be decoded; see Profiles."""

    def after_block(self, out: list[bytes], events: list[Event]) -> None:
        """The frame of a block that was encoded here is in `out`; HPACK states are not resumed, so no checkpoint follows."""

    def __init__(self) -> None:
        self._encoder: Encoder | None = None
        self._decoder: Decoder | None = None

    def encode(self, operation: str | None, headers: Headers, own: Limits, peer: Limits) -> bytes:
        """The block of `headers`, after `:op` if there is an operation.

        Raises LocalError, with the table untouched, for what the peer would not accept.
        """
        if operation is None and not headers:
            return b""
        fields = _to_send(operation, headers, peer)
        encoder = self._encoder
        if encoder is None:
            encoder = self._encoder = Encoder()
        table = min(own.header_table, peer.header_table)
        if encoder.header_table_size != table:
            encoder.header_table_size = table
        return encoder.encode(()) + b"".join([
            encoder.encode(
                ((name, value, name in _CREDENTIALS or name.endswith("-token")),),
                huffman=_SHORT_CODES.fullmatch(value) is not None,
            )
            for name, value in fields
        ])  # fmt: skip

    def decode(self, block: bytes, enforced: Limits) -> Headers:
        """The list of a block. Raises RemoteError: COMPRESSION for what does not decode or is too large,
        PROTOCOL for too many fields and for names and values that are not allowed."""
        if not block:
            return []
        if len(block) > enforced.max_headers:
            raise RemoteError(
                Status.COMPRESSION, f"header block: expected at most {enforced.max_headers} bytes, got {len(block)}"
            )
        decoder = self._decoder
        if decoder is None:
            decoder = self._decoder = Decoder()
        decoder.max_header_list_size = enforced.max_headers
        allowed = enforced.header_table
        decoder.max_allowed_table_size = allowed
        if decoder.header_table_size > allowed and not decoder.header_table.dynamic_entries:
            decoder.header_table_size = allowed
        if min(block) >= 0x80:
            fields = _all_indexed(decoder, block, enforced)
            if fields is not None:
                return fields
        _check_table_updates(block)
        try:
            # hpack decodes to str unless told otherwise, and its tuples are plain pairs to everybody else.
            fields = cast("Headers", decoder.decode(block))
        except (HPACKError, IndexError, ValueError) as error:
            raise RemoteError(Status.COMPRESSION, f"header block: {type(error).__name__}") from None
        if len(fields) > enforced.max_header_fields:
            raise RemoteError(
                Status.PROTOCOL, f"headers: expected at most {enforced.max_header_fields} fields, got {len(fields)}"
            )
        return fields

    def decode_request(self, block: bytes, enforced: Limits) -> tuple[str, Headers]:
        """Operation and headers of a REQUEST."""
        fields = self.decode(block, enforced)
        return operation_of(fields), _checked(fields[1:])

    def decode_response(self, block: bytes, enforced: Limits) -> Headers:
        """Headers of a RESPONSE."""
        return _checked(self.decode(block, enforced))


def _all_indexed(decoder: Decoder, block: bytes, enforced: Limits) -> Headers | None:
    """A block of nothing but one-byte indexed fields (RFC 7541 section 6.1), which steady traffic is made of, without the
    cost of hpack's general loop. None leaves anything unusual to hpack."""
    if len(block) > enforced.max_header_fields or decoder.header_table_size > decoder.max_allowed_table_size:
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
    return fields if size <= enforced.max_headers else None


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


def _checked(fields: Headers) -> Headers:
    """The headers, if their names and values are allowed. Raises RemoteError(PROTOCOL)."""
    headers: Headers = []
    for name, value in fields:
        if not _NAME.fullmatch(name):
            raise RemoteError(Status.PROTOCOL, f"header: expected a lower-case name, got {name[:64]!r}")
        if _BAD_VALUE.search(value):
            raise RemoteError(Status.PROTOCOL, f"header {name[:64]}: NUL, CR or LF in its value")
        headers.append((name, value))
    return headers
