"""One bridge to another broker: a durable session of ours whose client is the other broker, connected again and again.

Out: the session `$bridge/NAME` subscribes here, and its queue is in the store like that of any client that is away. In:
we subscribe there, publish what comes, and acknowledge it when our broker answers for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twisted.logger import Logger

from accessgw.core.interfaces.clock import Clock
from accessgw.core.interfaces.mqtt import Dialer, MqttStore
from accessgw.core.interfaces.mqtt_state import NEVER
from accessgw.core.mqtt.bridge_link import BridgeLink
from accessgw.core.mqtt.bridge_loops import PREFIX, LoopGuard
from accessgw.core.mqtt.bridge_topics import FED, FEED, NOT_FED, TopicMap
from accessgw.core.mqtt.broker import Broker
from accessgw.core.mqtt.outbound import Outbound
from accessgw.core.mqtt.session import MqttSession, Outlet
from accessgw.core.mqtt.session_keeper import Opening, SessionKeeper
from accessgw.core.mqtt.subscriptions import Subscriptions
from accessgw.core.turns import TurnFlusher
from accessgw.model.counters import MqttCounters
from accessgw.model.mqtt_settings import BridgeSettings
from protocols.mmtp.nothing import NOTHING
from protocols.mqtt.limits import Limits
from protocols.mqtt.packets import V5, SubscriptionRequest

log = Logger()

STABLE = 10.0
"""Seconds that a connection must have lasted for the next back-off to begin anew."""


class Nowhere:
    """The Outlet of a session that is made before there is a connection."""

    buffered = 0

    def put(self, frame: bytes) -> None: ...

    def pubrel(self, packet_id: int, reason: int = 0) -> None: ...

    def displace(self, reason: int) -> None: ...


class Bridge:
    """What one `[[mqtt.bridges]]` describes."""

    def __init__(
        self,
        settings: BridgeSettings,
        *,
        node: str,
        dialer: Dialer,
        broker: Broker,
        keeper: SessionKeeper,
        outbound: Outbound,
        subscriptions: Subscriptions,
        store: MqttStore,
        guard: LoopGuard,
        clock: Clock,
        wall: Callable[[], float],
        random: Callable[[], float],
        flusher: TurnFlusher,
        counters: MqttCounters,
        limits: Callable[[], Limits],
        told: Callable[[Bridge], None],
    ) -> None:
        """`told` is called when `connected` changes."""
        self.settings = settings
        self.client_id = PREFIX + settings.name
        self.remote_client_id = settings.client_id or f"accessgw-{node}-{settings.name}"
        self.topics = TopicMap(settings.topics)
        self.broker = broker
        self.keeper = keeper
        self.outbound = outbound
        self.store = store
        self.guard = guard
        self.clock = clock
        self.wall = wall
        self.flusher = flusher
        self.limits = limits
        self._subscriptions = subscriptions
        self._dialer = dialer
        self._random = random
        self.counters = counters
        self._told = told
        self.connected = False
        self._since = wall()
        self._error = ""
        self._link: BridgeLink | None = None
        self._retry: Any = None
        self._failures = 0
        self._up_at = 0.0
        self._bridge_bit = settings.version != V5
        self._running = False
        for counts in (counters.bridge_connected, counters.bridge_sent, counters.bridge_received):
            counts.setdefault(settings.name, 0)
        counters.bridge_failures.setdefault(settings.name, 0)

    # ---------------------------------------------------------------- life

    def start(self) -> None:
        """After the store was restored: subscribe here, so that what comes from now on waits, and dial."""
        self._running = True
        mqtt = self.broker.settings
        # As many bytes for a message as those of clients may have.
        scale = max(1.0, self.settings.max_queued / mqtt.max_queued)
        self.store.bound(self.client_id, self.settings.max_queued, int(mqtt.max_queued_bytes * scale))
        self._told(self)
        self._dial()

    def stop(self) -> None:
        """End the connection. What waits stays in the store."""
        self._running = False
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._link is not None:
            self._link.leave()

    def _dial(self) -> None:
        self._retry = None
        self._ensure_session()
        self._link = link = BridgeLink(self, bridge_bit=self._bridge_bit)
        link.connection = self._dialer.dial(self.settings, link)

    def ended(self, link: BridgeLink, error: str) -> None:
        """Called by the link, once."""
        self._link = None
        was_up = self.connected
        if was_up:
            self._change(False)
        if not self._running:
            return
        self.counters.bridge_failures[self.settings.name] += 1
        if link.bit_refused:
            self._bridge_bit = False
        elif self.settings.version != V5 and not was_up:
            self._bridge_bit = True
        self.trouble(error)
        if was_up and self.clock.seconds() - self._up_at >= STABLE:
            self._failures = 0
        settings = self.settings
        delay = min(settings.retry_max, settings.retry_initial * 2.0 ** min(self._failures, 32))
        self._failures += 1
        self._retry = self.clock.callLater(delay * (0.5 + self._random() / 2), self._dial)

    def _change(self, connected: bool) -> None:
        self.connected = connected
        self._since = self.wall()
        self.counters.bridge_connected[self.settings.name] = int(connected)
        self._told(self)

    # ---------------------------------------------------------------- the session

    def _opening(self) -> Opening:
        return Opening(self.client_id, None, "", V5, False, NEVER, None, always=True)

    def open(self, link: Outlet) -> MqttSession:
        """The session, with this connection as its outlet; its window is closed."""
        self._ensure_session()
        return self.keeper.open(self._opening(), link).session

    def _ensure_session(self) -> None:
        """The session and its subscriptions are there, connected or not."""
        session = self.broker.sessions.get(self.client_id)
        if session is None:
            nowhere = Nowhere()
            session = self.keeper.open(self._opening(), nowhere).session
            self._subscribe(session)
            self.keeper.close(session, nowhere, with_will=False)
        else:
            self._subscribe(session)

    def _subscribe(self, session: MqttSession) -> None:
        """Make its subscriptions those of the settings."""
        wanted = {request.filter: request for request in self.topics.local_requests()}
        stale = [filter for filter in session.filters if filter not in wanted]
        if stale:
            self._subscriptions.unsubscribe(session, stale)
        fresh = [request for request in wanted.values() if not _same(session.filters.get(request.filter), request)]
        if not fresh:
            return
        if session.filters is NOTHING:
            session.filters = {}
        for request in fresh:
            # At once: what is published before this is durable comes to the store after it.
            session.filters[request.filter] = (request, 0)
            self.broker.tree.subscribe(session, request)
        self._subscriptions.subscribe(session, fresh, 0, lambda request: request.qos)

    def opened(self, link: BridgeLink) -> None:
        """Called by the link when it is up; messages go out after this."""
        session = link.session
        assert session is not None
        self._up_at = self.clock.seconds()
        self._error = ""
        self._change(True)
        log.info("bridge {name}: connected to {address}", name=self.settings.name, address=self.settings.address)
        known = session.filters
        unfed = [
            request
            for request in self.topics.local_requests()
            if request.filter not in known or known[request.filter][0].retain_handling == NOT_FED
        ]
        if unfed:
            self._feed(session, unfed)

    def _feed(self, session: MqttSession, unfed: list[SubscriptionRequest]) -> None:
        """Retained messages of new subscriptions, once. Subscribing sends them as we are connected now."""
        subscribe = self._subscriptions.subscribe

        def fed(_: object) -> None:
            done = [replace(request, retain_handling=FED) for request in unfed]
            subscribe(session, done, 0, lambda request: request.qos)
            self.outbound.pull(session)

        now = [replace(request, retain_handling=FEED) for request in unfed]
        reasons = subscribe(session, now, 0, lambda request: request.qos)
        if isinstance(reasons, list):
            fed(reasons)
        else:
            reasons.addCallback(fed)

    # ---------------------------------------------------------------- what is told

    def trouble(self, error: str) -> None:
        """Something is wrong with it: logged when it is something else than before."""
        if error and error != self._error:
            log.warn(
                "bridge {name} to {address}: {error}",
                name=self.settings.name,
                address=self.settings.address,
                error=error,
            )
            self._error = error

    def refuse(self, reason: str, error: str) -> None:
        """A message is not carried."""
        self.counters.drop(f"bridge_{reason}")
        self.trouble(error)

    def count_sent(self) -> None:
        self.counters.bridge_sent[self.settings.name] += 1

    def count_received(self) -> None:
        self.counters.bridge_received[self.settings.name] += 1

    def row(self) -> dict[str, Any]:
        """For operators."""
        name = self.settings.name
        session = self.broker.sessions.get(self.client_id)
        return {
            "name": name,
            "address": self.settings.address,
            "connected": self.connected,
            "since": self._since,
            "sent": self.counters.bridge_sent[name],
            "received": self.counters.bridge_received[name],
            "queued": self.store.waiting(self.client_id),
            "inflight": 0 if session is None else len(session.inflight),
            "error": self._error,
        }


def _same(known: tuple[SubscriptionRequest, int] | None, wanted: SubscriptionRequest) -> bool:
    """Whether it is subscribed so already; retained messages aside, which are another matter."""
    return known is not None and replace(known[0], retain_handling=wanted.retain_handling) == wanted
