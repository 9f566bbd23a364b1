"""What CONNECT and CONNACK said that binds us: the peer's maxima, and the checks of what we send against them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from protocols.errors import LocalError
from protocols.mqtt.names import has_wildcards, is_shared
from protocols.mqtt.packets import Properties, Property, Publish, Subscribe
from protocols.mqtt.properties import MAX_VARINT


@dataclass(frozen=True, slots=True)
class Peer:
    """What the other side allows; the defaults hold where it says nothing (sections 3.1.2.11 and 3.2.2.3)."""

    receive_maximum: int = 65535
    max_packet: int = 5 + MAX_VARINT
    """Bytes."""
    topic_alias_maximum: int = 0
    max_qos: int = 2
    retain_available: int = 1
    wildcard_available: int = 1
    subscription_identifiers_available: int = 1
    shared_available: int = 1
    problem_information: int = 1
    """0: no Reason Strings and User Properties but in PUBLISH, CONNACK and DISCONNECT."""
    response_information: int = 0
    """1: a server may send Response Information."""
    keeps_session: bool = False
    """CONNECT had a Session Expiry Interval other than 0 (of MQTT 5)."""
    method: str | None = None
    """The Authentication Method of CONNECT."""


UNTOLD = Peer()
"""Whoever has said nothing."""

_NAMES = {
    Property.RECEIVE_MAXIMUM: "receive_maximum",
    Property.MAXIMUM_PACKET_SIZE: "max_packet",
    Property.TOPIC_ALIAS_MAXIMUM: "topic_alias_maximum",
    Property.MAXIMUM_QOS: "max_qos",
    Property.RETAIN_AVAILABLE: "retain_available",
    Property.WILDCARD_AVAILABLE: "wildcard_available",
    Property.SUBSCRIPTION_IDENTIFIERS_AVAILABLE: "subscription_identifiers_available",
    Property.SHARED_AVAILABLE: "shared_available",
    Property.REQUEST_PROBLEM_INFORMATION: "problem_information",
    Property.REQUEST_RESPONSE_INFORMATION: "response_information",
    Property.AUTHENTICATION_METHOD: "method",
}


@lru_cache(maxsize=256)
def _shared(values: tuple[Any, ...]) -> Peer:
    # Clients of one library say the same: thousands of connections share one object.
    return Peer(*values)


def peer_of(properties: Properties, before: Peer = UNTOLD) -> Peer:
    """`before` with what the properties of a CONNECT or CONNACK say."""
    if not properties:
        return before
    values = {each.name: getattr(before, each.name) for each in fields(Peer)}
    for identifier, name in _NAMES.items():
        if identifier in properties:
            values[name] = properties[identifier]
    if Property.SESSION_EXPIRY in properties:
        values["keeps_session"] = properties[Property.SESSION_EXPIRY] != 0
    return _shared(tuple(values.values()))


def check_publish(publish: Publish, peer: Peer, from_client: bool) -> None:
    """Raises LocalError when the peer does not take this PUBLISH."""
    if publish.qos > peer.max_qos:
        raise LocalError(f"PUBLISH: the server allows QoS {peer.max_qos} at most, got {publish.qos}")
    if publish.retain and not peer.retain_available:
        raise LocalError("PUBLISH: the server has no retained messages")
    properties = publish.properties
    if not properties:
        return
    if properties.get(Property.TOPIC_ALIAS, 0) > peer.topic_alias_maximum:
        raise LocalError(f"PUBLISH: the peer allows topic aliases up to {peer.topic_alias_maximum}")
    if from_client and Property.SUBSCRIPTION_IDENTIFIER in properties:
        raise LocalError("PUBLISH: a client has no subscription identifiers to tell")


def check_subscribe(subscribe: Subscribe, peer: Peer) -> None:
    """Raises LocalError when the server does not take this SUBSCRIBE."""
    if not peer.subscription_identifiers_available and Property.SUBSCRIPTION_IDENTIFIER in subscribe.properties:
        raise LocalError("SUBSCRIBE: the server has no subscription identifiers")
    for request in subscribe.requests:
        if not peer.wildcard_available and has_wildcards(request.filter):
            raise LocalError("SUBSCRIBE: the server has no wildcards")
        if not peer.shared_available and is_shared(request.filter):
            raise LocalError("SUBSCRIBE: the server has no shared subscriptions")
