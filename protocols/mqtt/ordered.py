"""Names kept in order, for listings by pages."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

CHUNK = 512
"""Names of a chunk, about: few enough to move at every change, enough that chunks are few."""


class OrderedNames:
    """A set of names in the order of their code points; the caller adds none twice and removes none that is missing."""

    __slots__ = ("_chunks", "_lasts")

    def __init__(self) -> None:
        self._chunks: list[list[str]] = []
        self._lasts: list[str] = []

    def add(self, name: str) -> None:
        if not self._chunks:
            self._chunks.append([name])
            self._lasts.append(name)
            return
        place = min(bisect_left(self._lasts, name), len(self._chunks) - 1)
        chunk = self._chunks[place]
        insort(chunk, name)
        if len(chunk) > 2 * CHUNK:
            self._chunks.insert(place + 1, chunk[CHUNK:])
            del chunk[CHUNK:]
            self._lasts.insert(place, chunk[-1])
            place += 1
        self._lasts[place] = self._chunks[place][-1]

    def remove(self, name: str) -> None:
        place = bisect_left(self._lasts, name)
        chunk = self._chunks[place]
        del chunk[bisect_left(chunk, name)]
        if chunk:
            self._lasts[place] = chunk[-1]
        else:
            del self._chunks[place], self._lasts[place]

    def after(self, name: str) -> Iterator[str]:
        """Names > `name`, in order. The set must not change meanwhile."""
        first = bisect_right(self._lasts, name)
        for place in range(first, len(self._chunks)):
            chunk = self._chunks[place]
            yield from chunk[bisect_right(chunk, name) :] if place == first else chunk
