"""Removes what the streams need not keep any longer: now and then, in bounded batches."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.interfaces.clock import Timers
from accessgw.core.interfaces.stores import StreamStore

log = Logger()

INTERVAL = 60.0
"""Seconds between two sweeps that found nothing."""


class Retention:
    """Sweeps a StreamStore from `start` on."""

    def __init__(self, store: StreamStore, timers: Timers, wall: Callable[[], float]) -> None:
        self._store = store
        self._timers = timers
        self._wall = wall

    def start(self) -> None:
        """Begin with the first batch."""
        self._sweep()

    def _sweep(self) -> None:
        self._store.sweep(self._wall()).addCallbacks(self._swept, self._failed)

    def _swept(self, removed: int) -> None:
        self._timers.schedule(0.0 if removed else INTERVAL, self._sweep)

    def _failed(self, failure: Failure) -> None:
        log.error("old pushes could not be swept: {why}", why=failure.getErrorMessage())
        self._timers.schedule(INTERVAL, self._sweep)
