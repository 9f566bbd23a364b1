"""A client that says exactly what a test wants, to a gateway process, and sees each packet that comes back."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

from protocols.mqtt.decoding import decode
from protocols.mqtt.encoding import encode
from protocols.mqtt.packets import (
    NO_PROPERTIES,
    V5,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
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
from protocols.mqtt.reasons import FAILURE, Reason

P = TypeVar("P")
TIMEOUT = 30.0
IDENTIFIER = Property.SUBSCRIPTION_IDENTIFIER
EXPIRY = Property.SESSION_EXPIRY


class Ended(Exception):
    """The gateway closed the connection."""


class Peer:
    """One connection. Packets are sent as they are given; what comes is read one by one."""

    def __init__(self, transport: Any, version: int) -> None:
        self.transport = transport
        self.version = version
        self.connack = Connack()
        self.ids = 0
        self._pending = b""

    # ---------------------------------------------------------------- bytes and packets

    def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        self.transport.sendall(data)

    def send(self, *packets: Packet) -> None:
        self.raw(b"".join(encode(packet, self.version) for packet in packets))

    def frame(self) -> bytes:
        """The next packet's bytes. Raises Ended."""
        while True:
            data, size, stop = self._pending, 2, 1
            while len(data) > stop and data[stop] > 127:
                stop += 1
            if len(data) > stop:
                size = stop + 1 + sum((byte & 127) << 7 * at for at, byte in enumerate(data[1 : stop + 1]))
                if len(data) >= size:
                    self._pending = data[size:]
                    return data[:size]
            try:
                more = self.transport.recv(65536)
            except ConnectionError:
                more = b""
            if not more:
                assert not data, f"half a packet: {data.hex()}"
                raise Ended
            self._pending += more

    def read(self) -> Packet:
        return decode(self.frame(), self.version)

    def expect(self, kind: type[P], **values: Any) -> P:
        """The next packet, which is of this kind and has these values."""
        packet = self.read()
        assert isinstance(packet, kind), f"expected {kind.__name__}, got {packet}"
        for name, value in values.items():
            assert getattr(packet, name) == value, f"expected {name} {value!r}: {packet}"
        return packet

    def quiet(self) -> None:
        """Nothing is on its way to it: whatever the gateway had to say comes before the answer to a ping."""
        self.send(Pingreq())
        self.expect(Pingresp)

    # ---------------------------------------------------------------- the end

    def ends(self) -> list[Packet]:
        """What it is told until the gateway closes."""
        said = []
        try:
            while True:
                said.append(self.read())
        except Ended:
            return said

    def ends_with(self, reason: int) -> None:
        """MQTT 5: a DISCONNECT with this reason is the last word; before, there is none."""
        said = self.ends()
        if self.version == V5:
            assert [getattr(packet, "reason", None) for packet in said] == [reason], said
        else:
            assert said == []

    def leave(self, reason: int = 0, **properties: Any) -> None:
        """DISCONNECT, and wait until the gateway has seen it."""
        self.send(Disconnect(reason, properties.get("properties", NO_PROPERTIES)))
        self.ends()

    def cut(self) -> None:
        """The network fails; wait until the gateway has seen it."""
        self.transport.shutdown(socket.SHUT_WR)
        self.ends()
        self.transport.close()

    # ---------------------------------------------------------------- short dialogues

    def next_id(self) -> int:
        self.ids += 1
        return self.ids

    def subscribe(self, *filters: str | SubscriptionRequest, qos: int = 2, identifier: int = 0, **options: Any) -> Any:
        """SUBSCRIBE, all of which is granted; the QoS of each filter, of one filter alone."""
        packet_id = self.next_id()
        asked = [SubscriptionRequest(f, qos, **options) if isinstance(f, str) else f for f in filters]
        self.send(Subscribe(packet_id, asked, {IDENTIFIER: identifier} if identifier else NO_PROPERTIES))
        suback = self.expect(Suback, packet_id=packet_id)
        assert len(suback.reasons) == len(filters) and max(suback.reasons) < FAILURE, suback
        return suback.reasons[0] if len(filters) == 1 else suback.reasons

    def unsubscribe(self, *filters: str) -> list[int]:
        packet_id = self.next_id()
        self.send(Unsubscribe(packet_id, list(filters)))
        return self.expect(Unsuback, packet_id=packet_id).reasons

    def publish(
        self, topic: str, payload: bytes = b"x", qos: int = 0, *, retain: bool = False, **properties: Any
    ) -> int:
        """A message and all that belongs to its QoS: the reason of its acknowledgement. When this returns, the gateway
        has given the message to all who are connected."""
        told = properties.get("properties", NO_PROPERTIES)
        if not qos:
            self.send(Publish(topic, payload, 0, retain, properties=told))
            self.quiet()
            return 0
        packet_id = self.next_id()
        self.send(Publish(topic, payload, qos, retain, False, packet_id, told))
        if qos == 1:
            return self.expect(Puback, packet_id=packet_id).reason
        reason = self.expect(Pubrec, packet_id=packet_id).reason
        if reason < 0x80:
            self.send(Pubrel(packet_id))
            self.expect(Pubcomp, packet_id=packet_id, reason=0)
        return reason

    def message(self, payload: bytes | None = None, **values: Any) -> Publish:
        """The next packet, which is a PUBLISH, acknowledged as its QoS asks."""
        found = self.expect(Publish, **values)
        assert payload is None or found.payload == payload, found
        self.acknowledge(found)
        return found

    def acknowledge(self, publish: Publish) -> None:
        if publish.qos == 1:
            self.send(Puback(publish.packet_id))
        elif publish.qos == 2:
            self.send(Pubrec(publish.packet_id))
            self.expect(Pubrel, packet_id=publish.packet_id, reason=0)
            self.send(Pubcomp(publish.packet_id))

    def messages(self, count: int) -> list[bytes]:
        """Payloads of the next messages, acknowledged."""
        return [self.message().payload for _ in range(count)]


class Room:
    """Clients and topics of one test, apart from those of all others."""

    def __init__(self, port: int, name: str) -> None:
        self.port = port
        self.name = name
        self.peers: list[Peer] = []

    def topic(self, rest: str = "t") -> str:
        return f"{self.name}/{rest}"

    def client_id(self, who: str = "c") -> str:
        return f"{self.name}-{who}"

    def open(self, version: int = V5) -> Peer:
        """A connection on which nothing was said."""
        transport = socket.create_connection(("127.0.0.1", self.port), TIMEOUT)
        transport.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.adopt(transport, version)

    def adopt(self, transport: Any, version: int) -> Peer:
        peer = Peer(transport, version)
        self.peers.append(peer)
        return peer

    def hello(
        self, who: str = "c", version: int = V5, *, clean: bool = True, keep: bool = False, **values: Any
    ) -> Connect:
        """The CONNECT of a client; `keep`: its session outlives the connection (an hour in MQTT 5)."""
        properties = dict(values.pop("properties", {}))
        if version == V5 and keep:
            properties.setdefault(EXPIRY, 3600)
        if version != V5:
            clean = clean and not keep
        return Connect(self.client_id(who), version, clean, properties=properties or NO_PROPERTIES, **values)

    def connect(self, who: str = "c", version: int = V5, **values: Any) -> Peer:
        """A connected client."""
        peer = self.open(version)
        peer.send(self.hello(who, version, **values))
        peer.connack = peer.expect(Connack, reason=0)
        return peer

    def refused(self, connect: Connect, reason: int) -> None:
        """CONNACK says this, and the connection ends."""
        peer = self.open(connect.version)
        peer.send(connect)
        peer.expect(Connack, reason=reason, session_present=False)
        assert peer.ends() == []

    def will(
        self, rest: str = "will", payload: bytes = b"gone", qos: int = 0, retain: bool = False, **told: Any
    ) -> Will:
        return Will(self.topic(rest), payload, qos, retain, told.get("properties", NO_PROPERTIES))

    def a_while(self) -> None:
        """A second and a half go by: the gateway's own clock says so, by the end of a silent client."""
        silent = self.connect("silent", keep_alive=1)
        silent.ends_with(Reason.KEEP_ALIVE_TIMEOUT)

    def close(self) -> None:
        for peer in self.peers:
            peer.transport.close()


def plain(packets: Iterable[Packet]) -> list[Packet]:
    """The packets without packet ids, which the gateway chooses."""
    return [replace(packet, packet_id=0) if hasattr(packet, "packet_id") else packet for packet in packets]
