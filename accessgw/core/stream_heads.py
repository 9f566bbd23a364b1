"""Repairs what lost notices would hide: now and then the store is asked where busy streams stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.delivery import Delivery
from accessgw.core.interfaces.clock import Clock
from accessgw.core.interfaces.stores import StreamStore
from accessgw.core.streams import Stream
from accessgw.model.pushes import StreamKey, StreamState

log = Logger()

BATCH = 500
"""Streams asked about in one call."""


class HeadCheck:
    """Collects streams to ask about; one call of the store for all of a turn."""

    def __init__(
        self, clock: Clock, store: StreamStore, observe: Callable[[Stream, StreamState], None], interval: float
    ) -> None:
        self._clock = clock
        self._store = store
        self._observe = observe
        self._interval = interval
        self._due: dict[StreamKey, Stream] = {}
        self._busy = False

    def touch(self, delivery: Delivery, places: Sequence[tuple[int, int]]) -> None:
        """A session acknowledged pushes of these (alias, seq): look whether their streams have grown unheard."""
        if not self._interval:
            return
        before = self._clock.seconds() - self._interval
        for alias, _ in places:
            place = delivery.places.get(alias)
            if place is not None and place.stream.checked_at < before:
                self.check(place.stream)

    def check(self, stream: Stream) -> None:
        """Ask about the stream soon."""
        stream.checked_at = self._clock.seconds()
        self._due[stream.key] = stream
        if not self._busy:
            self._busy = True
            self._clock.callLater(0, self._ask)

    def _ask(self) -> None:
        asked = dict(list(self._due.items())[:BATCH])
        for key in asked:
            del self._due[key]
        answer = self._store.states(list(asked))
        answer.addCallbacks(self._answered, self._failed, callbackArgs=(asked,))
        answer.addErrback(lambda failure: log.failure("heads could not be compared", failure))
        answer.addBoth(self._next)

    def _answered(self, states: dict[StreamKey, StreamState], asked: dict[StreamKey, Stream]) -> None:
        for key, state in states.items():
            self._observe(asked[key], state)

    def _failed(self, failure: Failure) -> None:
        log.warn("heads of streams could not be read: {error}", error=failure.getErrorMessage())

    def _next(self, _: object) -> None:
        if self._due:
            self._clock.callLater(0, self._ask)
        else:
            self._busy = False
