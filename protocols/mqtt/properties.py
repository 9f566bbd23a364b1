"""Properties of MQTT 5: which packet may have which, their types and values, to bytes and back (section 2.2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from protocols.errors import LocalError, RemoteError
from protocols.mqtt.names import MAX_STRING, decode_string, has_wildcards, is_topic_name
from protocols.mqtt.packets import NO_PROPERTIES, PacketType, Properties, Property
from protocols.mqtt.reasons import Reason

MAX_VARINT = 268_435_455
"""Largest variable byte integer (section 1.5.5)."""

NO_LIMIT = 1 << 60

USER_PROPERTY_OVERHEAD = 150
"""Bytes that a user property takes in memory beside its characters, about."""

BYTE, TWO_BYTES, FOUR_BYTES, VARINT, STRING, BINARY, PAIR = range(7)
"""Data types (section 1.5)."""

_WIDTHS = (1, 2, 4)
"""Bytes of the first three."""


class Form(NamedTuple):
    """How one property looks."""

    kind: int
    low: int = 0
    high: int = 0
    wrong: Reason = Reason.PROTOCOL_ERROR
    """Reason for a number outside low..high."""


_FLAG = Form(BYTE, 0, 1)
_SECONDS = Form(FOUR_BYTES, 0, 0xFFFFFFFF)
_TEXT = Form(STRING)

FORMS: dict[int, Form] = {
    Property.PAYLOAD_FORMAT: _FLAG,
    Property.MESSAGE_EXPIRY: _SECONDS,
    Property.CONTENT_TYPE: _TEXT,
    Property.RESPONSE_TOPIC: _TEXT,
    Property.CORRELATION_DATA: Form(BINARY),
    Property.SUBSCRIPTION_IDENTIFIER: Form(VARINT, 1, MAX_VARINT),
    Property.SESSION_EXPIRY: _SECONDS,
    Property.ASSIGNED_CLIENT_ID: _TEXT,
    Property.SERVER_KEEP_ALIVE: Form(TWO_BYTES, 0, 0xFFFF),
    Property.AUTHENTICATION_METHOD: _TEXT,
    Property.AUTHENTICATION_DATA: Form(BINARY),
    Property.REQUEST_PROBLEM_INFORMATION: _FLAG,
    Property.WILL_DELAY: _SECONDS,
    Property.REQUEST_RESPONSE_INFORMATION: _FLAG,
    Property.RESPONSE_INFORMATION: _TEXT,
    Property.SERVER_REFERENCE: _TEXT,
    Property.REASON_STRING: _TEXT,
    Property.RECEIVE_MAXIMUM: Form(TWO_BYTES, 1, 0xFFFF),
    Property.TOPIC_ALIAS_MAXIMUM: Form(TWO_BYTES, 0, 0xFFFF),
    Property.TOPIC_ALIAS: Form(TWO_BYTES, 1, 0xFFFF, Reason.TOPIC_ALIAS_INVALID),
    Property.MAXIMUM_QOS: _FLAG,
    Property.RETAIN_AVAILABLE: _FLAG,
    Property.USER_PROPERTY: Form(PAIR),
    Property.MAXIMUM_PACKET_SIZE: Form(FOUR_BYTES, 1, 0xFFFFFFFF),
    Property.WILDCARD_AVAILABLE: _FLAG,
    Property.SUBSCRIPTION_IDENTIFIERS_AVAILABLE: _FLAG,
    Property.SHARED_AVAILABLE: _FLAG,
}

_HIGHEST = max(FORMS)
_FORMS = [FORMS.get(identifier) for identifier in range(_HIGHEST + 1)]

_MESSAGE = frozenset((
    Property.PAYLOAD_FORMAT, Property.MESSAGE_EXPIRY, Property.CONTENT_TYPE, Property.RESPONSE_TOPIC,
    Property.CORRELATION_DATA, Property.USER_PROPERTY,
))  # fmt: skip
_PROBLEM = frozenset((Property.REASON_STRING, Property.USER_PROPERTY))

WILL_PROPERTIES = _MESSAGE | {Property.WILL_DELAY}
"""Section 3.1.3.2."""

ALLOWED: dict[int, frozenset[int]] = {
    PacketType.CONNECT: frozenset((
        Property.SESSION_EXPIRY, Property.RECEIVE_MAXIMUM, Property.MAXIMUM_PACKET_SIZE, Property.TOPIC_ALIAS_MAXIMUM,
        Property.REQUEST_RESPONSE_INFORMATION, Property.REQUEST_PROBLEM_INFORMATION, Property.USER_PROPERTY,
        Property.AUTHENTICATION_METHOD, Property.AUTHENTICATION_DATA,
    )),
    PacketType.CONNACK: _PROBLEM | {
        Property.SESSION_EXPIRY, Property.RECEIVE_MAXIMUM, Property.MAXIMUM_QOS, Property.RETAIN_AVAILABLE,
        Property.MAXIMUM_PACKET_SIZE, Property.ASSIGNED_CLIENT_ID, Property.TOPIC_ALIAS_MAXIMUM,
        Property.WILDCARD_AVAILABLE, Property.SUBSCRIPTION_IDENTIFIERS_AVAILABLE, Property.SHARED_AVAILABLE,
        Property.SERVER_KEEP_ALIVE, Property.RESPONSE_INFORMATION, Property.SERVER_REFERENCE,
        Property.AUTHENTICATION_METHOD, Property.AUTHENTICATION_DATA,
    },
    PacketType.PUBLISH: _MESSAGE | {Property.TOPIC_ALIAS, Property.SUBSCRIPTION_IDENTIFIER},
    PacketType.PUBACK: _PROBLEM,
    PacketType.PUBREC: _PROBLEM,
    PacketType.PUBREL: _PROBLEM,
    PacketType.PUBCOMP: _PROBLEM,
    PacketType.SUBSCRIBE: frozenset((Property.SUBSCRIPTION_IDENTIFIER, Property.USER_PROPERTY)),
    PacketType.SUBACK: _PROBLEM,
    PacketType.UNSUBSCRIBE: frozenset((Property.USER_PROPERTY,)),
    PacketType.UNSUBACK: _PROBLEM,
    PacketType.PINGREQ: frozenset(),
    PacketType.PINGRESP: frozenset(),
    PacketType.DISCONNECT: _PROBLEM | {Property.SESSION_EXPIRY, Property.SERVER_REFERENCE},
    PacketType.AUTH: _PROBLEM | {Property.AUTHENTICATION_METHOD, Property.AUTHENTICATION_DATA},
}  # fmt: skip
"""Packet type -> properties that it may have (section 2.2.2.2)."""

_ONE_IDENTIFIER = ALLOWED[PacketType.SUBSCRIBE]


def encode_varint(value: int) -> bytes:
    """A variable byte integer (section 1.5.5), of 0..268,435,455."""
    if value < 128:
        return value.to_bytes(1, "big")
    if value > MAX_VARINT:
        raise LocalError(f"expected at most {MAX_VARINT}, got {value}")
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_varint(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """(value, position behind it). Raises RemoteError(MALFORMED_PACKET) when it is cut off, longer than four bytes or
    longer than it need be."""
    value = shift = 0
    while pos < end and shift < 28:
        byte = data[pos]
        pos += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if byte == 0 and shift:
                raise RemoteError(Reason.MALFORMED_PACKET, "expected a number in as few bytes as it needs, got more")
            return value, pos
        shift += 7
    raise RemoteError(Reason.MALFORMED_PACKET, "expected a number of at most four bytes, got no end of it")


def read_binary(data: bytes, pos: int, end: int) -> tuple[bytes, int]:
    """(bytes, position behind them) of binary data with its two bytes of length (section 1.5.6)."""
    start = pos + 2
    if start <= end:
        stop = start + (data[pos] << 8 | data[pos + 1])
        if stop <= end:
            return data[start:stop], stop
    raise RemoteError(Reason.MALFORMED_PACKET, "expected a length and so many bytes, got the end of the packet")


def read_string(data: bytes, pos: int, end: int) -> tuple[str, int]:
    """(text, position behind it) of a UTF-8 string with its two bytes of length (section 1.5.4)."""
    raw, pos = read_binary(data, pos, end)
    return decode_string(raw), pos


def encode_binary(value: bytes) -> bytes:
    """Binary data with its two bytes of length. Raises LocalError past 65,535 bytes."""
    if len(value) > MAX_STRING:
        raise LocalError(f"expected at most {MAX_STRING} bytes, got {len(value)}")
    return len(value).to_bytes(2, "big") + value


def encode_string(text: str) -> bytes:
    """A UTF-8 string with its two bytes of length. Raises LocalError for what no string may hold."""
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise LocalError("expected a string without surrogates") from None
    if b"\0" in raw:
        raise LocalError("expected a string without U+0000")
    if len(raw) > MAX_STRING:
        raise LocalError(f"expected at most {MAX_STRING} bytes of UTF-8, got {len(raw)}")
    return len(raw).to_bytes(2, "big") + raw


# ------------------------------------------------------------------ to bytes


def encode_properties(properties: Properties) -> bytes:
    """Properties in the order of the mapping, with the length before them.

    Raises LocalError for an unknown identifier and for values that their property cannot have.
    """
    if not properties:
        return b"\0"
    fields = encode_fields(properties)
    return encode_varint(len(fields)) + fields


def encode_fields(properties: Properties) -> bytes:
    """The same without the length."""
    parts: list[bytes] = []
    for identifier, value in properties.items():
        form = FORMS.get(identifier)
        if form is None:
            raise LocalError(f"expected a property of MQTT 5, got identifier {identifier}")
        tag = identifier.to_bytes(1, "big")
        try:
            if form.kind == PAIR:
                parts.extend(tag + encode_string(name) + encode_string(text) for name, text in value)
            elif form.kind == VARINT and not isinstance(value, int):
                parts.extend(tag + _encode_value(identifier, form, each) for each in value)
            else:
                parts.append(tag + _encode_value(identifier, form, value))
        except (AttributeError, TypeError, ValueError):
            raise LocalError(f"property {_name(identifier)}: unexpected {type(value).__name__}") from None
    return b"".join(parts)


def _encode_value(identifier: int, form: Form, value: Any) -> bytes:
    if form.kind == STRING:
        if identifier == Property.RESPONSE_TOPIC and not is_topic_name(value):
            raise LocalError(f"property RESPONSE_TOPIC: expected a topic name, got {value!r}")
        return encode_string(value)
    if form.kind == BINARY:
        return encode_binary(value)
    if not form.low <= value <= form.high:
        raise LocalError(f"property {_name(identifier)}: expected {form.low}..{form.high}, got {value}")
    number = int(value)
    return encode_varint(number) if form.kind == VARINT else number.to_bytes(_WIDTHS[form.kind], "big")


def _name(identifier: int) -> str:
    return Property(identifier).name


# ------------------------------------------------------------------ from bytes


def decode_properties(data: bytes, allowed: frozenset[int] | None = None) -> Properties:
    """Properties of `data`, which begins with their length and ends with the last of them.

    `allowed` is one of ALLOWED's sets or WILL_PROPERTIES; None allows all, as a PUBLISH would carry them.
    Raises RemoteError as `read_properties` does.
    """
    properties, pos = read_properties(data, 0, len(data), allowed)
    if pos != len(data):
        raise RemoteError(
            Reason.MALFORMED_PACKET, f"expected nothing behind the properties, got {len(data) - pos} bytes"
        )
    return properties


def read_properties(
    data: bytes, pos: int, end: int, allowed: frozenset[int] | None = None, max_user_properties: int = NO_LIMIT
) -> tuple[Properties, int]:
    """(properties, position behind them) of data[pos:end].

    Raises RemoteError: MALFORMED_PACKET for identifiers that the packet may not have and values that are cut off,
    PROTOCOL_ERROR for what comes twice or is out of range, TOPIC_ALIAS_INVALID for the alias 0, QUOTA_EXCEEDED for
    too many user properties.
    """
    if pos < end and data[pos] == 0:
        return NO_PROPERTIES, pos + 1
    length, pos = read_varint(data, pos, end)
    stop = pos + length
    if stop > end:
        raise RemoteError(Reason.MALFORMED_PACKET, f"expected {length} bytes of properties, got {end - pos}")
    properties: dict[int, Any] = {}
    while pos < stop:
        identifier = data[pos]
        if identifier > _HIGHEST or (allowed is not None and identifier not in allowed):
            raise _unexpected(identifier)
        form = _FORMS[identifier]
        if form is None:
            raise _unexpected(identifier)
        pos += 1
        kind = form.kind
        value: Any
        if kind <= FOUR_BYTES:
            begin = pos
            pos += _WIDTHS[kind]
            if pos > stop:
                raise RemoteError(Reason.MALFORMED_PACKET, "expected a property's value, got the end of the properties")
            value = int.from_bytes(data[begin:pos], "big")
        elif kind == PAIR:
            name, pos = read_string(data, pos, stop)
            text, pos = read_string(data, pos, stop)
            pairs = properties.setdefault(identifier, [])
            if len(pairs) >= max_user_properties:
                raise RemoteError(Reason.QUOTA_EXCEEDED, f"expected at most {max_user_properties} user properties")
            pairs.append((name, text))
            continue
        elif kind == STRING:
            value, pos = read_string(data, pos, stop)
        elif kind == BINARY:
            value, pos = read_binary(data, pos, stop)
        else:
            value, pos = read_varint(data, pos, stop)
            if allowed is not _ONE_IDENTIFIER:
                properties.setdefault(identifier, []).append(_in_range(identifier, form, value))
                continue
        if identifier in properties:
            raise RemoteError(Reason.PROTOCOL_ERROR, f"expected property {_name(identifier)} once, got it twice")
        properties[identifier] = _in_range(identifier, form, value)
    return properties, pos


def _unexpected(identifier: int) -> RemoteError:
    return RemoteError(Reason.MALFORMED_PACKET, f"expected a property of this packet, got identifier {identifier}")


def _in_range(identifier: int, form: Form, value: Any) -> Any:
    if form.high:
        if not form.low <= value <= form.high:
            raise RemoteError(
                form.wrong, f"property {_name(identifier)}: expected {form.low}..{form.high}, got {value}"
            )
    elif identifier == Property.RESPONSE_TOPIC and (not value or has_wildcards(value)):
        raise RemoteError(Reason.PROTOCOL_ERROR, f"expected a topic name to respond to, got {value[:80]!r}")
    return value


def without_problem_information(properties: Mapping[int, Any]) -> Properties:
    """The same without Reason String and User Properties (section 3.1.2.11.7)."""
    if _PROBLEM.isdisjoint(properties):
        return properties
    return {key: value for key, value in properties.items() if key not in _PROBLEM}


def footprint(properties: Properties) -> int:
    """Bytes that the properties of a message take where it is kept, about: many small ones are as dear as a few large
    ones."""
    size = 0
    for value in properties.values():
        if isinstance(value, str | bytes):
            size += len(value)
        elif isinstance(value, list):
            for one in value:
                size += USER_PROPERTY_OVERHEAD
                if isinstance(one, tuple):
                    size += len(one[0]) + len(one[1])
        else:
            size += 4
    return size
