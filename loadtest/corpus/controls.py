"""Control rows: what ordinary codecs make of the corpus, and the bounds within which it counts as mobile traffic.

usage: python -m loadtest.corpus.controls [SEED...]
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterable, Sequence
from statistics import mean

import zstandard
from hpack import Encoder

from loadtest.corpus.devices import OPERATION, Headers
from loadtest.corpus.sessions import Session, sessions

SESSIONS = 8
SMALL = 128
"""Bytes up to which a body is small."""

BOUNDS = {
    "mean body, B": (520.0, 620.0),
    "gzip 6, of raw": (0.54, 0.59),
    "gzip 6 up to 128 B, of raw": (0.97, 1.0),
    "zstd 3 without dictionary, of raw": (0.55, 0.60),
    "21 request headers as text, B": (640.0, 670.0),
    "HPACK static only, B": (415.0, 440.0),
    "HPACK dynamic steady, B": (97.0, 111.0),
}


def gzipped(body: bytes) -> bytes:
    """As an HTTP peer sends it: at level 6, or as it is when that is not longer."""
    packed = gzip.compress(body, 6, mtime=0)
    return packed if len(packed) < len(body) else body


def as_http(headers: Headers) -> Headers:
    """The operation as HTTP/2 names it."""
    return [(":path", "/" + value) if name == OPERATION else (name, value) for name, value in headers]


def controls(some: Sequence[Session]) -> dict[str, float]:
    """The rows of BOUNDS, measured."""
    bodies = [body for session in some for body in session.bodies]
    small = [body for body in bodies if len(body) <= SMALL]
    zstd = zstandard.ZstdCompressor(3, write_content_size=False)
    text: list[int] = []
    static: list[int] = []
    steady: list[int] = []
    for session in some:
        dynamic = Encoder()
        for number, call in enumerate(session.exchanges):
            headers = as_http(call.request_headers)
            text.append(sum(len(name) + len(value) + 4 for name, value in headers))
            bare = Encoder()
            bare.header_table_size = 0
            bare.encode(())
            static.append(len(bare.encode(headers)))
            size = len(dynamic.encode(headers))
            if number:
                steady.append(size)
    return {
        "mean body, B": mean(map(len, bodies)),
        "gzip 6, of raw": share(map(gzipped, bodies), bodies),
        "gzip 6 up to 128 B, of raw": share(map(gzipped, small), small),
        "zstd 3 without dictionary, of raw": share(
            (min(body, zstd.compress(body), key=len) for body in bodies), bodies
        ),
        "21 request headers as text, B": mean(text),
        "HPACK static only, B": mean(static),
        "HPACK dynamic steady, B": mean(steady),
    }


def share(packed: Iterable[bytes], raw: Sequence[bytes]) -> float:
    """Bytes of `packed` by bytes of `raw`."""
    return sum(map(len, packed)) / sum(map(len, raw))


def outside(rows: dict[str, float]) -> list[str]:
    """What is out of bounds, in words."""
    return [
        f"{name}: expected {low:g} to {high:g}, got {rows[name]:.3f}"
        for name, (low, high) in BOUNDS.items()
        if not low <= rows[name] <= high
    ]


def main() -> None:
    for seed in map(int, sys.argv[1:] or ["1"]):
        rows = controls(list(sessions(seed, SESSIONS)))
        print(f"seed {seed}: " + ", ".join(f"{name} {value:.3f}" for name, value in rows.items()))
        for line in outside(rows):
            print("  OUT OF BOUNDS " + line)


if __name__ == "__main__":
    main()
