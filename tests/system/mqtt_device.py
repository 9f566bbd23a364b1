"""A device that speaks MQTT over a socket and keeps its session as the standard asks, connection after connection."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from loadtest.free_ports import free_ports
from protocols.errors import LocalError, RemoteError
from protocols.mqtt import packets
from protocols.mqtt.connection import Connection, Role
from protocols.mqtt.limits import STANDARD_LIMITS
from protocols.mqtt.packets import NO_PROPERTIES, V5, Property, SubscriptionRequest, Will
from protocols.mqtt.reasons import FAILURE
from tests.system.gateway_process import PATIENCE, Gateway

LISTENER = """
[[listeners]]
name = "mqtt"
transport = "tcp"
port = {port}
protocols = ["mqtt"]
"""
WINDOW = 32
"""Messages that it publishes before an acknowledgement."""


def with_mqtt(make_gateway: Callable[..., Gateway], settings: str = "", extra: str = "") -> tuple[Gateway, int]:
    """A gateway, not started, and its MQTT port."""
    (port,) = free_ports(1)
    return make_gateway(extra=LISTENER.format(port=port) + extra + "\n[mqtt]\n" + settings), port


class MqttDevice:
    """`held`, `unfinished` and `next_id` are its session; `got` is what its application got, `acknowledged` the
    payloads that the gateway answers for."""

    def __init__(
        self, port: int, name: str, *, expiry: int = 3600, will: Will | None = None, prompt: bool = True
    ) -> None:
        self.port, self.name, self.expiry, self.will, self.prompt = port, name, expiry, will, prompt
        self.held: set[int] = set()
        self.unanswered: dict[int, packets.Publish] = {}
        """Of this connection, when it is not prompt."""
        self.unfinished: dict[int, packets.Publish | packets.Pubrel] = {}
        self.next_id = 1
        self.got: list[packets.Publish] = []
        self.counts: Counter[str] = Counter()
        """Of `got`, by topic."""
        self.acknowledged: list[bytes] = []
        self.granted: list[int] = []
        """Reasons of all SUBACKs."""
        self.present = False
        self.reason = -1
        """Of the DISCONNECT that came."""
        self.receive_buffer = 0
        """Bytes that the kernel holds for it; 0: as it likes."""
        self.gone = threading.Event()
        self._lock = threading.RLock()
        self._room = threading.Condition(self._lock)
        self._may_read = threading.Event()
        self._may_read.set()
        self._wire: Any = None
        self._socket: Any = None
        self._reader: Any = None

    # ------------------------------------------------------------ connections

    def connect(self, *, clean: bool = False, read: bool = True) -> MqttDevice:
        """CONNECT, CONNACK, and what the last connection left to do."""
        self.gone.clear()
        self.unanswered.clear()
        self.reason = -1
        self._socket = socket.socket()
        self._socket.settimeout(PATIENCE)
        if self.receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        self._socket.connect(("127.0.0.1", self.port))
        self._wire = Connection(Role.CLIENT, limits=STANDARD_LIMITS, now=0.0)
        properties = {Property.SESSION_EXPIRY: self.expiry} if self.expiry else NO_PROPERTIES
        self._wire.send(
            packets.Connect(self.name, V5, clean, password=b"device-token", will=self.will, properties=properties)
        )
        self._flush()
        early: list[packets.Packet] = []
        while not early:
            early = self._receive()
        connack = early.pop(0)
        assert isinstance(connack, packets.Connack), connack
        assert connack.reason == 0, connack
        self.present = connack.session_present
        with self._lock:
            if not self.present:
                self.held.clear()
                self.unfinished.clear()
            for packet_id, unfinished in list(self.unfinished.items()):
                if isinstance(unfinished, packets.Publish):
                    unfinished.dup = True
                self._wire.send(unfinished)
                assert unfinished.packet_id == packet_id
            self._flush()
            for packet in early:
                self._handle(packet)
        if read:
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()
        return self

    def cut(self) -> None:
        """Without a word."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self.gone.wait(PATIENCE)
        self._socket.close()

    def leave(self) -> None:
        """DISCONNECT."""
        with self._lock:
            self._wire.disconnect(0)
            self._flush()
        self.gone.wait(PATIENCE)
        self._socket.close()

    def close(self) -> None:
        self._may_read.set()
        if self._socket is not None:
            self._socket.close()

    # ------------------------------------------------------------ what it does

    def subscribe(self, *filters: str, qos: int = 1) -> list[int]:
        before = len(self.granted)
        self.send_subscribe(*filters, qos=qos)
        self.wait(lambda: len(self.granted) == before + len(filters))
        return self.granted[before:]

    def send_subscribe(self, *filters: str, qos: int = 1) -> None:
        """The answer comes to `granted`."""
        with self._lock:
            self._wire.send(packets.Subscribe(60_000, [SubscriptionRequest(filter, qos) for filter in filters]))
            self._flush()

    def answer(self) -> None:
        """Acknowledge what a device that is not prompt has not acknowledged yet."""
        with self._lock:
            for packet_id, publish in self.unanswered.items():
                (self._wire.puback if publish.qos == 1 else self._wire.pubrec)(packet_id)
            self.unanswered.clear()
            self._flush()

    def stop_reading(self) -> None:
        """From now on nothing is taken from the socket."""
        self._may_read.clear()

    def read_on(self) -> None:
        self._may_read.set()

    def publish(self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False) -> bool:
        """False when the connection is gone: what was published before goes on with the next one."""
        with self._room:
            while len(self.unfinished) >= WINDOW and not self.gone.is_set():
                self._room.wait(1)
            if self.gone.is_set():
                return False
            packet_id = 0
            if qos:
                while self.next_id in self.unfinished:
                    self.next_id = self.next_id % 50_000 + 1
                packet_id, self.next_id = self.next_id, self.next_id % 50_000 + 1
            publish = packets.Publish(topic, payload, qos, retain, False, packet_id)
            if qos:
                self.unfinished[packet_id] = publish
            try:
                self._wire.send(publish)
                self._flush()
            except (OSError, LocalError):
                return False
            return True

    def finished(self, timeout: float = PATIENCE) -> None:
        """Wait until all that was published is complete."""
        self.wait(lambda: not self.unfinished, timeout)

    def wait(self, true: Callable[[], bool], timeout: float = PATIENCE) -> None:
        with self._room:
            assert self._room.wait_for(true, timeout), f"{self.name}: it did not come to be; {len(self.got)} messages"

    @property
    def payloads(self) -> list[bytes]:
        with self._lock:
            return [publish.payload for publish in self.got]

    # ------------------------------------------------------------ inside

    def _flush(self) -> None:
        data = self._wire.to_send(0.0)
        if data:
            self._socket.sendall(data)

    def _receive(self) -> list[packets.Packet]:
        data = self._socket.recv(65536)
        if not data:
            raise OSError("the gateway has closed")
        with self._lock:
            self._wire.receive(data, 0.0)
            packets_: list[packets.Packet] = self._wire.events()
            return packets_

    def _read(self) -> None:
        self._socket.settimeout(None)
        try:
            while True:
                self._may_read.wait()
                arrived = self._receive()
                with self._room:
                    for packet in arrived:
                        self._handle(packet)
                    self._flush()
                    self._room.notify_all()
        except (OSError, RemoteError, LocalError):
            with self._room:
                self.gone.set()
                self._room.notify_all()

    def _handle(self, packet: packets.Packet) -> None:
        wire = self._wire
        if isinstance(packet, packets.Publish):
            if packet.qos and not self.prompt:
                assert packet.packet_id not in self.unanswered, "one packet id for two messages at once"
                self.unanswered[packet.packet_id] = packet
            if packet.qos < 2 or packet.packet_id not in self.held:
                self.got.append(packet)
                self.counts[packet.topic] += 1
            if packet.qos == 2:
                self.held.add(packet.packet_id)
            if self.prompt and packet.qos:
                (wire.puback if packet.qos == 1 else wire.pubrec)(packet.packet_id)
        elif isinstance(packet, packets.Pubrel):
            self.held.discard(packet.packet_id)
            wire.pubcomp(packet.packet_id)
        elif isinstance(packet, packets.Puback | packets.Pubrec):
            sent = self.unfinished.pop(packet.packet_id, None)
            if isinstance(sent, packets.Publish) and packet.reason < FAILURE:
                self.acknowledged.append(sent.payload)
            if isinstance(packet, packets.Pubrec) and packet.reason < FAILURE:
                # At the end: PUBRELs are repeated in the order of the PUBRECs.
                self.unfinished[packet.packet_id] = packets.Pubrel(packet.packet_id)
                wire.pubrel(packet.packet_id)
        elif isinstance(packet, packets.Pubcomp):
            self.unfinished.pop(packet.packet_id, None)
        elif isinstance(packet, packets.Disconnect):
            self.reason = packet.reason
        elif isinstance(packet, packets.Suback):
            self.granted += packet.reasons
