"""Wills that wait for their delay (MQTT 5, section 3.1.3.2.2): when each is due, and how much they may be together."""

from __future__ import annotations

from collections.abc import Callable

from accessgw.core.interfaces.clock import Timers
from accessgw.core.interfaces.mqtt_state import StoredWill
from accessgw.core.mqtt.deadlines import BATCH, Deadlines
from accessgw.model.counters import MqttCounters

OVERHEAD = 500
"""Bytes that a will costs beside its topic, payload and properties."""


class WaitingWills:
    """Wills by client id, until they are due.

    Past `limit()` bytes those that are due soonest are due at once: a will that comes too early says less that
    is wrong than one that is lost, and theirs is the shortest time by which it is too early.
    """

    def __init__(
        self,
        timers: Timers,
        wall: Callable[[], float],
        due: Callable[[str], None],
        limit: Callable[[], int],
        counters: MqttCounters,
    ) -> None:
        """`due(client_id)` is called once for each that was not removed, perhaps within `add` when it is too early."""
        self._timers = timers
        self._due = due
        self._limit = limit
        self._counters = counters
        self._deadlines = Deadlines(timers, wall, self._in_time)
        self._sizes: dict[str, int] = {}
        self._bytes = 0
        self._later = False
        """There is a turn to come that publishes what is too much."""

    def add(self, client_id: str, will: StoredWill, *, restored: bool = False) -> None:
        """It has a `due_at`. What is too much is due in a later turn of the reactor when it is `restored`: not before
        everything else is."""
        assert will.due_at is not None
        size = OVERHEAD + will.size
        if size > self._limit() and not restored:
            # It would drive out all others, and still not fit.
            self._counters.wills_early += 1
            self._due(client_id)
            return
        self._sizes[client_id] = size
        self._count(size)
        self._deadlines.add(client_id, will.due_at)
        if self._bytes > self._limit():
            if not restored:
                self._shrink()
            elif not self._later:
                self._shrink_later()

    def remove(self, client_id: str, will: StoredWill) -> None:
        """It waits no more; nothing when it did not."""
        size = self._sizes.pop(client_id, 0)
        if size and will.due_at is not None:
            self._count(-size)
            self._deadlines.remove(client_id, will.due_at)

    def _count(self, size: int) -> None:
        self._bytes += size
        self._counters.wills_waiting = len(self._sizes)
        self._counters.wills_waiting_bytes = self._bytes

    def _in_time(self, client_id: str) -> None:
        self._count(-self._sizes.pop(client_id))
        self._due(client_id)

    def _shrink_later(self) -> None:
        self._later = True
        self._timers.schedule(0.0, self._shrink)

    def _shrink(self) -> None:
        """A bounded batch: one will takes the place of so many small ones at most, and more only after a restart."""
        self._later = False
        for _ in range(BATCH):
            if self._bytes <= self._limit():
                return
            client_id = self._deadlines.pop_first()
            if client_id is None:
                return
            self._counters.wills_early += 1
            self._in_time(client_id)
        self._shrink_later()
