"""Deadlines of many that mostly do not come: sessions that expire, wills that are due."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from itertools import islice

from accessgw.core.interfaces.clock import Timer, Timers
from protocols.mmtp.nothing import NOTHING

LONGEST = 3600.0
"""Seconds; the wall clock may be set meanwhile: look again at least this often."""
BATCH = 200
"""Keys that one look hands out, so that the reactor is not held."""


class Deadlines:
    """Keys by the second in which they are due. Adding and removing are O(1) but for the first of a second."""

    def __init__(self, timers: Timers, wall: Callable[[], float], due: Callable[[str], None]) -> None:
        """`due(key)` is called once when its time has come; never early."""
        self._timers = timers
        self._wall = wall
        self._due = due
        self._seconds: dict[int, dict[str, None]] = {}
        self._order: list[int] = []
        self._timer: Timer | None = None
        self._looks_at = math.inf

    def __len__(self) -> int:
        return sum(map(len, self._seconds.values()))

    def add(self, key: str, at: float) -> None:
        """`at` is a wall-clock second; infinity is never."""
        if math.isinf(at):
            return
        second = math.ceil(at)
        keys = self._seconds.get(second)
        if keys is None:
            heapq.heappush(self._order, second)
        if not keys:
            keys = self._seconds[second] = {}
        keys[key] = None
        self._watch()

    def remove(self, key: str, at: float) -> None:
        """With the time that it was added with."""
        if not math.isinf(at):
            second = math.ceil(at)
            keys = self._seconds.get(second)
            if keys and keys.pop(key, self) is None and not keys:
                # Its second keeps its place in the order, and no table.
                self._seconds[second] = NOTHING

    def pop_first(self) -> str | None:
        """A key of the second that is due first, which is kept no more; None when there is none."""
        while self._order:
            keys = self._seconds[self._order[0]]
            if keys:
                return keys.popitem()[0]
            del self._seconds[heapq.heappop(self._order)]
        return None

    def _watch(self) -> None:
        if not self._order or self._order[0] >= self._looks_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = self._order[0]
        self._timer = self._timers.schedule(min(LONGEST, max(0.0, self._looks_at - self._wall())), self._look)

    def _look(self) -> None:
        self._timer = None
        self._looks_at = math.inf
        now = self._wall()
        left = BATCH
        while self._order and self._order[0] <= now and left:
            second = self._order[0]
            keys = self._seconds[second]
            # One pass: the first key of a dict is dear to find when many before it were deleted.
            for key in tuple(islice(keys, left)):
                left -= 1
                if keys.pop(key, key) is None:
                    self._due(key)
            # Whoever was told may have added and removed.
            if self._order and self._order[0] == second and not self._seconds[second]:
                del self._seconds[heapq.heappop(self._order)]
        self._watch()
