"""What one side of a connection accepts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from protocols.mqtt.encoding import encode
from protocols.mqtt.names import TopicNames, topic_names
from protocols.mqtt.packets import V5, V31, V311, Connack, PacketType, Property
from protocols.mqtt.properties import MAX_VARINT, NO_LIMIT


@dataclass(frozen=True, slots=True)
class Limits:
    """What we accept of the peer; sizes in bytes. The defaults are those of the gateway's settings."""

    max_packet: int = 1024 * 1024
    """Largest packet, fixed header included (Maximum Packet Size)."""
    max_connect: int = 64 * 1024
    """Largest CONNECT."""
    receive_maximum: int = 128
    """QoS 1 and 2 PUBLISHes of the peer that we have not answered (MQTT 5 only)."""
    topic_alias_maximum: int = 32
    max_qos: int = 2
    retain_available: bool = True
    wildcard_available: bool = True
    shared_available: bool = True
    subscription_identifiers_available: bool = True
    max_topic_length: int = 1024
    """Bytes of a topic name or filter."""
    max_topic_levels: int = 32
    max_user_properties: int = 64
    """Of one packet; a will has as many of its own."""
    max_filters: int = 256
    """Topic filters of one SUBSCRIBE or UNSUBSCRIBE."""


DEFAULT_LIMITS = Limits()

STANDARD_LIMITS = Limits(
    max_packet=5 + MAX_VARINT,
    max_connect=5 + MAX_VARINT,
    receive_maximum=65535,
    topic_alias_maximum=65535,
    max_topic_length=65535,
    max_topic_levels=65536,
    max_user_properties=NO_LIMIT,
    max_filters=NO_LIMIT,
)
"""No limits but those of the format."""


def limit_properties(limits: Limits, kind: PacketType) -> dict[int, int]:
    """The properties by which a CONNECT or CONNACK tells our limits: those that differ from what holds untold."""
    told = {
        Property.RECEIVE_MAXIMUM: (limits.receive_maximum, 65535),
        Property.MAXIMUM_PACKET_SIZE: (limits.max_packet, 5 + MAX_VARINT),
        Property.TOPIC_ALIAS_MAXIMUM: (limits.topic_alias_maximum, 0),
    }
    if kind is PacketType.CONNACK:
        told |= {
            Property.MAXIMUM_QOS: (limits.max_qos, 2),
            Property.RETAIN_AVAILABLE: (limits.retain_available, 1),
            Property.WILDCARD_AVAILABLE: (limits.wildcard_available, 1),
            Property.SUBSCRIPTION_IDENTIFIERS_AVAILABLE: (limits.subscription_identifiers_available, 1),
            Property.SHARED_AVAILABLE: (limits.shared_available, 1),
        }
    return {key: int(ours) for key, (ours, untold) in told.items() if ours != untold}


class Terms:
    """Limits, prepared for the hot path; one object for all connections with the same limits."""

    __slots__ = (
        "connack_properties",
        "connacks",
        "connect_properties",
        "limits",
        "publish_qos",
        "receive_maximum",
        "topics",
    )

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.connect_properties = limit_properties(limits, PacketType.CONNECT)
        self.connack_properties = limit_properties(limits, PacketType.CONNACK)
        self.connacks = {
            (version, present): encode(Connack(present, 0, self.connack_properties), version)
            for version in (V31, V311, V5)
            for present in (False, True)
        }
        """(version, session present) -> CONNACK that accepts and says nothing else but our limits."""
        self.receive_maximum = limits.receive_maximum
        self.topics: TopicNames = topic_names(limits.max_topic_length, limits.max_topic_levels)
        self.publish_qos = tuple(_qos_of(first, limits) for first in range(256))
        """First byte -> QoS, for each PUBLISH whose flags are in order; -1 for all other bytes."""


def _qos_of(first: int, limits: Limits) -> int:
    qos = first >> 1 & 3
    wrong_flags = (
        qos > limits.max_qos or qos == 3 or (qos == 0 and first & 8) or (first & 1 and not limits.retain_available)
    )
    return -1 if first >> 4 != 3 or wrong_flags else qos


@lru_cache(maxsize=64)
def _terms_of(limits: Limits) -> Terms:
    return Terms(limits)


_latest: list[tuple[Limits, Terms]] = []


def terms_of(limits: Limits) -> Terms:
    """The prepared form of `limits`."""
    # A server has one such object for all connections, whose hash would be most of the cost. The pair is read at once:
    # another thread may put its own there meanwhile.
    for known, terms in _latest:
        if known is limits:
            return terms
    terms = _terms_of(limits)
    _latest[:] = [(limits, terms)]
    return terms
