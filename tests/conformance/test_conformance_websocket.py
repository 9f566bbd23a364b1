"""MQTT in WebSockets (section 6)."""

from __future__ import annotations

import subprocess
import sys

import pytest
from wsproto.events import TextMessage

from protocols.mqtt.encoding import encode
from protocols.mqtt.packets import Connack, Pingreq, Pingresp, Publish
from tests.conformance.conftest import MqttGateway
from tests.conformance.mqtt_peer import Peer, Room
from tests.system.device import open_socket
from tests.system.websocket_socket import Rejected, WebSocketClient


@pytest.fixture(params=[False, True], ids=["ws", "wss"])
def transport(mqtt: MqttGateway, request: pytest.FixtureRequest) -> WebSocketClient:
    plain = open_socket(mqtt.tls, mqtt.ca, "http/1.1") if request.param else open_socket(mqtt.plain, None)
    return WebSocketClient(plain, "/mqtt", ["other", "mqtt"])


def test_packets_are_not_aligned_to_frames(room: Room, transport: WebSocketClient, version: int) -> None:
    """[MQTT-6.0.0-1] [MQTT-6.0.0-2] [MQTT-6.0.0-4] [MQTT3-6.0.0-1] [MQTT3-6.0.0-2] [MQTT3-6.0.0-4]"""
    assert transport.subprotocol == "mqtt"
    peer = room.adopt(transport, version)
    hello = encode(room.hello(version=version), version)
    for at in range(0, len(hello), 3):
        peer.raw(hello[at : at + 3])
    peer.expect(Connack, reason=0)
    peer.subscribe(room.topic())
    peer.send(Publish(room.topic(), b"x" * 20_000), Pingreq(), Publish(room.topic(), b"y"))
    peer.message(b"x" * 20_000)
    peer.expect(Pingresp)
    peer.message(b"y")
    room.connect("sender").publish(room.topic(), b"from a stream", 1)
    peer.message(b"from a stream")


def test_text_frames_end_the_connection(room: Room, transport: WebSocketClient, version: int) -> None:
    """[MQTT-6.0.0-1] [MQTT3-6.0.0-1]"""
    peer: Peer = room.adopt(transport, version)
    peer.send(room.hello(version=version))
    peer.expect(Connack, reason=0)
    transport.socket.sendall(transport.wire.send(TextMessage("text")))
    peer.ends()
    assert transport.closed is not None and transport.closed.code == 1003


@pytest.mark.parametrize("offered", [[], ["mmtp"], ["other"]])
def test_other_subprotocols(mqtt: MqttGateway, offered: list[str]) -> None:
    """[MQTT-6.0.0-3] [MQTT3-6.0.0-3]"""
    with pytest.raises(Rejected):
        WebSocketClient(open_socket(mqtt.plain, None), "/mqtt", offered)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_our_own_client(mqtt: MqttGateway, room: Room, scheme: str) -> None:
    peer = room.connect()
    peer.subscribe(room.topic())
    port = mqtt.plain if scheme == "ws" else mqtt.tls
    command = [sys.executable, "-m", "accessgw.client.cli", "mqtt", "publish", "-t", room.topic(), "-m", "x", "-q", "1"]
    command += ["--url", f"{scheme}://127.0.0.1:{port}", "--token", "", "--ca", str(mqtt.ca)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    peer.message(b"x")
