"""What an MQTT connection has and may do at any time: its wire, what it sends, its tracing and its end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core import tracing as traces
from accessgw.core.interfaces.clock import Timer
from accessgw.core.interfaces.connections import Connection
from accessgw.core.interfaces.mqtt import EnhancedExchange
from accessgw.core.introductions import is_device_id
from accessgw.core.mqtt import frame_trace
from accessgw.core.mqtt.calls import ConnectionCalls
from accessgw.core.mqtt.rate import ConnectionRate
from accessgw.core.mqtt.reasons import close_of, reason_of
from accessgw.core.mqtt.services import MqttServices
from accessgw.core.mqtt.session import MqttSession
from accessgw.core.registry import DeviceSession
from accessgw.model.identity import ConnectionInfo, Identity
from accessgw.model.reasons import CloseReason
from accessgw.policy.topic_rules import Decision
from protocols.errors import RemoteError, TooLargeForPeer
from protocols.mmtp.nothing import NOTHING
from protocols.mqtt import packets
from protocols.mqtt.connection import Connection as Wire
from protocols.mqtt.packets import NO_PROPERTIES, Property
from protocols.mqtt.reasons import Reason
from protocols.mqtt.state import Role

log = Logger()

_SERVER = Role.SERVER
_PEER_GOAWAY = CloseReason.PEER_GOAWAY
"""What each connection needs: looking at a class of enumeration for a member is dear in Python 3.11."""

MUCH = 4096
"""Bytes written at once past which the connection may have counted as full; less is not worth a look."""

Acknowledgement = list[int]
"""Packet id, QoS, and the reason code: -1 until it is known."""


class MqttConnection(ABC):
    """The state of a connection, and its two ends. An Outlet towards the broker."""

    __slots__ = (
        "_acks", "_admission", "_assigned", "_calls", "_closed", "_connect", "_decided_by", "_decisions", "_device",
        "_dirty", "_exchange", "_held", "_held_back", "_in_batch", "_method", "_pause", "_proven", "_push_waits",
        "_queued", "_rate", "_rest", "_services", "_trace", "connection", "info", "session", "wire",
    )  # fmt: skip

    def __init__(self, connection: Connection, services: MqttServices) -> None:
        self.connection = connection
        self.info: ConnectionInfo = connection.info
        self._services = services
        self.wire = Wire(_SERVER, limits=services.limits, now=0.0)
        self.session: MqttSession | None = None
        """Set with CONNACK."""
        self._device: DeviceSession | None = None
        self._connect: packets.Connect | None = None
        """Until CONNACK."""
        self._exchange: EnhancedExchange | None = None
        self._method = ""
        """Of the enhanced authentication."""
        self._proven: Identity | None = None
        self._admission: Deferred[Any] | None = None
        self._held: list[packets.Packet] | None = None
        self._rest: list[packets.Packet] | None = None
        """What came in one read beyond what one turn serves."""
        self._held_back = False
        """It is not read: it is being authenticated, or ahead of the store."""
        self._acks: deque[Acknowledgement] | None = None
        """Acknowledgements that wait, in the order of the messages (section 4.6)."""
        self._decisions: dict[tuple[str, int, bool], Decision] = NOTHING
        self._decided_by: object = None
        self._calls: ConnectionCalls | None = None
        self._assigned = False
        self._closed = False
        self._in_batch = False
        self._dirty = False
        self._queued = 0
        self._push_waits = False
        """A push was refused for want of room."""
        self._rate: ConnectionRate | None = None
        self._pause: Timer | None = None
        self._trace: traces.Emit | None = None

    @abstractmethod
    def drained(self) -> None:
        """There is room again for what waits to be sent."""

    @abstractmethod
    def packet_late(self) -> None:
        """A packet was not whole within its time: end the connection."""

    @abstractmethod
    def recheck(self) -> None:
        """The topic rules have changed since it subscribed: give up what it may not have any more."""

    @abstractmethod
    def _handle(self, packet: packets.Packet) -> None:
        """A packet has come, or was held until now."""

    @property
    def buffered(self) -> int:
        """Bytes that the kernel has not taken yet, or is about to be given."""
        return self.connection.buffered + self._queued

    def put(self, frame: bytes) -> None:
        if self.session is None:
            return
        self.wire.send_frame(frame)
        services = self._services
        services.counters.packets_sent += 1
        self._queued += len(frame)
        if self._trace is not None:
            self._trace(frame_trace.sent(frame, self.session.version, self.session.aliases))
        if not (self._dirty or self._in_batch):
            self._dirty = True
            services.flusher.add(self)

    def pubrel(self, packet_id: int, reason: int = 0) -> None:
        if not self._closed:
            self.wire.pubrel(packet_id, reason)
            self._sent("pubrel", packet_id)

    def displace(self, reason: int) -> None:
        if self.session is None and not self._closed:
            self._refuse(Reason(reason), close_of(reason), "")
        else:
            self._say_and_close(reason, close_of(reason))

    def flush(self) -> None:
        """Write what the wire has to send."""
        self._dirty = False
        data = self.wire.to_send(0.0)
        if data:
            # As _write, without a call more for each message.
            self._queued = 0
            self.connection.write(data)
            if len(data) > MUCH:
                self._wrote_much()

    def _write(self, data: bytes) -> None:
        self._queued = 0
        self.connection.write(data)
        if len(data) > MUCH:
            self._wrote_much()

    def _wrote_much(self) -> None:
        if not self._closed and not self.connection.buffered:
            # It counted as full for a moment; the transport, which took all of it at once, has no drain to tell of.
            self.drained()

    def _sent(self, packet: str, packet_id: int = 0) -> None:
        """A control packet of ours was given to the wire."""
        self._services.counters.packets_sent += 1
        if self._trace is not None:
            self._trace(traces.sent(packet, {"id": packet_id} if packet_id else {}))
        if not self._dirty and not self._in_batch:
            self._dirty = True
            self._services.flusher.add(self)

    def reply(self, topic: str, payload: bytes, qos: int, properties: packets.Properties) -> None:
        """The answer to a call."""
        if self.session is not None and not self._closed:
            self._services.direct.to_session(self.session, topic, payload, qos, properties)

    def close(self, reason: CloseReason, status: int) -> None:
        self._say_and_close(reason_of(reason), reason)

    def go_away(self, status: int, address: str, delay: float) -> None:
        reference = address or self._services.settings.server_reference
        if reference:
            properties: dict[int, Any] = {Property.SERVER_REFERENCE: reference}
            self._say_and_close(Reason.USE_ANOTHER_SERVER, CloseReason.DRAINING, "", properties)
        else:
            self._say_and_close(Reason.SERVER_SHUTTING_DOWN, CloseReason.DRAINING)

    @property
    def held_back(self) -> bool:
        """It is not read."""
        return self._held_back or self._pause is not None or self._rest is not None

    def _read_on(self) -> None:
        if self._held_back:
            self._held_back = False
            self._listen()

    def _listen(self) -> None:
        """One reason not to read it is gone; there may be others."""
        if not (self._closed or self.held_back):
            self._services.packet_timeout.resumed(self)
            self.connection.resume()

    def _refuse(self, reason: Reason, close: CloseReason, detail: str) -> None:
        """CONNACK with a reason, or DISCONNECT where that was said already."""
        if self.session is not None:
            self._say_and_close(reason, close, detail)
            return
        refused = self._services.counters.connects_refused
        refused[reason.name.lower()] = refused.get(reason.name.lower(), 0) + 1
        connect, info = self._connect, self.info
        if connect is not None and not info.device and is_device_id(connect.client_id):
            info.device = connect.client_id
        self.wire.refuse(reason)
        self._sent("connack")
        self._finish(close, detail)

    def _tell(self, packet: packets.Packet) -> bool:
        """Send an answer. A client that has no room for it (section 3.1.2.11.4) cannot go on: False."""
        try:
            self.wire.send(packet)
        except TooLargeForPeer as error:
            self._say_and_close(Reason.PACKET_TOO_LARGE, CloseReason.PROTOCOL_ERROR, str(error))
            return False
        return True

    def _spent(self, arrived: list[packets.Packet], size: int) -> None:
        """Do not read for a while when it sends faster than it may."""
        messages = sum(type(packet) is packets.Publish for packet in arrived)
        assert self._rate is not None
        pause = self._rate.take(messages, size, self._services.clock.seconds())
        if pause > 0 and self._pause is None and not self._closed:
            self._services.counters.rate_pauses += 1
            self.connection.pause()
            self._pause = self._services.timers.schedule(pause, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._listen()

    def retrace(self) -> None:
        """Somebody began or ceased to watch this device."""
        session = self.session
        self._trace = None if session is None else self._services.tracing.tracer(session.client_id)

    def _trace_received(self, packet: packets.Packet) -> None:
        assert self._trace is not None
        self._trace(frame_trace.received(packet))

    def _say(self, reason: int, properties: packets.Properties = NO_PROPERTIES) -> None:
        """DISCONNECT, where the version has it."""
        if self.session is not None and not self._closed and not self.wire.closed:
            try:
                self.wire.disconnect(reason, properties)
            except TooLargeForPeer:
                self.wire.disconnect(reason)
            self._sent("disconnect")
            self.flush()

    def _say_and_close(
        self, reason: int, close: CloseReason, detail: str = "", properties: packets.Properties = NO_PROPERTIES
    ) -> None:
        if self._closed:
            return
        if close is CloseReason.REPLACED:
            self._services.counters.takeovers += 1
        self._say(reason, properties)
        self._finish(close, detail)

    def _broken(self, error: RemoteError) -> None:
        """The peer broke the protocol; the wire has what it is to be told."""
        if not self._closed:
            self._finish(CloseReason.PROTOCOL_ERROR, f"reason 0x{error.code:02x}: {error}")

    def _peer_left(self) -> None:
        """After DISCONNECT nothing comes (section 3.14.4), so that nothing is waited for."""
        if not self._closed:
            self.flush()
            self._closed = True
            self.connection.finish(_PEER_GOAWAY)

    def _finish(self, reason: CloseReason, detail: str = "") -> None:
        if self._closed:
            return
        self.flush()
        self._closed = True
        self._leave(True, None)
        self.connection.close(reason, detail)

    def _leave(self, with_will: bool, expiry: float | None) -> None:
        """The broker's session is without a connection from here on."""
        session = self.session
        if session is None and self._connect is not None:
            # It was opened, and the store has not confirmed it yet: its will does not count before CONNACK.
            session = self._services.broker.sessions.get(self._connect.client_id)
            with_will = False
        if session is not None and session.outlet is self:
            self._services.broker.bridge_clients.discard(session.client_id)
            self._services.keeper.close(session, self, with_will=with_will, expiry=expiry)

    def _defect(self, failure: Failure | None = None) -> None:
        """A defect of ours costs this connection, and nobody else's."""
        found = failure or Failure()
        if found.check(CancelledError):
            return
        log.failure("the binding of connection {id} failed", failure=found, id=self.info.id)
        self._say_and_close(Reason.UNSPECIFIED, CloseReason.INTERNAL)
