"""Chooses, once at import, who splits message heads into fields: httptools (llhttp) or h11.

`ACCESSGW_ACCEL` is `auto` (httptools when it can be imported), `native` (httptools or an ImportError)
or `pure` (h11). What decides about message framing is not here but in heads.py, so that the two
cannot disagree about where a message ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

RawFields = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Backend:
    """A parser of complete heads, which end with the empty line. Raises ValueError for a bad one."""

    name: str
    split_request: Callable[[bytes], RawFields]
    split_response: Callable[[bytes], RawFields]


def _httptools() -> Backend:
    from protocols.http import _httptools

    return Backend("httptools", _httptools.split_request, _httptools.split_response)


def _h11() -> Backend:
    from protocols.http import _h11

    return Backend("h11", _h11.split_request, _h11.split_response)


def _choose(wanted: str) -> Backend:
    if wanted == "pure":
        return _h11()
    if wanted == "native":
        return _httptools()
    if wanted != "auto":
        raise ImportError(f"ACCESSGW_ACCEL: expected auto, native or pure, got {wanted!r}")
    try:
        return _httptools()
    except ImportError:
        return _h11()


_chosen = _choose(os.environ.get("ACCESSGW_ACCEL", "auto"))

backend = _chosen.name
"""Name of the parser in use: httptools or h11."""


def get_backend(parser: str) -> Backend:
    """The parser `auto` (the one chosen at import), `httptools` or `h11`; ImportError when it is not installed."""
    if parser == "auto":
        return _chosen
    if parser == "httptools":
        return _httptools()
    if parser == "h11":
        return _h11()
    raise ValueError(f"expected parser auto, httptools or h11, got {parser!r}")
