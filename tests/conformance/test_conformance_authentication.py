"""Enhanced authentication, with SCRAM-SHA-256 (section 4.12)."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from protocols.mqtt.packets import Auth, Connack, Disconnect, Pingreq, Pingresp, Property, Publish
from protocols.mqtt.reasons import Reason
from protocols.scram import METHOD, ClientExchange
from tests.conformance.mqtt_peer import Peer, Room

NAME, DATA = Property.AUTHENTICATION_METHOD, Property.AUTHENTICATION_DATA
CONTINUE = Reason.CONTINUE_AUTHENTICATION


def told(data: bytes, method: str = METHOD) -> dict[int, Any]:
    return {NAME: method, DATA: data}


def exchange(password: str = "secret") -> ClientExchange:
    return ClientExchange("alice", password, lambda: secrets.token_hex(8))


def connected(room: Room, who: str = "c") -> Peer:
    """A client that has proven that it is alice."""
    peer, client = room.open(), exchange()
    peer.send(room.hello(who, properties=told(client.first())))
    challenge = peer.expect(Auth, reason=CONTINUE)
    assert challenge.properties[NAME] == METHOD
    peer.send(Auth(CONTINUE, told(client.respond(challenge.properties[DATA]))))
    connack = peer.expect(Connack, reason=0)
    assert connack.properties[NAME] == METHOD
    client.finish(connack.properties[DATA])
    return peer


def test_both_sides_are_authenticated(room: Room) -> None:
    """[MQTT-4.12.0-2] [MQTT-4.12.0-5] [MQTT-3.2.0-1] [MQTT-3.15.2-1]"""
    connected(room).quiet()


def test_a_wrong_proof(room: Room) -> None:
    """[MQTT-4.12.0-4] [MQTT-3.1.4-2] [MQTT-4.13.2-1]"""
    peer, client = room.open(), exchange("wrong")
    peer.send(room.hello(properties=told(client.first())))
    challenge = peer.expect(Auth, reason=CONTINUE)
    peer.send(Auth(CONTINUE, told(client.respond(challenge.properties[DATA]))))
    refused = peer.expect(Connack)
    assert refused.reason == Reason.NOT_AUTHORIZED and not refused.session_present
    assert peer.ends() == []


def test_an_unknown_method(room: Room) -> None:
    """[MQTT-4.12.0-1]"""
    room.refused(room.hello(properties=told(b"", "KERBEROS")), Reason.BAD_AUTHENTICATION_METHOD)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (Auth(CONTINUE, told(b"x", "OTHER")), Reason.PROTOCOL_ERROR),
        (Auth(Reason.REAUTHENTICATE, told(b"x")), Reason.PROTOCOL_ERROR),
        (Publish("a", b"x"), Reason.PROTOCOL_ERROR),
        (Pingreq(), Reason.PROTOCOL_ERROR),
    ],
)
def test_what_may_not_come_in_between(room: Room, packet: Any, reason: int) -> None:
    """[MQTT-3.1.2-30] [MQTT-4.12.0-3] [MQTT-4.12.0-5] [MQTT-3.14.0-1]"""
    peer = room.open()
    peer.send(room.hello(properties=told(exchange().first())))
    peer.expect(Auth)
    peer.send(packet)
    peer.expect(Connack, reason=reason)
    assert peer.ends() == []


def test_disconnect_may_come_in_between(room: Room) -> None:
    """[MQTT-3.1.2-30]"""
    peer = room.open()
    peer.send(room.hello(properties=told(exchange().first())))
    peer.expect(Auth)
    peer.send(Disconnect())
    assert peer.ends() == []


def test_no_auth_without_a_method(room: Room) -> None:
    """[MQTT-4.12.0-6] [MQTT-4.12.0-7]"""
    peer = room.connect()
    assert NAME not in peer.connack.properties and DATA not in peer.connack.properties
    peer.send(Auth(Reason.REAUTHENTICATE, told(exchange().first())))
    peer.ends_with(Reason.PROTOCOL_ERROR)


def test_reauthentication(room: Room) -> None:
    """[MQTT-4.12.1-1] [MQTT-4.12.0-5] [MQTT-4.12.0-2] Messages go on meanwhile, and nothing changes after."""
    peer, client = connected(room), exchange()
    peer.subscribe(room.topic())
    for _ in range(2):
        client = exchange()
        peer.send(Auth(Reason.REAUTHENTICATE, told(client.first())))
        challenge = peer.expect(Auth, reason=CONTINUE)
        peer.send(Pingreq())
        peer.expect(Pingresp)
        room.connect("sender").publish(room.topic(), b"meanwhile", 1)
        peer.message(b"meanwhile")
        peer.send(Auth(CONTINUE, told(client.respond(challenge.properties[DATA]))))
        last = peer.expect(Auth, reason=Reason.SUCCESS)
        assert last.properties[NAME] == METHOD
        client.finish(last.properties[DATA])
    peer.quiet()


def test_a_failed_reauthentication(room: Room) -> None:
    """[MQTT-4.12.1-2] [MQTT-4.13.2-1]"""
    peer, client = connected(room), exchange("wrong")
    peer.send(Auth(Reason.REAUTHENTICATE, told(client.first())))
    challenge = peer.expect(Auth, reason=CONTINUE)
    peer.send(Auth(CONTINUE, told(client.respond(challenge.properties[DATA]))))
    peer.ends_with(Reason.NOT_AUTHORIZED)
    other = connected(room)
    other.send(Auth(Reason.REAUTHENTICATE, told(b"x", "OTHER")))
    other.ends_with(Reason.PROTOCOL_ERROR)
