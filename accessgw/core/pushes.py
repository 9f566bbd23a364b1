"""The push service: what sessions and the control API call, and who is to get what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import MsgspecError
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.audiences import Audiences, Registry
from accessgw.core.courier import Courier
from accessgw.core.delivery import BEGINNING, HISTORY_LOST, NO_TOPICS, Delivery, Opening
from accessgw.core.fanout import Fanout
from accessgw.core.interfaces.bus import Bus
from accessgw.core.interfaces.clock import Clock, Timers
from accessgw.core.interfaces.sessions import Session
from accessgw.core.interfaces.stores import StreamStore
from accessgw.core.places import Places
from accessgw.core.push_append import Appender, PushFilters
from accessgw.core.push_notices import TOPIC, Notice, decode
from accessgw.core.push_short import ShortPushes
from accessgw.core.push_topics import Topics
from accessgw.core.stream_heads import HeadCheck
from accessgw.core.stream_reads import BacklogReader, entry_of
from accessgw.core.stream_start import Openings
from accessgw.core.streams import Stream, StreamTable
from accessgw.model.counters import PushCounters
from accessgw.model.pushes import Cursor, PushRequest, PushResult, Scope, StoredPush, StreamKey, StreamState
from accessgw.model.settings import PushSettings

log = Logger()

FIRST_RETRY = 1.0
LAST_RETRY = 30.0


class Pushes:
    """PushService of core.interfaces."""

    def __init__(
        self,
        clock: Clock,
        wall: Callable[[], float],
        store: StreamStore,
        bus: Bus,
        registry: Registry,
        *,
        settings: PushSettings,
        counters: PushCounters,
        filters: PushFilters,
        timers: Timers,
        max_subscriptions: int = 100,
        head_check: float = 30.0,
        flush: Callable[[], None] = lambda: None,
        observe: Callable[[PushRequest], None] = lambda request: None,
    ) -> None:
        """`flush` makes the links write what was sent to them (TurnFlusher.flush). `head_check`: an acknowledgement on
        a stream whose head the store has not confirmed for so many seconds asks it, in case a notice was lost; 0 where
        the bus loses none. `observe` gets each push once, when it was stored."""
        self._clock = clock
        self._wall = wall
        self._store = store
        self._bus = bus
        self._settings = settings
        self._timers = timers
        self._audiences = Audiences(registry)
        self._table = StreamTable()
        self._places = Places(store, self._table, counters)
        self._courier = Courier(clock, wall, self._places, timers=timers, settings=settings, counters=counters)
        self._fanout = Fanout(
            clock, self._courier, self._table, counters, slice_seconds=settings.fanout_slice, flush=flush
        )
        self._courier.reader = BacklogReader(store, self._table, self._courier, self._fanout, timers=timers, wall=wall)
        self._openings = Openings(store, settings)
        self._topics = Topics(
            store,
            self._openings,
            self._audiences,
            limit=max_subscriptions,
            enter=self._enter_openings,
            close=self._places.close,
            look_up=lambda delivery: self._load(delivery, {}),
        )
        self._appender = Appender(
            store, bus, filters, wall, settings=settings, counters=counters, live=self._audiences.live, observe=observe
        )
        self._short = ShortPushes(self._openings, store, wall)
        self._heads = HeadCheck(clock, store, self._observe, head_check)
        self._counters = counters
        self._saving = False
        self._unsubscribe_bus: Callable[[], None] | None = bus.subscribe(TOPIC, self._receive)

    def replace_bounds(self, settings: PushSettings) -> None:
        """Hold further appends to max_batch and max_payload of these settings."""
        self._appender.settings = settings

    def stop(self) -> None:
        """Save all cursors and hear no more notices."""
        if self._unsubscribe_bus is not None:
            self._unsubscribe_bus()
            self._unsubscribe_bus = None
        for delivery in list(self._places.dirty):
            self._places.save(delivery)
        self._places.dirty.clear()

    # --- sessions

    def attach(self, session: Session, cursors: Sequence[Cursor], *, passing: bool = False) -> None:
        if session.delivery is not None:
            self.detach(session)
        if session.link is None:
            return
        delivery = Delivery(session, session.link)
        session.delivery = delivery
        self._audiences.enter(delivery)
        identity = delivery.identity
        if passing and not cursors and self._store.knows_nothing_of(identity.device, identity.user):
            delivery.topics = NO_TOPICS
            return
        self._load(delivery, {cursor.stream: cursor for cursor in cursors})

    def detach(self, session: Session) -> None:
        delivery = session.delivery
        session.delivery = None
        if not isinstance(delivery, Delivery):
            return
        self._audiences.leave(delivery)
        if delivery.woken:
            self._courier.drop(delivery)
        else:
            delivery.link = None

    def acked(self, session: Session, places: Sequence[tuple[int, int]]) -> None:
        delivery = session.delivery
        if isinstance(delivery, Delivery) and delivery.woken:
            self._courier.acked(delivery, places)
            self._heads.touch(delivery, places)
            if self._places.dirty and not self._saving:
                self._save_later()

    def writable(self, session: Session) -> None:
        delivery = session.delivery
        if isinstance(delivery, Delivery) and delivery.woken:
            self._courier.writable(delivery)

    def activity(self, session: Session) -> None:
        delivery = session.delivery
        if isinstance(delivery, Delivery) and delivery.woken and delivery.held:
            self._courier.activity(delivery)

    def append(
        self, requests: Sequence[PushRequest], idempotency_key: str = "", digest: bytes = b""
    ) -> Deferred[list[PushResult]]:
        return Deferred.fromCoroutine(self._appender.append(requests, idempotency_key, digest))

    def pending(
        self, session: Session, cursors: Sequence[Cursor], limit: int, max_bytes: int
    ) -> Deferred[list[tuple[StreamKey, int, StoredPush]]]:
        return Deferred.fromCoroutine(self._short.pending(session, cursors, limit, max_bytes))

    # --- topics

    def subscribe(self, session: Session, topics: Sequence[str]) -> Deferred[None]:
        """Fails with Refused for bad names and too many topics, StoreUnavailable."""
        return self._topics.subscribe(session, topics)

    def unsubscribe(self, session: Session, topics: Sequence[str]) -> Deferred[None]:
        return self._topics.unsubscribe(session, topics)

    def subscriptions(self, session: Session) -> Deferred[list[str]]:
        return self._topics.of(session)

    # --- where a session begins

    def _load(self, delivery: Delivery, hello: dict[StreamKey, Cursor]) -> None:
        """Look up the places of a session; those that it has already stay as they are."""
        delivery.wake()
        delivery.loading += 1
        self._look_up(delivery, hello, FIRST_RETRY)

    def _look_up(self, delivery: Delivery, hello: dict[StreamKey, Cursor], retry: float) -> None:
        def topics_known(topics: set[str]) -> None:
            if delivery.link is None:
                return
            present = topics - delivery.left
            self._audiences.listen(delivery, present)

        def loaded(openings: list[tuple[StreamState, Opening]]) -> None:
            if delivery.link is None:
                return
            delivery.loading -= 1
            if not delivery.loading:
                delivery.left = NO_TOPICS
            for state, opening in openings:
                hello.pop(state.key, None)
                if state.key.scope is Scope.TOPIC and state.key.id not in (delivery.topics or ()):
                    continue
                self._enter(delivery, self._opened(state), opening)
            if hello:
                delivery.cursors = hello
            self._enter_noticed(delivery)

        def failed(failure: Failure) -> None:
            if delivery.link is None:
                return
            log.warn(
                "streams of device {device} could not be read, trying again: {error}",
                device=delivery.device,
                error=failure.getErrorMessage(),
            )
            self._timers.schedule(retry, again)

        def again() -> None:
            if delivery.link is not None:
                self._look_up(delivery, hello, min(2 * retry, LAST_RETRY))

        found = Deferred.fromCoroutine(self._openings.load(delivery.identity, hello, topics_known))
        found.addCallbacks(loaded, failed)
        found.addErrback(lambda failure: log.failure("a session could not be attached to its streams", failure))

    def _opened(self, state: StreamState) -> Stream:
        """The stream of a state that came from the store."""
        stream = self._table.get(state.key)
        if stream is None:
            stream = self._begin(state)
        else:
            self._observe(stream, state)
        return stream

    def _begin(self, state: StreamState) -> Stream:
        """Open a stream and tell every session here that it reaches."""
        stream = self._table.open(state)
        stream.checked_at = self._clock.seconds()
        self._fanout.join(stream, self._audiences.of(state.key), self._enter_begun)
        return stream

    def _enter_openings(self, delivery: Delivery, openings: list[tuple[StreamState, Opening]]) -> None:
        for state, opening in openings:
            self._enter(delivery, self._opened(state), opening)
        self._enter_noticed(delivery)

    def _enter(self, delivery: Delivery, stream: Stream, opening: Opening, active: bool = True) -> None:
        """`active`: the device did something to come here, so that nothing waits for its next activity."""
        place = self._places.open(delivery, stream, opening)
        if place is not None:
            if active:
                place.released = stream.head
            self._courier.pump(place)

    def _enter_begun(self, delivery: Delivery, stream: Stream) -> None:
        """A session meets a stream that was opened here. If it has no place in it although its places are
        known, then the stream began after they were looked up."""
        delivery.wake()
        if stream.alias in delivery.places:
            place = delivery.places[stream.alias]
            if not place.closing:
                return
        scope, id, _ = stream.key
        if scope is Scope.TOPIC:
            if delivery.topics is None or id not in delivery.topics:
                return
            if delivery.subscribing and id in delivery.subscribing:
                delivery.notice(stream)
                return
        if delivery.loading:
            delivery.notice(stream)
            return
        opening = BEGINNING
        if delivery.cursors:
            cursor = delivery.cursors.pop(stream.key, None)
            if cursor is not None and cursor.epoch != stream.epoch:
                opening = Opening(0, 0, HISTORY_LOST)
        self._enter(delivery, stream, opening, active=False)

    def _enter_noticed(self, delivery: Delivery) -> None:
        """Streams that began while the places were looked up. The look-up may have found them as they were before, and
        what we were told of them was forgotten meanwhile, as they had no member: it counts all the same."""
        if delivery.loading:
            return
        noticed, delivery.noticed = delivery.noticed, None
        for key, told in (noticed or {}).items():
            stream = self._table.get(key)
            if stream is None:
                stream = self._begin(StreamState(key, told.epoch, told.head, told.floor))
            elif stream.epoch != told.epoch:
                self._heads.check(stream)
            elif stream.head < told.head:
                stream.head = told.head
                self._fanout.visit(stream)
            self._enter_begun(delivery, stream)

    # --- live

    def _receive(self, message: bytes) -> None:
        """Notices from the bus."""
        try:
            notices = decode(message)
        except MsgspecError as error:
            log.error("a notice could not be read: {error}", error=error)
            return
        for notice in notices:
            self._live_push(notice)

    def _live_push(self, notice: Notice) -> None:
        key = notice.stream
        stream = self._table.get(key)
        if stream is None:
            if not self._audiences.reached(key):
                return
            stream = self._begin(StreamState(key, notice.epoch, notice.seq, 0))
        elif stream.epoch != notice.epoch:
            self._heads.check(stream)
            return
        stream.head = max(stream.head, notice.seq)
        if not notice.priority:
            stream.urgent = max(stream.urgent, notice.seq)
        stored = notice.stored()
        if stored is not None:
            self._counters.collapsed += self._table.extend(stream, entry_of(stream, stored, self._wall()))
        self._fanout.visit(stream)

    def _observe(self, stream: Stream, state: StreamState) -> None:
        """What the store says of an open stream."""
        stream.checked_at = self._clock.seconds()
        if state.epoch != stream.epoch:
            # Its history was lost under way; each place begins again when it is visited.
            self._table.forget_ring(stream)
            stream.epoch, stream.head, stream.floor, stream.urgent = state.epoch, state.head, state.floor, 0
            self._fanout.visit(stream)
            return
        stream.floor = max(stream.floor, state.floor)
        if state.head > stream.head:
            stream.head = state.head
            self._fanout.visit(stream)

    # --- cursors

    def _save_later(self) -> None:
        self._saving = True
        self._clock.callLater(self._settings.cursor_flush, self._save)

    def _save(self) -> None:
        self._saving = False
        if self._places.dirty:
            self._fanout.submit(_Saving(self._places))


class _Saving:
    """A job: hand the cursors that moved to the store."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._dirty, places.dirty = places.dirty, {}

    def step(self, budget: int) -> bool:
        dirty: dict[Any, None] = self._dirty
        for _ in range(min(budget, len(dirty))):
            delivery, _ = dirty.popitem()
            self._places.save(delivery)
        return bool(dirty)
