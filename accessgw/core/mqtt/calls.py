"""Calls from MQTT: a PUBLISH to `$call/...` becomes a call, its answer a PUBLISH to the caller alone.

`$call/<operation>/<id>` is answered on `$reply/<id>`, or, when it failed, on `$reply/<id>/error` with a JSON object
(status, name, message, and the service's own body). Where a Response Topic of MQTT 5 came with it (section 4.10), as
it must on `$call/<operation>`, every answer goes there with the Correlation Data. Answers to clients of MQTT 5 have
the user property `status` (0: it worked) and the headers of the answer as further ones. Nobody has to subscribe.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from http import HTTPStatus
from typing import Any, Protocol

from msgspec import json

from accessgw.core.call_headers import BUSY, TRY_AGAIN
from accessgw.core.interfaces.calls import CallService, CallUpload
from accessgw.core.interfaces.clock import Clock
from accessgw.model.calls import Call, Headers
from accessgw.model.counters import MqttCounters
from accessgw.model.identity import ConnectionInfo, Identity, Strength
from protocols.mmtp.statuses import Status
from protocols.mqtt.names import is_string, is_topic_name
from protocols.mqtt.packets import NO_PROPERTIES, V5, Properties, Property, Publish
from protocols.mqtt.reasons import Reason

PREFIX = "$call/"
REPLY = "$reply/"
UNIQUE = 8
"""Bytes of Correlation Data from which on it is taken to be unique for the client, so that it identifies a call."""
MAX_ANSWER = 4 * 1024 * 1024
_HEX_ID = re.compile(r"[0-9a-f]{16}")
_DECIMAL_ID = re.compile(r"0|[1-9][0-9]{0,19}")
_NAMES: dict[int, str] = {status: status.name.lower() for status in Status}


class Client(Protocol):
    """The session that makes calls."""

    @property
    def client_id(self) -> str: ...

    @property
    def version(self) -> int:
        """Protocol level: 3, 4 or 5."""

    @property
    def max_packet(self) -> int:
        """Largest packet that the client takes; 0: any."""

    @property
    def identity(self) -> Identity | None: ...


class ReplyTo(Protocol):
    """The connection that calls come by."""

    @property
    def info(self) -> ConnectionInfo: ...

    def reply(self, topic: str, payload: bytes, qos: int, properties: Properties) -> None:
        """A PUBLISH to this client, subscribed or not, QoS 0 or 1. Not called after `ConnectionCalls.detach`."""


class MqttCalls:
    """What the calls of all MQTT connections share."""

    def __init__(
        self,
        calls: CallService,
        *,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        counters: MqttCounters,
        max_open: int,
        max_answer: int = MAX_ANSWER,
    ) -> None:
        self.calls = calls
        self.clock = clock
        self.random_bytes = random_bytes
        self.counters = counters
        self.max_open = max_open
        """Calls of a connection that may be open at once."""
        self.max_answer = max_answer
        """Bytes of an answer's body, whatever the client takes."""

    @staticmethod
    def is_call(topic: str) -> bool:
        """Whether messages of this topic are calls: nobody else gets them, nor are they retained."""
        return topic.startswith(PREFIX)

    def connection(self, client: Client, link: ReplyTo) -> ConnectionCalls:
        """The calls of a connection; made at its first one."""
        return ConnectionCalls(self, client, link)


class ConnectionCalls:
    """The open calls of one connection."""

    __slots__ = ("_open", "_shared", "client", "link")

    def __init__(self, shared: MqttCalls, client: Client, link: ReplyTo) -> None:
        self.client = client
        self.link = link
        self._shared = shared
        self._open: set[_MqttCall] = set()

    def __len__(self) -> int:
        return len(self._open)

    def start(self, publish: Publish) -> int:
        """Begin the call. The reason code for its acknowledgement: success when it has begun or was answered with an
        error, 0x90 for a topic that is no call, 0x97 past the limit of open calls (QoS 0 and MQTT 3.1.1 get an
        error as the answer instead, since nothing else could tell them)."""
        shared, client, properties = self._shared, self.client, publish.properties
        operation, slash, name = publish.topic[len(PREFIX) :].partition("/")
        response_topic = properties.get(Property.RESPONSE_TOPIC)
        if not operation or "/" in name or bool(slash) != bool(name):
            return Reason.TOPIC_NAME_INVALID
        if not name and (response_topic is None or not is_topic_name(response_topic)):
            return Reason.TOPIC_NAME_INVALID
        responder = _MqttCall(self, name, min(publish.qos, 1), shared.max_answer, properties)
        if len(self._open) >= shared.max_open:
            if publish.qos and client.version >= V5:
                return Reason.QUOTA_EXCEEDED
            responder.reset(Status.OVERLOAD)
            return Reason.SUCCESS
        now = shared.clock.seconds()
        expiry = properties.get(Property.MESSAGE_EXPIRY)
        call = Call(
            operation=operation,
            identity=client.identity or Identity(client.client_id, strength=Strength.ANONYMOUS),
            call_id=self._call_id(name, properties),
            headers=_headers(properties),
            body=publish.payload,
            deadline=None if expiry is None else now + expiry,
            resent=publish.dup,
            binding="mqtt",
            connection=self.link.info,
            received_at=now,
        )
        shared.counters.calls += 1
        self._open.add(responder)
        responder.upload = shared.calls.start(call, responder)
        return Reason.SUCCESS

    def detach(self) -> None:
        """The connection is gone: calls go on, and a repetition finds their answers."""
        open_, self._open = self._open, set()
        for responder in open_:
            responder.lost()

    def over(self, responder: _MqttCall) -> None:
        """It was answered."""
        self._open.discard(responder)

    def _call_id(self, name: str, properties: Properties) -> int:
        """The 64 bits by which repetitions are known (MMTP specification 6.4). A name of 16 hexadecimal digits, as
        services get to see ids, or a decimal number is the id itself; any other is hashed with the client id.

        Without a name long Correlation Data identifies the call. Shorter ones are often counters that begin anew with
        each start of the device: taken for ids, they would give a new call the answer to an old one.
        """
        if _HEX_ID.fullmatch(name):
            return int(name, 16)
        if _DECIMAL_ID.fullmatch(name) and int(name) < 1 << 64:
            return int(name)
        key = name.encode() if name else bytes(properties.get(Property.CORRELATION_DATA, b""))
        if not name and len(key) < UNIQUE:
            return int.from_bytes(self._shared.random_bytes(8), "big")
        kind = b"\0name\0" if name else b"\0correlation\0"
        return int.from_bytes(sha256(self.client.client_id.encode() + kind + key).digest()[:8], "big")


class _MqttCall:
    """A CallResponder that collects the answer, since a message has its body whole."""

    __slots__ = ("_calls", "_correlation", "_headers", "_limit", "_name", "_over", "_parts", "_qos", "_response_topic",
                 "_size", "_status", "upload")  # fmt: skip

    def __init__(self, calls: ConnectionCalls, name: str, qos: int, max_answer: int, properties: Properties) -> None:
        self._calls = calls
        self._name = name
        self._qos = qos
        self._limit = min(max_answer, calls.client.max_packet or max_answer)
        self._response_topic: str | None = properties.get(Property.RESPONSE_TOPIC)
        self._correlation: bytes | None = properties.get(Property.CORRELATION_DATA)
        self._status = 0
        self._headers: Headers = []
        self._parts: list[bytes] = []
        self._size = 0
        self._over = False
        self.upload: CallUpload | None = None

    # ---------------------------------------------------------------- CallResponder

    def respond(self, status: int, headers: Headers, body: bytes, more: bool) -> None:
        self._status, self._headers = status, headers
        self.data(body, more)

    def data(self, data: bytes, more: bool) -> None:
        if self._over:
            return
        self._size += len(data)
        if self._size > self._limit:
            self.reset(Status.FRAME_SIZE)
            if more and self.upload is not None:
                self.upload.cancel(Status.FRAME_SIZE)
            return
        self._parts.append(data)
        if not more:
            self._finish(self._status, self._headers, b"".join(self._parts))

    def reset(self, status: int) -> None:
        if not self._over:
            self._finish(status, TRY_AGAIN if status in BUSY else [], b"")

    def unsent(self) -> int:
        """What was collected is bounded by itself."""
        return 0

    def upload_consumed(self, size: int) -> None:
        """The whole body came at once."""

    # ---------------------------------------------------------------- the end

    def lost(self) -> None:
        """The connection is gone."""
        self._over = True
        self._parts.clear()
        if self.upload is not None:
            self.upload.detach()

    def _finish(self, status: int, headers: Headers, body: bytes) -> None:
        self._over = True
        self._parts.clear()
        self._calls.over(self)
        client = self._calls.client
        if client.version >= V5:
            for told in (headers, []):
                topic, payload, properties = self._answer(status, told, body)
                if not client.max_packet or _size(topic, payload, properties) <= client.max_packet:
                    break
            else:
                # Even without headers it is more than the client takes.
                topic, payload, properties = self._answer(Status.FRAME_SIZE, [], b"")
        else:
            topic, payload, _ = self._answer(status, headers, body)
            properties = NO_PROPERTIES
        self._calls.link.reply(topic, payload, self._qos, properties)

    def _answer(self, status: int, headers: Headers, body: bytes) -> tuple[str, bytes, Properties]:
        content_type = next((value for name, value in headers if name == "content-type" and is_string(value)), "")
        topic = self._response_topic
        if topic is None:
            topic = f"{REPLY}{self._name}/error" if status else f"{REPLY}{self._name}"
        if status and (self._response_topic is None or not body):
            body = _error(status, headers, body)
            content_type = "application/json"
        user = [("status", str(int(status)))]
        user += [(n, v) for n, v in headers if n not in ("content-type", "status") and is_string(n) and is_string(v)]
        properties: dict[int, Any] = {Property.USER_PROPERTY: user}
        if content_type:
            properties[Property.CONTENT_TYPE] = content_type
        if self._correlation is not None:
            properties[Property.CORRELATION_DATA] = self._correlation
        return topic, body, properties


def _headers(properties: Properties) -> Headers:
    """User properties as headers of the call. Names that HTTP does not take end it with PROTOCOL when it is sent."""
    headers: Headers = [(name.lower(), value) for name, value in properties.get(Property.USER_PROPERTY, ())]
    content_type = properties.get(Property.CONTENT_TYPE)
    if content_type:
        headers = [("content-type", content_type), *(h for h in headers if h[0] != "content-type")]
    return headers


def _error(status: int, headers: Headers, body: bytes) -> bytes:
    name = _name_of(status)
    described: dict[str, Any] = {"status": int(status), "name": name, "message": name.replace("_", " ")}
    for header, value in headers:
        if header == "retry-after" and value.isascii() and value.isdigit():
            described["retry_after"] = int(value[:9])
    if body:
        try:
            described["body"] = body.decode()
        except UnicodeDecodeError:
            described["body_b64"] = b64encode(body).decode()
    return json.encode(described)


def _name_of(status: int) -> str:
    """Of an MMTP status, or of the HTTP status that an upstream gave."""
    if status in _NAMES:
        return _NAMES[status]
    try:
        return HTTPStatus(status).name.lower()
    except ValueError:
        return "application"


def _size(topic: str, payload: bytes, properties: Properties) -> int:
    """Bytes of the PUBLISH, or a few more."""
    size = 16 + len(topic.encode()) + len(payload)
    size += len(properties.get(Property.CORRELATION_DATA, b"")) + 3
    size += len(properties.get(Property.CONTENT_TYPE, "").encode()) + 3
    return size + sum(len(n.encode()) + len(v.encode()) + 5 for n, v in properties[Property.USER_PROPERTY])
