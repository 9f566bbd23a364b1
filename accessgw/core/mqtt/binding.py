"""MQTT on one stream connection: joins the wire protocol with sessions, the broker, calls and pushes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accessgw.core import tracing as traces
from accessgw.core.mqtt.admission import Admission
from accessgw.core.mqtt.connecting import for_bridge
from accessgw.core.mqtt.session import PUBACK, MqttSession
from accessgw.core.mqtt.session_keeper import granted_expiry
from accessgw.model.reasons import CloseReason
from protocols.errors import RemoteError
from protocols.mmtp.statuses import Status
from protocols.mqtt import packets
from protocols.mqtt.names import split_shared
from protocols.mqtt.packets import Property
from protocols.mqtt.reasons import FAILURE, Reason

AT_ONCE = 64
"""Packets of one client that a turn of the reactor serves: some milliseconds, when each of them is dear."""

PUBACK_SIZE = 4
"""Bytes of a PUBACK that says success."""
GOODBYE_SIZE = 2
"""Bytes of a DISCONNECT that says no more."""

OWN = ("$reply/", "$response/", "$push/")
"""Topics on which the gateway speaks to one client, subscribed or not; some libraries ask for them all the same."""


class MqttBinding(Admission):
    """A Binding towards the transport, a Link towards the gateway's session, an Outlet towards the broker's."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        session = self.session
        error: RemoteError | None = None
        wire = self.wire
        try:
            if session is None:
                connect = wire.introduced_alone(data)
                if connect is not None:
                    self._services.counters.packets_received += 1
                    self._began(connect)
                    return
            elif self._trace is None and self._rest is None:
                # Most packets come alone: those that come often are spared the list of events.
                size = len(data)
                if size == PUBACK_SIZE:
                    if self._acked_alone(session, data):
                        return
                elif size == GOODBYE_SIZE:
                    if wire.left_alone(data):
                        self._services.counters.packets_received += 1
                        self._left()
                        return
                elif self._rate is None and self._admission is None:
                    publish = wire.published_alone(data)
                    if publish is not None:
                        self._published(publish)
                        return
            if wire.receive(data, 0.0):
                self._services.packet_timeout.begun(self)
        except RemoteError as found:
            error = found
        arrived = wire.events()
        self._services.counters.packets_received += len(arrived)
        if self._rate is not None:
            self._spent(arrived, len(data))
        if error is not None:
            self._work(arrived[:AT_ONCE] if self._rest is None else [], error)
        elif self._rest is not None:
            # TLS hands on what one read brings in several parts, one for each of its records.
            self._rest += arrived
        elif len(arrived) > AT_ONCE:
            self._put_off(arrived)
        else:
            self._work(arrived, None)

    def _began(self, connect: packets.Connect) -> None:
        """As _work, of a CONNECT that came alone."""
        self._in_batch = True
        self._services.broker.served = 0
        try:
            self._introduced(connect)
        except Exception:
            self._defect()
        finally:
            self._in_batch = False
        if self._admission is not None:
            self._held_back = True
            self.connection.pause()
        unsent = self.wire.to_send(0.0)
        if unsent:
            self._write(unsent)

    def _published(self, packet: packets.Publish) -> None:
        """As _work, of a PUBLISH that came alone."""
        services = self._services
        services.counters.packets_received += 1
        services.broker.served = 0
        self._in_batch = True
        try:
            self._on_publish(packet)
        except Exception:
            self._defect()
        finally:
            self._in_batch = False
        unsent = self.wire.to_send(0.0)
        if unsent:
            self._write(unsent)

    def _work(self, arrived: list[packets.Packet], error: RemoteError | None) -> None:
        """Handle packets, and write what came of them at once."""
        self._in_batch = True
        self._services.broker.served = 0
        try:
            for packet in arrived:
                if type(packet) is packets.Publish and self.session is not None and self._trace is None:
                    self._on_publish(packet)
                else:
                    self._handle(packet)
                if self._closed:
                    break
        except Exception:
            self._defect()
        finally:
            self._in_batch = False
        if self._admission is not None and not self._held_back:
            # What follows waits in the kernel: it is not to fill our memory before anybody is known.
            self._held_back = True
            self.connection.pause()
        if error is not None:
            self._broken(error)
            return
        unsent = self.wire.to_send(0.0)
        if unsent:
            self._write(unsent)

    def _put_off(self, arrived: list[packets.Packet]) -> None:
        """More packets came in one read than one turn of the reactor should be held for;
        the next read waits for them."""
        self._rest = arrived[AT_ONCE:]
        self.connection.pause()
        self._services.clock.callLater(0, self._go_on)
        self._work(arrived[:AT_ONCE], None)

    def _go_on(self) -> None:
        rest = self._rest
        if self._closed or rest is None:
            return
        if len(rest) > AT_ONCE:
            self._rest = rest[AT_ONCE:]
            self._services.clock.callLater(0, self._go_on)
            self._work(rest[:AT_ONCE], None)
            return
        self._rest = None
        self._work(rest, None)
        self._listen()

    def _acked_alone(self, session: MqttSession, data: bytes) -> bool:
        """An acknowledgement came alone, as most do; False when it is not one, or brings more about."""
        packet_id = self.wire.acked_alone(data)
        if not packet_id:
            return False
        self._services.counters.packets_received += 1
        if (
            session.inflight.get(packet_id) == PUBACK
            and not session.durable
            and session.parked is None
            and session.feed is None
            and not self._push_waits
        ):
            del session.inflight[packet_id]
            self._services.counters.acknowledged += 1
            return True
        try:
            self._on_puback(packets.Puback(packet_id))
        except Exception:
            self._defect()
        return True

    def _left(self) -> None:
        """DISCONNECT came alone, and says nothing else: the will is dropped, the session keeps its expiry."""
        try:
            self._leave(False, None)
            self._peer_left()
        except Exception:
            self._defect()

    def drained(self) -> None:
        session = self.session
        if session is None:
            return
        self._services.outbound.pull(session)
        self._admit_pushes()

    def aged(self) -> None:
        services = self._services
        if services.draining:
            self.go_away(Status.DRAINING, services.leave_for, 0.0)
        else:
            self._say_and_close(Reason.MAXIMUM_CONNECT_TIME, CloseReason.MAX_AGE)

    def late(self) -> None:
        """Nothing can be said before CONNECT; the transport closes."""

    def packet_late(self) -> None:
        """MQTT 5: a limit of ours was exceeded. (Keep alive may be off, or was kept to by each byte.)"""
        if self._closed:
            return
        self._services.counters.packets_late += 1
        if self.session is None:
            self._finish(CloseReason.HELLO_TIMEOUT)
        else:
            self._say_and_close(Reason.QUOTA_EXCEEDED, CloseReason.IDLE, "a packet was not whole in time")

    def expired(self) -> None:
        self._say(Reason.KEEP_ALIVE_TIMEOUT)
        # As if the network had failed (section 3.1.2.10): the will does not wait until the peer hears of it.
        self._closed = True
        self._leave(True, None)

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        self._closed = True
        if self._trace is not None:
            self._trace(traces.closed(self.info, reason, detail))
            self._trace = None
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._admission is not None:
            self._admission.cancel()
            self._admission = None
        self._held = self._acks = self._exchange = None
        if self._calls is not None:
            self._calls.detach()
            self._calls = None
        if self.wire.halves:
            self._services.packet_timeout.gone(self)
        self._leave(True, None)
        device, self._device = self._device, None
        if device is not None:
            self._services.sessions.disconnected(device, self, reason)

    def _handle(self, packet: packets.Packet) -> None:
        if self._trace is not None:
            self._trace_received(packet)
        if self.session is not None:
            _HANDLERS[type(packet)](self, packet)
        elif isinstance(packet, packets.Connect):
            self._introduced(packet)
        elif isinstance(packet, packets.Auth) and self._exchange is not None and self._admission is None:
            self._authenticate(self._exchange, packet.properties.get(Property.AUTHENTICATION_DATA, b""))
        elif isinstance(packet, packets.Disconnect) and (self._connect is None or self._exchange is not None):
            self._peer_left()
        else:
            self._hold(packet)

    def _on_puback(self, packet: packets.Puback) -> None:
        session = self.session
        assert session is not None
        if session.pushes and packet.packet_id in session.pushes:
            self._push_acked(session, packet.packet_id)
        else:
            self._services.outbound.puback(session, packet.packet_id)
            if self._push_waits:
                self._admit_pushes()

    def _on_pubrec(self, packet: packets.Pubrec) -> None:
        assert self.session is not None
        self._services.outbound.pubrec(self.session, packet.packet_id, packet.reason)
        if self._push_waits:
            self._admit_pushes()

    def _on_pubcomp(self, packet: packets.Pubcomp) -> None:
        assert self.session is not None
        self._services.outbound.pubcomp(self.session, packet.packet_id)
        if self._push_waits:
            self._admit_pushes()

    def _on_subscribe(self, packet: packets.Subscribe) -> None:
        session = self.session
        assert session is not None
        identifier = packet.properties.get(Property.SUBSCRIPTION_IDENTIFIER, 0)
        requests = packet.requests
        if session.client_id in self._services.broker.bridge_clients:
            requests = [for_bridge(request) for request in requests]
        reasons = self._services.subscriptions.subscribe(session, requests, identifier, self._grant)
        if isinstance(reasons, list):
            self._suback(reasons, packet.packet_id)
        else:
            reasons.addCallback(self._suback, packet.packet_id)

    def _grant(self, request: packets.SubscriptionRequest) -> int:
        services, session = self._services, self.session
        assert session is not None and session.identity is not None
        settings = services.settings
        group, filter = split_shared(request.filter)
        if group and not settings.shared_available:
            return Reason.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED
        if not settings.wildcard_available and ("+" in filter or "#" in filter):
            return Reason.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED
        if filter.startswith(OWN):
            return min(request.qos, 1)
        decision = services.may_subscribe(session.identity, filter)
        if not decision.allowed:
            services.denied("subscribe", session.identity, filter, decision)
            return Reason.NOT_AUTHORIZED
        return min(request.qos, decision.max_qos)

    def _suback(self, reasons: list[int], packet_id: int) -> None:
        session = self.session
        if self._closed or session is None or self.wire.closed:
            return
        if not session.v5:
            reasons = [min(reason, FAILURE) for reason in reasons]
        if self._tell(packets.Suback(packet_id, reasons)):
            self._sent("suback", packet_id)
            self._services.outbound.pull(session)

    def recheck(self) -> None:
        services, session = self._services, self.session
        if session is None or session.identity is None or self._closed:
            return
        lost = [name for name, (request, _) in session.filters.items() if self._grant(request) >= FAILURE]
        if lost:
            services.subscriptions.unsubscribe(session, lost)

    def _on_unsubscribe(self, packet: packets.Unsubscribe) -> None:
        session = self.session
        assert session is not None
        reasons = self._services.subscriptions.unsubscribe(session, packet.filters)
        if isinstance(reasons, list):
            self._unsuback(reasons, packet.packet_id)
        else:
            reasons.addCallback(self._unsuback, packet.packet_id)

    def _unsuback(self, reasons: list[int], packet_id: int) -> None:
        session = self.session
        if self._closed or session is None or self.wire.closed:
            return
        if self._tell(packets.Unsuback(packet_id, reasons if session.v5 else [])):
            self._sent("unsuback", packet_id)

    def _on_pingreq(self, packet: packets.Pingreq) -> None:
        if not self.wire.closed:  # DISCONNECT may have come in the same write
            self.wire.send(packets.Pingresp())
            self._sent("pingresp")

    def _on_disconnect(self, packet: packets.Disconnect) -> None:
        session = self.session
        assert session is not None
        expiry: float | None = packet.properties.get(Property.SESSION_EXPIRY)
        if expiry is not None:
            if expiry and not session.expiry:
                self._say_and_close(Reason.PROTOCOL_ERROR, CloseReason.PROTOCOL_ERROR, "a session expiry after none")
                return
            expiry = granted_expiry(expiry, self._services.settings.max_session_expiry)
        self._leave(packet.reason != Reason.SUCCESS, expiry)
        self._peer_left()


_HANDLERS: dict[type, Callable[[MqttBinding, Any], None]] = {
    packets.Publish: MqttBinding._on_publish,
    packets.Puback: MqttBinding._on_puback,
    packets.Pubrec: MqttBinding._on_pubrec,
    packets.Pubrel: MqttBinding._on_pubrel,
    packets.Pubcomp: MqttBinding._on_pubcomp,
    packets.Subscribe: MqttBinding._on_subscribe,
    packets.Unsubscribe: MqttBinding._on_unsubscribe,
    packets.Pingreq: MqttBinding._on_pingreq,
    packets.Disconnect: MqttBinding._on_disconnect,
    packets.Auth: MqttBinding._on_auth,
}
