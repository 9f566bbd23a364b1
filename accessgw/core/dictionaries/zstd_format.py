"""The head of a zstd dictionary (RFC 8878 section 5): where its tables end and its content begins."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

MAGIC = b"\x37\xa4\x30\xec"
FSE_LIMITS = ((31, 8), (52, 9), (35, 9))
"""Largest symbol and accuracy log of the tables of offsets, match lengths and literal lengths."""

MAX_HEAD = 1024
"""Bytes that the head may take; zstd makes heads of some 150."""


def head_size(dictionary: bytes) -> int:
    """Bytes before the content: magic, id, the four tables and three offsets. Raises ValueError."""
    if dictionary[:4] != MAGIC:
        raise ValueError(f"expected a zstd dictionary, it begins with {dictionary[:4].hex()}")
    try:
        place = 8
        huffman = dictionary[place]
        place += 1 + (huffman if huffman < 128 else (huffman - 127 + 1) // 2)
        for largest, accuracy in FSE_LIMITS:
            place += _fse_size(dictionary, place, largest, accuracy)
    except IndexError:
        raise ValueError("the dictionary ends within its tables") from None
    place += 12
    if place > len(dictionary):
        raise ValueError("the dictionary ends within its tables")
    return place


def _fse_size(data: bytes, start: int, largest: int, accuracy_limit: int) -> int:
    """Bytes of a table of FSE probabilities (RFC 8878 section 4.1.1)."""
    bit = 8 * start

    def take(count: int) -> int:
        nonlocal bit
        value = peek(count)
        bit += count
        return value

    def peek(count: int) -> int:
        return sum((data[(bit + n) // 8] >> (bit + n) % 8 & 1) << n for n in range(count) if (bit + n) // 8 < len(data))

    if start >= len(data):
        raise IndexError(start)
    accuracy = take(4) + 5
    if accuracy > accuracy_limit:
        raise ValueError(f"expected an accuracy of at most {accuracy_limit} bits, got {accuracy}")
    remaining = (1 << accuracy) + 1
    symbol = 0
    while remaining > 1:
        if symbol > largest or bit // 8 >= len(data):
            raise ValueError("a table of the dictionary has no end")
        width = remaining.bit_length()
        value = peek(width)
        small = (1 << width) - 1 - remaining
        if value & ((1 << (width - 1)) - 1) < small:
            value &= (1 << (width - 1)) - 1
            bit += width - 1
        else:
            bit += width
            if value >= 1 << (width - 1):
                value -= small
        probability = value - 1
        remaining -= abs(probability)
        symbol += 1
        if not probability:
            while True:
                zeros = take(2)
                symbol += zeros
                if zeros < 3:
                    break
    return (bit + 7) // 8 - start


def finalized(content: bytes, bodies: Sequence[bytes], level: int, id: int) -> bytes | None:
    """A dictionary of this content, with tables for what is left of `bodies` when they are compressed with it. None
    where zstd's function for that is not within reach, or refuses.

    The package `zstandard` has it in its backend of cffi only, which its wheels hold.
    """
    try:
        backend: Any = import_module("zstandard.backend_cffi")
        ffi, lib = backend.ffi, backend.lib
        finalize = lib.ZDICT_finalizeDictionary
    except (ImportError, AttributeError):
        return None
    room = len(content) + MAX_HEAD
    made = ffi.new("char[]", room)
    settings = ffi.new("ZDICT_params_t *", {"compressionLevel": level, "dictID": id})[0]
    sizes = ffi.new("size_t[]", [len(body) for body in bodies])
    size = finalize(
        made,
        room,
        ffi.from_buffer(content),
        len(content),
        ffi.from_buffer(b"".join(bodies)),
        sizes,
        len(bodies),
        settings,
    )
    return None if lib.ZDICT_isError(size) else bytes(ffi.buffer(made, size))
