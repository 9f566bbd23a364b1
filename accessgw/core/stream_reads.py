"""Reads of the store that many sessions share: backlogs from one position, and which streams there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.courier import READ_PUSHES, Courier
from accessgw.core.delivery import Place
from accessgw.core.fanout import Fanout
from accessgw.core.interfaces.clock import Timers
from accessgw.core.interfaces.pushes import OutgoingPush
from accessgw.core.interfaces.stores import StreamStore
from accessgw.core.streams import Entry, Segment, Stream, StreamTable
from accessgw.core.visibility import InvalidWhere, Visibility, compile_where
from accessgw.model.pushes import Scope, StoredPush, StreamKey, StreamState

log = Logger()

READ_BYTES = 64 * 1024
RETRY = 1.0
"""Seconds until a failed read is tried again."""


def gather(waiting: list[Deferred[Any]]) -> Deferred[list[Any]]:
    """All results in order; fails with the first failure itself, when all have ended."""
    both: Deferred[list[Any]] = gatherResults([one.addErrback(_keep) for one in waiting])
    return both.addCallback(_raise_first)


def _keep(failure: Failure) -> Failure | tuple[Failure]:
    return (failure,)


def _raise_first(results: list[Any]) -> Any:
    for result in results:
        if type(result) is tuple and result and isinstance(result[0], Failure):
            return result[0]
    return results


def entry_of(stream: Stream, stored: StoredPush, now: float) -> Entry:
    """A stored push as it goes out; wall-clock `now`."""
    push = OutgoingPush(
        stream.key,
        stream.alias,
        stream.epoch,
        stored.seq,
        stored.body,
        None if stored.expires_at is None else stored.expires_at - now,
        stored.collapse,
        int(stored.priority),
    )
    return Entry(push, stored.expires_at, visibility_of(stream.key, stored), now)


class _Nobody(Visibility):
    def admits(self, identity: object) -> bool:
        return False


_NOBODY = _Nobody(())


def visibility_of(key: StreamKey, stored: StoredPush) -> Visibility | None:
    """Appends refuse what cannot be compiled; should the store hold such a push all the same, nobody sees it."""
    try:
        return compile_where(stored.where)
    except InvalidWhere as error:
        log.error("push {seq} of {stream} reaches nobody: {error}", seq=stored.seq, stream=key, error=error)
        return _NOBODY


class BacklogReader:
    """Reads pushes for places that are behind; one read serves all that stand at the same position."""

    def __init__(
        self,
        store: StreamStore,
        table: StreamTable,
        courier: Courier,
        fanout: Fanout,
        *,
        timers: Timers,
        wall: Callable[[], float],
    ) -> None:
        self._store = store
        self._table = table
        self._courier = courier
        self._fanout = fanout
        self._timers = timers
        self._wall = wall
        self._waiting: dict[tuple[Stream, int, int], list[Place]] = {}

    def read(self, place: Place, limit: int) -> None:
        """The place gets Courier.deliver, or is pumped again after a failure."""
        stream = place.stream
        flight = (stream, place.epoch, place.sent)
        waiting = self._waiting.get(flight)
        if waiting is not None:
            waiting.append(place)
            return
        self._waiting[flight] = [place]
        if stream.shared:
            limit = READ_PUSHES
        found = Deferred.fromCoroutine(self._read(stream, place.sent, limit))
        found.addCallbacks(self._arrived, self._failed, callbackArgs=(flight,), errbackArgs=(flight,))
        found.addErrback(lambda failure: log.failure("a backlog could not be delivered", failure))

    async def _read(self, stream: Stream, after: int, limit: int) -> tuple[list[StoredPush], int, int]:
        """Pushes, up to where they are complete, and the floor that was found above `after` (or 0)."""
        head = stream.head
        pushes = await self._store.read(stream.key, after, limit, READ_BYTES)
        if pushes and pushes[0].seq == after + 1:
            return pushes, pushes[-1].seq, 0
        # The gap may be collapsed and expired pushes, or the floor has passed us: the device must be told which.
        state = (await self._store.states([stream.key])).get(stream.key)
        floor = state.floor if state is not None and state.epoch == stream.epoch else 0
        if pushes:
            return pushes, pushes[-1].seq, min(floor, pushes[0].seq - 1)
        return pushes, max(head, floor), floor

    def _arrived(self, found: tuple[list[StoredPush], int, int], flight: tuple[Stream, int, int]) -> None:
        places = self._waiting.pop(flight)
        stream, epoch, after = flight
        if epoch != stream.epoch:
            self._again(places)
            return
        pushes, end, floor = found
        now = self._wall()
        segment = Segment(after, end, [entry_of(stream, push, now) for push in pushes])
        for entry in reversed(segment.entries):
            if not entry.push.priority:
                stream.urgent = max(stream.urgent, entry.seq)
                break
        stream.floor = max(stream.floor, floor)
        if stream.shared and stream.members:
            self._table.absorb(stream, segment)
        if end > stream.head:
            stream.head = end
            self._fanout.visit(stream)
        self._fanout.deliver(stream, places, segment, floor)

    def _failed(self, failure: Failure, flight: tuple[Stream, int, int]) -> None:
        places = self._waiting.pop(flight)
        log.warn(
            "reading {stream} failed, trying again: {error}", stream=flight[0].key, error=failure.getErrorMessage()
        )
        self._timers.schedule(RETRY, lambda: self._again(places))

    def _again(self, places: list[Place]) -> None:
        for place in places:
            place.reading = False
            self._courier.pump(place)


class StreamLookup:
    """StreamStore.streams_of, shared: whoever asks while a look-up is under way gets the result of the next
    one, so that nobody is told less than there was when they asked."""

    def __init__(self, store: StreamStore) -> None:
        self._store = store
        self._next: dict[tuple[str, str], list[Deferred[list[StreamState]]]] = {}

    def streams_of(self, scope: Scope, id: str) -> Deferred[list[StreamState]]:
        if scope in (Scope.DEVICE, Scope.USER):
            return self._store.streams_of(scope, id)
        result: Deferred[list[StreamState]] = Deferred()
        key = (scope, id)
        waiting = self._next.get(key)
        if waiting is not None:
            waiting.append(result)
        else:
            self._start(key, [result])
        return result

    def _start(self, key: tuple[str, str], waiting: list[Deferred[list[StreamState]]]) -> None:
        self._next[key] = []
        self._store.streams_of(*key).addBoth(self._finished, key, waiting)

    def _finished(
        self, result: list[StreamState] | Failure, key: tuple[str, str], waiting: list[Deferred[list[StreamState]]]
    ) -> None:
        following = self._next.pop(key)
        if following:
            self._start(key, following)
        for one in waiting:
            one.callback(result)
