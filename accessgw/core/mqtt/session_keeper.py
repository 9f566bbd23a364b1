"""Sessions of MQTT clients: opened, taken over, left, expired and restored; and their wills."""

from __future__ import annotations

import math
from collections.abc import Callable

from msgspec import Struct
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.interfaces.clock import Timers
from accessgw.core.interfaces.mqtt import MqttStore
from accessgw.core.interfaces.mqtt_state import Message, MqttState, StoredSession, StoredWill
from accessgw.core.mqtt.broker import Broker
from accessgw.core.mqtt.deadlines import Deadlines
from accessgw.core.mqtt.session import MqttSession, Outlet
from accessgw.core.mqtt.waiting_wills import WaitingWills
from accessgw.model.counters import MqttCounters
from accessgw.model.identity import Identity
from protocols.mqtt.packets import V5, Property
from protocols.mqtt.reasons import Reason

log = Logger()


class Opening(Struct):
    """How a client wants to be connected (section 3.1)."""

    client_id: str
    identity: Identity | None
    user: str
    version: int
    clean_start: bool
    expiry: float
    """Seconds, as granted."""
    will: StoredWill | None
    max_packet: int = 0
    alias_maximum: int = 0
    always: bool = False
    """It outlives its connection however many sessions there are: the gateway's own."""


class Opened(Struct):
    """The session of a connection."""

    session: MqttSession
    present: bool
    """It is an earlier one that goes on."""
    ready: Deferred[None] | None
    """Fires when what the client may rely on is durable; None: it is. Fails with StoreUnavailable."""


class SessionKeeper:
    """Keeps the sessions of a broker."""

    def __init__(
        self,
        broker: Broker,
        store: MqttStore,
        timers: Timers,
        wall: Callable[[], float],
        counters: MqttCounters,
    ) -> None:
        self._broker = broker
        self._sessions = broker.sessions
        self._store = store
        self._wall = wall
        self._counters = counters
        self._expiries = Deadlines(timers, wall, self._expire)
        self._wills = WaitingWills(timers, wall, self._will_due, lambda: self._broker.settings.max_will_bytes, counters)
        self._durable = 0
        self._orphans: dict[str, StoredWill] = {}
        """Wills of connections that a restart has ended, whose sessions ended with them."""

    # ---------------------------------------------------------------- a connection begins

    def open(self, opening: Opening, outlet: Outlet) -> Opened:
        """Give the outlet its session; an earlier connection of the client is displaced (section 3.1.4)."""
        client_id = opening.client_id
        if self._orphans:
            self._publish_orphan(client_id)
        existing = self._sessions.get(client_id)
        if existing is not None and existing.outlet is not None:
            existing.outlet.displace(Reason.SESSION_TAKEN_OVER)
            existing = self._sessions.get(client_id)
        if existing is not None and (opening.clean_start or existing.user != opening.user):
            self.end(existing)
            existing = None
        if existing is not None:
            session = existing
            self._cancel(session)
        else:
            session = self._sessions[client_id] = MqttSession(client_id, opening.identity, opening.user)
            self._counters.sessions += 1
            if opening.expiry > 0 and (opening.always or self._durable < self._broker.settings.max_sessions):
                session.durable = True
                self._durable += 1
        session.identity = opening.identity
        session.version = opening.version
        session.v5 = opening.version == V5
        session.expiry = opening.expiry if session.durable else 0.0
        session.connection += 1
        session.outlet = outlet
        session.window = 0  # nothing is sent before CONNACK: whoever sends that opens the window
        session.max_packet = opening.max_packet
        session.alias_maximum = opening.alias_maximum
        session.aliases = {} if opening.alias_maximum else None
        session.will = opening.will
        self._counters.connected += 1
        if not session.durable and opening.will is None:
            return Opened(session, existing is not None, None)
        saved: list[Deferred[None]] = []
        if session.durable:
            saved.append(self._save(session, None))
        if opening.will is not None:
            saved.append(self._store.save_will(client_id, opening.will))
        ready = _all(saved) if opening.will is not None else None
        if ready is None:
            # Whatever the client is promised later is stored after this, in order.
            for one in saved:
                one.addErrback(self._not_opened, session, session.connection, existing is not None)
        return Opened(session, existing is not None, ready)

    def _not_opened(self, failure: object, session: MqttSession, connection: int, known: bool) -> None:
        """The store does not know of the connection, perhaps not of the session: nothing may be promised to it."""
        self._unsaved(failure, session.client_id)
        if session.connection != connection:
            return
        if session.outlet is not None:
            session.outlet.displace(Reason.SERVER_UNAVAILABLE)
        if not known:
            self.end(session)

    def _cancel(self, session: MqttSession) -> None:
        """The client is back in time."""
        self._expiries.remove(session.client_id, session.expires_at)
        will = session.will
        if will is not None:
            self._wills.remove(session.client_id, will)
            session.will = None
            self._store.forget_will(session.client_id)

    # ---------------------------------------------------------------- a connection ends

    def close(self, session: MqttSession, outlet: Outlet, *, with_will: bool, expiry: float | None = None) -> None:
        """The connection is over; `with_will`: not by the client's wish. A later call for it does nothing."""
        if session.outlet is not outlet:
            return
        session.forget_transient()
        session.connection += 1
        self._counters.connected -= 1
        if expiry is not None and session.durable:
            session.expiry = expiry
        will = session.will
        if will is not None and not with_will:
            will = session.will = None
            self._store.forget_will(session.client_id)
        if session.expiry <= 0:
            self.end(session)
            return
        now = self._wall()
        session.expires_at = now + session.expiry
        self._expiries.add(session.client_id, session.expires_at)
        self._save(session, now).addErrback(self._unsaved, session.client_id)
        if will is None:
            return
        if will.delay <= 0:
            self._publish_will(session)
            return
        will.due_at = min(now + will.delay, session.expires_at)
        self._store.save_will(session.client_id, will).addErrback(self._unsaved, session.client_id)
        self._wills.add(session.client_id, will)

    def waiting(self, session: MqttSession) -> int:
        """Messages that wait for it beyond those in flight, for reports."""
        if session.durable:
            # those in flight have packet ids there, and do not wait
            return self._store.waiting(session.client_id)
        return len(session.parked or ())

    def end(self, session: MqttSession) -> None:
        """The session is over: nothing of it is left but its will, which is due now (section 3.1.2.5)."""
        client_id = session.client_id
        if self._sessions.get(client_id) is not session:
            return
        del self._sessions[client_id]
        self._counters.sessions -= 1
        if session.expires_at:
            self._expiries.remove(client_id, session.expires_at)
        if session.will is not None:
            self._wills.remove(client_id, session.will)
        if session.filters:
            for filter in session.filters:
                self._broker.tree.unsubscribe(session, filter)
            self._broker.count_subscriptions()
        if session.durable:
            self._durable -= 1
            self._store.end_session(client_id).addErrback(self._unsaved, client_id)
        if session.will is not None:
            self._publish_will(session)
        if self._broker.rules is not None:
            self._broker.rules.session_ended(client_id)

    def _expire(self, client_id: str) -> None:
        session = self._sessions.get(client_id)
        if session is not None and session.outlet is None:
            self._counters.sessions_expired += 1
            self.end(session)

    # ---------------------------------------------------------------- wills

    def _will_due(self, client_id: str) -> None:
        session = self._sessions.get(client_id)
        if session is not None:
            if session.outlet is None:
                self._publish_will(session)
            return
        self._publish_orphan(client_id)

    def _publish_orphan(self, client_id: str) -> None:
        """The will of a session that a restart has ended, due since: before a new session has one of its own."""
        will = self._orphans.pop(client_id, None)
        if will is not None:
            self._wills.remove(client_id, will)
            self._publish(client_id, None, will)

    def _publish_will(self, session: MqttSession) -> None:
        will, session.will = session.will, None
        if will is not None:
            self._publish(session.client_id, session.identity, will)

    def _publish(self, client_id: str, identity: Identity | None, stored: StoredWill) -> None:
        self._counters.wills += 1
        will = stored.will
        now = self._wall()
        properties = dict(will.properties)
        properties.pop(Property.WILL_DELAY, None)
        expiry = properties.pop(Property.MESSAGE_EXPIRY, None)
        message = Message(
            will.topic,
            will.payload,
            will.qos,
            will.retain,
            properties,
            at=now,
            expires_at=None if expiry is None else now + expiry,
            publisher=client_id,
            identity=identity,
        )
        self._broker.publish(message, will_of=client_id)

    # ---------------------------------------------------------------- the store

    def restore(self, state: MqttState) -> None:
        """Take over what was stored when the process began; connections of then have ended without DISCONNECT."""
        now = self._wall()
        missed = sum(not self._broker.retained.set(message) for message in state.retained)
        if missed:
            log.warn(
                "{missed} of {count} retained messages do not fit mqtt.max_retained and mqtt.max_retained_bytes any more:"
                " nobody gets them",
                missed=missed,
                count=len(state.retained),
            )
        for stored in state.sessions:
            self._restore(stored, now)
        for client_id, will in state.wills.items():
            self._restore_will(client_id, will, now)
        self._counters.retained = len(self._broker.retained)
        self._counters.retained_bytes = self._broker.retained.bytes
        self._broker.count_subscriptions()

    def _restore(self, stored: StoredSession, now: float) -> None:
        client_id = stored.client_id
        left_at = now if stored.disconnected_at is None else stored.disconnected_at
        if stored.expiry <= 0 or left_at + stored.expiry <= now:
            self._store.end_session(client_id).addErrback(self._unsaved, client_id)
            return
        session = self._sessions[client_id] = MqttSession(client_id, None, stored.user)
        self._counters.sessions += 1
        self._durable += 1
        session.durable = session.unknown = session.behind = True
        session.version, session.v5 = stored.version, stored.version == V5
        session.expiry = stored.expiry
        for packet_id in stored.received:
            session.remember(packet_id)
        if stored.subscriptions:
            session.filters = {one.request.filter: (one.request, one.identifier) for one in stored.subscriptions}
        for request, identifier in session.filters.values():
            self._broker.tree.subscribe(session, request, identifier)
        session.expires_at = left_at + stored.expiry
        self._expiries.add(client_id, session.expires_at)
        if stored.disconnected_at is None:
            self._save(session, now).addErrback(self._unsaved, client_id)

    def _restore_will(self, client_id: str, will: StoredWill, now: float) -> None:
        session = self._sessions.get(client_id)
        if session is not None:
            if will.due_at is None:
                will.due_at = min(now + will.delay, session.expires_at)
                self._store.save_will(client_id, will).addErrback(self._unsaved, client_id)
            session.will = will
        else:
            self._orphans[client_id] = will
            will.due_at = now
        self._wills.add(client_id, will, restored=True)

    def _save(self, session: MqttSession, disconnected_at: float | None) -> Deferred[None]:
        return self._store.save_session(
            StoredSession(session.client_id, session.user, session.version, session.expiry, disconnected_at)
        )

    def _unsaved(self, failure: object, client_id: str) -> None:
        log.error("the session of {client} cannot be stored: {failure}", client=client_id, failure=failure)


def _all(saved: list[Deferred[None]]) -> Deferred[None]:
    """Fires when all have; fails as the first does."""

    async def wait() -> None:
        for _, result in await DeferredList(saved, consumeErrors=True):
            if isinstance(result, Failure):
                result.raiseException()

    return Deferred.fromCoroutine(wait())


def granted_expiry(asked: float, limit: float) -> float:
    """0xFFFFFFFF asks for a session without end (section 3.1.2.11.2)."""
    return min(math.inf if asked >= 0xFFFFFFFF else asked, limit)
