"""Mini zstd bodies: one compressed block without the headers of its frame and block (specification, section 8.1)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import zstandard

from protocols.errors import RemoteError
from protocols.mmtp.bodies import MAX_RATIO, RATIO_FREE
from protocols.mmtp.settings import Limits
from protocols.mmtp.statuses import Status

MAX_MINI = 128 * 1024
"""Expanded bytes of one block (RFC 8878 section 3.1.1.2.4); the block itself is smaller."""
WINDOW_LOG = 17

_FRAME_HEADER = bytes((0, (WINDOW_LOG - 10) << 3))
"""Magicless: descriptor without size, checksum and dictionary; window of 128 KiB."""
_HEADERS = len(_FRAME_HEADER) + 3
_LAST_COMPRESSED = 1 | 2 << 1
"""Low bits of a block header: last block, type compressed."""
_LEAST = 2
"""Bytes of the shortest body that stands for anything: literals and sequences have a header each."""


def tables_log(size: int) -> int:
    """Logarithm of hash tables that suit `size` bytes of dictionary: larger ones cost memory and time, and save
    nothing. 8 KiB: 13, with 105 KiB of context instead of 370 KiB for the tables of level 3."""
    return min(16, max(12, (size - 1).bit_length()))


class Way(NamedTuple):
    """How zstd looks for matches; numbers as in ZSTD_compressionParameters."""

    strategy: int
    min_match: int
    search_log: int
    target_length: int


THOROUGH = Way(zstandard.STRATEGY_LAZY2, 5, 3, 16)
"""7 % smaller than level 3 with the same dictionary, for twice its time: 15 us for 570 bytes."""
SMALL = 128
"""Bytes up to which a body is small."""
SMALL_WAYS = (Way(zstandard.STRATEGY_GREEDY, 5, 3, 8), Way(zstandard.STRATEGY_LAZY2, 3, 3, 8))
"""Neither is always better in small bodies: both are tried (1.2 and 2.5 us for 65 bytes)."""


@lru_cache(maxsize=16)
def parameters(log: int, way: Way) -> zstandard.ZstdCompressionParameters:
    """How minis are compressed, with tables of 2^log entries."""
    return zstandard.ZstdCompressionParameters(
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        window_log=WINDOW_LOG,
        hash_log=log,
        chain_log=log,
        search_log=way.search_log,
        min_match=way.min_match,
        target_length=way.target_length,
        strategy=way.strategy,
        write_content_size=0,
        write_checksum=0,
        write_dict_id=0,
    )


def pack_mini(compressor: zstandard.ZstdCompressor, body: bytes) -> bytes | None:
    """`body` as a mini; None when raw is better, or it is not one compressed block, or a receiver would refuse it."""
    size = len(body)
    if not 0 < size <= MAX_MINI:
        return None
    try:
        frame = compressor.compress(body)
    except zstandard.ZstdError:
        return None
    length = len(frame) - _HEADERS
    if frame[0] or int.from_bytes(frame[2:5], "little") != length << 3 | _LAST_COMPRESSED or length >= size:
        return None
    if size > RATIO_FREE and size > MAX_RATIO * length:
        return None
    return frame[_HEADERS:]


def expand_mini(decompressor: zstandard.ZstdDecompressor, body: bytes, limits: Limits) -> bytes:
    """What a mini stands for. Raises RemoteError(COMPRESSION).

    The output is allocated once, as large as is allowed at most (zstandard obeys max_output_size because the
    frame header, which is ours, has no content size); a block that wants more fails without it.
    """
    length = len(body)
    if not _LEAST <= length < MAX_MINI:
        raise RemoteError(Status.COMPRESSION, f"body: expected a block of {_LEAST}..{MAX_MINI - 1} bytes, got {length}")
    bound = min(MAX_MINI, limits.max_body, max(RATIO_FREE, limits.max_ratio * length))
    frame = _FRAME_HEADER + (length << 3 | _LAST_COMPRESSED).to_bytes(3, "little") + body
    try:
        expanded = decompressor.decompress(frame, max_output_size=bound)
    except zstandard.ZstdError as error:
        raise RemoteError(
            Status.COMPRESSION, f"body: expected a block of at most {bound} bytes: {str(error)[:80]}"
        ) from None
    if not expanded:
        raise RemoteError(Status.COMPRESSION, "body: the block expands to nothing")
    return expanded


class MiniParts:
    """A mini that comes in parts: kept until it is whole, since the block header tells its length.

    Takes what bodies.StreamDecompressor takes. Memory: the parts, less than 128 KiB however small each of them is.
    """

    __slots__ = ("_body", "_expand")

    def __init__(self, expand: Callable[[bytes], bytes]) -> None:
        self._expand = expand
        self._body = bytearray()

    def feed(self, data: bytes, last: bool) -> bytes:
        """The expanded body with its last part, b"" before. Raises RemoteError(COMPRESSION)."""
        if len(self._body) + len(data) >= MAX_MINI:
            raise RemoteError(Status.COMPRESSION, f"body: expected a block of less than {MAX_MINI} bytes")
        self._body += data
        if not last:
            return b""
        body = bytes(self._body)
        self._body.clear()
        return self._expand(body)
