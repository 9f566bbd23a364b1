"""MQTT on one stream connection: joins the wire protocol with sessions, the broker, calls and pushes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core import tracing as traces
from accessgw.core.authentication import AdmissionRefused
from accessgw.core.interfaces import AuthenticationFailed, Connection, OutgoingPush, Timer
from accessgw.core.interfaces.mqtt import EnhancedExchange
from accessgw.core.interfaces.mqtt_state import Message
from accessgw.core.mqtt.calls import ConnectionCalls
from accessgw.core.mqtt.connecting import (
    KEEP_ALIVE_GRACE,
    connack_of,
    for_bridge,
    introduction_of,
    keep_alive_of,
    opening_of,
)
from accessgw.core.mqtt.owners import owner_of, user_of
from accessgw.core.mqtt.publication import PACKET_IDS, Parts
from accessgw.core.mqtt.rate import ConnectionRate, rate_of
from accessgw.core.mqtt.reasons import close_of, reason_of, refusal_of
from accessgw.core.mqtt.services import MqttServices
from accessgw.core.mqtt.session import PUBACK, PUSH, MqttSession
from accessgw.core.mqtt.session_keeper import Opened, granted_expiry
from accessgw.core.registry import DeviceSession
from accessgw.model.identity import ConnectionInfo, Credentials, Identity
from accessgw.model.pushes import StreamKey
from accessgw.model.reasons import CloseReason
from accessgw.policy.topic_rules import Decision
from protocols.errors import RemoteError, TooLargeForPeer
from protocols.mmtp.nothing import NOTHING
from protocols.mmtp.statuses import Status
from protocols.mqtt import packets
from protocols.mqtt.connection import Connection as Wire
from protocols.mqtt.encoding import publish_parts
from protocols.mqtt.names import split_shared
from protocols.mqtt.packets import NO_PROPERTIES, V5, V311, PacketType, Property
from protocols.mqtt.reasons import FAILURE, Reason
from protocols.mqtt.state import Role

log = Logger()

PUBACK_SIZE = 4
"""Bytes of a PUBACK that says success."""
MAX_UNANSWERED = 64
"""Messages of a client that wait for the store or a service, past which it is not read."""
MAX_HELD = 512
"""Packets of a client that did not wait for CONNACK."""
MUCH = 4096
"""Bytes written at once past which the connection may have counted as full; less is not worth a look."""
LARGEST = 268_435_455
"""Bytes of a packet that the format allows: a client that takes so many sets no bound."""
OWN = ("$reply/", "$response/", "$push/")
"""Topics on which the gateway speaks to one client, subscribed or not; some libraries ask for them all the same."""
OWN_CLIENTS = "$bridge/"
"""Beginning of client ids of the gateway's own sessions."""
MAX_DECISIONS = 64
"""Topics whose permission is remembered per connection."""

Acknowledgement = list[int]
"""Packet id, QoS, and the reason code: -1 until it is known."""


class MqttBinding:
    """A Binding towards the transport, a Link towards the gateway's session, an Outlet towards the broker's."""

    __slots__ = (
        "_acks", "_admission", "_assigned", "_calls", "_closed", "_connect", "_decided_by", "_decisions", "_device", "_dirty",
        "_exchange", "_held", "_held_back", "_in_batch", "_method", "_pause", "_proven", "_push_waits", "_queued", "_rate", "_services", "_trace", "connection",
        "info", "session", "wire",
    )  # fmt: skip

    def __init__(self, connection: Connection, services: MqttServices) -> None:
        self.connection = connection
        self.info: ConnectionInfo = connection.info
        self._services = services
        self.wire = Wire(Role.SERVER, limits=services.limits, now=services.clock.seconds())
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

    # ---------------------------------------------------------------- Binding: what the transport calls

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        session = self.session
        if (
            session is not None
            and len(data) == PUBACK_SIZE
            and self._trace is None
            and self._acked_alone(session, data)
        ):
            return
        error: RemoteError | None = None
        arrived: list[packets.Packet] = []
        wire = self.wire
        self._in_batch = True
        self._services.broker.served = 0
        try:
            try:
                wire.receive(data, 0.0)
            except RemoteError as found:
                error = found
            arrived = wire.events()
            self._services.counters.packets_received += len(arrived)
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
        if self._rate is not None:
            self._spent(arrived, len(data))
        if self._admission is not None and not self._held_back:
            # What follows waits in the kernel: it is not to fill our memory before anybody is known.
            self._held_back = True
            self.connection.pause()
        if error is not None:
            self._broken(error)
            return
        unsent = wire.to_send(0.0)
        if unsent:
            self._write(unsent)

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

    def drained(self) -> None:
        session = self.session
        if session is None:
            return
        self._services.outbound.pull(session)
        self._admit_pushes()

    def _admit_pushes(self) -> None:
        """There may be room for those that were refused."""
        self._push_waits = False
        if self._device is not None and self._device.link is self:
            self._services.pushes.writable(self._device)

    def aged(self) -> None:
        services = self._services
        if services.draining:
            self.go_away(Status.DRAINING, services.leave_for, 0.0)
        else:
            self._say_and_close(Reason.MAXIMUM_CONNECT_TIME, CloseReason.MAX_AGE)

    def late(self) -> None:
        """Nothing can be said before CONNECT; the transport closes."""

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
        self._leave(True, None)
        device, self._device = self._device, None
        if device is not None:
            self._services.sessions.disconnected(device, self, reason)

    # ---------------------------------------------------------------- Outlet: what the broker sends

    @property
    def buffered(self) -> int:
        """Bytes that the kernel has not taken yet, or is about to be given."""
        return self.connection.buffered + self._queued

    def put(self, frame: bytes) -> None:
        if self.session is None:
            return
        self.wire.send_frame(frame)
        self._services.counters.packets_sent += 1
        self._queued += len(frame)
        if self._trace is not None:
            self._trace(traces.sent(PacketType(frame[0] >> 4).name.lower(), {"bytes": len(frame)}))
        if not (self._dirty or self._in_batch):
            self._dirty = True
            self._services.flusher.add(self)

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
            self._write(data)

    def _write(self, data: bytes) -> None:
        self._queued = 0
        self.connection.write(data)
        if len(data) > MUCH and not self._closed and not self.connection.buffered:
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

    # ---------------------------------------------------------------- Link: what the gateway's session uses

    def introduce(self, alias: int, stream: StreamKey, epoch: int, after: int) -> None:
        """A push names its stream itself."""

    def send_push(self, push: OutgoingPush, gap: int) -> bool:
        session = self.session
        services = self._services
        if session is None or self._closed or not services.settings.push_topic:
            return False
        if len(session.inflight) >= session.window or self.buffered > services.outbound.max_buffer:
            self._push_waits = True
            return False
        head, tail = self._push_parts(push, session.v5)
        if session.max_packet and len(head) + 2 + len(tail) > session.max_packet:
            # It will never fit: the device is as if it had got it (section 3.1.2.11.4).
            services.counters.drop("too_large")
            services.clock.callLater(0, self._push_skipped, push.alias, push.seq)
            return True
        packet_id = session.allocate(PUSH)
        if session.pushes is NOTHING:
            session.pushes = {}
        session.pushes[packet_id] = (push.alias, push.seq)
        services.counters.sent_qos1 += 1
        services.counters.sent_bytes += len(push.body)
        self.put(head + PACKET_IDS[packet_id] + tail)
        return True

    def _push_skipped(self, alias: int, seq: int) -> None:
        if self._device is not None and self._device.link is self:
            self._services.pushes.acked(self._device, [(alias, seq)])

    def _push_parts(self, push: OutgoingPush, v5: bool) -> Parts:
        """Encoded once for all that speak the same version."""
        parts: Parts | None = push.encodings.get(("mqtt", v5))
        if parts is None:
            stream = push.stream
            properties: dict[int, Any] = {
                Property.USER_PROPERTY: [
                    ("scope", stream.scope.value),
                    ("stream", stream.id),
                    ("epoch", str(push.epoch)),
                    ("seq", str(push.seq)),
                ]
            }
            if push.ttl is not None:
                properties[Property.MESSAGE_EXPIRY] = max(1, round(push.ttl))
            topic = self._services.settings.push_topic.replace("{biz}", stream.biz)
            parts = push.encodings[("mqtt", v5)] = publish_parts(
                topic,
                push.body,
                V5 if v5 else V311,
                qos=1,
                retain=False,
                properties=properties if v5 else NO_PROPERTIES,
            )
        return parts

    def stream_note(self, alias: int, stream: StreamKey, note: str, epoch: int, floor: int) -> None:
        """MQTT has no word for it: the epoch and the sequence numbers of pushes tell."""

    def close(self, reason: CloseReason, status: int) -> None:
        self._say_and_close(reason_of(reason), reason)

    def go_away(self, status: int, address: str, delay: float) -> None:
        reference = address or self._services.settings.server_reference
        if reference:
            properties: dict[int, Any] = {Property.SERVER_REFERENCE: reference}
            self._say_and_close(Reason.USE_ANOTHER_SERVER, CloseReason.DRAINING, "", properties)
        else:
            self._say_and_close(Reason.SERVER_SHUTTING_DOWN, CloseReason.DRAINING)

    # ---------------------------------------------------------------- receiving

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

    def _hold(self, packet: packets.Packet) -> None:
        """The client did not wait for CONNACK; nothing of it runs before it is known."""
        if self._held is None:
            self._held = []
        if len(self._held) >= MAX_HELD:
            self._say_and_close(Reason.SERVER_BUSY, CloseReason.OVERLOAD)
        else:
            self._held.append(packet)

    # ---------------------------------------------------------------- CONNECT

    def _introduced(self, connect: packets.Connect) -> None:
        services = self._services
        self._connect = connect
        if self.wire.closed:
            return  # what came right behind it broke the protocol, and was answered
        if connect.client_id.startswith(OWN_CLIENTS):
            self._refuse(Reason.CLIENT_ID_NOT_VALID, CloseReason.PROTOCOL_ERROR, "a client id of the gateway's own")
            return
        if not connect.client_id:
            if connect.version != V5 and not connect.clean_start:
                self._refuse(
                    Reason.CLIENT_ID_NOT_VALID, CloseReason.PROTOCOL_ERROR, "an empty client id and no clean session"
                )
                return
            connect.client_id = services.new_client_id()
            self._assigned = True
        if services.flapping is not None and services.flapping.banned_for(connect.client_id):
            self._refuse(Reason.BANNED, CloseReason.FORBIDDEN, "it connects too often")
            return
        if services.tracing.watched:
            self._trace = services.tracing.tracer(connect.client_id)
            if self._trace is not None:
                self._trace(traces.connected(self.info))
                self._trace_received(connect)
        method = connect.properties.get(Property.AUTHENTICATION_METHOD)
        if method is None:
            self._admit()
            return
        authenticator = services.enhanced.get(method)
        if authenticator is None:
            self._refuse(
                Reason.BAD_AUTHENTICATION_METHOD, CloseReason.AUTH_FAILED, f"no authentication method {method!r}"
            )
            return
        self._method = method
        self._exchange = authenticator.begin(
            Credentials(
                device=connect.client_id,
                username=connect.username or "",
                certificate_identity=self.info.certificate_identity,
                loopback=self.info.loopback,
                peer=self.info.peer,
            )
        )
        self._authenticate(self._exchange, connect.properties.get(Property.AUTHENTICATION_DATA, b""))

    def _authenticate(self, exchange: EnhancedExchange, data: bytes) -> None:
        step = self._services.bounded(exchange.step(data))
        self._admission = step
        step.addCallbacks(self._authenticated, self._not_admitted)
        step.addErrback(self._defect)

    def _authenticated(self, result: tuple[bytes, Identity | None]) -> None:
        self._admission = None
        if self._closed:
            return
        self._read_on()
        data, identity = result
        if identity is None:
            if self._tell(packets.Auth(Reason.CONTINUE_AUTHENTICATION, self._auth_properties(data))):
                self._sent("auth")
            return
        self._exchange = None
        if self.session is not None:
            self._authenticated_again(identity, data)
            return
        self._proven = identity
        self._admit(self._auth_properties(data))

    def _auth_properties(self, data: bytes) -> dict[int, Any]:
        properties: dict[int, Any] = {Property.AUTHENTICATION_METHOD: self._method}
        if data:
            properties[Property.AUTHENTICATION_DATA] = data
        return properties

    def _admit(self, authentication: packets.Properties = NO_PROPERTIES) -> None:
        connect = self._connect
        assert connect is not None
        introduction = introduction_of(connect, self.info, self._proven)
        try:
            entered = self._services.sessions.enter(introduction, self)
        except Exception:
            self._not_admitted(Failure())
            return
        if isinstance(entered, DeviceSession):
            self._admitted(entered, authentication)
            return
        # Its time ends here; authenticators and filters have time-outs of their own.
        self.connection.established()
        self._admission = entered
        entered.addCallbacks(self._admitted, self._not_admitted, (authentication,))
        entered.addErrback(self._defect)

    def _admitted(self, device: DeviceSession, authentication: packets.Properties) -> None:
        self._admission = None
        self._device = device
        services, connect = self._services, self._connect
        assert connect is not None
        identity = device.identity
        self.info.device, self.info.user = identity.device, identity.user
        will = connect.will
        # Topics with $ are the gateway's: what a client may say there, it says itself.
        if will is not None:
            decision = None
            if will.topic[0] != "$":
                decision = services.may_publish(identity, will.topic, will.qos, will.retain)
            if decision is None or not decision.allowed:
                services.denied("publish", identity, will.topic, decision)
                self._refuse(Reason.NOT_AUTHORIZED, CloseReason.FORBIDDEN, f"its will may not go to {will.topic!r}")
                return
        max_packet = self.wire.peer_max_packet
        opening = opening_of(
            connect,
            identity,
            services.settings,
            alias_maximum=self.wire.peer_topic_alias_maximum,
            max_packet=max_packet if max_packet < LARGEST else 0,
        )
        opened = services.keeper.open(opening, self)
        if opened.ready is None:
            self._welcome(opened, authentication)
            return
        self.connection.established()
        self._admission = opened.ready
        opened.ready.addCallbacks(lambda _: self._welcome(opened, authentication), self._not_kept)
        opened.ready.addErrback(self._defect)

    def _welcome(self, opened: Opened, authentication: packets.Properties) -> None:
        self._admission = None
        services, connect, device, session = self._services, self._connect, self._device, opened.session
        if self._closed or connect is None or device is None or session.outlet is not self:
            return
        if connect.bridge:
            services.broker.bridge_clients.add(connect.client_id)
        if services.flapping is not None and services.flapping.connected(connect.client_id):
            self._refuse(Reason.BANNED, CloseReason.FORBIDDEN, "it connects too often")
            return
        settings = services.settings
        keep_alive = keep_alive_of(connect, settings)
        self.connection.set_idle(keep_alive * KEEP_ALIVE_GRACE)
        try:
            self.wire.accept(
                connack_of(
                    connect,
                    session,
                    opened.present,
                    keep_alive=keep_alive,
                    assigned=self._assigned,
                    authentication=authentication,
                    origin=services.broker.origin,
                )
            )
        except TooLargeForPeer as error:
            self._finish(CloseReason.PROTOCOL_ERROR, str(error))
            return
        self.session = session
        self._connect = None
        services.counters.connects[_VERSIONS[connect.version]] = (
            services.counters.connects.get(_VERSIONS[connect.version], 0) + 1
        )
        if services.tracing.watched:
            self.retrace()
        self._sent("connack")
        self._read_on()
        self._rate = rate_of(settings, services.clock.seconds())
        session.window = min(settings.max_inflight, self.wire.peer_receive_maximum)
        resumed = services.outbound.resume(session)
        if settings.push_topic and not self._assigned:
            if resumed is None:
                services.pushes.attach(device, [], passing=not session.durable)
            else:
                resumed.addCallback(self._attach, device, session)
        held, self._held = self._held, None
        for packet in held or ():
            if self._closed:
                return
            self._handle(packet)
        if not self._in_batch and not self._closed:
            self.flush()

    def _read_on(self) -> None:
        if self._held_back:
            self._held_back = False
            if self._pause is None:
                self.connection.resume()

    def _attach(self, _: None, device: DeviceSession, session: MqttSession) -> None:
        """What was in flight is known, so that pushes take no packet id of it."""
        if not self._closed and session.outlet is self:
            self._services.pushes.attach(device, [], passing=not session.durable)

    def _not_kept(self, failure: Failure) -> None:
        self._admission = None
        if not self._closed and not failure.check(CancelledError):
            log.error("the session of {id} cannot be stored: {error}", id=self.info.device, error=failure.value)
            self._refuse(Reason.SERVER_UNAVAILABLE, CloseReason.OVERLOAD, "the store is not available")

    def _not_admitted(self, failure: Failure, _: object = None) -> None:
        self._admission = None
        error = failure.value
        if isinstance(error, CancelledError) or self._closed:
            return
        if isinstance(error, AdmissionRefused):
            self._refuse(refusal_of(error.status), error.reason, str(error))
        elif isinstance(error, AuthenticationFailed):
            self._refuse(Reason.NOT_AUTHORIZED, CloseReason.AUTH_FAILED, str(error))
        else:
            log.failure("admission failed", failure=failure)
            self._refuse(Reason.SERVER_UNAVAILABLE, CloseReason.AUTH_UNAVAILABLE, "authentication is unavailable")

    def _refuse(self, reason: Reason, close: CloseReason, detail: str) -> None:
        """CONNACK with a reason, or DISCONNECT where that was said already."""
        if self.session is not None:
            self._say_and_close(reason, close, detail)
            return
        refused = self._services.counters.connects_refused
        refused[reason.name.lower()] = refused.get(reason.name.lower(), 0) + 1
        self.wire.refuse(reason)
        self._sent("connack")
        self._finish(close, detail)

    # ---------------------------------------------------------------- AUTH

    def _on_auth(self, packet: packets.Auth) -> None:
        """Authentication begins again, or goes on (section 4.12.1)."""
        data = packet.properties.get(Property.AUTHENTICATION_DATA, b"")
        if packet.reason == Reason.REAUTHENTICATE and self._exchange is None and self._admission is None:
            session = self.session
            assert session is not None
            authenticator = self._services.enhanced.get(self._method)
            if authenticator is None:
                self._say_and_close(Reason.BAD_AUTHENTICATION_METHOD, CloseReason.AUTH_FAILED)
                return
            self._exchange = authenticator.begin(
                Credentials(
                    device=session.client_id,
                    username=user_of(session.user),
                    certificate_identity=self.info.certificate_identity,
                    loopback=self.info.loopback,
                    peer=self.info.peer,
                )
            )
        if self._exchange is None or self._admission is not None:
            self._say_and_close(Reason.PROTOCOL_ERROR, CloseReason.PROTOCOL_ERROR, "AUTH without an exchange")
            return
        self._authenticate(self._exchange, data)

    def _authenticated_again(self, identity: Identity, data: bytes) -> None:
        session, device = self.session, self._device
        assert session is not None and device is not None
        if owner_of(identity) != session.user:
            self._say_and_close(Reason.NOT_AUTHORIZED, CloseReason.AUTH_FAILED, "re-authenticated as another user")
            return
        if self._tell(packets.Auth(Reason.SUCCESS, self._auth_properties(data))):
            self._sent("auth")

    # ---------------------------------------------------------------- PUBLISH

    def _on_publish(self, packet: packets.Publish) -> None:
        services, session = self._services, self.session
        assert session is not None
        counters = services.counters
        qos, topic = packet.qos, packet.topic
        counters.received_bytes += len(packet.payload)
        if qos == 0:
            counters.received_qos0 += 1
        elif qos == 1:
            counters.received_qos1 += 1
        else:
            counters.received_qos2 += 1
            if packet.packet_id in session.received:
                self._received_again(session, packet.packet_id)
                return
        if topic[0] == "$" and self._special(packet, session):
            return
        retain = packet.retain
        key = (topic, qos, retain)
        decision = self._decisions.get(key) if self._decided_by is services.access else None
        if decision is None:
            decision = self._decide(key)
        if not decision.allowed:
            self._denied(packet)
            return
        now = services.wall()
        properties = packet.properties
        expires_at: float | None = None
        if properties:
            properties, expires_at = _without_expiry(properties, now)
        if services.settings.max_message_expiry:
            latest = now + services.settings.max_message_expiry
            expires_at = latest if expires_at is None else min(expires_at, latest)
        message = Message(
            topic, packet.payload, qos, retain, properties, now, expires_at, session.client_id, session.identity
        )
        if qos == 0:
            outcome = services.broker.publish(message)
            if type(outcome) is Deferred:
                # It waits behind large fan-outs: whoever sends faster than they go is not read.
                self._answer(0, 0, outcome)
        elif qos == 1:
            outcome = services.broker.publish(message)
            if type(outcome) is int and outcome < FAILURE and self._acks is None and self._trace is None:
                self.wire.puback(packet.packet_id, outcome if session.v5 else 0)
                if self._in_batch:
                    services.counters.packets_sent += 1
                else:
                    self._sent("puback")
            else:
                self._answer(packet.packet_id, 1, outcome)
        else:
            self._receive_exactly_once(session, packet.packet_id, message)

    def _decide(self, key: tuple[str, int, bool]) -> Decision:
        """May it publish so? Remembered until the rules change."""
        services, session = self._services, self.session
        assert session is not None and session.identity is not None
        if self._decided_by is not services.access or len(self._decisions) >= MAX_DECISIONS:
            self._decided_by = services.access
            self._decisions = {}
        decision = self._decisions[key] = services.may_publish(session.identity, *key)
        return decision

    def _denied(self, packet: packets.Publish) -> None:
        """MQTT 5 says so; before, the message is acknowledged and goes nowhere (3.1.1, section 3.3.5)."""
        services, session = self._services, self.session
        assert session is not None
        decision = self._decisions.get((packet.topic, packet.qos, packet.retain))
        services.denied("publish", session.identity, packet.topic, decision)
        if services.broker.trace.watched:
            services.broker.trace.tell(Message(packet.topic, b"", publisher=session.client_id), "denied")
        if packet.qos:
            self._answer(packet.packet_id, packet.qos, Reason.NOT_AUTHORIZED if session.v5 else Reason.SUCCESS)
            if packet.qos > 1 and not session.v5:
                session.remember(packet.packet_id)

    def _special(self, packet: packets.Publish, session: MqttSession) -> bool:
        """Topics of the gateway itself. True when that was all."""
        services = self._services
        topic = packet.topic
        if services.calls is not None and services.calls.is_call(topic):
            if self._calls is None:
                self._calls = services.calls.connection(session, self)
            self._answer_special(packet, session, self._calls.start(packet))
            return True
        if services.requests is not None and services.requests.is_answer(topic):
            reason = services.requests.answered(session.client_id, topic, packet.payload, packet.properties)
            self._answer_special(packet, session, reason)
            return True
        self._denied(packet)
        return True

    def _answer_special(self, packet: packets.Publish, session: MqttSession, reason: int) -> None:
        if packet.qos > 1 and (reason < FAILURE or not session.v5):
            session.remember(packet.packet_id)
        if packet.qos:
            self._answer(packet.packet_id, packet.qos, reason if session.v5 else Reason.SUCCESS)

    def _receive_exactly_once(self, session: MqttSession, packet_id: int, message: Message) -> None:
        """QoS 2, method B of section 4.3.3: the message goes on at once, its id is kept until PUBREL."""
        session.remember(packet_id)
        received = (session.client_id, packet_id) if session.durable else None
        outcome = self._services.broker.publish(message, received)
        if isinstance(outcome, int):
            if outcome >= FAILURE:
                session.release(packet_id)
            self._answer(packet_id, 2, outcome)
            return
        if session.receiving is NOTHING:
            session.receiving = {}
        waiting: list[Deferred[int]] = []
        session.receiving[packet_id] = waiting

        def done(reason: int) -> int:
            session.receiving.pop(packet_id, None)
            if reason >= FAILURE:
                session.release(packet_id)
            for one in waiting:
                one.callback(reason)
            return reason

        self._answer(packet_id, 2, outcome.addCallback(done))

    def _received_again(self, session: MqttSession, packet_id: int) -> None:
        """It was not acknowledged in time, or its acknowledgement was lost."""
        waiting = session.receiving.get(packet_id)
        if waiting is None:
            self._answer(packet_id, 2, Reason.SUCCESS)
            return
        again: Deferred[int] = Deferred()
        waiting.append(again)
        self._answer(packet_id, 2, again)

    def _answer(self, packet_id: int, qos: int, outcome: int | Deferred[int]) -> None:
        """Acknowledge a message when the gateway answers for it, in order."""
        if isinstance(outcome, int):
            if self._acks is None:
                self._acknowledge(packet_id, qos, outcome)
            else:
                self._acks.append([packet_id, qos, outcome])
            return
        ack = [packet_id, qos, -1]
        acks = self._acks
        if acks is None:
            acks = self._acks = deque()
        acks.append(ack)
        if len(acks) >= MAX_UNANSWERED and not self._held_back:
            # The store, or a service, is slower than the client: it is not read until they have caught up.
            self._held_back = True
            self.connection.pause()
        outcome.addCallback(self._answered, ack)

    def _answered(self, reason: int, ack: Acknowledgement) -> None:
        ack[2] = reason
        acks = self._acks
        while acks and acks[0][2] >= 0 and not self._closed:
            self._acknowledge(*acks.popleft())
        if not acks:
            self._acks = None
        if self._held_back and not self._closed and (not acks or len(acks) <= MAX_UNANSWERED // 2):
            self._read_on()

    def _acknowledge(self, packet_id: int, qos: int, reason: int) -> None:
        session = self.session
        if session is None or self._closed or not qos:
            return
        if not session.v5:
            if reason >= FAILURE:
                # There is no other way to say that it was not taken; the client sends it again.
                self._say_and_close(reason, CloseReason.OVERLOAD, f"a message was not taken: reason {reason}")
                return
            reason = 0
        if qos == 1:
            self.wire.puback(packet_id, reason)
            self._sent("puback", packet_id)
        else:
            self.wire.pubrec(packet_id, reason)
            self._sent("pubrec", packet_id)

    def _on_pubrel(self, packet: packets.Pubrel) -> None:
        session = self.session
        assert session is not None
        packet_id = packet.packet_id
        if not session.release(packet_id):
            self._pubcomp(packet_id, Reason.PACKET_ID_NOT_FOUND if session.v5 else Reason.SUCCESS)
            return
        if not session.durable:
            self._pubcomp(packet_id, Reason.SUCCESS)
            return
        # The client may use the id for another message as soon as it has PUBCOMP.
        released = self._services.store.released(session.client_id, packet_id)
        released.addCallbacks(
            lambda _: self._pubcomp(packet_id, Reason.SUCCESS), self._not_released, (), {}, (packet_id,)
        )

    def _pubcomp(self, packet_id: int, reason: int) -> None:
        if not self._closed:
            self.wire.pubcomp(packet_id, reason)
            self._sent("pubcomp", packet_id)

    def _not_released(self, failure: Failure, packet_id: int) -> None:
        log.error("a released id of {client} cannot be stored: {error}", client=self.info.device, error=failure.value)
        session = self.session
        if session is not None:
            session.remember(packet_id)
            self._say_and_close(Reason.SERVER_UNAVAILABLE, CloseReason.OVERLOAD)

    # ---------------------------------------------------------------- acknowledgements of ours

    def _on_puback(self, packet: packets.Puback) -> None:
        session = self.session
        assert session is not None
        if session.pushes and packet.packet_id in session.pushes:
            self._push_acked(session, packet.packet_id)
        else:
            self._services.outbound.puback(session, packet.packet_id)
            if self._push_waits:
                self._admit_pushes()

    def _push_acked(self, session: MqttSession, packet_id: int) -> None:
        place = session.pushes.pop(packet_id)
        session.inflight.pop(packet_id, None)
        if self._device is not None and self._device.link is self:
            self._services.pushes.acked(self._device, [place])
        self._services.outbound.pull(session)

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

    # ---------------------------------------------------------------- SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT

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

    def _tell(self, packet: packets.Packet) -> bool:
        """Send an answer. A client that has no room for it (section 3.1.2.11.4) cannot go on: False."""
        try:
            self.wire.send(packet)
        except TooLargeForPeer as error:
            self._say_and_close(Reason.PACKET_TOO_LARGE, CloseReason.PROTOCOL_ERROR, str(error))
            return False
        return True

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

    # ---------------------------------------------------------------- limits, tracing and the end

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
        if not self._held_back:
            self.connection.resume()

    def retrace(self) -> None:
        """Somebody began or ceased to watch this device."""
        session = self.session
        self._trace = None if session is None else self._services.tracing.tracer(session.client_id)

    def _trace_received(self, packet: packets.Packet) -> None:
        assert self._trace is not None
        details: dict[str, Any] = {"kind": "frame", "direction": "in", "frame": type(packet).__name__.lower()}
        if isinstance(packet, packets.Publish):
            details.update(topic=packet.topic, qos=packet.qos, bytes=len(packet.payload))
        elif isinstance(packet, packets.Subscribe):
            details.update(filters=[request.filter for request in packet.requests])
        elif isinstance(packet, packets.Unsubscribe):
            details.update(filters=packet.filters)
        packet_id = getattr(packet, "packet_id", 0)
        self._trace({**details, "id": packet_id} if packet_id else details)

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
            self.connection.finish(CloseReason.PEER_GOAWAY)

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


_VERSIONS = {3: "3.1", 4: "3.1.1", 5: "5"}

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


def _without_expiry(properties: packets.Properties, now: float) -> tuple[packets.Properties, float | None]:
    """The properties that receivers get, and when the message expires."""
    kept = dict(properties)
    kept.pop(Property.TOPIC_ALIAS, None)
    expiry = kept.pop(Property.MESSAGE_EXPIRY, None)
    return kept or NO_PROPERTIES, None if expiry is None else now + expiry
