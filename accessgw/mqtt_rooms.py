"""The composition of MQTT: builds the broker and what belongs to it, and wires them; part of the composition root."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from hashlib import blake2b
from itertools import chain, islice
from typing import Any

from twisted.internet.defer import Deferred, succeed

from accessgw.core.interfaces.calls import CallService
from accessgw.core.interfaces.clock import Timers
from accessgw.core.interfaces.mqtt import Dialer, EnhancedAuthenticator, MqttStore
from accessgw.core.interfaces.pushes import PushService
from accessgw.core.interfaces.upstreams import UpstreamClient
from accessgw.core.mqtt.bridge import Bridge
from accessgw.core.mqtt.bridge_loops import LoopGuard
from accessgw.core.mqtt.bridges import Bridges
from accessgw.core.mqtt.broker import Broker
from accessgw.core.mqtt.calls import MqttCalls
from accessgw.core.mqtt.connection_state import MqttConnection
from accessgw.core.mqtt.control import BrokerControl
from accessgw.core.mqtt.direct import Direct
from accessgw.core.mqtt.flapping import Flapping
from accessgw.core.mqtt.gauges import SessionGauges
from accessgw.core.mqtt.outbound import Outbound
from accessgw.core.mqtt.packet_timeout import PacketTimeout
from accessgw.core.mqtt.requests import Requests
from accessgw.core.mqtt.rules import ServiceRules
from accessgw.core.mqtt.services import MqttServices, wire_limits
from accessgw.core.mqtt.session import MqttSession
from accessgw.core.mqtt.session_keeper import SessionKeeper
from accessgw.core.mqtt.subscriptions import Subscriptions
from accessgw.core.mqtt.sys_topics import SysTopics, totals
from accessgw.core.mqtt.top import MqttTop
from accessgw.core.mqtt.topic_trace import TopicTrace
from accessgw.core.sessions import SessionManager
from accessgw.core.tracing import Tracing
from accessgw.core.turns import TurnFlusher
from accessgw.model.counters import MqttCounters, TransportCounters
from accessgw.model.settings import GatewaySettings
from accessgw.policy.topic_rules import TopicRules

SWEEP_INTERVAL = 30.0
"""Seconds between two looks for messages that have expired."""
RECHECKED_AT_ONCE = 100
"""Sessions whose subscriptions one turn of the reactor holds against new topic rules."""
CLOSE_TIMEOUT = 5.0
"""Seconds for messages to services that wait when the process stops."""


class MqttRooms:
    """Everything of MQTT in one worker, built and wired, not started."""

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        reactor: Any,
        store: MqttStore,
        sessions: SessionManager,
        calls: CallService,
        pushes: PushService,
        upstreams: UpstreamClient,
        timers: Timers,
        flusher: TurnFlusher,
        tracing: Tracing,
        enhanced: Mapping[str, EnhancedAuthenticator],
        counters: MqttCounters,
        bytes_moved: TransportCounters,
        version: str,
        node: str,
        secret: Callable[[], bytes],
        dialer: Dialer,
    ) -> None:
        """`secret` is the state directory's own, from which the gateway's name among bridged brokers is made."""
        mqtt = settings.mqtt
        wall = time.time
        self._rules = (mqtt.acl, mqtt.acl_default)
        self.store = store
        self.counters = counters
        self._timers = timers
        self._clock = reactor
        self._bytes_moved = bytes_moved
        self.top = MqttTop(reactor.seconds, random.random)
        self.trace = TopicTrace(wall)
        self.rules = ServiceRules(
            mqtt.rules, upstreams, clock=reactor, timers=timers, counters=counters, wall=wall, random=random.random
        )
        self.outbound = Outbound(mqtt, store, reactor, wall, counters)
        self.broker = Broker(
            mqtt,
            store=store,
            outbound=self.outbound,
            clock=reactor,
            wall=wall,
            random=random.random,
            counters=counters,
            trace=self.trace,
            rules=self.rules,
        )
        self.broker.sample = self.top.published
        self.keeper = SessionKeeper(self.broker, store, timers, wall, counters)
        subscriptions = Subscriptions(self.broker, store, reactor)
        self.direct = Direct(self.broker)
        self.requests = Requests(self.direct, timers=timers, random_bytes=os.urandom, counters=counters)
        self.services = MqttServices(
            mqtt,
            wire_limits(mqtt),
            sessions,
            self.keeper,
            self.broker,
            self.outbound,
            subscriptions,
            self.direct,
            store,
            pushes,
            TopicRules(mqtt.acl, mqtt.acl_default),
            timers,
            reactor,
            wall,
            flusher,
            tracing,
            counters,
            os.urandom,
            PacketTimeout(timers, reactor.seconds, lambda: self.broker.settings.packet_timeout),
            enhanced,
            MqttCalls(
                calls,
                clock=reactor,
                random_bytes=os.urandom,
                counters=counters,
                max_open=settings.mmtp.max_open_calls,
            ),
            self.requests,
            Flapping(mqtt, reactor.seconds, counters),
        )
        self.gauges = SessionGauges(self.broker.sessions, self.keeper.waiting, counters, clock=reactor, timers=timers)
        self.sys = SysTopics(
            self._totals, self.broker.announce, clock=reactor, wall=wall, interval=mqtt.sys_interval, version=version
        )
        make_bridge = partial(
            Bridge,
            node=node,
            dialer=dialer,
            broker=self.broker,
            keeper=self.keeper,
            outbound=self.outbound,
            subscriptions=subscriptions,
            store=store,
            clock=reactor,
            wall=wall,
            random=random.random,
            flusher=flusher,
            counters=counters,
            limits=lambda: self.services.limits,
        )
        self.bridges = Bridges(
            make_bridge,
            lambda: LoopGuard(_name_from(secret()), reactor.seconds, self.broker.bridge_clients),
            broker=self.broker,
            keeper=self.keeper,
            wall=wall,
            counters=counters,
        )
        self.control = BrokerControl(self.broker, self.keeper, self.requests, self.top, self.bridges.rows)
        self.reconfigure(settings)

    def start(self) -> None:
        """After the store was started: take over what it knows, and begin what repeats."""
        self.keeper.restore(self.store.loaded)
        self.gauges.start()
        self.sys.start()
        self.bridges.start(self.services.settings.bridges)
        self._timers.schedule(SWEEP_INTERVAL, self._sweep)

    def close(self) -> Deferred[None]:
        """The doors are closed: post what waits for services."""
        self.sys.stop()
        self.bridges.stop()
        self.requests.close()
        return self.rules.close(CLOSE_TIMEOUT) if self.rules.active else succeed(None)

    def reconfigure(self, settings: GatewaySettings) -> None:
        """Bring into force what a reload may change."""
        mqtt = settings.mqtt
        self.services.settings = self.outbound.settings = self.broker.settings = mqtt
        self.services.limits = wire_limits(mqtt)
        rules = (mqtt.acl, mqtt.acl_default)
        if rules != self._rules:
            self._rules = rules
            self.services.access = TopicRules(*rules)
            self._recheck(iter(tuple(self.broker.sessions.values())))
        self.outbound.max_buffer = settings.limits.write_buffer // 2
        if self.services.flapping is not None:
            self.services.flapping.apply(mqtt)
        self.rules.apply(mqtt.rules)
        self.bridges.apply(mqtt.bridges)

    def _recheck(self, left: Iterator[MqttSession]) -> None:
        """The topic rules have changed: connected clients keep only the subscriptions that they may have now. Those
        that are away are looked at when they come back."""
        for session in islice(left, RECHECKED_AT_ONCE):
            if isinstance(session.outlet, MqttConnection):
                session.outlet.recheck()
        further = next(left, None)
        if further is not None:
            self._clock.callLater(0, self._recheck, chain((further,), left))

    def _totals(self) -> dict[str, int]:
        moved = self._bytes_moved
        return {**totals(self.counters), "bytes/received": moved.bytes_in, "bytes/sent": moved.bytes_out}

    def _sweep(self) -> None:
        """Forget what has expired; more at once while there is much of it."""
        self._timers.schedule(SWEEP_INTERVAL, self._sweep)
        self.broker.sweep()
        self._sweep_store(1)

    def _sweep_store(self, gone: int) -> None:
        if gone:
            swept = self.store.sweep(time.time())
            swept.addCallbacks(self._sweep_store, lambda failure: None)


def _name_from(secret: bytes) -> str:
    """Tells nothing of the secret."""
    return blake2b(b"bridges", key=secret, digest_size=9).hexdigest()
