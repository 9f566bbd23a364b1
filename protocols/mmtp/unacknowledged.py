"""The window on pushes: those that were sent and not acknowledged (specification, 10.3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from protocols.errors import LocalError

MAX_RANGES = 64
"""Pairs of an ACK with ranges."""


class Unacknowledged:
    """Pushes of one connection that were sent and not acknowledged, in order; either side's view."""

    __slots__ = ("_entries", "_holes", "_size")

    def __init__(self) -> None:
        self._entries: list[tuple[int, Any]] = []
        """(size, token), from the oldest unacknowledged one on."""
        self._holes: set[int] | None = None
        """Places in _entries that were acknowledged out of order."""
        self._size = 0

    def __len__(self) -> int:
        return len(self._entries) - (len(self._holes) if self._holes else 0)

    @property
    def span(self) -> int:
        """Pushes from the oldest unacknowledged one on, with those that were acknowledged out of order."""
        return len(self._entries)

    def fits(self, size: int, count_window: int, bytes_window: int) -> bool:
        """One more of `size` bytes is within the window (one is, whatever its size)."""
        waiting = len(self._entries) - (len(self._holes) if self._holes else 0)
        return waiting == 0 or (waiting < count_window and self._size + size <= bytes_window)

    def add(self, entry: tuple[int, Any]) -> None:
        """One of (size, token) was sent."""
        self._entries.append(entry)
        self._size += entry[0]

    def oldest(self, count: int) -> list[Any]:
        """Acknowledge the `count` oldest ones; their tokens. Raises ValueError when there are not so many."""
        if count == 1 and self._entries and not self._holes:
            size, token = self._entries.pop(0)
            self._size -= size
            return [token]
        if not 1 <= count <= len(self):
            raise ValueError(f"ACK: expected 1..{len(self)} pushes, got {count}")
        if not self._holes:
            taken = self._entries[:count]
            del self._entries[:count]
            for size, _ in taken:
                self._size -= size
            return [token for _, token in taken]
        places: list[int] = []
        place = 0
        while len(places) < count:
            if place not in self._holes:
                places.append(place)
            place += 1
        return self._take(places)

    def ranges(self, pairs: Iterable[tuple[int, int]]) -> list[Any]:
        """Acknowledge by (skip, count); their tokens. Raises ValueError, with nothing acknowledged."""
        places: list[int] = []
        place = 0
        for skip, count in pairs:
            place += skip
            if count < 1 or place + count > len(self._entries):
                raise ValueError(f"ACK: range {place}+{count} outside of {len(self._entries)} pushes")
            places.extend(range(place, place + count))
            place += count
        if self._holes and not self._holes.isdisjoint(places):
            raise ValueError("ACK: acknowledges a push twice")
        return self._take(places)

    def places(self, tokens: Sequence[Any]) -> list[int]:
        """Where unacknowledged pushes with these tokens are. Raises LocalError for one that is not there."""
        where = {token: place for place, (_, token) in enumerate(self._entries) if token is not None}
        missing = [token for token in tokens if token not in where]
        if missing:
            raise LocalError(f"ACK: push {missing[0]} is not unacknowledged")
        return [where[token] for token in tokens]

    def _take(self, places: Sequence[int]) -> list[Any]:
        tokens = []
        for place in places:
            size, token = self._entries[place]
            tokens.append(token)
            self._size -= size
            self._entries[place] = (0, None)
        holes = self._holes or set()
        holes.update(places)
        done = 0
        while done in holes:
            done += 1
        del self._entries[:done]
        self._holes = {place - done for place in holes if place >= done} or None
        return tokens
