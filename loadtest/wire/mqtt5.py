"""MQTT 5 by the client of paho-mqtt at both ends: calls and pushes are PUBLISH with QoS 1, headers are user properties.

Favours the peer where there is a choice: a topic is named once and then by its alias, calls and answers belong
together by two bytes of correlation data, no response topic is sent. Bodies are not compressed: MQTT has no coding
for that. What paho does not write as a client, CONNACK and SUBACK, stands here as bytes.
"""

from __future__ import annotations

from typing import Any

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from loadtest.corpus.devices import OPERATION, Headers
from loadtest.corpus.sessions import Exchange, Pushed, Session
from loadtest.wire.tally import (
    ACKS,
    BODIES,
    CREDENTIAL,
    FRAMING,
    HANDSHAKE,
    HEADERS,
    HEARTBEATS,
    Tally,
    without_operation,
)

CONNACK = bytes.fromhex("20060000032200ff")
"""Accepted, 255 topic aliases."""
SUBACK = bytes.fromhex("90050001000101")
PUBLISH, PUBACK = 3, 4


def _properties(packet: int) -> Any:
    make: Any = Properties
    return make(packet)


class _Pipe:
    """What paho takes for a socket: an end of two buffers in memory."""

    def __init__(self) -> None:
        self.incoming = bytearray()
        self.other: _Pipe
        self.wrote: list[bytes] = []

    def send(self, data: bytes | bytearray) -> int:
        self.wrote.append(bytes(data))
        self.other.incoming += data
        return len(data)

    def recv(self, size: int) -> bytes:
        if not self.incoming:
            raise BlockingIOError
        data = bytes(self.incoming[:size])
        del self.incoming[:size]
        return data

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        """Nothing is held."""


class Mqtt5:
    """Both ends."""

    def __init__(self, session: Session, tally: Tally) -> None:
        self.arrived: list[tuple[Headers, bytes]] = []
        self._tally = tally
        self._device, self._pipe = self._end(session.device)
        self._gateway, self._far = self._end("gateway")
        self._pipe.other, self._far.other = self._far, self._pipe
        self._aliases: dict[tuple[bool, str], int] = {}
        self._topics: dict[tuple[bool, int], str] = {}
        self._calls = 0

    def _end(self, name: str) -> tuple[Any, _Pipe]:
        client: Any = Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTv5)
        pipe = _Pipe()
        client._sock = pipe
        client.on_message = self._on_message
        return client, pipe

    def open(self) -> None:
        device, gateway = self._device, self._gateway
        asked = _properties(PacketTypes.CONNECT)
        asked.SessionExpiryInterval = 86_400
        asked.TopicAliasMaximum = 255
        device._connect_properties = asked
        device._clean_start = False
        device.username_pw_set("device", CREDENTIAL)
        device._send_connect(240)
        self._far.incoming.clear()
        self._far.send(CONNACK)
        self._run(device)
        device._send_subscribe(False, [(b"push/#", SubscribeOptions(qos=1)), (b"answer/#", SubscribeOptions(qos=1))])
        self._far.incoming.clear()
        self._far.send(SUBACK)
        self._run(device)
        gateway._state = device._state
        for pipe in (self._pipe, self._far):
            for out in pipe.wrote:
                self._tally.count(HANDSHAKE, len(out))
                self._tally.wrote(len(out))
            pipe.wrote.clear()

    def call(self, exchange: Exchange) -> None:
        self._calls += 1
        correlation = self._calls.to_bytes(2, "big")
        headers = without_operation(exchange.request_headers)
        self._publish(True, f"call/{exchange.operation}", headers, exchange.request, correlation)
        self._publish(False, "answer", exchange.response_headers, exchange.response, correlation)

    def push(self, push: Pushed) -> None:
        self._publish(False, f"push/{push.biz}", [], push.body, b"")

    def _publish(self, up: bool, topic: str, headers: Headers, body: bytes, correlation: bytes) -> None:
        properties = _properties(PacketTypes.PUBLISH)
        alias = self._aliases.get((up, topic))
        if alias is None:
            alias = self._aliases[up, topic] = len(self._aliases) + 1
            self._topics[up, alias] = topic
        else:
            topic = ""
        properties.TopicAlias = alias
        if correlation:
            properties.CorrelationData = correlation
        if headers:
            properties.UserProperty = headers
        sender, receiver = (self._device, self._gateway) if up else (self._gateway, self._device)
        sender.publish(topic, body, qos=1, properties=properties)
        self._run(receiver)
        self._run(sender)

    def _run(self, client: Any) -> None:
        """Let it read until nothing is left; it acknowledges by itself."""
        pipe: _Pipe = client._sock
        while pipe.incoming:
            result = client.loop_read()
            assert result == 0, f"{client._client_id}: {result!r}"

    def _on_message(self, client: Any, _: object, message: MQTTMessage) -> None:
        found: Any = message.properties
        headers: Headers = list(getattr(found, "UserProperty", []))
        topic = message.topic or self._topics[client is self._gateway, found.TopicAlias]
        if topic.startswith("call/"):
            headers.insert(0, (OPERATION, topic.removeprefix("call/")))
        self.arrived.append((headers, bytes(message.payload)))

    def heartbeat(self) -> None:
        before = len(self._pipe.wrote), len(self._far.wrote)
        self._device._send_pingreq()
        self._run(self._gateway)
        self._run(self._device)
        for pipe, place in zip((self._pipe, self._far), before, strict=True):
            for out in pipe.wrote[place:]:
                self._tally.count(HEARTBEATS, len(out))
                self._tally.wrote(len(out))
            del pipe.wrote[place:]

    def close(self) -> None:
        tally = self._tally
        for pipe in (self._pipe, self._far):
            for out in pipe.wrote:
                tally.wrote(len(out))
                if out[0] >> 4 == PUBACK:
                    tally.count(ACKS, len(out))
                    continue
                assert out[0] >> 4 == PUBLISH
                headers, body = _parts(out)
                tally.count(HEADERS, headers)
                tally.count(BODIES, body)
                tally.count(FRAMING, len(out) - headers - body)
            pipe.wrote.clear()


def _varint(data: bytes, pos: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[pos] & 127) << shift
        pos += 1
        if data[pos - 1] < 128:
            return value, pos
        shift += 7


def _parts(packet: bytes) -> tuple[int, int]:
    """Bytes of user properties and of payload of a PUBLISH with QoS 1."""
    _, pos = _varint(packet, 1)
    topic = int.from_bytes(packet[pos : pos + 2], "big")
    pos += 2 + topic + 2
    size, pos = _varint(packet, pos)
    end = pos + size
    user = 0
    while pos < end:
        key = packet[pos]
        begin = pos
        pos += 1
        if key == 0x23:
            pos += 2
        elif key == 0x09:
            pos += 2 + int.from_bytes(packet[pos : pos + 2], "big")
        else:
            assert key == 0x26, key
            for _ in range(2):
                pos += 2 + int.from_bytes(packet[pos : pos + 2], "big")
            user += pos - begin
    return user, len(packet) - end
