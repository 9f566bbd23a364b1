"""One connection of a bridge to the other broker: the client's side of MQTT, an Outlet of our own broker."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.interfaces.mqtt import DialedConnection
from accessgw.core.mqtt.bridge_inbound import Inbound
from accessgw.core.mqtt.bridge_loops import MARK, name_in
from accessgw.core.mqtt.session import MAX_PACKET_ID, MqttSession
from protocols.errors import LocalError, RemoteError
from protocols.mqtt import packets
from protocols.mqtt.connection import Connection as Wire
from protocols.mqtt.decoding import decode
from protocols.mqtt.encoding import encode_publish
from protocols.mqtt.limits import Limits
from protocols.mqtt.packets import V5, Property
from protocols.mqtt.reasons import FAILURE, Reason
from protocols.mqtt.state import Role

if TYPE_CHECKING:
    from accessgw.core.mqtt.bridge import Bridge

log = Logger()

HANDSHAKE_TIMEOUT = 15.0
"""Seconds from the connection, TLS included, until the other broker has accepted the bridge and its subscriptions."""
FOREVER = 0xFFFFFFFF
"""Session Expiry Interval of a session without end (section 3.1.2.11.2)."""
MAX_USER_PROPERTIES = 64
"""Of one packet; a gateway like ours takes no more."""
RETURN_CODES = {
    1: "unacceptable protocol version",
    2: "client id not valid",
    3: "server unavailable",
    4: "bad user name or password",
    5: "not authorized",
}
"""CONNACK of 3.1.1, section 3.2.2.3."""


def client_limits(limits: Limits) -> Limits:
    """What we take of the other broker: sizes are ours, what clients may do here is no limit there."""
    return replace(
        limits,
        max_qos=2,
        retain_available=True,
        max_topic_length=65535,
        max_topic_levels=65536,
        max_user_properties=MAX_USER_PROPERTIES * 16,
    )


class BridgeLink:
    """A DialUser, an Outlet and the Answers of what comes in; good for one connection."""

    def __init__(self, bridge: Bridge, *, bridge_bit: bool) -> None:
        """`bridge_bit`: say that we are a bridge, as mosquitto does in MQTT 3.1.1."""
        self._bridge = bridge
        self._bridge_bit = bridge_bit
        self.connection: DialedConnection
        """Set by the bridge, which dials."""
        self.wire: Wire | None = None
        """Once there is a connection."""
        self.session: MqttSession | None = None
        """From CONNACK on."""
        self.up = False
        """Accepted, and its subscriptions are answered."""
        self.bit_refused = False
        """The other broker did not take us for a bridge."""
        self._remote = ""
        """Name of the gateway at the other end."""
        self._inbound: Inbound | None = None
        self._subscribing: dict[int, str] = {}
        self._lowered: set[int] = set()
        """Packet ids of QoS 2 messages that the other broker gets as QoS 1."""
        self._handshake: Any = None
        self._keep_alive: Any = None
        self._closed = False
        self._in_batch = False
        self._dirty = False
        self._queued = 0

    # ---------------------------------------------------------------- DialUser

    def connected(self) -> None:
        bridge = self._bridge
        settings = bridge.settings
        self._handshake = bridge.clock.callLater(HANDSHAKE_TIMEOUT, self.fail, "no answer to CONNECT or SUBSCRIBE")
        wire = self.wire = Wire(Role.CLIENT, limits=client_limits(bridge.limits()), now=bridge.clock.seconds())
        properties: dict[int, Any] = {}
        if settings.version == V5:
            properties[Property.USER_PROPERTY] = [(MARK, bridge.guard.origin)]
            if not settings.clean_start:
                properties[Property.SESSION_EXPIRY] = FOREVER
        wire.send(
            packets.Connect(
                bridge.remote_client_id,
                settings.version,
                settings.clean_start,
                settings.keep_alive,
                settings.username or None,
                settings.password.encode() if settings.password else None,
                properties=properties,
                bridge=self._bridge_bit,
            )
        )
        self.flush()

    def received(self, data: bytes) -> None:
        wire = self.wire
        if self._closed or wire is None:
            return
        error = ""
        self._in_batch = True
        try:
            try:
                wire.receive(data, self._bridge.clock.seconds())
            except RemoteError as found:
                error = f"it broke the protocol: {found}"
            for packet in wire.events():
                if self._closed:
                    return
                self._handle(packet)
        except Exception as defect:
            log.failure("the bridge {name} failed", name=self._bridge.settings.name)
            error = f"internal error: {type(defect).__name__}"
        finally:
            self._in_batch = False
        if error:
            self.fail(error)
        else:
            self.flush()

    def drained(self) -> None:
        if self.session is not None:
            self._bridge.outbound.pull(self.session)

    def lost(self, error: str) -> None:
        if self._bridge_bit and self.wire is not None and self.session is None:
            # Brokers that do not know the bit close without a word, or say return code 1.
            self.bit_refused = True
        self._end(error)

    # ---------------------------------------------------------------- Outlet

    @property
    def buffered(self) -> int:
        return self.connection.buffered + self._queued

    def put(self, frame: bytes) -> None:
        """A message of our broker, as it goes to clients of MQTT 5:
        rename it, and send it as the other side takes it."""
        bridge, wire = self._bridge, self.wire
        if self._closed or wire is None:
            return
        publish = decode(frame, V5)
        assert isinstance(publish, packets.Publish)
        carried = bridge.topics.to_remote(publish.topic)
        if carried is None:
            self._settle(publish)
            return
        qos = min(publish.qos, carried.qos, wire.peer.max_qos)
        properties = publish.properties
        if wire.version == V5:
            marked = bridge.guard.leaves(properties, self._remote)
            if marked is None:
                self._settle(publish)
                return
            properties = marked
            if len(properties[Property.USER_PROPERTY]) > MAX_USER_PROPERTIES:
                self._too_large(publish)
                return
        data = encode_publish(
            packets.Publish(
                carried.topic,
                publish.payload,
                qos,
                publish.retain and bool(wire.peer.retain_available),
                publish.dup and qos > 0,
                publish.packet_id if qos else 0,
                properties,
            ),
            wire.version,
        )
        if len(data) > wire.peer_max_packet:
            self._too_large(publish)
            return
        wire.send_frame(data)
        bridge.count_sent()
        self._queued += len(data)
        if qos < publish.qos:
            if qos:
                self._lowered.add(publish.packet_id)
            else:
                self._settle(publish)
        self._sent()

    def pubrel(self, packet_id: int, reason: int = 0) -> None:
        if self._closed or self.wire is None:
            return
        if packet_id in self._lowered:
            self._lowered.discard(packet_id)
            self._later(self._bridge.outbound.pubcomp, packet_id)
            return
        self.wire.pubrel(packet_id, reason)
        self._sent()

    def displace(self, reason: int) -> None:
        self.fail(f"ended by the gateway: {Reason(reason).name.lower()}")

    def _too_large(self, publish: packets.Publish) -> None:
        self._bridge.refuse("too_large", f"a message is larger than the other broker takes: {publish.topic[:80]}")
        self._settle(publish)

    def _settle(self, publish: packets.Publish) -> None:
        """It is done with, without an answer of the other broker."""
        if publish.qos == 1:
            self._later(self._bridge.outbound.puback, publish.packet_id)
        elif publish.qos:
            self._later(self._bridge.outbound.pubrec, publish.packet_id, Reason.IMPLEMENTATION_SPECIFIC)

    def _later(self, call: Any, *arguments: int) -> None:
        """Whoever sends is not to be answered under its hands."""

        def answer() -> None:
            if not self._closed:
                call(self.session, *arguments)

        self._bridge.clock.callLater(0, answer)

    def _sent(self) -> None:
        if not self._dirty and not self._in_batch:
            self._dirty = True
            self._bridge.flusher.add(self)

    def flush(self) -> None:
        """Write what the wire has to send."""
        self._dirty = False
        self._queued = 0
        if self.wire is not None and not self._closed:
            data = self.wire.to_send(self._bridge.clock.seconds())
            if data:
                self.connection.write(data)

    # ---------------------------------------------------------------- Answers

    def puback(self, packet_id: int, reason: int) -> None:
        assert self.wire is not None
        self.wire.puback(packet_id, reason)
        self._sent()

    def pubrec(self, packet_id: int, reason: int) -> None:
        assert self.wire is not None
        self.wire.pubrec(packet_id, reason)
        self._sent()

    def pubcomp(self, packet_id: int) -> None:
        assert self.wire is not None
        self.wire.pubcomp(packet_id)
        self._sent()

    def hold(self, full: bool) -> None:
        if full:
            self.connection.pause()
        else:
            self.connection.resume()

    def fail(self, error: str) -> None:
        """End the connection; the bridge comes again after a while."""
        if self._closed:
            return
        if self.wire is not None:
            self.flush()
        self.connection.close()
        self._end(error)

    # ---------------------------------------------------------------- the end

    def leave(self) -> None:
        """DISCONNECT: the bridge is stopped."""
        if self._closed:
            return
        if self.wire is not None and self.session is not None:
            self.wire.disconnect()
            self.flush()
            self.connection.close()
        else:
            self.connection.abort()
        self._end("")

    def _end(self, error: str) -> None:
        if self._closed:
            return
        self._closed = True
        for call in (self._handshake, self._keep_alive):
            if call is not None and call.active():
                call.cancel()
        if self._inbound is not None:
            self._inbound.end()
        if self.session is not None:
            self._bridge.keeper.close(self.session, self, with_will=False)
        self._bridge.ended(self, error)

    # ---------------------------------------------------------------- receiving

    def _handle(self, packet: packets.Packet) -> None:
        bridge, session, inbound = self._bridge, self.session, self._inbound
        if isinstance(packet, packets.Connack):
            self._answered(packet)
        elif isinstance(packet, packets.Disconnect):
            text = packet.properties.get(Property.REASON_STRING, "")
            self.fail(f"the other broker ended it: {Reason(packet.reason).name.lower()} {text[:200]}".rstrip())
        elif session is None or inbound is None:
            return
        elif isinstance(packet, packets.Publish):
            inbound.publish(packet)
        elif isinstance(packet, packets.Puback):
            self._note_refusal(packet.reason)
            if packet.packet_id in self._lowered:
                bridge.outbound.pubrec(session, packet.packet_id, packet.reason)
            else:
                bridge.outbound.puback(session, packet.packet_id)
        elif isinstance(packet, packets.Pubrec):
            self._note_refusal(packet.reason)
            bridge.outbound.pubrec(session, packet.packet_id, packet.reason)
        elif isinstance(packet, packets.Pubcomp):
            bridge.outbound.pubcomp(session, packet.packet_id)
        elif isinstance(packet, packets.Pubrel):
            inbound.pubrel(packet.packet_id)
        elif isinstance(packet, packets.Suback):
            self._subscribed(packet)

    def _note_refusal(self, reason: int) -> None:
        if reason >= FAILURE:
            self._bridge.refuse("refused", f"the other broker refused a message: {Reason(reason).name.lower()}")

    def _answered(self, connack: packets.Connack) -> None:
        bridge, wire = self._bridge, self.wire
        assert wire is not None
        if connack.reason:
            if wire.version == V5:
                why = Reason(connack.reason).name.lower().replace("_", " ")
                why = f"{why} {connack.properties.get(Property.REASON_STRING, '')[:200]}".rstrip()
            else:
                why = RETURN_CODES.get(connack.reason, f"return code {connack.reason}")
                self.bit_refused = self._bridge_bit and connack.reason == 1
            self.fail(f"the other broker refused the bridge: {why}")
            return
        self.session = bridge.open(self)
        self._remote = name_in(connack.properties)
        self._inbound = Inbound(
            bridge, self.session, self, remote=self._remote, v5=wire.version == V5, bridge_bit=self._bridge_bit
        )
        if not connack.session_present:
            self._inbound.forget()
        self._watch()
        if not self.session.unknown:
            self._subscribe(set(self.session.inflight))
            return
        # Ids of SUBSCRIBE and PUBLISH are of one space (section 2.2.1): learn first which are in use.
        bridge.store.inflight(self.session.client_id).addCallbacks(
            lambda rows: self._subscribe({row.packet_id for row in rows}), self._not_read
        )

    def _not_read(self, failure: Failure) -> None:
        self.fail(f"the store is not available: {failure.value}")

    def _subscribe(self, used: set[int]) -> None:
        if self._closed or self.wire is None:
            return
        packet_id = MAX_PACKET_ID
        for request in self._bridge.topics.remote_requests():
            while packet_id in used:
                packet_id -= 1
            used.add(packet_id)
            try:
                self.wire.send(packets.Subscribe(packet_id, [request]))
            except LocalError as error:
                self._bridge.trouble(f"{request.filter}: {error}")
                continue
            self._subscribing[packet_id] = request.filter
        self._sent()
        if not self._subscribing:
            self._opened()

    def _subscribed(self, packet: packets.Suback) -> None:
        filter = self._subscribing.pop(packet.packet_id, None)
        if filter is None:
            return
        if packet.reasons[0] >= FAILURE:
            why = Reason(packet.reasons[0]).name.lower().replace("_", " ")
            self._bridge.trouble(f"the other broker refused the subscription to {filter}: {why}")
        if not self._subscribing:
            self._opened()

    def _opened(self) -> None:
        """Now messages go out: first what was in flight, then what waits."""
        bridge, session, wire = self._bridge, self.session, self.wire
        assert session is not None and wire is not None
        self._handshake.cancel()
        self.up = True
        session.window = min(bridge.broker.settings.max_inflight, wire.peer_receive_maximum)
        bridge.outbound.resume(session)
        if not self._closed:
            bridge.opened(self)

    # ---------------------------------------------------------------- keep alive

    def _watch(self) -> None:
        """PINGREQ when it is time (section 3.1.2.10)."""
        wire = self.wire
        assert wire is not None
        due = wire.next_timer()
        if due is not None:
            self._keep_alive = self._bridge.clock.callLater(max(0.0, due - self._bridge.clock.seconds()), self._tick)

    def _tick(self) -> None:
        wire = self.wire
        assert wire is not None
        try:
            wire.handle_timer(self._bridge.clock.seconds())
        except RemoteError as error:
            self.fail(str(error))
            return
        self.flush()
        self._watch()
