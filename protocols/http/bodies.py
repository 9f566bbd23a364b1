"""Readers of message bodies: by length, by chunks, up to the end of the connection (RFC 9112 6 and 7)."""

from __future__ import annotations

import re
from typing import Protocol

from protocols.errors import RemoteError

MAX_CHUNK_LINE = 256
"""Bytes of a chunk's size with its extensions."""
MAX_TRAILERS = 8 * 1024
"""Bytes of a trailer section; it is checked and dropped."""
MAX_OVERHEAD = 16 * 1024
"""Bytes of chunk lines beyond what chunks of a fair size need, so that extensions cost their sender."""

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")


class BodyReader(Protocol):
    """Takes the bytes after a head."""

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Payload in `data`, and what follows the body once that is complete (None: it goes on)."""

    def eof(self) -> bool:
        """The connection ended; whether that completes the body."""


class LengthReader:
    """A body of a known number of bytes."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        self._left = length

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        left = self._left
        if len(data) < left:
            self._left = left - len(data)
            return data, None
        self._left = 0
        if len(data) == left:
            return data, b""
        return data[:left], data[left:]

    def eof(self) -> bool:
        return False


class CloseReader:
    """A body that ends with the connection."""

    __slots__ = ()

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        return data, None

    def eof(self) -> bool:
        return True


class ChunkedReader:
    """A body in chunks; strict about line ends. RemoteError with the given codes.

    `max_body` bounds the sum of all chunks; past it the error has the code `too_large`.
    """

    __slots__ = ("_code", "_held", "_in_data", "_in_trailers", "_left", "_max", "_overhead", "_too_large", "_total",
                 "_trailers")  # fmt: skip

    def __init__(self, code: int, max_body: int | None = None, too_large: int = 413) -> None:
        self._code = code
        self._max = max_body
        self._too_large = too_large
        self._held = b""
        """Bytes of an incomplete line; bounded by MAX_CHUNK_LINE or MAX_TRAILERS."""
        self._left = 0
        self._in_data = False
        self._in_trailers = False
        self._trailers = 0
        self._overhead = 0
        self._total = 0

    def eof(self) -> bool:
        return False

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        if self._held:
            data = self._held + data
            self._held = b""
        parts: list[bytes] = []
        at = 0
        size = len(data)
        while at < size:
            if self._in_data:
                # Two more for the CRLF that ends the chunk.
                if size - at < self._left + 2:
                    taken = min(self._left, size - at)
                    self._check_end(data[at + taken :])
                    self._held = data[at + taken :]
                    self._left -= taken
                    parts.append(data[at : at + taken])
                    break
                end = at + self._left
                self._check_end(data[end : end + 2])
                parts.append(data[at:end])
                at = end + 2
                self._in_data = False
                continue
            end = data.find(b"\n", at)
            if end < 0:
                self._held = data[at:]
                self._check_held()
                break
            if end == at or data[end - 1] != 0x0D:
                raise RemoteError(self._code, "chunked body: a line ends without CRLF")
            line = data[at : end - 1]
            at = end + 1
            if self._in_trailers:
                if not line:
                    return b"".join(parts), data[at:]
                self._take_trailer(line)
            else:
                self._take_size(line)
        return (parts[0] if len(parts) == 1 else b"".join(parts)), None

    def _check_end(self, found: bytes) -> None:
        if not b"\r\n".startswith(found):
            raise RemoteError(self._code, "chunked body: a chunk is longer than its size says")

    def _check_held(self) -> None:
        held = self._held
        limit = MAX_TRAILERS - self._trailers if self._in_trailers else MAX_CHUNK_LINE
        if len(held) > limit + 1:
            raise RemoteError(self._code, "chunked body: a line is too long")
        if b"\r" in held[:-1]:
            raise RemoteError(self._code, "chunked body: a line ends without CRLF")

    def _take_size(self, line: bytes) -> None:
        match = _CHUNK_LINE.fullmatch(line)
        if match is None or len(line) > MAX_CHUNK_LINE:
            raise RemoteError(self._code, f"chunked body: expected a chunk size, got {line[:40]!r}")
        size = int(match[1], 16)
        self._overhead = max(0, self._overhead + len(line) + 4 - 16 - 2 * size)
        if self._overhead > MAX_OVERHEAD:
            raise RemoteError(self._code, "chunked body: too much beside the data")
        self._total += size
        if self._max is not None and self._total > self._max:
            raise RemoteError(self._too_large, f"body of more than {self._max} bytes")
        if size:
            self._left = size
            self._in_data = True
        else:
            self._in_trailers = True

    def _take_trailer(self, line: bytes) -> None:
        self._trailers += len(line) + 2
        if self._trailers > MAX_TRAILERS:
            raise RemoteError(self._code, f"trailers of more than {MAX_TRAILERS} bytes")
        if not _TRAILER.fullmatch(line):
            raise RemoteError(self._code, f"chunked body: expected a trailer field, got {line[:40]!r}")
