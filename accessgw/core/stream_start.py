"""Where a device begins in each of its streams: from its own cursors, the stored ones, or a tail.

A marker (a cursor of the stream with an empty biz) says that a device has been introduced to all streams
of a user, a topic or the broadcasts that existed then. A stream without a cursor beside a marker began
later, so the device is owed it from its floor; without one the device is new there and gets the tail.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from twisted.internet.defer import Deferred

from accessgw.core.delivery import HISTORY_LOST, TRUNCATED, Opening
from accessgw.core.interfaces.stores import StoreUnavailable, StreamStore
from accessgw.core.stream_reads import StreamLookup, gather
from accessgw.model.identity import Identity
from accessgw.model.pushes import Cursor, Scope, StreamKey, StreamState
from accessgw.model.settings import PushSettings

MAX_TURNS = 16
"""Look-ups of one device that wait for the one under way. Of more, most are for connections that it has left since."""


def opening_of(state: StreamState, hello: Cursor | None, stored: Cursor | None, tail: int | None) -> Opening:
    """Apply the rules of the specification, section Cursors; `tail` None means from the floor."""
    known = stored is not None and stored.epoch == state.epoch
    saved = min(stored.seq, state.head) if stored is not None and known else -1
    if hello is not None and hello.epoch == state.epoch:
        position, note = min(hello.seq, state.head), ""
    else:
        position = saved if known else -1
        note = HISTORY_LOST if hello is not None or (stored is not None and not known) else ""
        if position < 0:
            position = state.floor if tail is None else max(state.floor, state.head - tail)
    if position < state.floor:
        return Opening(state.floor, saved, note or TRUNCATED)
    return Opening(position, saved, note)


def marker(scope: Scope, id: str) -> StreamKey:
    """Name of the cursor that says: introduced."""
    return StreamKey(scope, id, "")


class Openings:
    """Looks up where devices begin."""

    def __init__(self, store: StreamStore, settings: PushSettings) -> None:
        self._store = store
        self._lookup = StreamLookup(store)
        self._settings = settings
        self._turns: dict[str, list[Deferred[None]]] = {}
        """Look-ups that wait for the one that is under way, by device."""

    async def load(
        self, identity: Identity, hello: Mapping[StreamKey, Cursor], topics_known: Callable[[set[str]], None]
    ) -> list[tuple[StreamState, Opening]]:
        """Every stream of a device with its opening, the positions of new ones saved.

        `topics_known` is called before the topics' streams are looked up, so that whoever listens from then
        on misses nothing. Fails with StoreUnavailable.

        One look-up of a device after the other: two at once would both introduce it, and the later head would be where
        it goes on after a reconnection, though what lies before that was owed to it since the earlier one. With MAX_TURNS
        waiting, the one that has waited longest fails.
        """
        device = identity.device
        turns = self._turns.get(device)
        if turns is None:
            self._turns[device] = []
        else:
            turn: Deferred[None] = Deferred()
            turns.append(turn)
            if len(turns) > MAX_TURNS and not (longest := turns.pop(0)).called:
                longest.errback(StoreUnavailable(f"more than {MAX_TURNS} look-ups of one device wait"))
            await turn
        try:
            return await self._load(identity, hello, topics_known)
        finally:
            self._pass_on(device)

    def _pass_on(self, device: str) -> None:
        turns = self._turns[device]
        while turns:
            turn = turns.pop(0)
            if not turn.called:  # it was cancelled
                turn.callback(None)
                return
        del self._turns[device]

    async def _load(
        self, identity: Identity, hello: Mapping[StreamKey, Cursor], topics_known: Callable[[set[str]], None]
    ) -> list[tuple[StreamState, Opening]]:
        waiting: list[Deferred[Any]] = [
            self._store.cursors(identity.device),
            self._store.subscriptions(identity.device),
            self._lookup.streams_of(Scope.DEVICE, identity.device),
            self._lookup.streams_of(Scope.BROADCAST, ""),
        ]
        if identity.user:
            waiting.append(self._lookup.streams_of(Scope.USER, identity.user))
        cursors, topics, *found = await gather(waiting)
        topics_known(topics)
        if topics:
            found += await gather([self._lookup.streams_of(Scope.TOPIC, topic) for topic in topics])
        audiences = [(Scope.BROADCAST, "")]
        if identity.user:
            audiences.append((Scope.USER, identity.user))
        return self._decide(identity.device, (s for states in found for s in states), hello, cursors, audiences)

    def _decide(
        self,
        device: str,
        states: Iterable[StreamState],
        hello: Mapping[StreamKey, Cursor],
        cursors: Mapping[StreamKey, Cursor],
        audiences: Iterable[tuple[Scope, str]],
    ) -> list[tuple[StreamState, Opening]]:
        new = {marker(*audience) for audience in audiences} - cursors.keys()
        starts = [Cursor(key, 0, 0) for key in new]
        openings = []
        for state in states:
            key = state.key
            tail = self._tail(key.scope) if marker(key.scope, key.id) in new else None
            opening = opening_of(state, hello.get(key), cursors.get(key), tail)
            if (tail is not None or opening.note == HISTORY_LOST) and opening.position > opening.saved:
                starts.append(Cursor(key, state.epoch, opening.position))
                opening = Opening(opening.position, opening.position, opening.note)
            openings.append((state, opening))
        if starts:
            self._store.save_cursors(device, starts)
        return openings

    async def subscribe(self, device: str, topics: Collection[str]) -> list[tuple[StreamState, Opening]]:
        """Subscribe a device to further topics, durably, each with its beginning; streams and openings."""
        found = await gather([self._lookup.streams_of(Scope.TOPIC, topic) for topic in topics])
        states = [state for states in found for state in states]
        openings = []
        cursors = [Cursor(marker(Scope.TOPIC, topic), 0, 0) for topic in topics]
        for state in states:
            position = max(state.floor, state.head - self._settings.new_subscription_tail)
            openings.append((state, Opening(position, position)))
            cursors.append(Cursor(state.key, state.epoch, position))
        await self._store.subscribe(device, list(topics), cursors)
        return openings

    def _tail(self, scope: Scope) -> int:
        return self._settings.new_device_tail if scope is Scope.USER else self._settings.new_device_broadcast_tail
