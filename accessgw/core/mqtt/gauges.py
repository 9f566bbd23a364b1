"""How much is in flight and waits, counted over all sessions now and then, some of them in each turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from accessgw.core.interfaces.clock import Clock, Timers
from accessgw.core.mqtt.session import MqttSession
from accessgw.model.counters import MqttCounters

INTERVAL = 5.0
"""Seconds between the end of one count and the beginning of the next."""
AT_ONCE = 2000
"""Sessions looked at in one turn of the reactor: about a millisecond."""


class SessionGauges:
    """Keeps `inflight` and `queued` of the counters: what they were at the last count."""

    def __init__(
        self,
        sessions: Mapping[str, MqttSession],
        waiting: Callable[[MqttSession], int],
        counters: MqttCounters,
        *,
        clock: Clock,
        timers: Timers,
    ) -> None:
        """`waiting(session)` is how many messages wait for it, in memory and in the store."""
        self._sessions = sessions
        self._waiting = waiting
        self._counters = counters
        self._clock = clock
        self._timers = timers
        self._inflight = 0
        self._queued = 0

    def start(self) -> None:
        """Count now, and again and again."""
        self._inflight = self._queued = 0
        self._step(iter(tuple(self._sessions.values())))

    def _step(self, left: Iterator[MqttSession]) -> None:
        counted = 0
        for session in islice(left, AT_ONCE):
            counted += 1
            self._inflight += len(session.inflight)
            self._queued += self._waiting(session)
        if counted == AT_ONCE:
            self._clock.callLater(0, self._step, left)
            return
        self._counters.inflight = self._inflight
        self._counters.queued = self._queued
        self._timers.schedule(INTERVAL, self.start)
