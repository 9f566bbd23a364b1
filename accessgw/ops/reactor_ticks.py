"""Watches the reactor: how late its timers fire, and how long one turn holds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accessgw.core.interfaces.clock import Clock
from accessgw.ops.histogram import Histogram

INTERVAL = 0.1
"""Seconds between two looks at the clock."""
BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class ReactorTicks:
    """`lateness`: of a call due every 0.1 s, what anything that waits for the reactor feels.
    `turns`: the time from one poll of the kernel to the next, its wait not included.

    Turns are seen only where the reactor tells of them (LeanReactor).
    """

    def __init__(self, clock: Clock) -> None:
        self.lateness = Histogram(BOUNDS)
        self.turns = Histogram(BOUNDS)
        self._clock = clock
        self._due = 0.0
        self._call: Any = None

    def start(self) -> None:
        """Begin to watch."""
        self._watch_turns(self.turns.observe)
        self._schedule()

    def stop(self) -> None:
        """Leave the reactor as it was. Idempotent."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._watch_turns(None)

    def _watch_turns(self, observe: Callable[[float], None] | None) -> None:
        watch = getattr(self._clock, "watch_turns", None)
        if watch is not None:
            watch(observe)

    def _schedule(self) -> None:
        self._due = self._clock.seconds() + INTERVAL
        self._call = self._clock.callLater(INTERVAL, self._look)

    def _look(self) -> None:
        self.lateness.observe(max(0.0, self._clock.seconds() - self._due))
        self._schedule()
