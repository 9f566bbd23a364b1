"""Body codings: raw and explicit zstd, with bounds on what they expand to (specification, section 8; RFC 8878)."""

from __future__ import annotations

import threading

import zstandard

from protocols.errors import RemoteError
from protocols.mmtp.settings import Limits
from protocols.mmtp.statuses import Status

RAW = 0
MINI = 1
EXPLICIT = 2
HISTORY = 3

ZSTD = 1
"""Algorithm byte of an explicit body."""
ZSTD_CAPABILITY = "zstd"

COMPRESS_FROM = 256
"""Smaller bodies are not worth it."""
RATIO_FREE = 64 * 1024
"""Up to here the ratio does not matter."""
MAX_RATIO = 200
MAX_EXPANDED = 16 * 1024 * 1024
MAX_WINDOW = 256 * 1024

_PREFIX = bytes((ZSTD,))
_MAGIC = b"\x28\xb5\x2f\xfd"
_HEAD = 1 + 4 + 2
"""Algorithm byte, magic number, frame header descriptor, window descriptor."""
_SLICE = 256
"""decompressobj has no bound on its output: 4 bytes may become a block of 128 KiB, so a slice at most 8 MiB."""


class _Codecs(threading.local):
    """What compresses and expands whole bodies, one after the other; a body in parts has its own.

    A pair for each thread: zstd lets go of the interpreter lock while it works, and two calls at once in one of its
    objects break each other's bodies, or the process.
    """

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters.from_level(3, window_log=17, write_content_size=0)
        )
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)


_own = _Codecs()


def compress(body: bytes) -> bytes | None:
    """`body` as an explicit zstd body, None when raw is better or a receiver would have to refuse it."""
    size = len(body)
    if not COMPRESS_FROM <= size <= MAX_EXPANDED:
        return None
    packed = _PREFIX + _own.compressor.compress(body)
    if len(packed) >= size or (size > RATIO_FREE and size > MAX_RATIO * (len(packed) - 1)):
        return None
    return packed


def _check_head(head: bytes) -> None:
    """Algorithm known, frame header without content size, dictionary and large window."""
    if head[1:5] != _MAGIC:
        raise RemoteError(Status.COMPRESSION, f"body: expected a zstd frame, got {head[1:5].hex()}")
    descriptor = head[5]
    if descriptor & 0xE0:
        raise RemoteError(Status.COMPRESSION, "body: zstd frame declares its content size")
    if descriptor & 0x1B:
        raise RemoteError(Status.COMPRESSION, "body: zstd frame names a dictionary or sets reserved bits")
    base = 1 << (10 + (head[6] >> 3))
    if base + (base >> 3) * (head[6] & 7) > MAX_WINDOW:
        raise RemoteError(Status.COMPRESSION, f"body: expected a zstd window of at most {MAX_WINDOW} bytes")


def decompress(body: bytes, limits: Limits) -> bytes:
    """A whole explicit zstd body, expanded. Raises RemoteError(COMPRESSION).

    Not by ZstdDecompressor.decompress: its `allow_extra_data=False` lets bytes after the frame pass unless
    the output is exactly as large as its bound (zstandard 0.25).
    """
    return StreamDecompressor(limits, _own.decompressor).feed(body, True)


class StreamDecompressor:
    """An explicit zstd body that comes in parts."""

    __slots__ = ("_expanded", "_head", "_limits", "_packed", "_stream")

    def __init__(self, limits: Limits, shared: zstandard.ZstdDecompressor | None = None) -> None:
        self._limits = limits
        self._head: bytes | None = b""
        self._stream = (shared or zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)).decompressobj()
        self._packed = 0
        self._expanded = 0

    def feed(self, data: bytes, last: bool) -> bytes:
        """What the next part expands to. Raises RemoteError(COMPRESSION)."""
        if self._head is not None:
            self._head += data
            if self._head:
                check_algorithm(self._head)
            if len(self._head) < _HEAD:
                if last:
                    raise RemoteError(Status.COMPRESSION, "body: zstd frame is cut off")
                return b""
            _check_head(self._head)
            data, self._head = self._head[1:], None
        out: list[bytes] = []
        limits = self._limits
        for start in range(0, len(data), _SLICE):
            part = data[start : start + _SLICE]
            if self._stream.eof:
                raise RemoteError(Status.COMPRESSION, "body: bytes after the zstd frame")
            try:
                expanded = self._stream.decompress(part)
            except zstandard.ZstdError as error:
                raise RemoteError(Status.COMPRESSION, f"body: {str(error)[:100]}") from None
            self._packed += len(part)
            self._expanded += len(expanded)
            bound = min(limits.max_body, max(RATIO_FREE, limits.max_ratio * self._packed))
            if self._expanded > bound:
                raise RemoteError(Status.COMPRESSION, f"body: expands to more than {bound} bytes")
            out.append(expanded)
        if last and not self._stream.eof:
            raise RemoteError(Status.COMPRESSION, "body: zstd frame is cut off")
        if self._stream.unused_data:
            raise RemoteError(Status.COMPRESSION, "body: bytes after the zstd frame")
        return b"".join(out)


class Declined(Exception):
    """The coding is well-formed but not one that we take; a REQUEST is refused with DICTIONARY_MISS."""


def check_algorithm(body: bytes) -> None:
    """Raises Declined for an explicit body (not empty) of another algorithm than zstd."""
    if body[0] != ZSTD:
        raise Declined(f"algorithm {body[0]}")


def begin(coding: int, body: bytes, more: bool, zstd: bool, limits: Limits) -> tuple[bytes, StreamDecompressor | None]:
    """The first part of a body, expanded, and what expands the rest (None: raw or complete).

    `zstd` says that we take it from this peer. Raises Declined or RemoteError(COMPRESSION).
    """
    if coding == RAW:
        return body, None
    if coding != EXPLICIT or not zstd:
        raise Declined(f"coding {coding}")
    if not more:
        return decompress(body, limits), None
    stream = StreamDecompressor(limits)
    return stream.feed(body, False), stream
