"""One MQTT connection, either role: bytes and the time in, packets and bytes out."""

from __future__ import annotations

from dataclasses import replace

from protocols.errors import LocalError, RemoteError, TooLargeForPeer
from protocols.mqtt.encoding import PINGREQ, encode
from protocols.mqtt.limits import terms_of
from protocols.mqtt.lone_packets import LonePackets
from protocols.mqtt.packets import (
    NO_PROPERTIES,
    V5,
    Connack,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    Properties,
    Property,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Subscribe,
)
from protocols.mqtt.peer import UNTOLD, Peer, check_publish, check_subscribe, peer_of
from protocols.mqtt.reason_tables import REASONS
from protocols.mqtt.reasons import FAILURE, Reason
from protocols.mqtt.rules import check_direction, disconnect_reason, input_of, spared, type_of
from protocols.mqtt.state import LIVE, TABLE, Role, State

_OPEN = State.OPEN
_CLOSED = State.CLOSED
_CONNECTING = State.CONNECTING
_SERVER = Role.SERVER
_BEFORE_CONNACK = (State.CONNECTING, State.AUTHENTICATING)
_TOLD = {
    Property.RECEIVE_MAXIMUM: "receive_maximum",
    Property.MAXIMUM_PACKET_SIZE: "max_packet",
    Property.TOPIC_ALIAS_MAXIMUM: "topic_alias_maximum",
}
_OF_CONNECT = (
    Property.SESSION_EXPIRY,
    Property.AUTHENTICATION_METHOD,
    Property.REQUEST_PROBLEM_INFORMATION,
    Property.REQUEST_RESPONSE_INFORMATION,
)
"""What CONNECT says that binds its sender as well."""
_WITH_PROBLEM_INFORMATION = (Publish, Connack, Disconnect)

__all__ = ["Connection", "Role"]


class Connection(LonePackets):
    """The protocol's connection object.

    After a RemoteError, a refusal, a DISCONNECT of either side or the end of the transport it is `closed`: then
    `receive`, the short forms of `send`, `refuse` and `disconnect` do nothing, and `send` and `accept` raise
    LocalError.
    """

    __slots__ = ()

    # --- what was agreed

    @property
    def state(self) -> State:
        """Where the connection stands."""
        return self._state

    @property
    def closed(self) -> bool:
        """Nothing more is received; what to_send() still has should be written before the transport ends."""
        return self._state is _CLOSED

    @property
    def peer_receive_maximum(self) -> int:
        """QoS 1 and 2 messages that the peer takes at once."""
        return self._peer.receive_maximum

    @property
    def peer_max_packet(self) -> int:
        """Bytes of the largest packet that the peer takes."""
        return self._peer.max_packet

    @property
    def peer_topic_alias_maximum(self) -> int:
        """The largest topic alias that we may use."""
        return self._peer.topic_alias_maximum

    @property
    def peer(self) -> Peer:
        """All that the peer allows."""
        return self._peer

    # --- bytes and time in

    # --- packets and bytes out

    def to_send(self, now: float) -> bytes:
        """All that is to be written now."""
        out = self._out
        if out is None:
            return b""
        self._out = None
        if self._keep is not None:
            self._keep.sent_at = now
        return out[0] if len(out) == 1 else b"".join(out)

    def send(self, packet: Packet) -> None:
        """Any packet. The properties of CONNECT and CONNACK that tell limits are added from ours where they are absent.

        Raises LocalError when the role, the state, the version or the peer's maxima do not allow it. A PUBLISH with an
        empty topic must have an alias that was told before.
        """
        if isinstance(packet, Connack):
            if packet.reason == 0:
                self.accept(packet)
            else:
                self._check_may_send(packet)
                self.refuse(packet.reason, packet.properties)
            return
        if isinstance(packet, Disconnect) and self.version != V5 and self.role is Role.SERVER:
            raise LocalError("DISCONNECT: only a server of MQTT 5 sends it")
        move = self._check_may_send(packet)
        if isinstance(packet, Connect):
            self._send_connect(packet)
        else:
            if self.version == V5:
                packet = self._wanted(packet)
                check_direction(packet, self.role, self._peer, LocalError)
            if isinstance(packet, Publish):
                self._send_publish(packet)
            else:
                if isinstance(packet, Subscribe):
                    check_subscribe(packet, self._peer)
                self._write(self._encoded(packet))
                if isinstance(packet, Puback | Pubcomp) or (isinstance(packet, Pubrec) and packet.reason >= FAILURE):
                    self._answered()
        self._state = move
        if move is _CLOSED:
            self._close()

    def _check_may_send(self, packet: Packet) -> State:
        move = TABLE.get((self._state, self.role, input_of(packet)))
        if move is None:
            raise LocalError(f"{type_of(packet).name}: a {self.role.value} does not send it while {self._state.name}")
        return move

    def _wanted(self, packet: Packet) -> Packet:
        """The packet without problem information where the client wants none (section 3.1.2.11.7)."""
        if self._peer.problem_information or self.role is Role.CLIENT or isinstance(packet, _WITH_PROBLEM_INFORMATION):
            return packet
        return spared(packet)

    def _encoded(self, packet: Packet) -> bytes:
        """The packet's bytes, without problem information where it would be too much (section 3.1.2.11.4)."""
        kind = type_of(packet)
        optional = kind not in (PacketType.PUBLISH, PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE)
        frame = encode(packet, self.version)
        if len(frame) > self._peer.max_packet and optional:
            frame = encode(spared(packet), self.version)
        if len(frame) > self._peer.max_packet:
            told = f"{kind.name}: the peer takes {self._peer.max_packet} bytes at most, got {len(frame)}"
            raise TooLargeForPeer(told)
        return frame

    def _send_connect(self, connect: Connect) -> None:
        if connect.version == V5:
            connect = replace(connect, properties={**self._terms.connect_properties, **connect.properties})
        self._write(encode(connect, connect.version))
        if connect.version == V5:
            self._hold_to(connect.properties)
        self.version = connect.version
        self.keep_alive = connect.keep_alive
        told = connect.properties
        self._peer = peer_of({key: told[key] for key in _OF_CONNECT if key in told})

    def _hold_to(self, properties: Properties) -> None:
        """The limits that we have told become ours."""
        limits = self._terms.limits
        stated = {name: properties[key] for key, name in _TOLD.items() if key in properties}
        if any(getattr(limits, name) != value for name, value in stated.items()):
            self._terms = terms_of(replace(limits, **stated))
            self._max_in = self._terms.limits.max_packet

    def _send_publish(self, publish: Publish) -> None:
        check_publish(publish, self._peer, self.role is Role.CLIENT)
        counts = publish.qos > 0 and self.version == V5
        if counts and self._outstanding >= self._peer.receive_maximum:
            raise LocalError(f"PUBLISH: the peer takes {self._peer.receive_maximum} messages before an answer")
        self._write(self._encoded(publish))
        self._outstanding += counts

    def send_frame(self, frame: bytes) -> None:
        """An encoded PUBLISH. Raises LocalError when the connection is not open or the peer takes no such size; who
        sends in this way heeds the peer's other maxima."""
        if self._state is not _OPEN and self._state not in LIVE:
            if self._state is _CLOSED:
                return
            raise LocalError(f"PUBLISH: not while {self._state.name}")
        if len(frame) > self._peer.max_packet:
            raise LocalError(f"PUBLISH: the peer takes {self._peer.max_packet} bytes at most, got {len(frame)}")
        if self._out is None:
            self._out = [frame]
        else:
            self._out.append(frame)

    def puback(self, packet_id: int, reason: int = 0) -> None:
        """PUBACK; a reason is left out before MQTT 5."""
        if self._state is _OPEN and not reason and 0 < packet_id < 65536:
            # The usual one, without a call more.
            frame = b"\x40\x02" + packet_id.to_bytes(2, "big")
            if self._out is None:
                self._out = [frame]
            else:
                self._out.append(frame)
        elif not self._acknowledge(0x40, packet_id, reason):
            return
        if self._unanswered:
            self._unanswered -= 1

    def pubrec(self, packet_id: int, reason: int = 0) -> None:
        """PUBREC; a reason is left out before MQTT 5."""
        if self._acknowledge(0x50, packet_id, reason) and reason >= FAILURE:
            self._answered()

    def pubrel(self, packet_id: int, reason: int = 0) -> None:
        """PUBREL; a reason is left out before MQTT 5."""
        self._acknowledge(0x62, packet_id, reason)

    def pubcomp(self, packet_id: int, reason: int = 0) -> None:
        """PUBCOMP; a reason is left out before MQTT 5."""
        if self._acknowledge(0x70, packet_id, reason):
            self._answered()

    def _answered(self) -> None:
        if self._unanswered:
            self._unanswered -= 1

    def _acknowledge(self, first: int, packet_id: int, reason: int) -> bool:
        """Whether it is written: it is not when the connection is closed. (Five bytes fit whoever took a CONNACK.)"""
        if self._state is not _OPEN and self._state not in LIVE:
            if self._state is _CLOSED:
                return False
            raise LocalError(f"acknowledgement: not while {self._state.name}")
        if not 0 < packet_id < 65536 or (reason and reason not in REASONS[first >> 4]):
            raise LocalError(f"expected a packet id of 1..65535 and a reason for it, got {packet_id} and {reason}")
        if reason and self.version == V5:
            frame = bytes((first, 3, packet_id >> 8, packet_id & 255, reason))
        else:
            frame = bytes((first, 2, packet_id >> 8, packet_id & 255))
        if self._out is None:
            self._out = [frame]
        else:
            self._out.append(frame)
        return True

    # --- the server's answer to CONNECT, and the end

    def accept(self, connack: Connack) -> None:
        """Answer CONNECT with success. The properties of MQTT 5 that tell our limits are added where they are absent,
        so is the Authentication Method of CONNECT. Raises LocalError when there is nothing to answer."""
        if self.role is not Role.SERVER or self._state not in _BEFORE_CONNACK or connack.reason:
            raise LocalError(f"CONNACK: nothing to accept by a {self.role.value} while {self._state.name}")
        frame = self._terms.connacks[self.version, connack.session_present]
        if connack.properties or self._peer.method is not None or len(frame) > self._peer.max_packet:
            frame = self._encoded_connack(connack)
        self._write(frame)
        self.keep_alive = connack.properties.get(Property.SERVER_KEEP_ALIVE, self.keep_alive)
        self._state = TABLE[self._state, self.role, PacketType.CONNACK]

    def accept_as_asked(self, present: bool) -> None:
        """accept() of a CONNACK without properties, `present` being its Session Present."""
        if self._state is not _CONNECTING or self._peer is not UNTOLD or self.role is not _SERVER:
            self.accept(Connack(present))
            return
        # Who has said nothing takes any size, and has no authentication method to be named.
        self._write(self._terms.connacks[self.version, present])
        self._state = _OPEN

    def _encoded_connack(self, connack: Connack) -> bytes:
        if self.version != V5:
            return self._encoded(connack)
        properties = {**self._terms.connack_properties, **connack.properties}
        if self._peer.method is not None:
            properties.setdefault(Property.AUTHENTICATION_METHOD, self._peer.method)
        connack = replace(connack, properties=properties)
        check_direction(connack, self.role, self._peer, LocalError)
        frame = self._encoded(connack)
        self._hold_to(connack.properties)
        return frame

    def refuse(self, reason: int, properties: Properties = NO_PROPERTIES) -> None:
        """Answer CONNECT with a reason other than success (before MQTT 5 its return code, or nothing where there is
        none) and close. Raises LocalError when there is nothing to answer; does nothing when it is closed."""
        if self._state is _CLOSED:
            return
        if self.role is not Role.SERVER or self._state not in _BEFORE_CONNACK or not reason:
            raise LocalError(f"CONNACK: nothing to refuse by a {self.role.value} while {self._state.name}")
        self._refuse(reason, self.version, properties)
        self._close()

    def disconnect(self, reason: int = 0, properties: Properties = NO_PROPERTIES) -> None:
        """Close; with a DISCONNECT where there is one to send (by a client, and by a server of MQTT 5), with a CONNACK
        where CONNECT is not answered. A failure that the packet has no code for is told by the nearest.
        Raises LocalError for other reasons, and properties, that it cannot have."""
        if self._state is _CLOSED:
            return
        if (self._state, self.role, PacketType.DISCONNECT) in TABLE and (
            self.role is Role.CLIENT or self.version == V5
        ):
            packet = Disconnect(disconnect_reason(reason, self.role), properties)
            if self.version == V5:
                check_direction(packet, self.role, self._peer, LocalError)
            self._write(self._encoded(packet))
        elif self.role is Role.SERVER and self._state in _BEFORE_CONNACK and reason:
            self._refuse(reason, self.version, NO_PROPERTIES)
        self._close()

    # --- time

    def next_timer(self) -> float | None:
        """When handle_timer() is wanted; None: never. (A server's transport watches the client's keep alive.)"""
        return None if self._keep is None else self._keep.due()

    def handle_timer(self, now: float) -> None:
        """Client: send a PINGREQ when it is due. Raises RemoteError(KEEP_ALIVE_TIMEOUT), and closes, when the answer to
        the last one is missing."""
        keep = self._keep
        due = None if keep is None else keep.due()
        if keep is None or due is None or now < due:
            return
        if keep.pinged_at is not None:
            self._close()
            raise RemoteError(Reason.KEEP_ALIVE_TIMEOUT, f"expected PINGRESP within {keep.interval} s, got none")
        keep.pinged_at = now
        self._write(PINGREQ)
