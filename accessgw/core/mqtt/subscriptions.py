"""SUBSCRIBE and UNSUBSCRIBE: who gets what from now on, and retained messages for new subscriptions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.interfaces.clock import Clock
from accessgw.core.interfaces.mqtt import MqttStore
from accessgw.core.interfaces.mqtt_state import Message, StoredSubscription
from accessgw.core.mqtt.broker import Broker
from accessgw.core.mqtt.session import MqttSession
from protocols.mmtp.nothing import NOTHING
from protocols.mqtt.names import split_shared
from protocols.mqtt.packets import SubscriptionRequest
from protocols.mqtt.reasons import FAILURE, Reason

log = Logger()

FIRST = 20
"""Retained messages of QoS 0 that a session gets at once."""
FEED = 100
"""Those that it gets when its turn comes."""
VAIN_LOOK = 10
"""Of those, what a step costs that looks at topics which the filter does not match."""
TURN = 500
"""Those that one turn of the reactor sends to all sessions, at least FEED to one."""
ON_NEW = 1
NEVER = 2
"""Retain handling (section 3.8.3.1)."""

END = object()

Check = Callable[[SubscriptionRequest], int]
"""The QoS to grant, or a reason code from 0x80 on."""


class Retained(NamedTuple):
    """A retained message for one subscription."""

    message: Message
    qos: int
    identifiers: tuple[int, ...]


class Subscriptions:
    """Subscribes and unsubscribes sessions."""

    def __init__(self, broker: Broker, store: MqttStore, clock: Clock) -> None:
        self._broker = broker
        self._store = store
        self._clock = clock
        self._feeding: dict[MqttSession, None] = {}
        """Sessions whose turn comes, in its order."""
        self._pending: dict[MqttSession, int] = {}
        """New subscriptions on their way to the store: they count against the limit."""
        broker.outbound.feed = self.feed

    def subscribe(
        self, session: MqttSession, requests: Sequence[SubscriptionRequest], identifier: int, check: Check
    ) -> list[int] | Deferred[list[int]]:
        """Reason codes in the order of the requests. A Deferred, which does not fail, when they are durable."""
        reasons: list[int] = []
        granted: list[StoredSubscription] = []
        pending = self._pending.get(session, 0)
        room = self._broker.settings.max_subscriptions - len(session.filters) - pending
        fresh = 0
        for request in requests:
            reason = check(request)
            if reason < FAILURE and request.filter not in session.filters:
                if fresh >= room:
                    reason = Reason.QUOTA_EXCEEDED
                else:
                    fresh += 1
            reasons.append(reason)
            if reason < FAILURE:
                granted.append(StoredSubscription(replace(request, qos=reason), identifier))
        if not session.durable or not granted:
            self._apply(session, granted)
            return reasons
        self._pending[session] = pending + fresh
        stored = self._store.subscribe(session.client_id, granted)

        def settled(result: object) -> object:
            # Another one may have settled before, and found nothing left.
            left = self._pending.get(session, 0) - fresh
            if left:
                self._pending[session] = left
            else:
                self._pending.pop(session, None)
            return result

        def failed(failure: Failure) -> list[int]:
            log.error("subscriptions of {client} cannot be stored: {e}", client=session.client_id, e=failure.value)
            return [reason if reason >= FAILURE else Reason.UNSPECIFIED for reason in reasons]

        def done(_: None) -> list[int]:
            self._apply(session, granted)
            return reasons

        return stored.addBoth(settled).addCallbacks(done, failed)

    def _apply(self, session: MqttSession, granted: Sequence[StoredSubscription]) -> None:
        broker = self._broker
        if broker.sessions.get(session.client_id) is not session:
            return
        feeds: dict[str, Iterator[Retained | None]] = {}
        for one in granted:
            request, identifier = one.request, one.identifier
            if session.filters is NOTHING:
                session.filters = {}
            known = request.filter in session.filters
            session.filters[request.filter] = (request, identifier)
            broker.tree.subscribe(session, request, identifier)
            handling = request.retain_handling
            if len(broker.retained) and handling != NEVER and not (handling == ON_NEW and known):
                group, _ = split_shared(request.filter)
                if not group:
                    feeds[request.filter] = self._retained(request, identifier)
        broker.count_subscriptions()
        if feeds and session.outlet is not None:
            if session.feed is None:
                session.feed = {}
            # Whoever subscribes again gets them from the beginning, not twice.
            session.feed.update(feeds)

    def _retained(self, request: SubscriptionRequest, identifier: int) -> Iterator[Retained | None]:
        """Found as they are sent: what was replaced meanwhile is sent as it is then. None: not found yet."""
        identifiers = (identifier,) if identifier else ()
        for message in self._broker.retained.look(request.filter, self._broker.wall()):
            yield None if message is None else Retained(message, min(request.qos, message.qos), identifiers)

    def feed(self, session: MqttSession) -> None:
        """Send retained messages while the session has room; it is called again when it has more."""
        if session not in self._feeding and self._feed(session, FIRST) <= 0:
            # The rest comes with its turn: many who ask for much at once are not to hold the worker.
            if not self._feeding:
                self._clock.callLater(0, self._feed_on)
            self._feeding[session] = None

    def _feed(self, session: MqttSession, left: int) -> int:
        """How many of so many messages are left; none: there may be more to send."""
        outlet = session.outlet
        if outlet is None:
            return left
        limit = self._broker.settings.max_qos0_buffer // 2
        while left > 0:
            feed = session.feed
            if (
                feed is None
                or outlet.buffered > limit
                or session.behind
                or session.reading
                or session.parked is not None
                or len(session.inflight) >= session.window
            ):
                return left
            filter, messages = next(iter(feed.items()))
            found = next(messages, END)
            if found is END:
                left -= 1
                del feed[filter]
                session.feed = feed or None
            elif isinstance(found, Retained):
                left -= 1
                self._broker.deliver_alone(found.message, session, found.qos, found.identifiers, retain=True)
            else:
                left -= VAIN_LOOK
        return left

    def _feed_on(self) -> None:
        """One turn's worth, in turn."""
        left = TURN
        waiting = len(self._feeding)
        while left > 0 and waiting:
            waiting -= 1
            session = next(iter(self._feeding))
            unused = FEED
            try:
                unused = self._feed(session, FEED)
            except Exception:
                log.failure("retained messages cannot be sent to {client}", client=session.client_id)
            left -= FEED - unused
            del self._feeding[session]
            if unused <= 0:
                self._feeding[session] = None
        if self._feeding:
            self._clock.callLater(0, self._feed_on)

    def unsubscribe(self, session: MqttSession, filters: Sequence[str]) -> list[int] | Deferred[list[int]]:
        """As subscribe."""
        if not session.durable:
            return self._remove(session, filters)
        stored = self._store.unsubscribe(session.client_id, filters)

        def failed(failure: Failure) -> list[int]:
            log.error("subscriptions of {client} cannot be stored: {e}", client=session.client_id, e=failure.value)
            return [Reason.UNSPECIFIED] * len(filters)

        return stored.addCallbacks(lambda _: self._remove(session, filters), failed)

    def _remove(self, session: MqttSession, filters: Sequence[str]) -> list[int]:
        reasons: list[int] = []
        for filter in filters:
            known = session.filters.pop(filter, None) is not None if session.filters else False
            if known:
                self._broker.tree.unsubscribe(session, filter)
                if session.feed is not None and session.feed.pop(filter, None) is not None:
                    session.feed = session.feed or None
            reasons.append(Reason.SUCCESS if known else Reason.NO_SUBSCRIPTION_EXISTED)
        self._broker.count_subscriptions()
        return reasons
