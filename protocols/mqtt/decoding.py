"""Bytes to packets, in every version; what needs no knowledge of the connection is checked here."""

from __future__ import annotations

from collections.abc import Callable

from protocols.errors import RemoteError
from protocols.mqtt.limits import STANDARD_LIMITS, Limits
from protocols.mqtt.names import check_topic_filter, check_topic_name, is_shared, topic_names
from protocols.mqtt.packets import (
    NO_PROPERTIES,
    V5,
    V31,
    V311,
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
    Will,
)
from protocols.mqtt.properties import ALLOWED, WILL_PROPERTIES, read_binary, read_properties, read_string, read_varint
from protocols.mqtt.reason_tables import REASONS, RETURN_CODES
from protocols.mqtt.reasons import Reason

_FLAGS = {PacketType.PUBREL: 2, PacketType.SUBSCRIBE: 2, PacketType.UNSUBSCRIBE: 2}
"""Low half of the first byte, where it is not 0 (section 2.1.3)."""

Decoder = Callable[[int, bytes, int, int, int, Limits], Packet]
"""(first byte, data, begin and end of the body, version, limits) -> packet."""


def _malformed(expected: str) -> RemoteError:
    return RemoteError(Reason.MALFORMED_PACKET, f"expected {expected}")


def decode(frame: bytes, version: int, limits: Limits = STANDARD_LIMITS) -> Packet:
    """The one packet that `frame` is, as `version` (3, 4 or 5; of a CONNECT, its own counts) reads it.

    Raises RemoteError. Topic aliases stay as they are.
    """
    length, pos = read_varint(frame, 1, len(frame))
    if pos + length != len(frame):
        raise _malformed(f"a packet of {pos + length} bytes, got {len(frame)}")
    return decode_body(frame[0], frame, pos, len(frame), version, limits)


def decode_body(first: int, data: bytes, pos: int, end: int, version: int, limits: Limits) -> Packet:  # noqa: PLR0917
    """The packet whose first byte is `first` and whose body is data[pos:end]."""
    decoder = _PROPER.get(first)
    if decoder is not None:
        return decoder(first, data, pos, end, version, limits)
    kind = first >> 4
    if kind == 0 or (kind == PacketType.AUTH and version < V5):
        raise _malformed(f"a packet of this version, got type {kind}")
    # MQTT 3.1 calls the flags of these packets unused, or marks repetition by them.
    if kind != PacketType.PUBLISH and first & 15 != _FLAGS.get(PacketType(kind), 0) and version != V31:
        raise _malformed(f"other flags of {PacketType(kind).name}, got {first & 15:#x}")
    return _DECODERS[kind](first, data, pos, end, version, limits)


def _read_id(data: bytes, pos: int, end: int) -> int:
    if pos + 2 > end:
        raise _malformed("a packet id, got the end of the packet")
    packet_id = data[pos] << 8 | data[pos + 1]
    if not packet_id:
        raise RemoteError(Reason.PROTOCOL_ERROR, "expected a packet id of 1..65535, got 0")
    return packet_id


def _properties(  # noqa: PLR0917
    kind: PacketType, data: bytes, pos: int, end: int, version: int, limits: Limits
) -> tuple[Properties, int]:
    if version < V5:
        return NO_PROPERTIES, pos
    return read_properties(data, pos, end, ALLOWED[kind], limits.max_user_properties)


def _reason(kind: PacketType, reason: int, version: int = V5) -> int:
    codes = REASONS[kind] if version == V5 else RETURN_CODES[kind]
    if reason not in codes:
        raise RemoteError(Reason.PROTOCOL_ERROR, f"expected a reason of {kind.name}, got {reason:#x}")
    return reason


# ------------------------------------------------------------------ the connection's packets


def _connect(first: int, data: bytes, pos: int, end: int, _version: int, limits: Limits) -> Connect:
    version, bridge, pos = _protocol(data, pos, end)
    if version != V31 and first & 15:
        raise _malformed(f"no flags of CONNECT, got {first & 15:#x}")
    if pos + 3 > end:
        raise _malformed("connect flags and keep alive, got the end of the packet")
    flags = data[pos]
    keep_alive = data[pos + 1] << 8 | data[pos + 2]
    if flags & 1 and version != V31:
        raise _malformed("connect flags with bit 0 unset")
    properties, pos = _properties(PacketType.CONNECT, data, pos + 3, end, version, limits)
    if properties and Property.AUTHENTICATION_DATA in properties and Property.AUTHENTICATION_METHOD not in properties:
        raise RemoteError(Reason.PROTOCOL_ERROR, "expected an authentication method beside its data")
    client_id, pos = read_string(data, pos, end)
    if not client_id and (version == V31 or (version < V5 and not flags & 2)):
        raise RemoteError(Reason.CLIENT_ID_NOT_VALID, "expected a client id, got an empty one")
    will: Will | None = None
    if flags & 0x3C:
        will, pos = _will(flags, data, pos, end, version, limits)
    username = password = None
    if version == V31 and pos == end:
        flags &= 0x3F  # MQTT 3.1: flags without the strings that they announce are of no meaning.
    if version < V5 and flags & 0xC0 == 0x40:
        raise _malformed("a user name beside the password")
    if flags & 0x80:
        username, pos = read_string(data, pos, end)
    if flags & 0x40 and not (version == V31 and pos == end):
        password, pos = read_binary(data, pos, end)
    if pos != end:
        _expect_end("CONNECT", pos, end)
    return Connect(
        client_id, version, bool(flags & 2), keep_alive, username, password, will, properties, bridge
    )  # fmt: skip


BEGINNINGS = {b"\0\4MQTT\4": V311, b"\0\4MQTT\5": V5}
"""Name and level as nearly all clients have them."""


def _protocol(data: bytes, pos: int, end: int) -> tuple[int, bool, int]:
    """(version, bridge, position behind them). The level must be one of ours, and the name that of the level."""
    version = BEGINNINGS.get(data[pos : pos + 7], 0)
    if version and pos + 7 <= end:
        return version, False, pos + 7
    name, pos = read_binary(data, pos, end)
    if pos >= end:
        raise _malformed("a protocol level, got the end of the packet")
    level = data[pos]
    version = level & 0x7F if level in (0x83, 0x84) else level
    if version not in (3, 4, 5) or name != (b"MQIsdp" if version == V31 else b"MQTT"):
        raise RemoteError(
            Reason.UNSUPPORTED_VERSION, f"expected MQTT 3.1, 3.1.1 or 5, got {name[:20]!r} of level {level}"
        )
    return version, version != level, pos + 1


def _will(flags: int, data: bytes, pos: int, end: int, version: int, limits: Limits) -> tuple[Will | None, int]:  # noqa: PLR0917
    qos = flags >> 3 & 3
    if not flags & 4:
        if flags & 0x38 and version != V31:
            raise _malformed("no flags of a will without a will")
        return None, pos
    if qos == 3:
        raise _malformed("a will of QoS 0..2, got 3")
    properties: Properties = NO_PROPERTIES
    if version == V5:
        properties, pos = read_properties(data, pos, end, WILL_PROPERTIES, limits.max_user_properties)
    topic, pos = read_string(data, pos, end)
    payload, pos = read_binary(data, pos, end)
    check_topic_name(topic, limits.max_topic_length, limits.max_topic_levels)
    if qos > limits.max_qos:
        raise RemoteError(Reason.QOS_NOT_SUPPORTED, f"expected a will of QoS {limits.max_qos} at most, got {qos}")
    if flags & 0x20 and not limits.retain_available:
        raise RemoteError(Reason.RETAIN_NOT_SUPPORTED, "expected a will that is not to be retained")
    return Will(topic, payload, qos, bool(flags & 0x20), properties), pos


def _expect_end(what: str, pos: int, end: int) -> None:
    if pos != end:
        raise _malformed(f"the end of {what}, got {end - pos} bytes more")


def _connack(_first: int, data: bytes, pos: int, end: int, version: int, limits: Limits) -> Connack:
    if pos + 2 > end:
        raise _malformed("CONNACK's two bytes, got the end of the packet")
    flags = data[pos] if version != V31 else 0
    if flags > 1:
        raise _malformed(f"CONNACK's flags of 0 or 1, got {flags}")
    reason = _reason(PacketType.CONNACK, data[pos + 1], version)
    if flags and reason:
        raise RemoteError(Reason.PROTOCOL_ERROR, "expected no session of a refused connection")
    properties, pos = _properties(PacketType.CONNACK, data, pos + 2, end, version, limits)
    _expect_end("CONNACK", pos, end)
    return Connack(bool(flags), reason, properties)


def _disconnect(_first: int, data: bytes, pos: int, end: int, version: int, limits: Limits) -> Disconnect:
    if version < V5:
        _expect_end("DISCONNECT", pos, end)
        return Disconnect()
    reason, properties = _reason_and_properties(PacketType.DISCONNECT, data, pos, end, limits)
    return Disconnect(reason, properties)


def _auth(_first: int, data: bytes, pos: int, end: int, _version: int, limits: Limits) -> Auth:
    reason, properties = _reason_and_properties(PacketType.AUTH, data, pos, end, limits)
    return Auth(reason, properties)


def _reason_and_properties(kind: PacketType, data: bytes, pos: int, end: int, limits: Limits) -> tuple[int, Properties]:
    """Of a packet that may leave out its properties, and its reason if that is 0."""
    if pos == end:
        return 0, NO_PROPERTIES
    reason = _reason(kind, data[pos])
    if pos + 1 == end:
        return reason, NO_PROPERTIES
    properties, pos = read_properties(data, pos + 1, end, ALLOWED[kind], limits.max_user_properties)
    _expect_end(kind.name, pos, end)
    return reason, properties


def _pingreq(_first: int, _data: bytes, pos: int, end: int, _version: int, _limits: Limits) -> Pingreq:
    _expect_end("PINGREQ", pos, end)
    return Pingreq()


def _pingresp(_first: int, _data: bytes, pos: int, end: int, _version: int, _limits: Limits) -> Pingresp:
    _expect_end("PINGRESP", pos, end)
    return Pingresp()


# ------------------------------------------------------------------ messages


def _publish(first: int, data: bytes, pos: int, end: int, version: int, limits: Limits) -> Publish:  # noqa: PLR0917
    qos = first >> 1 & 3
    if qos == 3:
        raise _malformed("PUBLISH with QoS 0..2, got 3")
    if first & 8 and not qos and version != V31:
        raise _malformed("PUBLISH of QoS 0 without DUP")
    raw, pos = read_binary(data, pos, end)
    topic = topic_names(limits.max_topic_length, limits.max_topic_levels)[raw] if raw or version < V5 else ""
    packet_id = 0
    if qos:
        packet_id = _read_id(data, pos, end)
        pos += 2
    properties, pos = _properties(PacketType.PUBLISH, data, pos, end, version, limits)
    if not topic and Property.TOPIC_ALIAS not in properties:
        raise RemoteError(Reason.PROTOCOL_ERROR, "expected a topic name or an alias for one, got neither")
    if qos > limits.max_qos:
        raise RemoteError(Reason.QOS_NOT_SUPPORTED, f"expected PUBLISH of QoS {limits.max_qos} at most, got {qos}")
    if first & 1 and not limits.retain_available:
        raise RemoteError(Reason.RETAIN_NOT_SUPPORTED, "expected PUBLISH without RETAIN")
    dup = bool(first & 8) and qos > 0
    return Publish(topic, data[pos:end], qos, bool(first & 1), dup, packet_id, properties)


def _acknowledgement(make: type[Puback | Pubrec | Pubrel | Pubcomp], kind: PacketType) -> Decoder:
    def decode_one(_first: int, data: bytes, pos: int, end: int, version: int, limits: Limits) -> Packet:
        packet_id = _read_id(data, pos, end)
        if version < V5:
            _expect_end(kind.name, pos + 2, end)
            return make(packet_id)
        reason, properties = _reason_and_properties(kind, data, pos + 2, end, limits)
        return make(packet_id, reason, properties)

    return decode_one


# ------------------------------------------------------------------ subscriptions


def _subscribe(_first: int, data: bytes, pos: int, end: int, version: int, limits: Limits) -> Subscribe:
    packet_id = _read_id(data, pos, end)
    properties, pos = _properties(PacketType.SUBSCRIBE, data, pos + 2, end, version, limits)
    if properties and not limits.subscription_identifiers_available and Property.SUBSCRIPTION_IDENTIFIER in properties:
        raise RemoteError(Reason.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED, "expected SUBSCRIBE without an identifier")
    requests: list[SubscriptionRequest] = []
    while pos < end:
        topic_filter, pos = _filter(data, pos, end, limits, len(requests))
        if pos == end:
            raise _malformed("subscription options, got the end of the packet")
        requests.append(_request(topic_filter, data[pos], version, limits))
        pos += 1
    if not requests:
        raise RemoteError(Reason.PROTOCOL_ERROR, "expected SUBSCRIBE with a filter, got none")
    return Subscribe(packet_id, requests, properties)


def _filter(data: bytes, pos: int, end: int, limits: Limits, already: int) -> tuple[str, int]:
    if already >= limits.max_filters:
        raise RemoteError(Reason.QUOTA_EXCEEDED, f"expected at most {limits.max_filters} filters in a packet")
    topic_filter, pos = read_string(data, pos, end)
    check_topic_filter(topic_filter, limits.max_topic_length, limits.max_topic_levels)
    return topic_filter, pos


def _request(topic_filter: str, options: int, version: int, limits: Limits) -> SubscriptionRequest:
    qos = options & 3
    if options & (0xC0 if version == V5 else 0xFC):
        raise _malformed(f"subscription options with reserved bits of 0, got {options:#x}")
    if qos == 3:
        raise RemoteError(Reason.PROTOCOL_ERROR, "expected a subscription of QoS 0..2, got 3")
    shared = is_shared(topic_filter)
    if shared and not limits.shared_available:
        raise RemoteError(Reason.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED, "expected no shared subscription")
    if version == V5 and not limits.wildcard_available and ("#" in topic_filter or "+" in topic_filter):
        # Before MQTT 5 it is for the SUBACK to refuse (3.1.1, section 3.8.3).
        raise RemoteError(Reason.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED, "expected a filter without wildcards")
    if not options & 0xFC:
        return SubscriptionRequest(topic_filter, qos)
    retain_handling = options >> 4 & 3
    if retain_handling == 3:
        raise RemoteError(Reason.PROTOCOL_ERROR, "expected retain handling of 0..2, got 3")
    if shared and options & 4:
        raise RemoteError(Reason.PROTOCOL_ERROR, "expected a shared subscription without No Local")
    return SubscriptionRequest(topic_filter, qos, bool(options & 4), bool(options & 8), retain_handling)


def _unsubscribe(_first: int, data: bytes, pos: int, end: int, version: int, limits: Limits) -> Unsubscribe:
    packet_id = _read_id(data, pos, end)
    properties, pos = _properties(PacketType.UNSUBSCRIBE, data, pos + 2, end, version, limits)
    filters: list[str] = []
    while pos < end:
        topic_filter, pos = _filter(data, pos, end, limits, len(filters))
        filters.append(topic_filter)
    if not filters:
        raise RemoteError(Reason.PROTOCOL_ERROR, "expected UNSUBSCRIBE with a filter, got none")
    return Unsubscribe(packet_id, filters, properties)


def _suback(_first: int, data: bytes, pos: int, end: int, version: int, limits: Limits) -> Suback:
    packet_id = _read_id(data, pos, end)
    properties, pos = _properties(PacketType.SUBACK, data, pos + 2, end, version, limits)
    return Suback(packet_id, _reasons(PacketType.SUBACK, data[pos:end], version), properties)


def _reasons(kind: PacketType, codes: bytes, version: int) -> list[int]:
    if not codes:
        raise _malformed(f"{kind.name} with a reason for each filter, got none")
    return [_reason(kind, code, version) for code in codes]


def _unsuback(_first: int, data: bytes, pos: int, end: int, version: int, limits: Limits) -> Unsuback:
    packet_id = _read_id(data, pos, end)
    properties, pos = _properties(PacketType.UNSUBACK, data, pos + 2, end, version, limits)
    if version < V5:
        _expect_end("UNSUBACK", pos, end)
        return Unsuback(packet_id)
    return Unsuback(packet_id, _reasons(PacketType.UNSUBACK, data[pos:end], version), properties)


_DECODERS: dict[int, Decoder] = {
    PacketType.CONNECT: _connect,
    PacketType.CONNACK: _connack,
    PacketType.PUBLISH: _publish,
    PacketType.PUBACK: _acknowledgement(Puback, PacketType.PUBACK),
    PacketType.PUBREC: _acknowledgement(Pubrec, PacketType.PUBREC),
    PacketType.PUBREL: _acknowledgement(Pubrel, PacketType.PUBREL),
    PacketType.PUBCOMP: _acknowledgement(Pubcomp, PacketType.PUBCOMP),
    PacketType.SUBSCRIBE: _subscribe,
    PacketType.SUBACK: _suback,
    PacketType.UNSUBSCRIBE: _unsubscribe,
    PacketType.UNSUBACK: _unsuback,
    PacketType.PINGREQ: _pingreq,
    PacketType.PINGRESP: _pingresp,
    PacketType.DISCONNECT: _disconnect,
    PacketType.AUTH: _auth,
}

_PROPER: dict[int, Decoder] = {
    first: _DECODERS[first >> 4]
    for first in range(0x10, 0xF0)
    if first >> 4 == PacketType.PUBLISH or first & 15 == _FLAGS.get(PacketType(first >> 4), 0)
}
"""The same by first byte, where that is right in every version."""


def connect_level(data: bytes, pos: int) -> int:
    """How to answer the CONNECT at data[pos:], which is wrong somewhere: 4 as before MQTT 5, 5 as since, 0 when it is
    none."""
    start = pos + 1
    while start < len(data) and data[start] > 127 and start < pos + 4:
        start += 1
    start += 1
    if data[pos] >> 4 != PacketType.CONNECT:
        return 0
    if data[start : start + 6] == b"\0\4MQTT" and len(data) > start + 6:
        return 5 if 5 <= data[start + 6] < 0x80 else 4
    return 4 if data[start : start + 8] == b"\0\6MQIsdp" else 0
