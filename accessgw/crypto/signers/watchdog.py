"""A watchdog for a process that is asked and answers: whether it has said nothing at all for too long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TURNS = 4
"""Looks in its time. One look alone proves nothing: whoever was stopped for seconds, as with his whole machine, finds his
timers over before he reads the answers that have come meanwhile."""


class Watchdog:
    """Calls `bark` once an answer has been owed for `after` seconds, at most a quarter more, in which none came."""

    def __init__(self, after: float, clock: Any, bark: Callable[[], None]) -> None:
        """`after`: seconds; 0: never."""
        self._interval = after / TURNS
        self._clock = clock
        self._bark = bark
        self._owed = False
        self._silent = 0
        """Looks since the last answer, or the first question; one that was ordered before that, and so comes too early, is
        not counted."""
        self._look: Any = None

    def asked(self) -> None:
        """An answer is owed from now on, if none was before."""
        if self._owed or not self._interval:
            return
        self._owed = True
        self._silent = 0 if self._look is None else -1
        if self._look is None:
            self._look = self._clock.callLater(self._interval, self._turn)

    def heard(self, more: bool) -> None:
        """Something came. `more`: whether other answers are owed."""
        self._owed = False
        if more:
            self.asked()

    def stop(self) -> None:
        """Nothing is owed any more, and no timer is left."""
        self._owed = False
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _turn(self) -> None:
        self._look = None
        if not self._owed:
            return
        self._silent += 1
        if self._silent < TURNS:
            self._look = self._clock.callLater(self._interval, self._turn)
            return
        self._owed = False
        self._bark()
