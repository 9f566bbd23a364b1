"""CONNECT and CONNACK: sessions that begin, go on and end, and who is refused (sections 3.1, 3.2 and 4.1)."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocols.mqtt.encoding import encode
from protocols.mqtt.packets import (
    V5,
    V311,
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Property,
    Publish,
    Subscribe,
    SubscriptionRequest,
)
from protocols.mqtt.properties import encode_varint
from protocols.mqtt.reasons import Reason
from tests.conformance.conftest import MqttGateway
from tests.conformance.mqtt_peer import Room
from tests.system.device import open_socket

EXPIRY = Property.SESSION_EXPIRY


def test_a_clean_start_finds_nothing_of_before(room: Room, version: int) -> None:
    """[MQTT-3.1.2-4] [MQTT-3.1.4-4] [MQTT-3.2.2-2] [MQTT3-3.1.2-6] [MQTT3-3.1.4-3] [MQTT3-3.2.2-1]"""
    before = room.connect(version=version, keep=True)
    before.subscribe(room.topic())
    before.leave()
    room.connect("sender").publish(room.topic(), b"queued", 1)
    now = room.connect(version=version, clean=True)
    assert now.connack.session_present is False
    room.connect("sender").publish(room.topic(), b"more", 1)
    now.quiet()
    now.leave()
    assert room.connect(version=version, clean=False).connack.session_present is False


def test_a_session_goes_on(room: Room, version: int) -> None:
    """[MQTT-3.1.2-5] [MQTT-3.1.2-6] [MQTT-3.1.2-23] [MQTT-3.1.3-2] [MQTT-3.2.2-3] [MQTT-4.1.0-1] [MQTT-4.5.0-1]
    [MQTT3-3.1.2-4] [MQTT3-3.1.2-5] [MQTT3-3.1.3-2] [MQTT3-3.2.2-2] [MQTT3-3.2.2-3] [MQTT3-4.1.0-1] [MQTT3-4.5.0-1]"""
    before = room.connect(version=version, keep=True, clean=False)
    assert before.connack.session_present is False
    before.subscribe(room.topic("+"))
    before.cut()
    sender = room.connect("sender")
    for qos in (1, 2):
        sender.publish(room.topic("a"), b"of QoS %d" % qos, qos)
    other = room.connect("other", version, keep=True, clean=False)
    assert other.connack.session_present is False
    other.quiet()
    now = room.connect(version=version, keep=True, clean=False)
    assert now.connack.session_present is True
    assert now.messages(2) == [b"of QoS 1", b"of QoS 2"]
    sender.publish(room.topic("b"), b"live", 1)
    now.message(b"live", qos=1)


def test_a_session_without_expiry_ends_with_its_connection(room: Room, version: int) -> None:
    """[MQTT-4.1.0-2] [MQTT3-3.1.2-6]"""
    before = room.connect(version=version)
    before.subscribe(room.topic())
    before.leave()
    now = room.connect(version=version, clean=False)
    assert now.connack.session_present is False
    room.connect("sender").publish(room.topic(), b"x", 1)
    now.quiet()


def test_a_session_is_discarded_after_its_expiry(room: Room) -> None:
    """[MQTT-4.1.0-2] [MQTT-3.1.2-8] The will, whose delay is longer, tells of the session's end."""
    watcher = room.connect("watcher")
    watcher.subscribe(room.topic("will"))
    will = room.will(properties={Property.WILL_DELAY: 3600})
    room.connect(will=will, properties={EXPIRY: 1}).cut()
    watcher.message(b"gone")
    assert room.connect(clean=False).connack.session_present is False


def test_disconnect_may_change_the_expiry(room: Room) -> None:
    """[MQTT-4.1.0-2] [MQTT-3.1.2-23]"""
    room.connect(keep=True).leave(properties={EXPIRY: 0})
    again = room.connect(clean=False, keep=True)
    assert again.connack.session_present is False
    again.leave(properties={EXPIRY: 100})
    assert room.connect(clean=False).connack.session_present is True


def test_sessions_outlive_connections_that_last(room: Room) -> None:
    """[MQTT-4.1.0-1] [MQTT3-4.1.0-2] Its expiry is shorter than the connection."""
    peer = room.connect(properties={EXPIRY: 1})
    peer.subscribe(room.topic())
    room.a_while()
    room.connect("sender").publish(room.topic(), b"still", 1)
    peer.message(b"still")
    older = room.connect("older", V311)
    older.subscribe(room.topic())
    room.connect("sender").publish(room.topic(), b"still", 1)
    older.message(b"still")


def test_a_second_connection_displaces_the_first(room: Room, version: int) -> None:
    """[MQTT-3.1.4-3] [MQTT-4.13.2-1] [MQTT3-3.1.4-2]"""
    first = room.connect(version=version, keep=True)
    first.subscribe(room.topic())
    second = room.connect(version=version, clean=False, keep=True)
    first.ends_with(Reason.SESSION_TAKEN_OVER)
    assert second.connack.session_present is True
    room.connect("sender").publish(room.topic(), b"x", 1)
    second.message(b"x")


def test_a_second_connect_is_a_protocol_error(room: Room, version: int) -> None:
    """[MQTT-3.1.0-2] [MQTT-3.2.0-2] [MQTT-4.13.1-1] [MQTT3-3.1.0-2] [MQTT3-4.8.0-1]"""
    peer = room.connect(version=version)
    peer.send(room.hello(version=version))
    peer.ends_with(Reason.PROTOCOL_ERROR)


@pytest.mark.parametrize("first", [Pingreq(), Publish("a", b"x"), Subscribe(1, [SubscriptionRequest("a")])])
def test_nothing_comes_before_connect(room: Room, version: int, first: object) -> None:
    """[MQTT-3.1.0-1] [MQTT-3.14.0-1] [MQTT3-3.1.0-1]"""
    peer = room.open(version)
    peer.send(first)  # type: ignore[arg-type]
    assert peer.ends() == []


def test_connack_comes_first_and_packets_need_not_wait_for_it(room: Room, version: int) -> None:
    """[MQTT-3.2.0-1] [MQTT-3.1.4-5] [MQTT3-3.2.0-1] [MQTT3-3.1.4-4]"""
    peer = room.open(version)
    peer.send(room.hello(version=version), Subscribe(1, [SubscriptionRequest(room.topic())]))
    peer.send(Publish(room.topic(), b"at once"), Pingreq())
    assert [type(peer.read()).__name__ for _ in range(4)] == ["Connack", "Suback", "Publish", "Pingresp"]


def test_a_client_that_says_all_at_once(room: Room, version: int) -> None:
    """[MQTT-3.1.4-5] [MQTT-3.2.0-1] [MQTT-3.14.4-3] [MQTT3-3.1.4-4] [MQTT3-3.14.4-3] CONNECT, PUBLISH, DISCONNECT."""
    watcher = room.connect("watcher")
    watcher.subscribe(room.topic("+"))
    peer = room.open(version)
    peer.send(room.hello(version=version, will=room.will()), Publish(room.topic(), b"x"), Disconnect())
    peer.expect(Connack, reason=0)
    assert peer.ends() == []
    watcher.message(b"x")
    watcher.quiet()


def test_flags_of_connack(room: Room, version: int) -> None:
    """[MQTT-3.2.2-1] [MQTT3-2.2.2-1]"""
    peer = room.open(version)
    peer.send(room.hello(version=version))
    frame = peer.frame()
    assert frame[0] == 0x20 and frame[2] == 0
    peer = room.connect("kept", version, keep=True)
    peer.leave()
    peer = room.open(version)
    peer.send(room.hello("kept", version, clean=False, keep=True))
    assert peer.frame()[2] == 1


def test_wrong_protocol_names_and_versions(room: Room) -> None:
    """[MQTT-3.1.2-1] [MQTT-3.1.2-2] [MQTT3-3.1.2-1] [MQTT3-3.1.2-2] [MQTT3-3.2.2-5]"""
    good = encode(room.hello(), V5)
    wrong_name = room.open()
    wrong_name.raw(good.replace(b"MQTT", b"MQTZ", 1))
    assert wrong_name.ends() == []
    newer = room.open()
    newer.raw(good.replace(b"MQTT\5", b"MQTT\6", 1))
    newer.expect(Connack, reason=Reason.UNSUPPORTED_VERSION)
    assert newer.ends() == []
    unknown = room.open(V311)
    unknown.raw(encode(room.hello(version=V311), V311).replace(b"MQTT\4", b"MQTT\2", 1))
    assert unknown.frame() == bytes((0x20, 2, 0, 1))
    assert unknown.ends() == []


def test_malformed_connects(room: Room, version: int) -> None:
    """[MQTT-3.1.2-3] [MQTT-3.1.4-1] [MQTT-3.2.2-6] [MQTT-3.2.2-7] [MQTT-3.2.2-8] [MQTT3-3.1.2-3] [MQTT3-3.1.4-1]
    [MQTT3-4.8.0-1]"""
    frame = bytearray(encode(room.hello(version=version), version))
    flags = frame.index(b"MQTT") + 5
    for bits in (0x01, 0x18, 0x20, 0x1C):  # reserved; Will QoS, Will Retain without a will; Will QoS 3
        frame[flags] = 2 | bits
        peer = room.open(version)
        peer.raw(bytes(frame))
        if version == V5:
            peer.expect(Connack, reason=Reason.MALFORMED_PACKET, session_present=False)
        assert peer.ends() == []


def test_nothing_after_a_rejected_connect_is_processed(room: Room, version: int) -> None:
    """[MQTT-3.1.4-6] [MQTT-3.1.4-2] [MQTT-4.13.2-1] [MQTT3-3.1.4-5] [MQTT3-3.2.2-4] [MQTT3-3.2.2-5]"""
    watcher = room.connect("watcher")
    watcher.subscribe(room.topic())
    peer = room.open(version)
    will = room.will()
    will.topic = "forbidden/will"
    peer.send(room.hello(version=version, will=will), Publish(room.topic(), b"x", 1, packet_id=1), Pingreq())
    said = peer.ends()
    assert said == [Connack(False, Reason.NOT_AUTHORIZED if version == V5 else 5)]
    watcher.quiet()


def test_an_empty_id_gets_a_new_one(room: Room) -> None:
    """[MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16]"""
    first, second = room.open(), room.open()
    assigned = []
    for peer in (first, second):
        peer.send(Connect("", properties={EXPIRY: 60}))
        assigned.append(peer.expect(Connack, reason=0).properties[Property.ASSIGNED_CLIENT_ID])
    assert len(set(assigned)) == 2 and all(assigned)
    first.leave()
    again = room.open()
    again.send(Connect(assigned[0], clean_start=False))
    again.expect(Connack, reason=0, session_present=True)


def test_an_empty_id_before_mqtt_5(room: Room) -> None:
    """[MQTT3-3.1.3-6] [MQTT3-3.1.3-8]"""
    peers = [room.open(V311) for _ in range(2)]
    for number, peer in enumerate(peers):
        peer.send(Connect("", V311))
        peer.expect(Connack, reason=0)
        peer.subscribe(room.topic(str(number)))
    room.connect("sender").publish(room.topic("0"))
    peers[0].message()
    peers[1].quiet()
    kept = room.open(V311)
    kept.raw(encode(Connect("", V311), V311).replace(b"MQTT\4\2", b"MQTT\4\0"))
    kept.expect(Connack, reason=2, session_present=False)
    assert kept.ends() == []


@pytest.mark.parametrize("client_id", ["a", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ"])
def test_plain_ids_are_accepted(room: Room, version: int, client_id: str) -> None:
    """[MQTT-3.1.3-5] [MQTT3-3.1.3-5]"""
    peer = room.open(version)
    peer.send(Connect(client_id, version))
    peer.expect(Connack, reason=0)


def test_a_refused_id(room: Room, version: int) -> None:
    """[MQTT-3.1.3-8] [MQTT3-3.1.3-9]"""
    room.refused(Connect("x" * 5000, version), Reason.CLIENT_ID_NOT_VALID if version == V5 else 2)


def test_strings_of_connect_are_utf_8(room: Room, version: int) -> None:
    """[MQTT-3.1.3-4] [MQTT-3.1.3-11] [MQTT-3.1.3-12] [MQTT3-3.1.3-4] [MQTT3-3.1.3-10] [MQTT3-3.1.3-11] [MQTT3-1.5.3-1]
    [MQTT3-1.5.3-2]"""
    frame = encode(
        Connect("client--", version, username="username", password=b"x", will=room.will("topic---")), version
    )
    for name in (b"client--", b"topic---", b"username"):
        for wrong in (b"\xff", b"\x00"):
            peer = room.open(version)
            peer.raw(frame.replace(name, name[:-1] + wrong))
            if version == V5:
                peer.expect(Connack, reason=Reason.MALFORMED_PACKET)
            assert peer.ends() == []


def test_the_order_of_connects_payload(room: Room, version: int) -> None:
    """[MQTT-3.1.3-1] [MQTT-3.1.3-3] [MQTT3-3.1.3-1] [MQTT3-3.1.3-3] Written by hand: id, will, user name, password."""
    watcher = room.connect("watcher")
    watcher.subscribe(room.topic())

    def string(text: str) -> bytes:
        return len(text).to_bytes(2, "big") + text.encode()

    nothing = b"\0" if version == V5 else b""
    body = string("MQTT") + bytes((version, 0xC6, 0, 60)) + nothing + string(room.client_id()) + nothing
    body += string(room.topic()) + string("gone") + string("somebody") + string("device-token")
    peer = room.open(version)
    peer.raw(b"\x10" + encode_varint(len(body)) + body)
    peer.expect(Connack, reason=0)
    peer.cut()
    watcher.message(b"gone")


@pytest.mark.parametrize("version", [4, 5])
def test_silence_ends_the_connection(room: Room, version: int) -> None:
    """[MQTT-3.1.2-22] [MQTT-3.2.2-22] [MQTT3-3.1.2-24] As if the network had failed: its will is published."""
    watcher = room.connect("watcher")
    watcher.subscribe(room.topic("will"))
    peer = room.connect(version=version, keep_alive=1, will=room.will())
    assert Property.SERVER_KEEP_ALIVE not in peer.connack.properties
    peer.ends_with(Reason.KEEP_ALIVE_TIMEOUT)
    watcher.message(b"gone")


def test_pings_are_answered(room: Room, version: int) -> None:
    """[MQTT-3.12.4-1] [MQTT3-3.12.4-1]"""
    peer = room.connect(version=version)
    peer.raw(b"\xc0\x00")
    assert peer.frame() == b"\xd0\x00"


def test_no_response_information_unasked(room: Room) -> None:
    """[MQTT-3.1.2-28]"""
    for properties in ({}, {Property.REQUEST_RESPONSE_INFORMATION: 0}):
        connack = room.connect(properties=properties).connack
        assert Property.RESPONSE_INFORMATION not in connack.properties


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_streams_of_bytes(room: Room, mqtt: MqttGateway, version: int, transport: str) -> None:
    """[MQTT-4.2-1] [MQTT3-7.1.1-1] Packets are cut and joined as the stream pleases."""
    ca: Path | None = mqtt.ca if transport == "tls" else None
    peer = room.adopt(open_socket(mqtt.port if ca is None else mqtt.mqtts, ca), version)
    for byte in encode(room.hello(version=version), version):
        peer.raw(bytes((byte,)))
    peer.expect(Connack, reason=0)
    peer.raw(b"\xc0\0\xc0\0\xc0")
    peer.expect(Pingresp)
    peer.expect(Pingresp)
    peer.raw(b"\0")
    peer.expect(Pingresp)
