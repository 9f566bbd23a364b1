"""Coding 3: minis whose dictionary goes on with the last bodies of the stream (specification, section 8.2)."""

from __future__ import annotations

import zstandard

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.dictionaries import Dictionary, zstd_dictionary
from protocols.mmtp.mini import SMALL, SMALL_WAYS, THOROUGH, expand_mini, pack_mini, parameters, tables_log
from protocols.mmtp.settings import Limits
from protocols.mmtp.statuses import Status

MAX_HISTORY = 4096
"""Bytes of bodies that are remembered per stream."""


def compress_after(body: bytes, dictionary: Dictionary | None, history: bytes) -> bytes | None:
    """`body` as a mini after the content of `dictionary` and `history`; None when raw is better.

    Costs 40 us with a dictionary of 8 KiB and 4 KiB of history, since zstd has to read both again (20 us without
    a dictionary); what it makes is the same for every receiver that has them.
    """
    if not history and dictionary is not None:
        return dictionary.compress(body)
    content = b"" if dictionary is None else dictionary.content
    # one way only, for the tables are made anew each time: that takes most of the time
    way = THOROUGH if len(body) > SMALL else SMALL_WAYS[0]
    params = parameters(min(14, tables_log(len(content) + len(history))), way)
    if not history:
        return pack_mini(zstandard.ZstdCompressor(compression_params=params), body)
    data = zstd_dictionary(content, history)
    try:
        compressor = zstandard.ZstdCompressor(dict_data=data, compression_params=params)
    except zstandard.ZstdError:
        return None
    return pack_mini(compressor, body)


def expand_after(body: bytes, dictionary: Dictionary | None, history: bytes, limits: Limits) -> bytes:
    """What compress_after made, expanded. Raises RemoteError(COMPRESSION)."""
    if not history and dictionary is not None:
        return dictionary.decompress(body, limits)
    data = zstd_dictionary(b"" if dictionary is None else dictionary.content, history) if history else None
    try:
        decompressor = zstandard.ZstdDecompressor(dict_data=data, format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    except zstandard.ZstdError as error:
        raise RemoteError(Status.COMPRESSION, f"dictionary and history: {str(error)[:100]}") from None
    return expand_mini(decompressor, body, limits)


class History:
    """The last bytes of the bodies of one stream on one connection, in the order of their frames; see
    SharedBody.after for what leaves.

    Both sides append every body of the stream (expanded, whatever its coding), after they have coded it.
    """

    __slots__ = ("_size", "tail")

    def __init__(self, size: int) -> None:
        """`size` in bytes. Raises LocalError outside 1..MAX_HISTORY."""
        if not 1 <= size <= MAX_HISTORY:
            raise LocalError(f"history: expected 1..{MAX_HISTORY} bytes, got {size}")
        self._size = size
        self.tail = b""
        """At most `size` bytes."""

    def decompress(self, body: bytes, dictionary: Dictionary | None, limits: Limits) -> bytes:
        """A body of coding 3, expanded. Raises RemoteError(COMPRESSION)."""
        return expand_after(body, dictionary, self.tail, limits)

    def append(self, body: bytes) -> None:
        """The next body, which its receiver will have seen when it gets the one after."""
        size = self._size
        self.tail = body[-size:] if len(body) >= size else (self.tail + body)[-size:]
