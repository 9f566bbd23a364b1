"""SASLprep (RFC 4013): one form for user names and passwords that look alike, on Python's own stringprep tables."""

from __future__ import annotations

import stringprep
import unicodedata
from collections.abc import Callable

_PROHIBITED: tuple[Callable[[str], bool], ...] = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def saslprep(text: str, *, stored: bool = False) -> str:
    """`text` in the prepared form; ValueError for what RFC 4013 prohibits.

    `stored`: text that is kept; code points that Unicode 3.2 did not know are errors then, as RFC 3454
    (section 7) asks for.
    """
    if text.isascii() and text.isprintable():
        return text
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c))
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    for character in prepared:
        if any(prohibited(character) for prohibited in _PROHIBITED):
            raise ValueError(f"U+{ord(character):04X} is not allowed")
        if stored and stringprep.in_table_a1(character):
            raise ValueError(f"U+{ord(character):04X} is newer than the rules that it would have to follow")
    # Section 2.3: text that runs from right to left does so from its first to its last character.
    if any(stringprep.in_table_d1(c) for c in prepared):
        if any(stringprep.in_table_d2(c) for c in prepared):
            raise ValueError("expected one direction of writing, got both")
        if not (stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1])):
            raise ValueError("expected right-to-left text to begin and end with right-to-left characters")
    return prepared
