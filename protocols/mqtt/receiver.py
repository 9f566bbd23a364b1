"""The receiving half of a connection, either role: bytes in, checked packets out, and what errors tell the peer."""

from __future__ import annotations

from typing import Final

from protocols.errors import RemoteError
from protocols.mqtt.decoding import connect_level, decode_body
from protocols.mqtt.encoding import encode
from protocols.mqtt.keep_alive import KeepAlive
from protocols.mqtt.limits import DEFAULT_LIMITS, Limits, Terms, terms_of
from protocols.mqtt.packets import (
    NO_PROPERTIES,
    V5,
    Connack,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    Pingreq,
    Pingresp,
    Properties,
    Property,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
)
from protocols.mqtt.peer import UNTOLD, Peer, peer_of
from protocols.mqtt.properties import read_varint
from protocols.mqtt.reasons import FAILURE, Reason, return_code
from protocols.mqtt.rules import check_direction, connack_reason, disconnect_reason, input_of, spared, type_of
from protocols.mqtt.state import LIVE, MAY_SEND, TABLE, Role, State

_SERVER = Role.SERVER
_START = State.START
_OPEN = State.OPEN
_CLOSED = State.CLOSED

_ACKNOWLEDGEMENTS: Final[dict[int, type[Puback | Pubrec | Pubrel | Pubcomp]]] = {
    0x40: Puback,
    0x50: Pubrec,
    0x62: Pubrel,
    0x70: Pubcomp,
}
"""First byte -> packet; the short ones, without reason and properties, are the same in every version."""


class Receiver:
    """What a connection knows, and how it receives."""

    __slots__ = (
        "_aliases",
        "_events",
        "_keep",
        "_max_in",
        "_needed",
        "_out",
        "_outstanding",
        "_peer",
        "_pending",
        "_state",
        "_terms",
        "_unanswered",
        "halves",
        "keep_alive",
        "role",
        "version",
    )

    def __init__(self, role: Role, *, limits: Limits = DEFAULT_LIMITS, now: float) -> None:
        self.role = role
        self.version = 0
        """3, 4 or 5; 0 before CONNECT."""
        self.keep_alive = 0
        """Seconds, as it was agreed; 0: none."""
        self._state = _START
        self._terms: Terms = terms_of(limits)
        self._max_in = limits.max_connect if role is _SERVER else limits.max_packet
        self._peer: Peer = UNTOLD
        self._events: list[Packet] | None = None
        self._out: list[bytes] | None = None
        self._pending: bytearray | None = None
        """The beginning of a packet, when there is one."""
        self._needed = 0
        """Bytes that it must have before it is worth another look."""
        self._aliases: dict[int, str] | None = None
        self._unanswered = 0
        """The peer's PUBLISHes of QoS 1 and 2 that we have not answered (MQTT 5)."""
        self._outstanding = 0
        """Ours by `send` that the peer has not answered (MQTT 5)."""
        self._keep = None if role is _SERVER else KeepAlive(now)
        self.halves = 0
        """Packets that have not come whole in one call of receive()."""

    @property
    def within_packet(self) -> bool:
        """The beginning of a packet has come, and not its end."""
        return self._pending is not None

    def receive(self, data: bytes, now: float) -> bool:
        """Feed bytes. Packets queue up, see events(). True when they end within a packet.

        Raises RemoteError with a reason code; what came before the violation is still in events(), and what the peer
        is to be told is in to_send() (sections 4.13 and 3.2.2.2; a return code or nothing before MQTT 5).
        """
        if self._state is _CLOSED:
            return False
        resumed = False
        if self._keep is not None:
            self._keep.received_at = now
        if self._pending is not None:
            self._pending += data
            if len(self._pending) < self._needed:
                return True
            resumed = True
            data = bytes(self._pending)
            self._pending = None
        elif type(data) is not bytes:
            data = bytes(data)
        events = self._events
        if events is None:
            events = self._events = []
        pos = 0
        size = len(data)
        publish_qos = self._terms.publish_qos
        try:
            while pos < size:
                start = pos + 2
                if start > size:
                    self._needed = 2
                    break
                first = data[pos]
                length = data[pos + 1]
                if length > 127:
                    length, start = self._long_length(data, pos + 1, size)
                    if not start:
                        self._needed = size - pos + 1
                        break
                end = start + length
                if end - pos > self._max_in:
                    raise RemoteError(
                        Reason.PACKET_TOO_LARGE, f"expected a packet of at most {self._max_in} bytes, got {end - pos}"
                    )
                if end > size:
                    self._needed = end - pos
                    break
                if self._state is _OPEN:
                    qos = publish_qos[first]
                    if qos >= 0 and length > 4:
                        publish = self._plain_publish(first, qos, data, start, end)
                        if publish is not None:
                            events.append(publish)
                            pos = end
                            continue
                    elif length == 2:
                        make = _ACKNOWLEDGEMENTS.get(first)
                        packet_id = data[start] << 8 | data[start + 1]
                        if make is not None and packet_id:
                            if self._outstanding and (make is Puback or make is Pubcomp):
                                self._outstanding -= 1
                            events.append(make(packet_id))
                            pos = end
                            continue
                    elif first == 0xC0 and not length and self.role is Role.SERVER:
                        events.append(Pingreq())
                        pos = end
                        continue
                    elif first == 0xE0 and not length and self.role is Role.SERVER:
                        events.append(Disconnect())
                        self._close()
                        return False
                self._packet(first, data, start, end, events)
                pos = end
                if self._state is _CLOSED:
                    self._close()
                    return False
            if pos < size:
                self._keep_rest(data, pos)
                if pos or not resumed:
                    self.halves += 1
                return True
            return False
        except RemoteError as error:
            self._fail(error.code, connect_level(data, pos) if self._state is State.START else self.version)
            raise

    def _plain_publish(self, first: int, qos: int, data: bytes, start: int, end: int) -> Publish | None:
        """The PUBLISH whose body of at least five bytes this is; None when it needs the long way: it has properties, or
        is malformed."""
        name = start + 2
        stop = name + (data[start] << 8 | data[start + 1])
        body = stop + 2 if qos else stop
        if self.version == V5:
            if body >= end or data[body] or stop == name:
                return None
            body += 1
        elif body > end:
            return None
        terms = self._terms
        topic = terms.topics[data[name:stop]]
        if not qos:
            return Publish(topic, data[body:end], 0, first & 1 == 1)
        packet_id = data[stop] << 8 | data[stop + 1]
        if not packet_id:
            raise RemoteError(Reason.PROTOCOL_ERROR, "expected a packet id of 1..65535, got 0")
        if self.version == V5:
            if self._unanswered >= terms.receive_maximum:
                self._count_unanswered()
            self._unanswered += 1
        return Publish(topic, data[body:end], qos, first & 1 == 1, first & 8 == 8, packet_id)

    def _long_length(self, data: bytes, pos: int, size: int) -> tuple[int, int]:
        """(remaining length, position behind it); (0, 0) while it is not whole."""
        stop = pos
        while data[stop] > 127:
            stop += 1
            if stop - pos == 4:
                raise RemoteError(
                    Reason.MALFORMED_PACKET, "expected a remaining length of at most four bytes, got more"
                )
            if stop == size:
                return 0, 0
        if data[stop] == 0 and stop > pos and self.version != V5:
            # Before MQTT 5 nothing forbids padding, and before CONNECT is read it is not known whether it is allowed.
            length = sum((data[at] & 127) << 7 * (at - pos) for at in range(pos, stop))
            return length, stop + 1
        return read_varint(data, pos, stop + 1)

    def _keep_rest(self, data: bytes, pos: int) -> None:
        if self._state is State.START:
            self._check_first(data[pos])
        self._pending = bytearray(data if pos == 0 else data[pos:])

    def _check_first(self, first: int) -> None:
        kind = first >> 4
        if kind not in MAY_SEND[self._state, self.role.peer]:
            raise RemoteError(Reason.PROTOCOL_ERROR, f"expected no packet of type {kind} while {self._state.name}")

    def _count_unanswered(self) -> None:
        if self._unanswered >= self._terms.receive_maximum:
            raise RemoteError(
                Reason.RECEIVE_MAXIMUM_EXCEEDED, f"expected at most {self._unanswered} messages before an answer"
            )
        self._unanswered += 1

    def _packet(self, first: int, data: bytes, start: int, end: int, events: list[Packet]) -> None:
        if self._state is not State.START or first != 0x10 or self.role is not Role.SERVER:
            self._check_first(first)
        packet = decode_body(first, data, start, end, self.version, self._terms.limits)
        if isinstance(packet, Connect) and packet.version == V5 and data[start - 1] == 0 and data[start - 2] > 127:
            raise RemoteError(Reason.MALFORMED_PACKET, "expected a length in as few bytes as it needs, got more")
        kind = first >> 4
        if kind == PacketType.PUBLISH:
            self._published(packet)  # type: ignore[arg-type]  # its type says what it is
        else:
            move = TABLE.get((self._state, self.role.peer, input_of(packet)))
            if move is None:
                raise RemoteError(
                    Reason.PROTOCOL_ERROR, f"expected no such {type_of(packet).name} while {self._state.name}"
                )
            if self.version == V5:
                check_direction(packet, self.role.peer, self._peer, RemoteError)
            elif self.role is Role.CLIENT and isinstance(packet, Disconnect):
                raise RemoteError(Reason.PROTOCOL_ERROR, "expected no DISCONNECT from a server before MQTT 5")
            self._apply(packet)
            if move is not _CLOSED or self._state is not State.CONNECTING or self.role is Role.CLIENT:
                # Clients need not wait for CONNACK, not even to leave: they are answered first (section 3.1.4).
                self._state = move
        events.append(packet)

    def _apply(self, packet: Packet) -> None:
        """What a packet of the peer changes beside the state."""
        if isinstance(packet, Connect):
            self.version = packet.version
            self.keep_alive = packet.keep_alive
            self._max_in = self._terms.limits.max_packet
            if packet.properties:
                self._peer = peer_of(packet.properties)
        elif isinstance(packet, Connack):
            if packet.reason == 0:
                self._connected(packet)
        elif isinstance(packet, Puback | Pubcomp) or (isinstance(packet, Pubrec) and packet.reason >= FAILURE):
            if self._outstanding:
                self._outstanding -= 1
        elif isinstance(packet, Pingresp) and self._keep is not None:
            self._keep.pinged_at = None

    def _connected(self, connack: Connack) -> None:
        self._peer = peer_of(connack.properties, self._peer)
        self.keep_alive = connack.properties.get(Property.SERVER_KEEP_ALIVE, self.keep_alive)
        if self._keep is not None:
            self._keep.interval = self.keep_alive

    def _published(self, publish: Publish) -> None:
        """A PUBLISH of the peer: its alias, and how many are unanswered."""
        if self.version == V5:
            if publish.properties:
                self._resolve(publish)
            if publish.qos:
                self._count_unanswered()

    def _resolve(self, publish: Publish) -> None:
        """Put the topic for the alias (section 3.3.2.3.4), which is of no use behind this connection."""
        properties = dict(publish.properties)
        if self.role is Role.SERVER and Property.SUBSCRIPTION_IDENTIFIER in properties:
            raise RemoteError(Reason.PROTOCOL_ERROR, "expected no subscription identifier from a client")
        alias = properties.pop(Property.TOPIC_ALIAS, 0)
        if not alias:
            return
        maximum = self._terms.limits.topic_alias_maximum
        if alias > maximum:
            raise RemoteError(Reason.TOPIC_ALIAS_INVALID, f"expected a topic alias of 1..{maximum}, got {alias}")
        if self._aliases is None:
            self._aliases = {}
        if publish.topic:
            self._aliases[alias] = publish.topic
        else:
            topic = self._aliases.get(alias)
            if topic is None:
                raise RemoteError(Reason.PROTOCOL_ERROR, f"expected a topic for the new topic alias {alias}, got none")
            publish.topic = topic
        publish.properties = properties or NO_PROPERTIES

    def receive_eof(self) -> None:
        """The transport has ended."""
        self._close()

    def _fail(self, code: int, version: int) -> None:
        """Tell the peer, where the protocol has words for it, and close."""
        state = self._state
        self._close()
        if self.role is Role.SERVER and state not in LIVE:
            if version:
                self._refuse(code, version, NO_PROPERTIES)
        elif self.version == V5 and state is not State.START:
            reason = disconnect_reason(code, self.role)
            self._write(encode(Disconnect(reason), V5))

    def _close(self) -> None:
        self._state = _CLOSED
        self._pending = self._aliases = self._keep = None

    def events(self) -> list[Packet]:
        """The packets that have come since the last call."""
        events = self._events
        if events is None:
            return []
        self._events = None
        return events

    def _write(self, frame: bytes) -> None:
        if self._out is None:
            self._out = [frame]
        else:
            self._out.append(frame)

    def _refuse(self, reason: int, version: int, properties: Properties) -> None:
        if version < V5:
            code = return_code(reason)
            if code:
                self._write(bytes((0x20, 2, 0, code)))
            return
        packet = Connack(False, connack_reason(reason), properties)
        for attempt in (packet, spared(packet)):
            frame = encode(attempt, V5)
            if len(frame) <= self._peer.max_packet:
                self._write(frame)
                return
