"""What an encoder of profile D has seen of a template's fields: whether they repeat or change (specification, 7.2)."""

from __future__ import annotations

from protocols.mmtp.template_state import Template
from protocols.mmtp.values import HEX, STRING

_LOWEST = -8
_HIGHEST = 8
_SETTLED = 6
_CHANGE = 4
"""One byte for the override, and some for what another template costs both sides in work."""
_MOST = 8
"""A repetition saves the bytes of the value, counted up to this: a field that rarely repeats must not look steady."""


class Habits:
    """Scores of one template's fields: up by what a repetition saves, down by _CHANGE with each change.

    A change of a fixed field below 0 makes it a hole; a hole that has reached _SETTLED is made fixed at its next
    repetition, but for enum, uint and time, which cost about a byte and are not worth another template. Scores are
    brought up to date only where something turns, so that a usual block costs one addition.
    """

    __slots__ = ("_latest", "_scores", "_since", "_weighed", "loose", "settled", "uses")

    def __init__(self, template: Template) -> None:
        count = len(template.fields)
        self.uses = 0
        self.loose = 0
        """Blocks in a row whose hex values had other sizes than the template's."""
        self.settled: set[int] = set()
        """Holes that would better be fixed."""
        self._scores = [0] * count
        self._since = [0] * count
        self._latest: list[str] = []
        self._weighed: list[tuple[int, int]] = []
        """Holes that may become fixed again: the place among the holes, and among the fields."""
        self.reshaped(template)

    def note(self, values: list[str]) -> None:
        """The values of the holes in a block."""
        self.uses += 1
        latest = self._latest
        self._latest = values
        if latest:
            for position, place in self._weighed:
                if values[position] == latest[position]:
                    self._repeated(place)

    def latest(self, template: Template, index: int) -> str | None:
        """The value of a hole in the block before."""
        if len(self._latest) != len(template.holes):
            return None
        return next((v for hole, v in zip(template.holes, self._latest, strict=True) if hole.place == index), None)

    def reshaped(self, template: Template) -> None:
        """The template has got other holes."""
        self._latest = []
        self._weighed = [
            (position, hole.place)
            for position, hole in enumerate(template.holes)
            if not hole.secret and hole.type in (STRING, HEX)
        ]

    def changes(self, index: int, size: int) -> bool:
        """A fixed field has got another value, of `size` bytes: whether it becomes a hole."""
        steady = self.uses - self._since[index]
        score = min(_HIGHEST, self._scores[index] + steady * min(size, _MOST)) - _CHANGE
        self._scores[index] = score
        self._since[index] = self.uses + 1
        return score < 0

    def fixed(self, index: int) -> None:
        """A hole has become fixed."""
        self._scores[index] = _SETTLED
        self._since[index] = self.uses + 1
        self.settled.discard(index)

    def _repeated(self, index: int) -> None:
        changed = (self.uses - self._since[index] - 1) * _CHANGE
        score = max(_LOWEST, self._scores[index] - changed) + _MOST
        self._scores[index] = score
        self._since[index] = self.uses
        if score >= _SETTLED:
            self.settled.add(index)
