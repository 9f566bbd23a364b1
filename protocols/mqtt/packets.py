"""The control packets of MQTT 3.1, 3.1.1 and 5 as plain data, and the identifiers of properties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

V31 = 3
V311 = 4
V5 = 5
"""Protocol levels, as CONNECT carries them."""


class PacketType(IntEnum):
    """High half of a packet's first byte (section 2.1.2)."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


class Property(IntEnum):
    """Identifiers of properties (MQTT 5, section 2.2.2.2)."""

    PAYLOAD_FORMAT = 0x01
    MESSAGE_EXPIRY = 0x02
    CONTENT_TYPE = 0x03
    RESPONSE_TOPIC = 0x08
    CORRELATION_DATA = 0x09
    SUBSCRIPTION_IDENTIFIER = 0x0B
    SESSION_EXPIRY = 0x11
    ASSIGNED_CLIENT_ID = 0x12
    SERVER_KEEP_ALIVE = 0x13
    AUTHENTICATION_METHOD = 0x15
    AUTHENTICATION_DATA = 0x16
    REQUEST_PROBLEM_INFORMATION = 0x17
    WILL_DELAY = 0x18
    REQUEST_RESPONSE_INFORMATION = 0x19
    RESPONSE_INFORMATION = 0x1A
    SERVER_REFERENCE = 0x1C
    REASON_STRING = 0x1F
    RECEIVE_MAXIMUM = 0x21
    TOPIC_ALIAS_MAXIMUM = 0x22
    TOPIC_ALIAS = 0x23
    MAXIMUM_QOS = 0x24
    RETAIN_AVAILABLE = 0x25
    USER_PROPERTY = 0x26
    MAXIMUM_PACKET_SIZE = 0x27
    WILDCARD_AVAILABLE = 0x28
    SUBSCRIPTION_IDENTIFIERS_AVAILABLE = 0x29
    SHARED_AVAILABLE = 0x2A


Properties = Mapping[int, Any]
"""Property -> value: int for the numbers, str for the strings, bytes for binary data; USER_PROPERTY has a list of
(name, value) in order, SUBSCRIPTION_IDENTIFIER of a PUBLISH a list of ints (of a SUBSCRIBE one int)."""


class _Nothing(dict[int, Any]):
    """An empty dict that stays empty. Not a MappingProxyType: before Python 3.12 those have no hash, and dataclasses
    refuse defaults without one."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("NO_PROPERTIES stays empty: make a dict of your own")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]  # a dict has none: mappings that change must not have
        return 0


NO_PROPERTIES: Properties = _Nothing()
"""Of every packet without any, and of all packets before MQTT 5."""


@dataclass(slots=True)
class Will:
    """The message that the server publishes when a connection ends without DISCONNECT (section 3.1.3)."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Connect:
    """Section 3.1."""

    client_id: str
    version: int = V5
    clean_start: bool = True
    """`Clean Session` before MQTT 5."""
    keep_alive: int = 0
    username: str | None = None
    password: bytes | None = field(default=None, repr=False)
    will: Will | None = None
    properties: Properties = NO_PROPERTIES
    bridge: bool = False
    """The high bit of the protocol level, by which bridges of mosquitto make themselves known (not in the standard)."""


@dataclass(slots=True)
class Connack:
    """Section 3.2. `reason` is a return code (0 to 5) before MQTT 5."""

    session_present: bool = False
    reason: int = 0
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Publish:
    """Section 3.3. `topic` is whole: an alias has been resolved."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Puback:
    """Section 3.4."""

    packet_id: int
    reason: int = 0
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Pubrec:
    """Section 3.5."""

    packet_id: int
    reason: int = 0
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Pubrel:
    """Section 3.6."""

    packet_id: int
    reason: int = 0
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Pubcomp:
    """Section 3.7."""

    packet_id: int
    reason: int = 0
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True, frozen=True)
class SubscriptionRequest:
    """One filter of a SUBSCRIBE with its options (section 3.8.3.1)."""

    filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0
    """0: retained messages at every SUBSCRIBE; 1: when the subscription is new; 2: never."""


@dataclass(slots=True)
class Subscribe:
    """Section 3.8."""

    packet_id: int
    requests: list[SubscriptionRequest] = field(default_factory=list)
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Suback:
    """Section 3.9."""

    packet_id: int
    reasons: list[int] = field(default_factory=list)
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Unsubscribe:
    """Section 3.10."""

    packet_id: int
    filters: list[str] = field(default_factory=list)
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Unsuback:
    """Section 3.11. Before MQTT 5 it has no reasons."""

    packet_id: int
    reasons: list[int] = field(default_factory=list)
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Pingreq:
    """Section 3.12."""


@dataclass(slots=True)
class Pingresp:
    """Section 3.13."""


@dataclass(slots=True)
class Disconnect:
    """Section 3.14."""

    reason: int = 0
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Auth:
    """Section 3.15, MQTT 5 only."""

    reason: int = 0
    properties: Properties = NO_PROPERTIES


Packet = (
    Connect
    | Connack
    | Publish
    | Puback
    | Pubrec
    | Pubrel
    | Pubcomp
    | Subscribe
    | Suback
    | Unsubscribe
    | Unsuback
    | Pingreq
    | Pingresp
    | Disconnect
    | Auth
)
