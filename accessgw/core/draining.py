"""Asks connections to leave: at a rate, so that the place they go to is not run over; each gets time to do so."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed

from accessgw.core.interfaces.clock import Clock
from accessgw.core.interfaces.connections import Connection, ConnectionTable
from accessgw.model.reasons import CloseReason
from accessgw.policy.drain import DrainPlan

LOOK_INTERVAL = 0.05
"""Seconds between two looks whether everybody has left."""
ABORT_AFTER = 2.0
"""Seconds between closing what stayed past the bound and breaking it."""


class Draining:
    """Drains the connections of a worker, once or again.

    `announce(spread)` is called before the first is asked to leave, with the seconds over which
    each batch should spread its return.
    """

    def __init__(self, clock: Clock, connections: ConnectionTable, announce: Callable[[float], None]) -> None:
        self.active = False
        """Somebody asked for it; it stays so until the process ends."""
        self._clock = clock
        self._connections = connections
        self._announce = announce
        self._plan: DrainPlan | None = None
        self._waiting: list[Connection] = []

    def begin(self, seconds: float) -> int:
        """Ask every connection to leave over so many seconds; how many there are."""
        total = len(self._connections)
        self._begin(DrainPlan.over(total, seconds, self._clock.seconds()))
        return total

    def begin_at(self, rate: float) -> int:
        """Ask every connection to leave at `rate` connections per second; how many there are."""
        total = len(self._connections)
        self._begin(DrainPlan(total, rate, self._clock.seconds()))
        return total

    def _begin(self, plan: DrainPlan) -> None:
        self.active = True
        running = self._plan is not None
        self._plan = plan
        self._waiting = self._connections.snapshot()
        self._announce(plan.spread)
        if not running:
            self._release()

    def _release(self) -> None:
        plan = self._plan
        if plan is None:
            return
        count = plan.release(self._clock.seconds())
        leaving, self._waiting = self._waiting[:count], self._waiting[count:]
        for connection in leaving:
            connection.retire()
        if self._waiting:
            self._clock.callLater(plan.interval, self._release)
        else:
            self._plan = None

    def emptied(self, timeout: float) -> Deferred[None]:
        """Fires when no connection is left.

        What is still there `timeout` seconds after the last one was asked to leave is closed, then broken.
        """
        if not len(self._connections):
            return succeed(None)
        done: Deferred[None] = Deferred()
        bound = self._clock.seconds() + timeout
        closed = False

        def look() -> None:
            nonlocal bound, closed
            now = self._clock.seconds()
            if not len(self._connections):
                done.callback(None)
                return
            if self._plan is not None:
                bound = now + timeout
            if now >= bound + ABORT_AFTER:
                for connection in self._connections.snapshot():
                    connection.abort(CloseReason.DRAINING)
            elif now >= bound and not closed:
                closed = True
                for connection in self._connections.snapshot():
                    connection.close(CloseReason.DRAINING)
            self._clock.callLater(LOOK_INTERVAL, look)

        look()
        return done
