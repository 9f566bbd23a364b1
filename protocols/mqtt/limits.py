"""What one side of a connection accepts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from protocols.mqtt.names import TopicNames, topic_names
from protocols.mqtt.properties import NO_LIMIT


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
    max_packet=5 + 268_435_455,
    max_connect=5 + 268_435_455,
    receive_maximum=65535,
    topic_alias_maximum=65535,
    max_topic_length=65535,
    max_topic_levels=65536,
    max_user_properties=NO_LIMIT,
    max_filters=NO_LIMIT,
)
"""No limits but those of the format."""


class Terms:
    """Limits, prepared for the hot path; one object for all connections with the same limits."""

    __slots__ = ("limits", "publish_qos", "receive_maximum", "topics")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
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
def terms_of(limits: Limits) -> Terms:
    """The prepared form of `limits`."""
    return Terms(limits)
