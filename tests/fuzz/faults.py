"""Faults for fuzzers: bytes changed, put in, taken out, cut off."""

from __future__ import annotations

import random
from collections.abc import Sequence

EDGES = (0x00, 0x01, 0x02, 0x7F, 0x80, 0x81, 0xC0, 0xE0, 0xED, 0xFF)
"""Bytes at which encodings turn: lengths, continuation bits, UTF-8."""


def with_faults(data: bytes, pick: random.Random, counts: Sequence[int]) -> bytes:
    """The bytes with one of `counts` faults."""
    changed = bytearray(data)
    for _ in range(pick.choice(counts)):
        at = pick.randrange(len(changed)) if changed else 0
        match pick.randrange(6):
            case 0 if changed:
                changed[at] = pick.choice(EDGES)
            case 1 if changed:
                changed[at] ^= 1 << pick.randrange(8)
            case 2:
                changed.insert(at, pick.randrange(256))
            case 3 if changed:
                del changed[at]
            case 4:
                del changed[at:]
            case _:
                changed[at:at] = pick.randbytes(pick.randrange(6))
    return bytes(changed)
