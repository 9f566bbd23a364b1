"""Packets to bytes, in every version; and a PUBLISH in parts, to be shared by many receivers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from protocols.errors import LocalError
from protocols.mqtt.names import CACHED_TOPIC_LENGTH, CACHED_TOPICS, is_topic_filter, is_topic_name
from protocols.mqtt.packets import (
    V5,
    V31,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    Pingreq,
    Pingresp,
    Properties,
    Property,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Unsuback,
    Unsubscribe,
)
from protocols.mqtt.properties import (
    ALLOWED,
    MAX_VARINT,
    WILL_PROPERTIES,
    encode_binary,
    encode_fields,
    encode_properties,
    encode_string,
    encode_varint,
)
from protocols.mqtt.reason_tables import REASONS, RETURN_CODES

PINGREQ = b"\xc0\x00"
PINGRESP = b"\xd0\x00"


_SHORT_HEADS = [[bytes((0x30 | flags, size)) for size in range(128)] for flags in range(6)]
"""Fixed headers of small PUBLISHes."""


class _Topics(dict[str, bytes]):
    """Topic names that were sent -> their bytes with the length; looking up others checks them. Bounded: it starts anew
    when it is full."""

    __slots__ = ()

    def __missing__(self, topic: str) -> bytes:
        if not is_topic_name(topic):
            raise LocalError(f"expected a topic name, got {topic[:80]!r}")
        name = encode_string(topic)
        if len(name) <= CACHED_TOPIC_LENGTH:
            if len(self) >= CACHED_TOPICS:
                self.clear()
            self[topic] = name
        return name


_TOPICS = _Topics()


def encode(packet: Packet, version: int) -> bytes:
    """The packet as `version` (3, 4 or 5; of a CONNECT, its own counts) writes it.

    Raises LocalError for what the version cannot say. What this connection allows now is not looked at.
    """
    return _ENCODERS[type(packet)](packet, version)


def encode_publish(publish: Publish, version: int) -> bytes:
    """A PUBLISH (section 3.3). An empty topic is allowed beside a topic alias."""
    head, tail = publish_parts(
        publish.topic,
        publish.payload,
        version,
        qos=publish.qos,
        retain=publish.retain,
        properties=publish.properties,
        with_topic=publish.topic != "" or Property.TOPIC_ALIAS not in publish.properties,
    )
    if publish.qos:
        frame = head + _packet_id(publish.packet_id) + tail
        return mark_dup(frame) if publish.dup else frame
    if publish.packet_id or publish.dup:
        raise LocalError("PUBLISH with QoS 0: expected no packet id and no DUP")
    return head


def publish_parts(
    topic: str,
    payload: bytes,
    version: int,
    *,
    qos: int,
    retain: bool,
    properties: Properties,
    identifiers: Sequence[int] = (),
    alias: int = 0,
    with_topic: bool = True,
) -> tuple[bytes, bytes]:
    """(all before the packet id, all behind it) of a PUBLISH; of QoS 0, (the frame, nothing).

    `identifiers` are Subscription Identifiers, `alias` a Topic Alias (0: none); without `with_topic` the topic is
    left empty and the alias stands for it. Raises LocalError for what cannot be sent.
    """
    if with_topic:
        name = _TOPICS[topic]
    else:
        name = b"\0\0"
        if version != V5 or not (alias or Property.TOPIC_ALIAS in properties):
            raise LocalError("expected a topic name, got neither it nor an alias for it")
    if version != V5:
        fields = b""
    elif properties or identifiers or alias:
        fields = _publish_properties(properties, identifiers, alias)
    else:
        fields = b"\0"
    size = len(name) + len(fields) + len(payload)
    first = qos << 1 | retain
    if qos:
        if qos not in (1, 2):
            raise LocalError(f"expected QoS 0..2, got {qos}")
        size += 2
        if size < 128:
            return _SHORT_HEADS[first][size] + name, fields + payload
        return bytes((0x30 | first,)) + encode_varint(size) + name, fields + payload
    if size < 128:
        return _SHORT_HEADS[first][size] + name + fields + payload, b""
    return bytes((0x30 | first,)) + encode_varint(size) + name + fields + payload, b""


def publish_frame(topic: str, payload: bytes, version: int, first: int, packet_id: bytes) -> bytes:
    """A PUBLISH without properties for one receiver, joined in one step; `first` are QoS and RETAIN as they stand in
    its first byte, `packet_id` is empty for QoS 0. Raises LocalError for a topic that cannot be sent."""
    name = _TOPICS[topic]
    if version == V5:
        size = len(name) + len(packet_id) + 1 + len(payload)
        head = _SHORT_HEADS[first][size] if size < 128 else bytes((0x30 | first,)) + encode_varint(size)
        return b"".join((head, name, packet_id, b"\0", payload))
    size = len(name) + len(packet_id) + len(payload)
    head = _SHORT_HEADS[first][size] if size < 128 else bytes((0x30 | first,)) + encode_varint(size)
    return b"".join((head, name, packet_id, payload))


def _publish_properties(properties: Properties, identifiers: Sequence[int], alias: int) -> bytes:
    _check_allowed(properties, ALLOWED[PacketType.PUBLISH], "PUBLISH")
    fields = encode_fields(properties) if properties else b""
    if identifiers:
        fields += encode_fields({Property.SUBSCRIPTION_IDENTIFIER: identifiers})
    if alias:
        fields += encode_fields({Property.TOPIC_ALIAS: alias})
    return encode_varint(len(fields)) + fields


def mark_dup(frame: bytes) -> bytes:
    """The same PUBLISH, said to be sent once more (section 3.3.1.1)."""
    return bytes((frame[0] | 8,)) + frame[1:]


def _frame(first: int, body: bytes) -> bytes:
    if len(body) > MAX_VARINT:
        raise LocalError(f"expected a packet of at most {MAX_VARINT} bytes, got {len(body)}")
    return bytes((first,)) + encode_varint(len(body)) + body


def _packet_id(packet_id: int) -> bytes:
    if not 0 < packet_id < 65536:
        raise LocalError(f"expected a packet id of 1..65535, got {packet_id}")
    return packet_id.to_bytes(2, "big")


def _reasons(kind: PacketType, reasons: Sequence[int], version: int = V5) -> bytes:
    codes = (REASONS if version == V5 else RETURN_CODES)[kind]
    for reason in reasons:
        if reason not in codes:
            raise LocalError(f"{kind.name}: expected one of its reasons, got {reason:#x}")
    return bytes(reasons)


def _check_allowed(properties: Properties, allowed: frozenset[int], what: str) -> None:
    for identifier in properties:
        if identifier not in allowed:
            raise LocalError(f"{what}: expected only its own properties, got {identifier}")


def _properties(properties: Properties, version: int, kind: PacketType) -> bytes:
    """The properties of a packet of `kind`; nothing before MQTT 5, which has none."""
    if version != V5:
        return b""
    if properties:
        _check_allowed(properties, ALLOWED[kind], kind.name)
    return encode_properties(properties)


# ------------------------------------------------------------------ the connection's packets


def _encode_connect(packet: Connect, _version: int) -> bytes:
    version = packet.version
    if version not in (3, 4, V5):
        raise LocalError(f"CONNECT: expected version 3, 4 or 5, got {version}")
    if packet.bridge and version == V5:
        raise LocalError("CONNECT: MQTT 5 knows no bridges")
    if version != V5 and packet.password is not None and packet.username is None:
        raise LocalError("CONNECT: expected a user name beside the password")
    if not packet.client_id and (version == V31 or (version != V5 and not packet.clean_start)):
        raise LocalError("CONNECT: expected a client id")
    if not 0 <= packet.keep_alive < 65536:
        raise LocalError(f"CONNECT: expected a keep alive of 0..65535 s, got {packet.keep_alive}")
    flags = 0x02 if packet.clean_start else 0
    payload = encode_string(packet.client_id)
    will = packet.will
    if will is not None:
        if will.qos not in (0, 1, 2):
            raise LocalError(f"will: expected QoS 0..2, got {will.qos}")
        if not is_topic_name(will.topic):
            raise LocalError(f"will: expected a topic name, got {will.topic[:80]!r}")
        flags |= 0x04 | will.qos << 3 | (0x20 if will.retain else 0)
        if version == V5:
            _check_allowed(will.properties, WILL_PROPERTIES, "will")
            payload += encode_properties(will.properties)
        payload += encode_string(will.topic) + encode_binary(will.payload)
    if packet.username is not None:
        flags |= 0x80
        payload += encode_string(packet.username)
    if packet.password is not None:
        flags |= 0x40
        payload += encode_binary(packet.password)
    name = b"\x00\x06MQIsdp" if version == V31 else b"\x00\x04MQTT"
    level = version | (0x80 if packet.bridge else 0)
    head = name + bytes((level, flags)) + packet.keep_alive.to_bytes(2, "big")
    return _frame(0x10, head + _properties(packet.properties, version, PacketType.CONNECT) + payload)


def _encode_connack(packet: Connack, version: int) -> bytes:
    if packet.session_present and packet.reason:
        raise LocalError("CONNACK: expected no session of a refused connection")
    # MQTT 3.1 has no words for a session that is present.
    head = bytes((packet.session_present and version != V31,)) + _reasons(PacketType.CONNACK, (packet.reason,), version)
    return _frame(0x20, head + _properties(packet.properties, version, PacketType.CONNACK))


def _encode_disconnect(packet: Disconnect, version: int) -> bytes:
    if version != V5:
        return b"\xe0\x00"
    return _with_reason(0xE0, b"", packet.reason, packet.properties, PacketType.DISCONNECT)


def _encode_auth(packet: Auth, version: int) -> bytes:
    if version != V5:
        raise LocalError(f"AUTH: expected MQTT 5, got version {version}")
    if packet.reason and not packet.properties:
        return _frame(0xF0, _reasons(PacketType.AUTH, (packet.reason,)) + b"\0")
    return _with_reason(0xF0, b"", packet.reason, packet.properties, PacketType.AUTH)


def _with_reason(first: int, head: bytes, reason: int, properties: Properties, kind: PacketType) -> bytes:
    """A packet that may leave out its properties, and then its reason if that is 0."""
    if properties:
        return _frame(first, head + _reasons(kind, (reason,)) + _properties(properties, V5, kind))
    return _frame(first, head + _reasons(kind, (reason,)) if reason else head)


# ------------------------------------------------------------------ acknowledgements


def _acknowledgement(first: int, kind: PacketType) -> Callable[[Any, int], bytes]:
    def encode_one(packet: Puback | Pubrec | Pubrel | Pubcomp, version: int) -> bytes:
        head = _packet_id(packet.packet_id)
        if version != V5:
            return _frame(first, head)
        return _with_reason(first, head, packet.reason, packet.properties, kind)

    return encode_one


# ------------------------------------------------------------------ subscriptions


def _encode_subscribe(packet: Subscribe, version: int) -> bytes:
    head = _packet_id(packet.packet_id) + _properties(packet.properties, version, PacketType.SUBSCRIBE)
    if not packet.requests:
        raise LocalError("SUBSCRIBE: expected a filter, got none")
    return _frame(0x82, head + b"".join(_request(request, version) for request in packet.requests))


def _request(request: SubscriptionRequest, version: int) -> bytes:
    options = request.qos
    if request.qos not in (0, 1, 2) or request.retain_handling not in (0, 1, 2):
        raise LocalError(f"SUBSCRIBE: expected QoS and retain handling of 0..2, got {request}")
    if version == V5:
        if request.no_local and request.filter.startswith("$share/"):
            raise LocalError("SUBSCRIBE: a shared subscription cannot be without local messages")
        options |= request.no_local << 2 | request.retain_as_published << 3 | request.retain_handling << 4
    return _filter(request.filter) + bytes((options,))


def _filter(topic_filter: str) -> bytes:
    if not is_topic_filter(topic_filter):
        raise LocalError(f"expected a topic filter, got {topic_filter[:80]!r}")
    return encode_string(topic_filter)


def _encode_unsubscribe(packet: Unsubscribe, version: int) -> bytes:
    head = _packet_id(packet.packet_id) + _properties(packet.properties, version, PacketType.UNSUBSCRIBE)
    if not packet.filters:
        raise LocalError("UNSUBSCRIBE: expected a filter, got none")
    return _frame(0xA2, head + b"".join(map(_filter, packet.filters)))


def _encode_suback(packet: Suback, version: int) -> bytes:
    head = _packet_id(packet.packet_id) + _properties(packet.properties, version, PacketType.SUBACK)
    if not packet.reasons:
        raise LocalError("SUBACK: expected a reason for each filter, got none")
    return _frame(0x90, head + _reasons(PacketType.SUBACK, packet.reasons, version))


def _encode_unsuback(packet: Unsuback, version: int) -> bytes:
    head = _packet_id(packet.packet_id)
    if version != V5:
        return _frame(0xB0, head)
    if not packet.reasons:
        raise LocalError("UNSUBACK: expected a reason for each filter, got none")
    head += _properties(packet.properties, version, PacketType.UNSUBACK)
    return _frame(0xB0, head + _reasons(PacketType.UNSUBACK, packet.reasons))


_ENCODERS: dict[type, Callable[[Any, int], bytes]] = {
    Connect: _encode_connect,
    Connack: _encode_connack,
    Publish: encode_publish,
    Puback: _acknowledgement(0x40, PacketType.PUBACK),
    Pubrec: _acknowledgement(0x50, PacketType.PUBREC),
    Pubrel: _acknowledgement(0x62, PacketType.PUBREL),
    Pubcomp: _acknowledgement(0x70, PacketType.PUBCOMP),
    Subscribe: _encode_subscribe,
    Suback: _encode_suback,
    Unsubscribe: _encode_unsubscribe,
    Unsuback: _encode_unsuback,
    Pingreq: lambda _packet, _version: PINGREQ,
    Pingresp: lambda _packet, _version: PINGRESP,
    Disconnect: _encode_disconnect,
    Auth: _encode_auth,
}
