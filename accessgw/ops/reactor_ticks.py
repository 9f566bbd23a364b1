"""Watches the reactor: how late its timers fire, and how long one turn holds it."""

from __future__ import annotations

import time
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

    Turns are seen only where the reactor has a poll object to watch (the epoll reactor).
    """

    def __init__(self, clock: Clock, seconds: Callable[[], float] = time.perf_counter) -> None:
        self.lateness = Histogram(BOUNDS)
        self.turns = Histogram(BOUNDS)
        self._clock = clock
        self._seconds = seconds
        self._due = 0.0
        self._call: Any = None
        self._watched: WatchedPoller | None = None

    def start(self) -> None:
        """Begin to watch."""
        reactor: Any = self._clock
        poller = getattr(reactor, "_poller", None)  # of the epoll reactor alone
        if poller is not None and not isinstance(poller, WatchedPoller):
            self._watched = reactor._poller = WatchedPoller(poller, self.turns, self._seconds)
        self._schedule()

    def stop(self) -> None:
        """Leave the reactor as it was. Idempotent."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        reactor: Any = self._clock
        current = getattr(reactor, "_poller", None)
        if isinstance(current, WatchedPoller) and current is self._watched:
            reactor._poller = current.poller
        self._watched = None

    def _schedule(self) -> None:
        self._due = self._clock.seconds() + INTERVAL
        self._call = self._clock.callLater(INTERVAL, self._look)

    def _look(self) -> None:
        self.lateness.observe(max(0.0, self._clock.seconds() - self._due))
        self._schedule()


class WatchedPoller:
    """Stands before an epoll object and times what happens between two of its polls."""

    __slots__ = ("close", "fileno", "modify", "poll", "poller", "register", "unregister")

    def __init__(self, poller: Any, turns: Histogram, seconds: Callable[[], float]) -> None:
        self.poller = poller
        # bound methods of the C object, so that registering costs what it did before
        self.close = poller.close
        self.fileno = poller.fileno
        self.modify = poller.modify
        self.register = poller.register
        self.unregister = poller.unregister
        wait, observe, began = poller.poll, turns.observe, 0.0

        def poll(*args: Any) -> Any:
            nonlocal began
            if began:
                observe(seconds() - began)
            try:
                return wait(*args)
            finally:
                began = seconds()

        self.poll = poll
