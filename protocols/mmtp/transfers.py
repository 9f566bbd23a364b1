"""Transfers of dictionaries and tables: packing, chunks, putting them together again (specification, 8.4)."""

from __future__ import annotations

import zstandard

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.dictionaries import MAX_CONTENT
from protocols.mmtp.digests import DIGEST_SIZE, digest_of
from protocols.mmtp.statuses import Status

MAX_PACKED = MAX_CONTENT + 1024
"""What does not compress grows by a few bytes of headers."""
CHUNK = 8 * 1024
"""Bytes of the chunks that we send, but for the last."""
MIN_CHUNK = 1024
"""Bytes of every chunk but the last, so that their number is bounded."""
MAX_CHUNK = 16 * 1024

_MAGIC = b"\x28\xb5\x2f\xfd"
_WINDOW_LOG = 18
_MAX_WINDOW = 1 << _WINDOW_LOG
"""Content and base together."""
_HEAD = len(_MAGIC) + 2
_LEVEL = 19


def _base(base: bytes | None) -> zstandard.ZstdCompressionDict | None:
    return zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if base else None


def pack(content: bytes, base: bytes | None = None) -> bytes:
    """`content` as one zstd frame, a delta when the receiver has `base`.

    Takes some 10 ms: for the few that keep what it makes. Raises LocalError for a size outside the limits.
    """
    for data in (content, base):
        if data is not None and not 0 < len(data) <= MAX_CONTENT:
            raise LocalError(f"transfer: expected 1..{MAX_CONTENT} bytes, got {len(data)}")
    params = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL, window_log=_WINDOW_LOG, write_content_size=0, write_checksum=0, write_dict_id=0
    )
    return zstandard.ZstdCompressor(dict_data=_base(base), compression_params=params).compress(content)


def _check_frame(packed: bytes) -> None:
    """Exactly one zstd frame of the form that pack makes, walked by its block headers; nothing is expanded.

    zstandard neither tells of bytes after a frame nor obeys a bound when the frame has its own. It does obey
    the bound on the window.
    """
    if packed[:4] != _MAGIC or len(packed) < _HEAD:
        raise RemoteError(Status.COMPRESSION, f"transfer: expected a zstd frame, got {packed[:_HEAD].hex()}")
    if packed[4]:
        raise RemoteError(Status.COMPRESSION, "transfer: zstd frame declares size, checksum or dictionary")
    pos = _HEAD
    last = False
    while not last:
        header = int.from_bytes(packed[pos : pos + 3], "little")
        last = bool(header & 1)
        pos += 3 + (1 if header >> 1 & 3 == 1 else header >> 3)  # a run is one byte, however long
        if pos > len(packed):
            raise RemoteError(Status.COMPRESSION, "transfer: zstd frame is cut off")
    if pos != len(packed):
        raise RemoteError(Status.COMPRESSION, f"transfer: {len(packed) - pos} bytes after the zstd frame")


class Incoming:
    """A content on its way to us, in chunks that come in order. Holds at most `packed_size` bytes."""

    __slots__ = ("_base", "_digest", "_packed", "_plain", "_size", "id", "packed_size")

    def __init__(
        self, id: int, packed_size: int, size: int, digest: bytes, base: bytes | None = None, *, plain: bool = False
    ) -> None:
        """What the offer said, all sizes in bytes; `base` is the content that was named in our want.

        `plain`: it is not packed (tables; the two sizes are the same).

        Raises RemoteError(PROTOCOL) for sizes outside the limits and for what cannot be a digest.
        """
        if not 0 < packed_size <= MAX_PACKED:
            raise RemoteError(Status.PROTOCOL, f"transfer {id}: expected 1..{MAX_PACKED} packed, got {packed_size}")
        if not 0 < size <= MAX_CONTENT:
            raise RemoteError(Status.PROTOCOL, f"transfer {id}: expected 1..{MAX_CONTENT} bytes, got {size}")
        if plain and packed_size != size:
            raise RemoteError(Status.PROTOCOL, f"transfer {id}: expected {size} bytes in chunks, got {packed_size}")
        if len(digest) != DIGEST_SIZE:
            raise RemoteError(
                Status.PROTOCOL, f"transfer {id}: expected a digest of {DIGEST_SIZE} bytes, got {len(digest)}"
            )
        self.id = id
        self.packed_size = packed_size
        """Bytes of all chunks."""
        self._size = size
        self._digest = digest
        self._base = base
        self._plain = plain
        self._packed = bytearray()

    @property
    def missing(self) -> int:
        """Packed bytes still to come."""
        return self.packed_size - len(self._packed)

    def chunk(self, offset: int, data: bytes) -> bool:
        """Takes the next chunk; whether that was the last. Raises RemoteError(PROTOCOL)."""
        if offset != len(self._packed):
            raise RemoteError(Status.PROTOCOL, f"transfer {self.id}: expected offset {len(self._packed)}, got {offset}")
        missing = self.missing
        least = min(missing, MIN_CHUNK)
        if not 0 < least <= len(data) <= min(missing, MAX_CHUNK):
            raise RemoteError(
                Status.PROTOCOL,
                f"transfer {self.id}: expected a chunk of {least}..{min(missing, MAX_CHUNK)} bytes, got {len(data)}",
            )
        self._packed += data
        return len(data) == missing

    def complete(self) -> bytes:
        """The content. Raises RemoteError: PROTOCOL while chunks are missing, else COMPRESSION when it is not
        what was offered."""
        if self.missing:
            raise RemoteError(Status.PROTOCOL, f"transfer {self.id}: {self.missing} bytes are missing")
        packed = bytes(self._packed)
        content = packed if self._plain else self._unpack(packed)
        if digest_of(content) != self._digest:
            raise RemoteError(Status.COMPRESSION, f"transfer {self.id}: the content is not that of the digest")
        return content

    def _unpack(self, packed: bytes) -> bytes:
        _check_frame(packed)
        decompressor = zstandard.ZstdDecompressor(dict_data=_base(self._base), max_window_size=_MAX_WINDOW)
        try:
            content = decompressor.decompress(packed, max_output_size=self._size)
        except zstandard.ZstdError as error:
            raise RemoteError(Status.COMPRESSION, f"transfer {self.id}: {str(error)[:100]}") from None
        if len(content) != self._size:
            raise RemoteError(
                Status.COMPRESSION, f"transfer {self.id}: expected {self._size} bytes, got {len(content)}"
            )
        return content
