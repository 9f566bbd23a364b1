"""Which fields a full block of profile D can copy from templates that there are (specification, 7.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from protocols.mmtp.template_state import Template


class Copy(NamedTuple):
    """A run of fields that a template has, too."""

    slot: int
    start: int
    """Its place in the template."""
    length: int


def find_copies(templates: Sequence[Template], fields: Sequence[tuple[str, str]]) -> dict[int, Copy]:
    """Where runs begin in `fields`, and what they are; all from the template that covers the most fields."""
    best: dict[int, Copy] = {}
    covered = 0
    for template in templates:
        have = template.fields
        places: dict[str, int] = {}
        for place, (name, _) in enumerate(have):
            places.setdefault(name, place)
        runs: dict[int, Copy] = {}
        total = index = 0
        while index < len(fields):
            start = places.get(fields[index][0], len(have))
            count = 0
            for (name, value), (known, fixed) in zip(fields[index:], have[start:], strict=False):
                if name != known or (fixed is not None and fixed != value):
                    break
                count += 1
            if count:
                runs[index] = Copy(template.slot, start, count)
                total += count
            index += count or 1
        if total > covered:
            best, covered = runs, total
    return best
