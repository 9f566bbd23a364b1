"""What connections have to send leaves at the end of the reactor's turn, in one write each.

A TLS record costs 22 bytes and a write several microseconds, so answers and pushes that come up in
the same turn should share them. One delayed call serves all connections of the worker: it runs after
every descriptor that was ready in this turn, before the reactor waits again. What bytes from the
device itself bring about is written directly, at the end of the batch that was received.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from accessgw.core.interfaces import Clock

SLICE = 0.002
"""Seconds of the reactor that one round of writes may take."""
_STRIDE = 32


class Flushable(Protocol):
    """Something with bytes to write."""

    def flush(self) -> None: ...


class TurnFlusher:
    """Collects who has something to send. `seconds` measures the slice (the clock's unless given)."""

    def __init__(self, clock: Clock, seconds: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._seconds: Callable[[], float] = clock.seconds if seconds is None else seconds
        self._waiting: deque[Flushable] = deque()
        self._scheduled = False

    def add(self, one: Flushable) -> None:
        """Call its flush() at the end of this turn. Whoever calls does so once until then."""
        self._waiting.append(one)
        if not self._scheduled:
            self._scheduled = True
            self._clock.callLater(0, self._run)

    def flush(self) -> None:
        """Write all that waits, now: for long work, which counts its writes to its own slice of the reactor."""
        waiting = self._waiting
        while waiting:
            waiting.popleft().flush()

    def _run(self) -> None:
        waiting = self._waiting
        until = self._seconds() + SLICE
        # Those that come up while we write have their turn in the next round.
        for count in range(1, len(waiting) + 1):
            waiting.popleft().flush()
            if count % _STRIDE == 0 and self._seconds() >= until:
                break
        if waiting:
            self._clock.callLater(0, self._run)
        else:
            self._scheduled = False
