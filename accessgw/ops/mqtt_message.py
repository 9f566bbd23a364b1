"""MQTT messages as JSON: the bodies of /v1/mqtt/publish and /v1/mqtt/request, and what readers are shown.

A payload is written as one of three: `payload` (any JSON; its bytes go out exactly as they were sent),
`text`, or `payload_b64`. What is shown takes the first of them that holds the bytes.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import msgspec

from accessgw.config import syntax
from accessgw.core.interfaces.control import ControlError
from accessgw.core.interfaces.mqtt_state import Message
from accessgw.ops.queries import shown
from protocols.mqtt.packets import NO_PROPERTIES, Properties, Property

PUBLISHER = "$control"
MAX_TIMEOUT = 300
"""Seconds that a request may wait for its answer."""
DEFAULT_TIMEOUT = 10.0
MAX_EXPIRY = 2**32 - 1
"""Seconds; the wire has four bytes for them (MQTT 5, section 3.3.2.3.3)."""
MAX_STRING = 65535
"""Bytes of a string or of binary data on the wire (sections 1.5.4, 1.5.6)."""
_PAYLOADS = ("payload", "text", "payload_b64")
_PUBLISH_KEYS = ("topic", *_PAYLOADS, "qos", "retain", "expiry", "properties")
_REQUEST_KEYS = ("device", "topic", *_PAYLOADS, "timeout")
_PROPERTY_KEYS = ("content_type", "response_topic", "correlation_data_b64", "user", "payload_format")
_LIST = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_ONE = msgspec.json.Decoder(dict[str, msgspec.Raw])


class DeviceRequest(msgspec.Struct, frozen=True):
    """The body of POST /v1/mqtt/request."""

    device: str
    topic: str
    payload: bytes
    timeout: float


# ------------------------------------------------------------------ what comes in


def parse_messages(body: bytes, max_batch: int, now: float) -> tuple[list[Message], bool]:
    """(the messages, whether they came as a list). Raises ControlError 400 (or 413) with the path: `[3].topic`.

    `now` is the wall-clock second that their expiry counts from.
    """
    as_list = body.lstrip()[:1] == b"["
    try:
        items = _LIST.decode(body) if as_list else [_ONE.decode(body)]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _invalid("", f"expected a message, or a list of messages, as JSON: {error}") from None
    if not items:
        raise _invalid("", "expected at least one message, got an empty list")
    if len(items) > max_batch:
        raise ControlError(413, "too_large", f"expected at most {max_batch} messages, got {len(items)}")
    return [_message(item, f"[{i}]." if as_list else "", now) for i, item in enumerate(items)], as_list


def parse_request(body: bytes) -> DeviceRequest:
    """Raises ControlError 400 with the path."""
    try:
        item = _ONE.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _invalid("", f"expected a request as JSON: {error}") from None
    fields = _fields(item, _REQUEST_KEYS, "")
    device = fields.get("device")
    if not isinstance(device, str) or not device or len(device.encode()) > MAX_STRING:
        raise _invalid("device", f"expected the id of a device, got {shown(device)}")
    topic = _topic(fields.get("topic"), "topic")
    timeout = fields.get("timeout", DEFAULT_TIMEOUT)
    if not _is_number(timeout) or not 0 < timeout <= MAX_TIMEOUT:
        raise _invalid("timeout", f"expected seconds greater than 0 and at most {MAX_TIMEOUT}, got {shown(timeout)}")
    return DeviceRequest(device, topic, _payload(item, fields, ""), float(timeout))


def _message(item: dict[str, msgspec.Raw], prefix: str, now: float) -> Message:
    fields = _fields(item, _PUBLISH_KEYS, prefix)
    qos = fields.get("qos", 0)
    if isinstance(qos, bool) or qos not in (0, 1, 2):
        raise _invalid(prefix + "qos", f"expected 0, 1 or 2, got {shown(qos)}")
    retain = fields.get("retain", False)
    if not isinstance(retain, bool):
        raise _invalid(prefix + "retain", f"expected true or false, got {shown(retain)}")
    expiry = fields.get("expiry")
    if expiry is not None and (not _is_number(expiry) or not 0 < expiry <= MAX_EXPIRY):
        raise _invalid(
            prefix + "expiry", f"expected seconds greater than 0 and at most {MAX_EXPIRY}, got {shown(expiry)}"
        )
    return Message(
        _topic(fields.get("topic"), prefix + "topic"),
        _payload(item, fields, prefix),
        qos=int(qos),
        retain=retain,
        properties=_properties(fields.get("properties"), prefix + "properties"),
        at=now,
        expires_at=None if expiry is None else now + expiry,
        publisher=PUBLISHER,
    )


def _fields(item: dict[str, msgspec.Raw], known: tuple[str, ...], prefix: str) -> dict[str, Any]:
    for key in item:
        if key not in known:
            raise _invalid(prefix + key, f"unknown key, expected {', '.join(known)}")
    return {key: _decode(raw, prefix + key) for key, raw in item.items() if key != "payload"}


def _topic(topic: Any, path: str) -> str:
    if not isinstance(topic, str) or not syntax.is_topic_name(topic):
        raise _invalid(path, f"expected a topic without wildcards, got {shown(topic)}")
    return topic


def _payload(item: dict[str, msgspec.Raw], fields: dict[str, Any], prefix: str) -> bytes:
    given = [key for key in _PAYLOADS if key in item]
    if len(given) != 1:
        raise _invalid(prefix + "payload", "expected exactly one of payload, text and payload_b64")
    (key,) = given
    if key == "payload":
        raw = bytes(item[key])
        _decode(item[key], prefix + key)
        return raw
    value = fields[key]
    if not isinstance(value, str):
        raise _invalid(prefix + key, f"expected {'text' if key == 'text' else 'base64 text'}, got {shown(value)}")
    return value.encode() if key == "text" else _base64(value, prefix + key)


def _properties(given: Any, path: str) -> Properties:
    if given is None:
        return NO_PROPERTIES
    if not isinstance(given, dict):
        raise _invalid(path, f"expected an object, got {shown(given)}")
    found: dict[int, Any] = {}
    for key, value in given.items():
        here = f"{path}.{key}"
        if key not in _PROPERTY_KEYS:
            raise _invalid(here, f"unknown property, expected {', '.join(_PROPERTY_KEYS)}")
        if key == "content_type":
            found[Property.CONTENT_TYPE] = _string(value, here)
        elif key == "response_topic":
            found[Property.RESPONSE_TOPIC] = _topic(value, here)
        elif key == "payload_format":
            if isinstance(value, bool) or value not in (0, 1):
                raise _invalid(here, f"expected 0 (bytes) or 1 (UTF-8), got {shown(value)}")
            found[Property.PAYLOAD_FORMAT] = int(value)
        elif key == "user":
            found[Property.USER_PROPERTY] = _user_properties(value, here)
        else:
            data = _base64(value, here) if isinstance(value, str) else b""
            if not isinstance(value, str) or len(data) > MAX_STRING:
                raise _invalid(here, f"expected base64 text of at most {MAX_STRING} bytes, got {shown(value)}")
            found[Property.CORRELATION_DATA] = data
    return found or NO_PROPERTIES


def _user_properties(value: Any, path: str) -> list[tuple[str, str]]:
    pairs = list(value.items()) if isinstance(value, dict) else value
    if not isinstance(pairs, list) or len(pairs) > 64:
        raise _invalid(path, f"expected an object or a list of at most 64 [name, value] pairs, got {shown(value)}")
    found = []
    for index, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise _invalid(f"{path}[{index}]", f"expected [name, value], got {shown(pair)}")
        here = f"{path}.{pair[0]}" if isinstance(value, dict) else f"{path}[{index}]"
        found.append((_string(pair[0], here), _string(pair[1], here)))
    return found


def _string(value: Any, path: str) -> str:
    if not isinstance(value, str) or "\0" in value or len(value.encode()) > MAX_STRING:
        raise _invalid(path, f"expected text of at most {MAX_STRING} bytes, got {shown(value)}")
    return value


def _base64(text: str, path: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _invalid(path, f"expected base64 text: {error}") from None


def _decode(raw: msgspec.Raw, path: str) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _invalid(path, f"expected JSON: {error}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _invalid(path: str, message: str) -> ControlError:
    return ControlError(400, "invalid", f"{path}: {message}" if path else message, path)


# ------------------------------------------------------------------ what goes out


def message_view(message: Message) -> dict[str, Any]:
    """A message as readers see it."""
    view: dict[str, Any] = {"topic": message.topic, **payload_view(message.payload)}
    view |= {"qos": message.qos, "retain": message.retain, "at": message.at}
    if message.expires_at is not None:
        view["expires_at"] = message.expires_at
    if message.publisher:
        view["publisher"] = message.publisher
    if message.properties:
        view["properties"] = properties_view(message.properties)
    return view


def payload_view(payload: bytes) -> dict[str, Any]:
    """The payload under the name that says what it is: JSON, text, or base64 of bytes."""
    payload = bytes(payload)
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return {"payload_b64": base64.b64encode(payload).decode()}
    try:
        msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError):
        return {"text": text}
    # as it came, number by number; a line break (only ever between JSON's tokens) would end a server-sent event
    return {"payload": msgspec.Raw(payload.replace(b"\r", b" ").replace(b"\n", b" "))}


def properties_view(properties: Properties) -> dict[str, Any]:
    """The properties of a message by the names that publishing takes."""
    view: dict[str, Any] = {}
    for identifier, value in properties.items():
        if identifier == Property.CORRELATION_DATA:
            view["correlation_data_b64"] = base64.b64encode(value).decode()
        elif identifier == Property.USER_PROPERTY:
            view["user"] = [[name, text] for name, text in value]
        elif identifier in (Property.CONTENT_TYPE, Property.RESPONSE_TOPIC, Property.PAYLOAD_FORMAT):
            view[Property(identifier).name.lower()] = value
    return view


def plain(value: Any) -> Any:
    """The broker's own answers as JSON can hold them:
    `payload` of bytes as payload_view does, other bytes as base64."""
    if isinstance(value, Mapping):
        shown: dict[str, Any] = {}
        for key, item in value.items():
            if key == "payload" and isinstance(item, bytes | bytearray | memoryview):
                shown |= payload_view(bytes(item))
            elif key == "properties" and isinstance(item, Mapping) and all(isinstance(name, int) for name in item):
                shown[key] = properties_view(item)
            else:
                shown[str(key)] = plain(item)
        return shown
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
