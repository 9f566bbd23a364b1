"""MQTT messages, and what of a session outlives its connection, as the rooms hand them to each other."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from accessgw.model.identity import Identity
from protocols.mqtt.packets import NO_PROPERTIES, Properties, SubscriptionRequest, Will
from protocols.mqtt.properties import footprint

NEVER = math.inf
"""Expiry of a session that does not expire."""


@dataclass(slots=True)
class Message:
    """One application message on its way through the broker."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = NO_PROPERTIES
    """As published, without topic alias, subscription identifier and message expiry (see `expires_at`)."""
    at: float = 0.0
    """Wall-clock second of its arrival."""
    expires_at: float | None = None
    """Wall-clock second after which nobody gets it any more."""
    publisher: str = ""
    """Client id; `$bridge/NAME`, `$control` and `$sys` name the gateway's own parts."""
    identity: Identity | None = None
    """Of the publisher; not stored."""

    @property
    def size(self) -> int:
        """Bytes that it counts for where messages are kept: of its topic, payload and properties."""
        topic = self.topic
        size = len(self.payload) + (len(topic) if topic.isascii() else len(topic.encode("utf-8", "surrogatepass")))
        return size + footprint(self.properties) if self.properties else size


@dataclass(slots=True)
class StoredSubscription:
    """One subscription of a session."""

    request: SubscriptionRequest
    identifier: int = 0
    """Subscription identifier of MQTT 5, 0 for none."""


@dataclass(slots=True)
class StoredWill:
    """The will of a connection, kept until it was published or is no longer due."""

    will: Will
    delay: float = 0.0
    """Seconds between the end of the connection and its publication."""
    due_at: float | None = None
    """Wall-clock second of its publication once the connection has ended."""

    @property
    def size(self) -> int:
        """Bytes of its topic, payload and properties."""
        will = self.will
        return len(will.payload) + len(will.topic.encode("utf-8", "surrogatepass")) + footprint(will.properties)


@dataclass(slots=True)
class StoredSession:
    """A session that outlives its connections."""

    client_id: str
    user: str = ""
    """Whose it is: another owner with the same client id begins anew."""
    version: int = 4
    expiry: float = NEVER
    """Seconds after the end of the connection."""
    disconnected_at: float | None = None
    """Wall-clock second; None while it is connected."""
    subscriptions: list[StoredSubscription] = field(default_factory=list)
    received: list[int] = field(default_factory=list)
    """Packet ids of QoS 2 messages of the client that it has not released yet."""
    queued: int = 0
    """Messages that wait for it."""


@dataclass(slots=True)
class Enqueue:
    """One receiver of a stored message."""

    client_id: str
    qos: int
    """1 or 2."""
    packet_id: int = 0
    """Under which it is being sent; 0: it waits."""
    retain: bool = False
    """The flag that the receiver gets to see."""
    identifiers: tuple[int, ...] = ()


@dataclass(slots=True)
class QueuedMessage:
    """One message in the queue of a session."""

    number: int
    """Its place in the queue; grows."""
    message: Message
    qos: int
    packet_id: int
    retain: bool
    identifiers: tuple[int, ...]
    received: bool = False
    """QoS 2: the client has said PUBREC; only PUBREL is left to send. Its message is empty then."""


@dataclass(slots=True)
class MqttState:
    """What a store knew when it was opened."""

    sessions: list[StoredSession] = field(default_factory=list)
    wills: dict[str, StoredWill] = field(default_factory=dict)
    """By client id."""
    retained: list[Message] = field(default_factory=list)
