"""Topics that devices subscribe to: a change is durable first, and then in force on the device's connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from twisted.internet.defer import Deferred

from accessgw.core.audiences import Audiences
from accessgw.core.delivery import Delivery, Opening, Place
from accessgw.core.interfaces import Refused
from accessgw.core.interfaces.sessions import Session
from accessgw.core.interfaces.stores import StreamStore
from accessgw.core.stream_start import Openings
from accessgw.model.pushes import Scope, StreamState
from protocols.mmtp.statuses import Status

MAX_TOPIC = 512
"""Characters of a name."""


class Topics:
    """Changes of one device come one after the other: each begins with what the one before has stored."""

    def __init__(
        self,
        store: StreamStore,
        openings: Openings,
        audiences: Audiences,
        *,
        limit: int,
        enter: Callable[[Delivery, list[tuple[StreamState, Opening]]], None],
        close: Callable[[Place], None],
        look_up: Callable[[Delivery], None],
    ) -> None:
        """`limit`: topics per device. `enter` puts a session on streams and on what began meanwhile, `close` takes it
        off one, `look_up` finds out again where it belongs."""
        self._store = store
        self._openings = openings
        self._audiences = audiences
        self._limit = limit
        self._enter = enter
        self._close = close
        self._look_up = look_up
        self._changing: dict[str, Deferred[None]] = {}
        """The last change under way, by device."""

    def subscribe(self, session: Session, topics: Sequence[str]) -> Deferred[None]:
        """Fails with Refused for bad names and too many topics, StoreUnavailable."""
        return Deferred.fromCoroutine(self._in_turn(session, topics, self._subscribe))

    def unsubscribe(self, session: Session, topics: Sequence[str]) -> Deferred[None]:
        """Fails with StoreUnavailable."""
        return Deferred.fromCoroutine(self._in_turn(session, topics, self._unsubscribe))

    def of(self, session: Session) -> Deferred[list[str]]:
        """Those of the device, sorted."""

        def listed(topics: set[str]) -> list[str]:
            return sorted(topics)

        return self._store.subscriptions(session.identity.device).addCallback(listed)

    async def _in_turn(
        self, session: Session, topics: Sequence[str], change: Callable[[Session, Sequence[str]], Awaitable[None]]
    ) -> None:
        device = session.identity.device
        before = self._changing.get(device)
        mine: Deferred[None] = Deferred()
        self._changing[device] = mine
        try:
            if before is not None:
                await before
            await change(session, topics)
        finally:
            if self._changing[device] is mine:
                del self._changing[device]
            mine.callback(None)

    async def _subscribe(self, session: Session, topics: Sequence[str]) -> None:
        for topic in topics:
            if not 0 < len(topic) <= MAX_TOPIC:
                raise Refused(Status.PROTOCOL, f"topics: expected names of 1..{MAX_TOPIC} characters, got {topic!r}")
        device = session.identity.device
        present = await self._store.subscriptions(device)
        new = set(topics) - present
        if len(present) + len(new) > self._limit:
            raise Refused(Status.FORBIDDEN, f"expected at most {self._limit} topics per device")
        if not new:
            return
        delivery = session.delivery if isinstance(session.delivery, Delivery) else None
        if delivery is not None:
            delivery.wake()
        begun = self._begin(delivery, new)
        try:
            openings = await self._openings.subscribe(device, new)
        except BaseException:
            self._end(delivery, begun)
            if delivery is not None:
                self._audiences.ignore(delivery, begun)
            raise
        self._end(delivery, begun)
        if delivery is not None and delivery.link is not None:
            self._enter(delivery, [(state, opening) for state, opening in openings if state.key.id in begun])
        current = session.delivery
        if isinstance(current, Delivery) and (current is not delivery or begun != new):
            # It connected meanwhile, and may have looked before the subscription was stored.
            self._look_up(current)

    def _begin(self, delivery: Delivery | None, topics: set[str]) -> set[str]:
        """Listen to the topics before their streams are looked up. Those that another call is adding are left to it."""
        if delivery is None or delivery.link is None or delivery.topics is None:
            return set()
        begun = topics - delivery.topics
        delivery.subscribing = (delivery.subscribing or set()) | begun
        delivery.left = delivery.left - begun
        self._audiences.listen(delivery, begun)
        return begun

    def _end(self, delivery: Delivery | None, topics: set[str]) -> None:
        if delivery is not None and delivery.subscribing is not None:
            delivery.subscribing = (delivery.subscribing - topics) or None

    async def _unsubscribe(self, session: Session, topics: Sequence[str]) -> None:
        await self._store.unsubscribe(session.identity.device, list(topics))
        delivery = session.delivery
        if not isinstance(delivery, Delivery) or delivery.link is None or not delivery.woken:
            return
        gone = set(topics)
        if delivery.loading:
            delivery.left = delivery.left | gone
        self._audiences.ignore(delivery, gone)
        for place in list(delivery.places.values()):
            if place.stream.key.scope is Scope.TOPIC and place.stream.key.id in gone:
                self._close(place)
