"""Which topics a bridge carries, and what they are called on either side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from accessgw.model.mqtt_settings import BridgeTopicSettings
from protocols.mqtt.names import matches
from protocols.mqtt.packets import SubscriptionRequest

FEED = 0
"""Retain handling of a subscription that is to bring the retained messages now."""
NOT_FED = 1
FED = 2
"""Retain handling of a subscription as it is stored: whether the other broker still is to get the retained messages."""


class Carried(NamedTuple):
    """Where a message goes on the other side."""

    topic: str
    qos: int
    """Highest QoS that it may have."""


class TopicMap:
    """The topics of one bridge. Where several rules match a topic the first one says where it goes."""

    def __init__(self, topics: Sequence[BridgeTopicSettings]) -> None:
        self._out = [topic for topic in topics if topic.direction != "in"]
        self._in = [topic for topic in topics if topic.direction != "out"]

    def to_remote(self, topic: str) -> Carried | None:
        """What a message of ours is called there; None: it is not carried."""
        for rule in self._out:
            if matches(rule.local_prefix + rule.filter, topic):
                return _renamed(topic, rule.local_prefix, rule.remote_prefix, rule.qos)
        return None

    def carries(self, topic: str) -> bool:
        """Whether a topic of ours is one that goes out or may have come in."""
        return any(matches(rule.local_prefix + rule.filter, topic) for rule in (*self._out, *self._in))

    def to_local(self, topic: str) -> Carried | None:
        """What a message of theirs is called here; None: nobody asked for it (any more)."""
        for rule in self._in:
            if matches(rule.remote_prefix + rule.filter, topic):
                return _renamed(topic, rule.remote_prefix, rule.local_prefix, rule.qos)
        return None

    def local_requests(self) -> list[SubscriptionRequest]:
        """Subscriptions with our own broker, one for each filter. Without local messages: what the bridge brought in
        does not go out by it."""
        highest: dict[str, int] = {}
        for rule in self._out:
            filter = rule.local_prefix + rule.filter
            highest[filter] = max(highest.get(filter, 0), rule.qos)
        return [
            SubscriptionRequest(filter, qos, no_local=True, retain_as_published=True, retain_handling=NOT_FED)
            for filter, qos in highest.items()
        ]

    def remote_requests(self) -> list[SubscriptionRequest]:
        """Subscriptions with the other broker (section 3.8.3.1); MQTT 3.1.1 sends but filter and QoS of them."""
        highest: dict[str, int] = {}
        for rule in self._in:
            filter = rule.remote_prefix + rule.filter
            highest[filter] = max(highest.get(filter, 0), rule.qos)
        return [
            SubscriptionRequest(filter, qos, no_local=True, retain_as_published=True, retain_handling=1)
            for filter, qos in highest.items()
        ]


def _renamed(topic: str, prefix: str, other: str, qos: int) -> Carried | None:
    """A topic may match a filter without its prefix's last level: `a/#` matches `a`, which has nothing to rename."""
    if topic.startswith(prefix):
        name = other + topic[len(prefix) :]
    elif topic + "/" == prefix:
        name = other.removesuffix("/")
    else:
        return None
    return Carried(name, qos) if name else None
