"""The MQTT client inside WebSocket: nothing before the upgrade, packets in messages, and how it ends."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from accessgw.client.addresses import Address
from accessgw.client.mqtt import MqttClient, MqttFailure
from accessgw.client.tunnel import Tunnel
from protocols.http.websocket import BytesReceived, WebSocket
from protocols.http.websocket import Role as Side
from protocols.http.websocket_handshake import accept_token
from protocols.mqtt.connection import Connection, Role
from protocols.mqtt.packets import Connack, Connect, Disconnect, Packet, Puback, Publish


class Dialogue:
    """A client and the server's side, played by the test."""

    def __init__(self) -> None:
        self.clock = Clock()
        tunnel = Tunnel(Address("ws", "h", 80, path="/mqtt"), 7, "mqtt")
        self.client = MqttClient(Connect("d1"), self.clock, tunnel=tunnel)
        self.transport = StringTransport()
        self.socket = WebSocket(Side.SERVER)
        self.server = Connection(Role.SERVER, now=0.0)
        self.client.makeConnection(self.transport)

    def upgraded(self) -> None:
        head = self.transport.value().decode()
        self.transport.clear()
        assert head.startswith("GET /mqtt HTTP/1.1\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\r\n"))}
        assert fields["sec-websocket-protocol"] == "mqtt"
        self.client.dataReceived(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Accept: "
            + accept_token(fields["sec-websocket-key"]).encode()
            + b"\r\n\r\n"
        )

    def said(self) -> list[Packet]:
        self.socket.receive(self.transport.value())
        self.transport.clear()
        for event in self.socket.events():
            if isinstance(event, BytesReceived):
                self.server.receive(event.data, 0.0)
        return self.server.events()

    def answer(self, *packets: Packet) -> None:
        for packet in packets:
            self.server.send(packet)
        self.socket.send(self.server.to_send(0.0))
        self.client.dataReceived(self.socket.to_send())


def test_a_dialogue() -> None:
    dialogue = Dialogue()
    dialogue.upgraded()
    (connect,) = dialogue.said()
    assert isinstance(connect, Connect)
    dialogue.server.accept(Connack())
    dialogue.answer()
    assert dialogue.client.accepted.called
    published = dialogue.client.publish("t", b"x" * 70_000, 1)
    (message,) = dialogue.said()
    assert isinstance(message, Publish) and len(message.payload) == 70_000
    dialogue.answer(Puback(message.packet_id))
    assert published.result == 0
    dialogue.client.disconnect()
    assert dialogue.said() == [Disconnect()]
    assert dialogue.socket.closing, "a close frame, too"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", b"\x20\x03\0\0\0\r\n\r\n"])
def test_a_server_that_does_not_upgrade(answer: bytes) -> None:
    dialogue = Dialogue()
    failures: list[object] = []
    dialogue.client.accepted.addErrback(lambda failure: failures.append(failure.value))
    dialogue.client.dataReceived(answer)
    assert dialogue.transport.disconnecting
    dialogue.client.connectionLost()
    (failure,) = failures
    assert isinstance(failure, MqttFailure) and "WebSocket: " in str(failure)
