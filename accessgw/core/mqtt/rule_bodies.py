"""What a service gets of messages: a JSON list of them, or one as the body with the rest in headers."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from msgspec import UNSET, Struct, UnsetType, json

from accessgw.core.call_headers import visible
from accessgw.core.mqtt.rule_queue import Taken
from accessgw.model.calls import Headers
from protocols.mqtt.packets import Properties, Property

_CONTENT_TYPE = re.compile(r"[!-~]+/[!-~]+( *;[ -~]*)?")
_encoder = json.Encoder()


class ServiceMessage(Struct, omit_defaults=True):
    """One message as JSON. `payload` is always a string: what a device calls its payload's type changes nothing
    about the shape of what a service gets."""

    topic: str
    qos: int
    retain: bool
    device: str
    user: str
    client: str
    epoch: int
    seq: int
    at: float
    """Wall-clock second of its arrival."""
    payload: str | UnsetType = UNSET
    """When it is UTF-8."""
    payload_b64: bytes | UnsetType = UNSET
    """When it is not."""
    expires_at: float | None = None
    properties: dict[str, Any] = {}


def json_body(batch: Sequence[Taken]) -> bytes:
    """The list of messages."""
    return _encoder.encode([_described(taken) for taken in batch])


def raw_headers(taken: Taken) -> Headers:
    """Everything about a message but its payload. Texts are percent-encoded where they are not visible ASCII."""
    message = taken.message
    identity = message.identity
    properties = message.properties
    headers: Headers = [
        ("content-type", _content_type(properties)),
        ("x-mqtt-topic", visible(message.topic)),
        ("x-mqtt-qos", str(message.qos)),
        ("x-mqtt-retain", "1" if message.retain else "0"),
        ("x-mqtt-client-id", visible(message.publisher)),
        ("x-mqtt-epoch", str(taken.epoch)),
        ("x-mqtt-seq", str(taken.seq)),
        ("x-mqtt-at", f"{message.at:.3f}"),
    ]
    if identity is not None and identity.device:
        headers.append(("x-device-id", visible(identity.device)))
    if identity is not None and identity.user:
        headers.append(("x-user-id", visible(identity.user)))
    if message.expires_at is not None:
        headers.append(("x-mqtt-expires-at", f"{message.expires_at:.3f}"))
    if Property.RESPONSE_TOPIC in properties:
        headers.append(("x-mqtt-response-topic", visible(properties[Property.RESPONSE_TOPIC])))
    if Property.CORRELATION_DATA in properties:
        headers.append(("x-mqtt-correlation-data", b64encode(properties[Property.CORRELATION_DATA]).decode()))
    for name, value in properties.get(Property.USER_PROPERTY, ()):
        headers.append(("x-mqtt-user-property", f"{quote(name, safe='')}={quote(value, safe='')}"))
    return headers


def _described(taken: Taken) -> ServiceMessage:
    message = taken.message
    identity = message.identity
    described = ServiceMessage(
        topic=message.topic,
        qos=message.qos,
        retain=message.retain,
        device=identity.device if identity is not None else "",
        user=identity.user if identity is not None else "",
        client=message.publisher,
        epoch=taken.epoch,
        seq=taken.seq,
        at=message.at,
        expires_at=message.expires_at,
        properties=_named(message.properties) if message.properties else {},
    )
    try:
        described.payload = message.payload.decode()
    except UnicodeDecodeError:
        described.payload_b64 = message.payload
    return described


def _named(properties: Properties) -> dict[str, Any]:
    named: dict[str, Any] = {}
    if properties.get(Property.PAYLOAD_FORMAT):
        named["payload_format"] = "utf-8"
    if Property.CONTENT_TYPE in properties:
        named["content_type"] = properties[Property.CONTENT_TYPE]
    if Property.RESPONSE_TOPIC in properties:
        named["response_topic"] = properties[Property.RESPONSE_TOPIC]
    if Property.CORRELATION_DATA in properties:
        named["correlation_data_b64"] = bytes(properties[Property.CORRELATION_DATA])
    if Property.USER_PROPERTY in properties:
        named["user"] = [list(pair) for pair in properties[Property.USER_PROPERTY]]
    return named


def _content_type(properties: Properties) -> str:
    told: str = properties.get(Property.CONTENT_TYPE, "")
    if _CONTENT_TYPE.fullmatch(told):
        return told
    return "text/plain; charset=utf-8" if properties.get(Property.PAYLOAD_FORMAT) else "application/octet-stream"
