"""From CONNECT to CONNACK on a connection: who it is, what session it gets; and authentication that begins again."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core import tracing as traces
from accessgw.core.authentication import AdmissionRefused
from accessgw.core.interfaces.authentication import AuthenticationFailed
from accessgw.core.interfaces.mqtt import EnhancedExchange
from accessgw.core.mqtt.connecting import (
    KEEP_ALIVE_GRACE,
    connack_of,
    introduction_of,
    keep_alive_of,
    opening_of,
)
from accessgw.core.mqtt.inbound import Inbound
from accessgw.core.mqtt.owners import owner_of, user_of
from accessgw.core.mqtt.rate import rate_of
from accessgw.core.mqtt.reasons import refusal_of
from accessgw.core.mqtt.session_keeper import Opened
from accessgw.core.registry import DeviceSession
from accessgw.model.identity import Credentials, Identity
from accessgw.model.reasons import CloseReason
from protocols.errors import TooLargeForPeer
from protocols.mqtt import packets
from protocols.mqtt.packets import NO_PROPERTIES, V5, Property
from protocols.mqtt.reasons import Reason

log = Logger()

MAX_HELD = 512
"""Packets of a client that did not wait for CONNACK."""

LARGEST = 268_435_455
"""Bytes of a packet that the format allows: a client that takes so many sets no bound."""

OWN_CLIENTS = "$bridge/"
"""Beginning of client ids of the gateway's own sessions."""

_VERSIONS = {3: "3.1", 4: "3.1.1", 5: "5"}
_PROTOCOLS = {version: f"mqtt {name}" for version, name in _VERSIONS.items()}


class Admission(Inbound):
    """A connection that introduces itself."""

    __slots__ = ()

    def _hold(self, packet: packets.Packet) -> None:
        """The client did not wait for CONNACK; nothing of it runs before it is known."""
        if self._held is None:
            self._held = []
        if len(self._held) >= MAX_HELD:
            self._say_and_close(Reason.SERVER_BUSY, CloseReason.OVERLOAD)
        else:
            self._held.append(packet)

    def _introduced(self, connect: packets.Connect) -> None:
        services = self._services
        self._connect = connect
        self.info.protocol = _PROTOCOLS[connect.version]
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
        method = connect.properties.get(Property.AUTHENTICATION_METHOD) if connect.properties else None
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
        peer = self.wire.peer
        max_packet = peer.max_packet
        opening = opening_of(
            connect,
            identity,
            services.settings,
            alias_maximum=peer.topic_alias_maximum,
            max_packet=max_packet if max_packet < LARGEST else 0,
        )
        opened = services.keeper.open(opening, self)
        if opened.ready is None:
            self._welcome(opened, authentication)
            return
        self.connection.established()
        self._admission = opened.ready
        opened.ready.addCallbacks(self._kept, self._not_kept, (opened, authentication))
        opened.ready.addErrback(self._defect)

    def _kept(self, _: None, opened: Opened, authentication: packets.Properties) -> None:
        self._welcome(opened, authentication)

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
        if connect.version != V5 or not (
            connect.properties or authentication or self._assigned or session.expiry or keep_alive != connect.keep_alive
        ):
            self.wire.accept_as_asked(opened.present)
        elif not self._accept(connect, opened, keep_alive, authentication):
            return
        self.session = session
        self._connect = None
        version, connects = _VERSIONS[connect.version], services.counters.connects
        connects[version] = connects.get(version, 0) + 1
        if services.tracing.watched:
            self.retrace()
        self._sent("connack")
        if self._held_back:
            self._read_on()
        if settings.messages_per_second or settings.bytes_per_second:
            self._rate = rate_of(settings, services.clock.seconds())
        if opened.present and session.filters:
            self.recheck()
        session.window = min(settings.max_inflight, self.wire.peer_receive_maximum)
        resumed = services.outbound.resume(session) if session.durable else None
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

    def _accept(
        self, connect: packets.Connect, opened: Opened, keep_alive: int, authentication: packets.Properties
    ) -> bool:
        """CONNACK of MQTT 5; False when the client has no room for it."""
        connack = connack_of(
            connect,
            opened.session,
            opened.present,
            keep_alive=keep_alive,
            assigned=self._assigned,
            authentication=authentication,
            origin=self._services.broker.origin,
        )
        try:
            if connack.properties:
                self.wire.accept(connack)
            else:
                self.wire.accept_as_asked(opened.present)
        except TooLargeForPeer as error:
            self._finish(CloseReason.PROTOCOL_ERROR, str(error))
            return False
        return True

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
