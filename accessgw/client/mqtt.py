"""A small MQTT client on Twisted over protocols.mqtt: connect, publish, subscribe, and what comes in.

It keeps no state beyond its connection: whoever wants to come back makes another one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from accessgw.client.tls_errors import words_of
from accessgw.client.tunnel import Tunnel
from protocols.errors import LocalError, RemoteError, without_frames
from protocols.mqtt.connection import Connection, Role
from protocols.mqtt.limits import DEFAULT_LIMITS, Limits
from protocols.mqtt.packets import (
    NO_PROPERTIES,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Properties,
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
)
from protocols.mqtt.reasons import FAILURE, Reason, return_code

MAX_INFLIGHT = 100
"""QoS 1 and 2 messages of ours without an answer; what the server allows may be less."""
CLOSE_TIMEOUT = 2.0
"""Seconds for the last bytes of a connection that is closed."""

# Failure carries no annotations
_failure: Any = Failure
_LOST = _failure(ConnectionDone())


class MqttFailure(Exception):
    """The server refused something, or the connection is over; `reason` is the reason code (0: there was none)."""

    def __init__(self, message: str, reason: int = 0) -> None:
        super().__init__(message)
        self.reason = reason


def reason_text(reason: int, version: int = 5) -> str:
    """A reason code of MQTT 5, or a return code of 3.1.1's CONNACK, in words."""
    if version < 5 and reason < FAILURE:
        known = [one for one in Reason if return_code(one) == reason]
        name = known[0].name if known else "UNSPECIFIED"
        return f"{name.replace('_', ' ').lower()} ({reason})"
    try:
        return f"{Reason(reason).name.replace('_', ' ').lower()} (0x{reason:02x})"
    except ValueError:
        return f"0x{reason:02x}"


@implementer(IHandshakeListener)
class MqttClient(Protocol):
    """One connection. Make it with a factory or an endpoint; `accepted` fires with the CONNACK, or fails.

    `on_message` (which may be set anew) gets every PUBLISH, once for QoS 2. `on_packet(direction, packet)` sees all
    packets, direction being `send` or `receive`. `ended` fires, never fails, with a MqttFailure when the connection is
    over.
    """

    transport: Any

    def __init__(
        self,
        connect: Connect,
        clock: Any,
        *,
        secure: bool = False,
        on_message: Callable[[Publish], None] = lambda message: None,
        on_packet: Callable[[str, Packet], None] = lambda direction, packet: None,
        limits: Limits = DEFAULT_LIMITS,
        tunnel: Tunnel | None = None,
    ) -> None:
        """`secure`: there is a TLS hand-shake to wait for. `tunnel`: MQTT rides in WebSocket (section 6)."""
        self.version = connect.version
        self.accepted: Deferred[Connack] = Deferred()
        """Fires with the CONNACK of success; fails with MqttFailure."""
        self.ended: Deferred[MqttFailure] = Deferred()
        self._connect = connect
        self._clock = clock
        self._secure = secure
        self.on_message = on_message
        self._on_packet = on_packet
        self._limits = limits
        self._tunnel = tunnel
        self._connection: Connection | None = None
        self._over: MqttFailure | None = None
        self._why: MqttFailure | None = None
        self._timer: Any = None
        self._aborter: Any = None
        self._last_id = 0
        self._waiting: dict[int, Deferred[Any]] = {}
        """Packet id -> who waits for PUBACK, PUBCOMP, SUBACK or UNSUBACK."""
        self._window = MAX_INFLIGHT
        self._inflight = 0
        self._parked: deque[tuple[Publish, Deferred[int]]] = deque()
        self._received: set[int] = set()
        """Packet ids of QoS 2 messages that the server has not released yet."""

    # ------------------------------------------------------------------ what one may ask for

    def publish(
        self, topic: str, payload: bytes, qos: int = 0, retain: bool = False, properties: Properties = NO_PROPERTIES
    ) -> Deferred[int]:
        """Fires with the reason code (0, or 0x10 for nobody) when the server has it; QoS 0: when it was written.

        Fails with MqttFailure when the server refuses it or the connection ends, with LocalError when it may not be
        sent.
        """
        if self._over is not None:
            return fail(self._over)
        message = Publish(topic, payload, qos, retain, properties=properties)
        if not qos:
            try:
                self._send(message)
            except LocalError as error:
                return fail(error)
            return succeed(0)
        waiter: Deferred[int] = Deferred()
        self._parked.append((message, waiter))
        self._send_parked()
        return waiter

    def subscribe(
        self, requests: Sequence[SubscriptionRequest], properties: Properties = NO_PROPERTIES
    ) -> Deferred[list[int]]:
        """Fires with the reason codes of the SUBACK, those from 0x80 on being refusals."""
        return self._ask(lambda id_: Subscribe(id_, list(requests), properties))

    def unsubscribe(self, filters: Sequence[str]) -> Deferred[list[int]]:
        """Fires with the reason codes of the UNSUBACK (none before MQTT 5)."""
        return self._ask(lambda id_: Unsubscribe(id_, list(filters)))

    def disconnect(self, reason: int = 0) -> Deferred[MqttFailure]:
        """Say DISCONNECT and close; fires as `ended` does."""
        if self._connection is not None and self._over is None:
            self._why = MqttFailure("disconnected", reason)
            self._on_packet("send", Disconnect(reason))
            self._connection.disconnect(reason)
            self._flush()
        return self.ended

    # ------------------------------------------------------------------ the transport

    def connectionMade(self) -> None:
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
        if not self._secure:
            self._begin()

    def handshakeCompleted(self) -> None:
        self._begin()

    def _begin(self) -> None:
        if self._tunnel is None:
            self._introduce()
        else:
            self.transport.write(self._tunnel.to_send())

    def _introduce(self) -> None:
        self._connection = Connection(Role.CLIENT, limits=self._limits, now=self._clock.seconds())
        try:
            self._send(self._connect)
        except LocalError as error:
            self._end(MqttFailure(str(error)))

    def dataReceived(self, data: bytes) -> None:
        if self._tunnel is not None and self._over is None:
            try:
                data = self._tunnel.receive(data)
            except RemoteError as error:
                self._why = self._why or MqttFailure(f"WebSocket: {error}")
                self._close()
                return
            if self._connection is None and self._tunnel.open:
                self._introduce()
            self.transport.write(self._tunnel.to_send())
        connection = self._connection
        if connection is None or self._over is not None:
            return
        wrong: RemoteError | None = None
        try:
            connection.receive(data, self._clock.seconds())
        except RemoteError as error:
            wrong = without_frames(error)
        for packet in connection.events():
            self._on_packet("receive", packet)
            self._take(packet)
        if wrong is not None:
            self._why = self._why or MqttFailure(f"the server broke the protocol: {wrong}", wrong.code)
        self._flush()

    def connectionLost(self, reason: Failure = _LOST) -> None:
        for timer in (self._timer, self._aborter):
            if timer is not None and timer.active():
                timer.cancel()
        self._end(self._why or MqttFailure(words_of(reason.value or ConnectionDone())))

    def _end(self, why: MqttFailure) -> None:
        if self._over is not None:
            return
        self._over = why
        self._close()
        waiting, self._waiting = self._waiting, {}
        parked, self._parked = self._parked, deque()
        for waiter in [*waiting.values(), *(waiter for _, waiter in parked)]:
            waiter.errback(why)
        if not self.accepted.called:
            self.accepted.errback(why)
        self.ended.callback(why)

    def _close(self) -> None:
        if self.transport is not None and self._aborter is None and self.transport.connected:
            self.transport.loseConnection()
            self._aborter = self._clock.callLater(CLOSE_TIMEOUT, self.transport.abortConnection)

    def _send(self, packet: Packet) -> None:
        if self._connection is None:
            raise LocalError("not connected yet")
        self._connection.send(packet)
        self._on_packet("send", packet)
        self._flush()

    def _flush(self) -> None:
        connection = self._connection
        if connection is None:
            return
        data = connection.to_send(self._clock.seconds())
        if data and self.transport is not None:
            self._write(data)
        if connection.closed:
            self._close()
        self._schedule()

    def _write(self, data: bytes) -> None:
        tunnel = self._tunnel
        if tunnel is not None:
            if tunnel.open:
                tunnel.send(data)
            if self._connection is not None and self._connection.closed:
                tunnel.close()
            data = tunnel.to_send()
        self.transport.write(data)

    def _schedule(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        due = None if self._connection is None or self._over is not None else self._connection.next_timer()
        if due is not None:
            self._timer = self._clock.callLater(max(0.0, due - self._clock.seconds()), self._tick)

    def _tick(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            connection.handle_timer(self._clock.seconds())
        except RemoteError as error:
            self._why = MqttFailure(str(error), error.code)
            self.transport.abortConnection()
        self._flush()

    # ------------------------------------------------------------------ packets

    def _take(self, packet: Packet) -> None:
        connection = self._connection
        assert connection is not None
        if isinstance(packet, Publish):
            self._take_publish(packet, connection)
        elif isinstance(packet, Puback | Pubcomp):
            self._finish_publish(packet.packet_id, packet.reason)
        elif isinstance(packet, Pubrec):
            if packet.reason >= FAILURE:
                self._finish_publish(packet.packet_id, packet.reason)
            else:
                connection.pubrel(packet.packet_id)
                self._on_packet("send", Pubrel(packet.packet_id))
        elif isinstance(packet, Pubrel):
            self._received.discard(packet.packet_id)
            connection.pubcomp(packet.packet_id)
            self._on_packet("send", Pubcomp(packet.packet_id))
        elif isinstance(packet, Suback | Unsuback):
            waiter = self._waiting.pop(packet.packet_id, None)
            if waiter is not None:
                waiter.callback(packet.reasons)
        elif isinstance(packet, Connack):
            self._take_connack(packet, connection)
        elif isinstance(packet, Disconnect):
            said = packet.properties.get(Property.REASON_STRING, "")
            self._why = MqttFailure(
                f"the server disconnected: {reason_text(packet.reason)}" + (f": {said}" if said else ""), packet.reason
            )

    def _take_publish(self, packet: Publish, connection: Connection) -> None:
        fresh = packet.qos < 2 or packet.packet_id not in self._received
        if packet.qos == 2:
            self._received.add(packet.packet_id)
        if fresh:
            self.on_message(packet)
        if connection.closed:
            # who took the message wanted no more
            return
        if packet.qos == 1:
            connection.puback(packet.packet_id)
            self._on_packet("send", Puback(packet.packet_id))
        elif packet.qos == 2:
            connection.pubrec(packet.packet_id)
            self._on_packet("send", Pubrec(packet.packet_id))

    def _take_connack(self, packet: Connack, connection: Connection) -> None:
        if packet.reason:
            said = packet.properties.get(Property.REASON_STRING, "")
            text = reason_text(packet.reason, self.version) + (f": {said}" if said else "")
            self._why = MqttFailure(f"the server refused: {text}", packet.reason)
        else:
            self._window = min(MAX_INFLIGHT, connection.peer_receive_maximum)
            self.accepted.callback(packet)

    def _finish_publish(self, packet_id: int, reason: int) -> None:
        waiter = self._waiting.pop(packet_id, None)
        if waiter is None:
            return
        self._inflight -= 1
        if reason >= FAILURE:
            waiter.errback(MqttFailure(f"the server refused the message: {reason_text(reason)}", reason))
        else:
            waiter.callback(reason)
        self._send_parked()

    def _send_parked(self) -> None:
        while self._parked and self._inflight < self._window and self.accepted.called and self._over is None:
            message, waiter = self._parked.popleft()
            message.packet_id = self._free_id()
            try:
                self._send(message)
            except LocalError as error:
                waiter.errback(error)
                continue
            self._waiting[message.packet_id] = waiter
            self._inflight += 1

    def _ask(self, make: Callable[[int], Subscribe | Unsubscribe]) -> Deferred[list[int]]:
        if self._over is not None:
            return fail(self._over)
        packet_id = self._free_id()
        try:
            self._send(make(packet_id))
        except LocalError as error:
            return fail(error)
        waiter: Deferred[list[int]] = Deferred()
        self._waiting[packet_id] = waiter
        return waiter

    def _free_id(self) -> int:
        """The next packet id that is not in use; at most MAX_INFLIGHT messages and the caller's own requests are."""
        while True:
            self._last_id = self._last_id % 65535 + 1
            if self._last_id not in self._waiting:
                return self._last_id
