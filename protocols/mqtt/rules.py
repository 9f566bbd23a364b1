"""Which inputs of the state machine packets are, and what one side may say that the other may not (MQTT 5)."""

from __future__ import annotations

from dataclasses import replace

from protocols.errors import LocalError, ProtocolError, RemoteError
from protocols.mqtt.packets import (
    NO_PROPERTIES,
    Auth,
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
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from protocols.mqtt.peer import Peer
from protocols.mqtt.properties import without_problem_information
from protocols.mqtt.reason_tables import REASONS
from protocols.mqtt.reasons import FAILURE, Reason
from protocols.mqtt.state import Input, Role, Variant

_TYPES: dict[type, PacketType] = {
    Connect: PacketType.CONNECT,
    Connack: PacketType.CONNACK,
    Publish: PacketType.PUBLISH,
    Puback: PacketType.PUBACK,
    Pubrec: PacketType.PUBREC,
    Pubrel: PacketType.PUBREL,
    Pubcomp: PacketType.PUBCOMP,
    Subscribe: PacketType.SUBSCRIBE,
    Suback: PacketType.SUBACK,
    Unsubscribe: PacketType.UNSUBSCRIBE,
    Unsuback: PacketType.UNSUBACK,
    Pingreq: PacketType.PINGREQ,
    Pingresp: PacketType.PINGRESP,
    Disconnect: PacketType.DISCONNECT,
    Auth: PacketType.AUTH,
}

_AUTH: dict[int, Variant] = {
    Reason.SUCCESS: Variant.AUTH_SUCCESS,
    Reason.CONTINUE_AUTHENTICATION: Variant.AUTH_CONTINUE,
    Reason.REAUTHENTICATE: Variant.AUTH_AGAIN,
}

DISCONNECT_REASONS: dict[Role, frozenset[int]] = {
    Role.CLIENT: frozenset((0x00, 0x04, *range(0x80, 0x84), 0x90, *range(0x93, 0x9A))),
    Role.SERVER: REASONS[PacketType.DISCONNECT] - {0x04},
}
"""Who sends -> the reason codes of its DISCONNECT (section 3.14.2.1)."""

_NEAREST: dict[int, Reason] = {
    Reason.BAD_CREDENTIALS: Reason.NOT_AUTHORIZED,
    Reason.BANNED: Reason.NOT_AUTHORIZED,
    Reason.BAD_AUTHENTICATION_METHOD: Reason.NOT_AUTHORIZED,
    Reason.SERVER_UNAVAILABLE: Reason.SERVER_BUSY,
}
"""What a CONNACK can say and a DISCONNECT cannot -> what it says instead."""

_PROBLEM = (Property.REASON_STRING, Property.USER_PROPERTY)
_ALWAYS_WITH_PROBLEM = (Publish, Connack, Disconnect)


def type_of(packet: Packet) -> PacketType:
    """The type of a packet."""
    return _TYPES[type(packet)]


def input_of(packet: Packet) -> Input:
    """What a packet is to the state machine."""
    if isinstance(packet, Connect) and Property.AUTHENTICATION_METHOD in packet.properties:
        return Variant.CONNECT_WITH_METHOD
    if isinstance(packet, Connack) and packet.reason:
        return Variant.REFUSAL
    if isinstance(packet, Auth):
        return _AUTH.get(packet.reason, PacketType.AUTH)
    return _TYPES[type(packet)]


def connack_reason(code: int) -> int:
    """`code` where a CONNACK may have it, else the code that says nothing."""
    return code if code in REASONS[PacketType.CONNACK] else Reason.UNSPECIFIED


def disconnect_reason(code: int, sender: Role) -> int:
    """`code` where a DISCONNECT of `sender` may have it; of other failures the nearest that it may have."""
    allowed = DISCONNECT_REASONS[sender]
    if code in allowed or code < FAILURE:
        return code
    nearest = _NEAREST.get(code, Reason.UNSPECIFIED)
    return nearest if nearest in allowed else Reason.UNSPECIFIED


def check_direction(packet: Packet, sender: Role, peer: Peer, error: type[ProtocolError]) -> None:
    """Raises `error` (LocalError, or RemoteError with PROTOCOL_ERROR) when `sender` may not say this; `peer` is what
    was said at the connection's beginning."""
    problem = _wrong(packet, sender, peer)
    if problem:
        if error is RemoteError:
            raise RemoteError(Reason.PROTOCOL_ERROR, problem)
        raise LocalError(problem)


def _wrong(packet: Packet, sender: Role, peer: Peer) -> str:
    properties: Properties = getattr(packet, "properties", NO_PROPERTIES)
    if isinstance(packet, Auth):
        return _wrong_auth(packet, peer)
    if isinstance(packet, Disconnect):
        if packet.reason not in DISCONNECT_REASONS[sender]:
            return f"expected DISCONNECT with a reason of a {sender.value}, got {packet.reason:#x}"
        if sender is Role.CLIENT:
            if packet.properties.get(Property.SESSION_EXPIRY) and not peer.keeps_session:
                return "expected no session expiry where CONNECT had none"
            if Property.SERVER_REFERENCE in packet.properties:
                return "expected no server reference from a client"
        elif Property.SESSION_EXPIRY in packet.properties:
            return "expected no session expiry from a server in DISCONNECT"
        return ""
    if isinstance(packet, Connack):
        if Property.RESPONSE_INFORMATION in properties and not peer.response_information:
            return "expected no response information where CONNECT asked for none"
        method = properties.get(Property.AUTHENTICATION_METHOD)
        if method != peer.method and (method is not None or not packet.reason):
            return f"expected the authentication method {peer.method!r} of CONNECT, got {method!r}"
    elif (
        properties
        and sender is Role.SERVER
        and not peer.problem_information
        and not isinstance(packet, _ALWAYS_WITH_PROBLEM)
        and any(each in properties for each in _PROBLEM)
    ):
        return "expected no problem information where CONNECT asked for none"
    return ""


def _wrong_auth(packet: Auth, peer: Peer) -> str:
    if peer.method is None:
        return "expected no AUTH where CONNECT had no authentication method"
    method = packet.properties.get(Property.AUTHENTICATION_METHOD)
    # A successful AUTH without anything may be of no length at all (section 3.15.2.1).
    if method != peer.method and (method is not None or packet.reason):
        return f"expected the authentication method {peer.method!r} of CONNECT, got {method!r}"
    return ""


def spared(packet: Packet) -> Packet:
    """The packet without Reason String and User Properties, which the peer does not want, or has no room for."""
    properties: Properties = getattr(packet, "properties", NO_PROPERTIES)
    if not properties:
        return packet
    return replace(packet, properties=without_problem_information(properties))  # type: ignore[arg-type]  # a union of dataclasses, all of which have them
