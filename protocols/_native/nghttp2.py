"""HPACK of the shared library libnghttp2, bound at run time. ImportError where it cannot be had.

What is used of it is declared in nghttp2_declarations, and compiled by cffi (ABI mode) into nghttp2_types.

cffi lets other threads run during a call, so buffers are never shared by two calls under way: each takes
its own from a list whose pop() and append() are atomic.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable
from functools import lru_cache

try:
    from protocols._native.nghttp2_types import ffi as _ffi
except ModuleNotFoundError as missing:
    raise ImportError("libnghttp2 needs the package cffi") from missing

SONAME = "libnghttp2.so.14"
"""The ABI that the declarations are for."""
LARGEST_TABLE = 64 * 1024
"""Bytes of the largest dynamic table that an encoder is told to use."""

try:
    # It stays when the interpreter ends and takes this module apart: coders that are freed after it need it.
    _lib = _ffi.dlopen(SONAME, os.RTLD_NOW | os.RTLD_NODELETE)
    _deflate = _lib.nghttp2_hd_deflate_hd
    _inflate = _lib.nghttp2_hd_inflate_hd2
    _end_headers = _lib.nghttp2_hd_inflate_end_headers
except (OSError, AttributeError) as _error:
    raise ImportError(f"{SONAME}: {_error}") from None

_NV = _ffi.sizeof("nghttp2_nv")
if _NV != 40:
    raise ImportError(f"{SONAME}: expected pointers of 64 bits")
_EMIT = 2
_FIELDS = 64
_OUT = 16 * 1024
_buffers: list[_Buffers] = []
_huffman: list[_Huffman] = []


@lru_cache(maxsize=128)
def _packer(fields: int) -> Callable[..., bytes]:
    return struct.Struct("=" + "5Q" * fields).pack


class _Buffers:
    """What one call of the encoder needs, for blocks of ordinary size."""

    __slots__ = ("nv", "nv_view", "out", "out_view")

    def __init__(self, fields: int, size: int) -> None:
        self.nv = _ffi.new("nghttp2_nv[]", fields)
        self.nv_view = _ffi.buffer(self.nv)
        self.out = _ffi.new("uint8_t[]", size)
        self.out_view = _ffi.buffer(self.out)


class Deflater:
    """The encoder of one direction; its memory in C is freed with it."""

    __slots__ = ("_deflater", "_table")

    def __init__(self) -> None:
        made = _ffi.new("nghttp2_hd_deflater **")
        if _lib.nghttp2_hd_deflate_new(made, LARGEST_TABLE):
            raise MemoryError
        self._deflater = _ffi.gc(made[0], _lib.nghttp2_hd_deflate_del)
        self._table = 4096

    def encode(self, fields: Iterable[tuple[str, str, bool]], table: int) -> bytes:
        """The block of (name, value, never indexed); `table` is the bound of the dynamic table, at most LARGEST_TABLE.

        Raises ValueError, with the encoder unusable, for what libnghttp2 refuses.
        """
        if table != self._table:
            if _lib.nghttp2_hd_deflate_change_table_size(self._deflater, table):
                raise MemoryError
            self._table = table
        parts: list[bytes] = []
        places: list[int] = []
        pos = 0
        for name, value, secret in fields:
            first, second = name.encode(), value.encode()
            parts += (first, second)
            middle = pos + len(first)
            # A flag of 1 forbids to index (NGHTTP2_NV_FLAG_NO_INDEX).
            places += (pos, middle, len(first), len(second), secret)
            pos = middle + len(second)
        count = len(places) // 5
        text = b"".join(parts)
        source = _ffi.from_buffer(text)
        base = int(_ffi.cast("uintptr_t", source))
        places[0::5] = [base + place for place in places[0::5]]
        places[1::5] = [base + place for place in places[1::5]]
        # Two table size updates, and per field two lengths, take at most 6 bytes each.
        bound = 16 + 12 * count + pos
        ordinary = count <= _FIELDS and bound <= _OUT
        if ordinary:
            try:
                buffers = _buffers.pop()
            except IndexError:
                buffers = _Buffers(_FIELDS, _OUT)
        else:
            buffers = _Buffers(count, bound)
        buffers.nv_view[0 : _NV * count] = _packer(count)(*places)
        size = _deflate(self._deflater, buffers.out, _OUT if ordinary else bound, buffers.nv, count)
        block: bytes = buffers.out_view[: max(size, 0)]
        if ordinary:
            _buffers.append(buffers)
        if size < 0:
            raise ValueError(f"libnghttp2: error {size}")
        return block


class _Huffman:
    """A decoder that is given one literal that enters no table at a time, so that all connections share it."""

    __slots__ = ("flags", "inflater", "nv")

    def __init__(self) -> None:
        made = _ffi.new("nghttp2_hd_inflater **")
        if _lib.nghttp2_hd_inflate_new(made):
            raise MemoryError
        self.inflater = _ffi.gc(made[0], _lib.nghttp2_hd_inflate_del)
        self.nv = _ffi.new("nghttp2_nv *")
        self.flags = _ffi.new("int *")


def decode_string(literal: bytes) -> bytes | None:
    """The string of a complete string literal (RFC 7541 section 5.2: H bit, length, octets).

    None for one that libnghttp2 refuses: a bad code, or more than its bound of 64 KiB.
    """
    try:
        decoder = _huffman.pop()
    except IndexError:
        decoder = _Huffman()
    # A literal without indexing (section 6.2.2) whose new name is "x".
    data = b"\0\1x" + literal
    inflater, nv = decoder.inflater, decoder.nv
    size = _inflate(inflater, nv, decoder.flags, data, len(data), 1)
    if size != len(data) or not decoder.flags[0] & _EMIT:
        return None
    value: bytes = _ffi.unpack(_ffi.cast("char *", nv.value), nv.valuelen)
    _end_headers(inflater)
    _huffman.append(decoder)
    return value
