"""What every MQTT connection of a worker shares. Calling it makes the binding of a connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from accessgw.core.bounded import bounded
from accessgw.core.interfaces.clock import Clock, Timers
from accessgw.core.interfaces.connections import Connection
from accessgw.core.interfaces.mqtt import EnhancedAuthenticator, MqttStore
from accessgw.core.interfaces.pushes import PushService
from accessgw.core.mqtt.broker import Broker
from accessgw.core.mqtt.calls import MqttCalls
from accessgw.core.mqtt.direct import Direct
from accessgw.core.mqtt.flapping import Flapping
from accessgw.core.mqtt.outbound import Outbound
from accessgw.core.mqtt.packet_timeout import PacketTimeout
from accessgw.core.mqtt.requests import Requests
from accessgw.core.mqtt.session_keeper import SessionKeeper
from accessgw.core.mqtt.subscriptions import Subscriptions
from accessgw.core.sessions import SessionManager
from accessgw.core.tracing import Tracing
from accessgw.core.turns import TurnFlusher
from accessgw.model.counters import MqttCounters
from accessgw.model.identity import Identity
from accessgw.model.mqtt_settings import MqttSettings
from accessgw.policy.topic_rules import Decision, TopicRules
from protocols.mqtt.limits import Limits

if TYPE_CHECKING:
    from accessgw.core.mqtt.binding import MqttBinding

log = Logger()

DENIED_PER_SECOND = 50
"""Refusals of the topic rules that get a line of the log; the others are counted."""
AUTHENTICATION_TIMEOUT = 5.0
"""Seconds for one step of an enhanced authentication."""


def wire_limits(settings: MqttSettings) -> Limits:
    """The limits of the wire from the configuration."""
    return Limits(
        max_packet=settings.max_packet,
        max_connect=settings.max_connect,
        receive_maximum=settings.receive_maximum,
        topic_alias_maximum=settings.topic_alias_maximum,
        max_qos=settings.max_qos,
        retain_available=settings.retain_available,
        wildcard_available=settings.wildcard_available,
        shared_available=settings.shared_available,
        subscription_identifiers_available=settings.subscription_identifiers_available,
        max_topic_length=settings.max_topic_length,
        max_topic_levels=settings.max_topic_levels,
    )


@cache
def _binding() -> type[MqttBinding]:
    """It imports this module."""
    from accessgw.core.mqtt.binding import MqttBinding

    return MqttBinding


def harmless(text: str) -> str:
    """The text for a log that people read in a terminal: control characters are written out."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _rule(decision: Decision) -> str:
    """Which rule decided, as errors and reloads name it."""
    return f"mqtt.acl[{decision.rule}]" if decision.rule >= 0 else "mqtt.acl_default"


@dataclass(slots=True)
class MqttServices:
    """A BindingFactory."""

    settings: MqttSettings
    limits: Limits
    sessions: SessionManager
    keeper: SessionKeeper
    broker: Broker
    outbound: Outbound
    subscriptions: Subscriptions
    direct: Direct
    store: MqttStore
    pushes: PushService
    access: TopicRules
    timers: Timers
    clock: Clock
    wall: Callable[[], float]
    flusher: TurnFlusher
    tracing: Tracing
    counters: MqttCounters
    random_bytes: Callable[[int], bytes]
    packet_timeout: PacketTimeout
    enhanced: Mapping[str, EnhancedAuthenticator] = field(default_factory=dict)
    """By authentication method."""
    calls: MqttCalls | None = None
    requests: Requests | None = None
    flapping: Flapping | None = None
    draining: bool = False
    """The worker is being emptied."""
    leave_for: str = ""
    """host:port told to clients that are asked to leave; empty: the configured server reference, or none."""
    log_second: int = -1
    logged: int = 0
    """Refusals in that second."""

    def __call__(self, connection: Connection) -> MqttBinding:
        return _binding()(connection, self)

    def new_client_id(self) -> str:
        """For a client that leaves it to us (section 3.1.3.1)."""
        return f"{self.settings.assigned_prefix}{self.random_bytes(12).hex()}"

    def bounded(self, step: Deferred[Any]) -> Deferred[Any]:
        """An authenticator's answer, or its failure after a time."""
        return bounded(step, AUTHENTICATION_TIMEOUT, self.clock, "enhanced authentication")

    def may_publish(self, identity: Identity, topic: str, qos: int, retain: bool) -> Decision:
        """What the topic rules say of a message."""
        decision = self.access.check_publish(identity, topic, qos, retain)
        if decision.allowed and self.settings.acl_log == "all":
            self._log_allowed(decision, "publish", identity, topic)
        return decision

    def may_subscribe(self, identity: Identity, filter: str) -> Decision:
        """What the topic rules say of a filter."""
        decision = self.access.check_subscribe(identity, filter)
        if decision.allowed and self.settings.acl_log == "all":
            self._log_allowed(decision, "subscribe", identity, filter)
        return decision

    def denied(self, action: str, identity: Identity | None, topic: str, decision: Decision | None = None) -> None:
        """Count and log a refusal of the topic rules; without a decision, of a topic of the gateway's own."""
        self.counters.denied[action] = self.counters.denied.get(action, 0) + 1
        if self.settings.acl_log != "none" and self._may_log():
            log.info(
                "denied: {device} (user {user}) may not {action} {topic}: {why}",
                device=identity.device if identity else "",
                user=harmless(identity.user) if identity else "",
                action=action,
                topic=harmless(topic),
                why="the topic is the gateway's own" if decision is None else _rule(decision),
            )

    def _may_log(self) -> bool:
        """Whether one more refusal gets a line. A client that does what it may not as fast as it can is not to fill the
        disk, nor the time of the worker."""
        second = int(self.clock.seconds())
        if second != self.log_second:
            if self.logged > DENIED_PER_SECOND:
                log.info("denied: {count} more, without a line each", count=self.logged - DENIED_PER_SECOND)
            self.log_second, self.logged = second, 0
        self.logged += 1
        return self.logged <= DENIED_PER_SECOND

    def _log_allowed(self, decision: Decision, action: str, identity: Identity, topic: str) -> None:
        log.info(
            "allowed: {device} (user {user}) may {action} {topic}: {why}",
            device=identity.device,
            user=harmless(identity.user),
            action=action,
            topic=harmless(topic),
            why=_rule(decision),
        )
