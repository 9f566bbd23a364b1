"""Header blocks, profile H: HPACK with bounds (specification, section 7; RFC 7541)."""

from __future__ import annotations

from typing import ClassVar

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.events import Event, Headers
from protocols.mmtp.header_rules import OPERATION, is_header_name, is_header_value, width_of
from protocols.mmtp.hpack_backends import Backend, BlockDecoder, BlockEncoder, get_backend
from protocols.mmtp.settings import Limits
from protocols.mmtp.statuses import Status

MAX_OPERATION = 256
FRAME_RESERVE = 1024
"""Room in a frame for what is not headers: attributes, lengths."""


def check_operation(operation: str) -> None:
    """Raises LocalError for what is not an operation."""
    if not 1 <= width_of(operation) <= MAX_OPERATION or not is_header_value(operation):
        raise LocalError(f"operation: expected 1..{MAX_OPERATION} bytes on one line, got {operation!r}")


def _to_send(operation: str | None, headers: Headers, peer: Limits) -> Headers:
    """`headers` after `:op` if there is an operation. Raises LocalError for what the peer would not accept."""
    fields: Headers = []
    size = 0
    if operation is not None:
        check_operation(operation)
        fields.append((OPERATION, operation))
        size = 35 + width_of(operation)
    for name, value in headers:
        if not is_header_name(name):
            raise LocalError(f"header: expected a lower-case name, got {name!r}")
        if not is_header_value(value):
            raise LocalError(f"header {name}: NUL, CR or LF in its value")
        fields.append((name, value))
        size += 32 + len(name) + width_of(value)
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
    if not 1 <= len(operation.encode()) <= MAX_OPERATION or not is_header_value(operation):
        raise RemoteError(Status.PROTOCOL, f"operation: expected 1..{MAX_OPERATION} bytes on one line")
    return operation


class HeaderCodec:
    """The HPACK states of one connection, both directions; made at the first block, since they weigh kilobytes.

    `protocols.mmtp.profiles.Profiles` takes its place where the sides agreed on profile D.
    """

    __slots__ = ("_backend", "_decoder", "_encoder")

    missing: ClassVar[bool] = False
    """Blocks of requests cannot be decoded; see Profiles."""

    def after_block(self, out: list[bytes], events: list[Event]) -> None:
        """The frame of a block that was encoded here is in `out`; HPACK is not resumed, so no checkpoint follows."""

    def __init__(self, backend: Backend | None = None) -> None:
        """`backend` is the one chosen at import unless given."""
        self._backend = get_backend("auto") if backend is None else backend
        self._encoder: BlockEncoder | None = None
        self._decoder: BlockDecoder | None = None

    def encode(self, operation: str | None, headers: Headers, own: Limits, peer: Limits) -> bytes:
        """The block of `headers`, after `:op` if there is an operation.

        Raises LocalError, with the table untouched, for what the peer would not accept.
        """
        if operation is None and not headers:
            return b""
        fields = _to_send(operation, headers, peer)
        encoder = self._encoder
        if encoder is None:
            encoder = self._encoder = self._backend.make_encoder()
        return encoder.encode(fields, min(own.header_table, peer.header_table))

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
            decoder = self._decoder = self._backend.make_decoder()
        fields = decoder.decode(block, enforced.max_headers, enforced.max_header_fields, enforced.header_table)
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


def _checked(fields: Headers) -> Headers:
    """The headers, if their names and values are allowed. Raises RemoteError(PROTOCOL)."""
    headers: Headers = []
    for name, value in fields:
        if not is_header_name(name):
            raise RemoteError(Status.PROTOCOL, f"header: expected a lower-case name, got {name[:64]!r}")
        if not is_header_value(value):
            raise RemoteError(Status.PROTOCOL, f"header {name[:64]}: NUL, CR or LF in its value")
        headers.append((name, value))
    return headers
