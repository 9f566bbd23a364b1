"""Chooses, once at import, who codes the header blocks of profile H: libnghttp2 or the package hpack.

`ACCESSGW_ACCEL` is `auto` (libnghttp2 when the shared library and cffi are there), `native` (libnghttp2 or an
ImportError) or `pure` (hpack). Both keep the same bounds, and one decodes what the other encodes (RFC 7541);
their blocks may differ, since an encoder chooses what it indexes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from protocols.mmtp.events import Headers


class BlockEncoder(Protocol):
    """The encoder of one direction of a connection."""

    def encode(self, fields: Headers, table: int) -> bytes:
        """The block of checked fields; credentials are never indexed. `table` bounds the dynamic table, in bytes."""


class BlockDecoder(Protocol):
    """The decoder of one direction of a connection."""

    def decode(self, block: bytes, max_size: int, max_fields: int, table: int) -> Headers:
        """The list of a block that is not empty: at most `max_size` bytes when expanded (RFC 7541 section 4.1), with a
        dynamic table of at most `table` bytes. More than `max_fields` fields are for the caller to refuse.

        Raises RemoteError(COMPRESSION); the connection cannot go on then."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A pair of codecs."""

    name: str
    make_encoder: Callable[[], BlockEncoder]
    make_decoder: Callable[[], BlockDecoder]


def _nghttp2() -> Backend:
    from protocols.mmtp._nghttp2 import NativeDecoder, NativeEncoder

    return Backend("nghttp2", NativeEncoder, NativeDecoder)


def _hpack() -> Backend:
    from protocols.mmtp._hpack import HpackDecoder, HpackEncoder

    return Backend("hpack", HpackEncoder, HpackDecoder)


def _choose(wanted: str) -> Backend:
    if wanted == "pure":
        return _hpack()
    if wanted == "native":
        return _nghttp2()
    if wanted != "auto":
        raise ImportError(f"ACCESSGW_ACCEL: expected auto, native or pure, got {wanted!r}")
    try:
        return _nghttp2()
    except ImportError:
        return _hpack()


_chosen = _choose(os.environ.get("ACCESSGW_ACCEL", "auto"))

backend = _chosen.name
"""Name of the codec in use: nghttp2 or hpack."""


def get_backend(codec: str) -> Backend:
    """The codec `auto` (the one chosen at import), `nghttp2` or `hpack`; ImportError when it is not there."""
    if codec == "auto":
        return _chosen
    if codec == "nghttp2":
        return _nghttp2()
    if codec == "hpack":
        return _hpack()
    raise ValueError(f"expected codec auto, nghttp2 or hpack, got {codec!r}")
