"""Messages of each QoS, from clients and to clients, and what happens when the connection fails between (sections 3.3,
4.3 to 4.6 and 4.9)."""

from __future__ import annotations

import pytest

from protocols.mqtt.packets import (
    Connack,
    Disconnect,
    Pingreq,
    Pingresp,
    Property,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Unsuback,
    Unsubscribe,
)
from protocols.mqtt.reasons import Reason
from tests.conformance.conftest import MqttGateway
from tests.conformance.mqtt_peer import Peer, Room
from tests.system.device import open_socket


def receiver(room: Room, version: int = 5, qos: int = 2, **values: object) -> Peer:
    """A client with a session that lasts, subscribed to the topic of the test."""
    peer = room.connect("receiver", version, keep=True, **values)
    peer.subscribe(room.topic(), qos=qos)
    return peer


def back(room: Room, version: int = 5, **values: object) -> Peer:
    """The same client again."""
    peer = room.connect("receiver", version, keep=True, clean=False, **values)
    assert peer.connack.session_present
    return peer


# ------------------------------------------------------------------ from a client


def test_qos_0_is_not_answered(room: Room, version: int) -> None:
    """[MQTT-2.2.1-2] [MQTT-3.3.1-2] [MQTT-3.3.4-1] [MQTT-4.3.1-1] [MQTT3-2.3.1-5] [MQTT3-3.3.1-2] [MQTT3-3.3.4-1]
    [MQTT3-4.3.1-1] Both ways, to the byte."""
    peer = receiver(room, version)
    topic = room.topic().encode()
    body = len(topic).to_bytes(2, "big") + topic + (b"\0" if version == 5 else b"") + b"payload"
    frame = bytes((0x30, len(body))) + body
    peer.raw(frame)
    assert peer.frame() == frame
    peer.quiet()


def test_qos_1_is_answered_by_puback(room: Room, version: int) -> None:
    """[MQTT-2.2.1-5] [MQTT-3.3.4-1] [MQTT-4.3.2-4] [MQTT3-2.3.1-6] [MQTT3-3.3.4-1] [MQTT3-4.3.2-2]"""
    watcher = receiver(room, version)
    peer = room.connect("sender", version)
    peer.send(Publish(room.topic(), b"x", 1, packet_id=1234))
    peer.expect(Puback, packet_id=1234, reason=0)
    watcher.message(b"x", qos=1)


def test_after_puback_the_id_means_a_new_message(room: Room, version: int) -> None:
    """[MQTT-4.3.2-5] [MQTT-3.3.1-3] [MQTT3-4.3.2-2] [MQTT3-3.3.1-3] Whatever its DUP says, which does not go on."""
    watcher = receiver(room, version)
    peer = room.connect("sender", version)
    for number, dup in enumerate((False, True, True)):
        peer.send(Publish(room.topic(), b"%d" % number, 1, False, dup, 7))
        peer.expect(Puback, packet_id=7)
        watcher.message(b"%d" % number, dup=False)


def test_qos_2_is_received_once(room: Room, version: int) -> None:
    """[MQTT-4.3.3-8] [MQTT-4.3.3-10] [MQTT-4.3.3-11] [MQTT-4.3.3-12] [MQTT-2.2.1-5] [MQTT-3.3.4-1] [MQTT3-4.3.3-2]
    [MQTT3-2.3.1-6] [MQTT3-3.3.4-1]"""
    watcher = receiver(room, version)
    peer = room.connect("sender", version)
    for dup in (False, True, True):
        peer.send(Publish(room.topic(), b"first", 2, False, dup, 77))
        peer.expect(Pubrec, packet_id=77, reason=0)
    watcher.message(b"first", dup=False)
    watcher.quiet()
    peer.send(Pubrel(77))
    peer.expect(Pubcomp, packet_id=77, reason=0)
    peer.send(Publish(room.topic(), b"second", 2, False, True, 77))
    peer.expect(Pubrec, packet_id=77, reason=0)
    watcher.message(b"second", dup=False)


def test_qos_2_is_received_once_over_two_connections(room: Room, version: int) -> None:
    """[MQTT-4.3.3-10] [MQTT-4.4.0-1] [MQTT-3.1.2-5] [MQTT3-4.3.3-2] [MQTT3-4.4.0-1]"""
    watcher = receiver(room, version)
    peer = room.connect("sender", version, keep=True, clean=False)
    peer.send(Publish(room.topic(), b"once", 2, packet_id=5))
    peer.expect(Pubrec, packet_id=5)
    peer.cut()
    peer = room.connect("sender", version, keep=True, clean=False)
    peer.send(Publish(room.topic(), b"once", 2, False, True, 5))
    peer.expect(Pubrec, packet_id=5, reason=0)
    peer.send(Pubrel(5))
    peer.expect(Pubcomp, packet_id=5, reason=0)
    watcher.message(b"once")
    watcher.quiet()


def test_qos_2_after_a_clean_start_is_new(room: Room, version: int) -> None:
    """[MQTT-3.1.2-4] [MQTT3-3.1.2-6]"""
    watcher = receiver(room, version)
    for _ in range(2):
        peer = room.connect("sender", version)
        peer.send(Publish(room.topic(), b"again", 2, packet_id=5))
        peer.expect(Pubrec, packet_id=5)
        watcher.message(b"again")


def test_a_failing_pubrec_frees_the_id(room: Room) -> None:
    """[MQTT-4.3.3-9] [MQTT-3.5.2-1] [MQTT-3.4.2-1]"""
    watcher = receiver(room)
    peer = room.connect("sender")
    peer.send(Publish("forbidden/t", b"x", 2, packet_id=9))
    peer.expect(Pubrec, packet_id=9, reason=Reason.NOT_AUTHORIZED)
    peer.send(Publish(room.topic(), b"allowed", 2, False, True, 9))
    peer.expect(Pubrec, packet_id=9, reason=0)
    watcher.message(b"allowed")
    peer.send(Publish("forbidden/t", b"x", 1, packet_id=10))
    peer.expect(Puback, packet_id=10, reason=Reason.NOT_AUTHORIZED)


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_forbidden_message_before_mqtt_5(room: Room, qos: int) -> None:
    """[MQTT3-3.3.5-2] It is acknowledged, and goes nowhere."""
    peer = room.connect("sender", 4)
    assert peer.publish("forbidden/t", b"x", qos, retain=True) == 0
    peer.quiet()


def test_reasons_when_nobody_listens(room: Room) -> None:
    """[MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.7.2-1] [MQTT-3.6.2-1]"""
    peer = room.connect("sender")
    for qos in (1, 2):
        assert peer.publish(room.topic(), b"x", qos) == Reason.NO_MATCHING_SUBSCRIBERS
    peer.send(Pubrel(555))
    peer.expect(Pubcomp, packet_id=555, reason=Reason.PACKET_ID_NOT_FOUND)
    peer.send(Pubrec(556))
    peer.expect(Pubrel, packet_id=556, reason=Reason.PACKET_ID_NOT_FOUND)


def test_unknown_acknowledgements_before_mqtt_5(room: Room) -> None:
    """[MQTT3-4.3.3-2]"""
    peer = room.connect("sender", 4)
    peer.send(Pubrel(555))
    peer.expect(Pubcomp, packet_id=555)
    peer.send(Puback(555), Pubcomp(555))
    peer.quiet()


def test_acknowledgements_come_in_order(room: Room, version: int) -> None:
    """[MQTT-4.5.0-1] [MQTT-2.2.1-5] [MQTT3-2.3.1-6] Whoever has a queue on disk among the receivers or not."""
    receiver(room, version).leave()
    peer = room.connect("sender", version)
    topics = [room.topic(), "nobody/" + room.name] * 10
    peer.send(*(Publish(topic, b"x", 1, packet_id=number) for number, topic in enumerate(topics, 1)))
    assert [peer.expect(Puback).packet_id for _ in topics] == list(range(1, 21))


def test_expired_qos_2_goes_on(room: Room) -> None:
    """[MQTT-4.3.3-13]"""
    receiver(room).leave()
    peer = room.connect("sender")
    peer.send(Publish(room.topic(), b"x", 2, False, False, 3, {Property.MESSAGE_EXPIRY: 1}))
    peer.expect(Pubrec, packet_id=3, reason=0)
    room.a_while()
    peer.send(Publish(room.topic(), b"x", 2, False, True, 3, {Property.MESSAGE_EXPIRY: 1}))
    peer.expect(Pubrec, packet_id=3, reason=0)
    peer.send(Pubrel(3))
    peer.expect(Pubcomp, packet_id=3, reason=0)


# ------------------------------------------------------------------ to a client


def test_qos_1_to_a_client(room: Room, version: int) -> None:
    """[MQTT-2.2.1-4] [MQTT-4.3.2-1] [MQTT-4.3.2-2] [MQTT-4.3.2-3] [MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT3-2.3.1-4]
    [MQTT3-4.3.2-1] [MQTT3-4.4.0-1] [MQTT3-3.3.1-1] Each has an id of its own until it is acknowledged, and is sent
    again, with the same id and DUP, when the client comes back: not before."""
    peer = receiver(room, version)
    sender = room.connect("sender")
    for number in range(3):
        sender.publish(room.topic(), b"%d" % number, 1)
    first = [peer.expect(Publish, qos=1, dup=False) for _ in range(3)]
    assert len({one.packet_id for one in first}) == 3 and all(one.packet_id for one in first)
    peer.quiet()
    peer.send(Puback(first[1].packet_id))
    peer.quiet()
    peer.cut()
    peer = back(room, version)
    for one in (first[0], first[2]):
        peer.message(one.payload, qos=1, dup=True, packet_id=one.packet_id)
    peer.quiet()
    peer.cut()
    back(room, version).quiet()


def test_qos_2_to_a_client(room: Room, version: int) -> None:
    """[MQTT-4.3.3-1] [MQTT-4.3.3-2] [MQTT-4.3.3-3] [MQTT-4.3.3-4] [MQTT-4.3.3-5] [MQTT-4.3.3-6] [MQTT-3.3.1-1]
    [MQTT-4.4.0-1] [MQTT3-4.3.3-1] [MQTT3-4.4.0-1] [MQTT3-2.3.1-4] PUBLISH again until PUBREC, then PUBREL until
    PUBCOMP."""
    peer = receiver(room, version)
    room.connect("sender").publish(room.topic(), b"x", 2)
    first = peer.expect(Publish, qos=2, dup=False)
    peer.quiet()
    peer.cut()
    peer = back(room, version)
    peer.expect(Publish, payload=b"x", qos=2, dup=True, packet_id=first.packet_id)
    peer.send(Pubrec(first.packet_id))
    peer.expect(Pubrel, packet_id=first.packet_id, reason=0)
    peer.quiet()
    peer.cut()
    for _ in range(2):
        peer = back(room, version)
        peer.expect(Pubrel, packet_id=first.packet_id, reason=0)
        peer.quiet()
        peer.cut()
    peer = back(room, version)
    peer.expect(Pubrel, packet_id=first.packet_id)
    peer.send(Pubcomp(first.packet_id))
    peer.quiet()
    peer.cut()
    back(room, version).quiet()


def test_a_failing_acknowledgement_is_one(room: Room) -> None:
    """[MQTT-4.4.0-2] [MQTT-3.3.4-9]"""
    peer = receiver(room, properties={Property.RECEIVE_MAXIMUM: 1, Property.SESSION_EXPIRY: 60})
    sender = room.connect("sender")
    for qos in (1, 2, 1):
        sender.publish(room.topic(), b"x", qos)
    peer.send(Puback(peer.expect(Publish, qos=1).packet_id, Reason.UNSPECIFIED))
    peer.send(Pubrec(peer.expect(Publish, qos=2).packet_id, Reason.IMPLEMENTATION_SPECIFIC))
    peer.message(qos=1)
    peer.quiet()
    peer.cut()
    back(room).quiet()


def test_queued_messages_keep_their_order(room: Room, version: int) -> None:
    """[MQTT-4.6.0-5] [MQTT-4.6.0-6] [MQTT3-4.6.0-5] [MQTT3-4.6.0-6] Away, come back with a small window, and live."""
    peer = receiver(room, version)
    peer.leave()
    sender = room.connect("sender")
    many = 150
    sender.send(*(Publish(room.topic(), b"%d" % number, 1, packet_id=number) for number in range(1, 101)))
    for _ in range(100):
        sender.expect(Puback)
    small = {Property.RECEIVE_MAXIMUM: 3, Property.SESSION_EXPIRY: 60}
    peer = back(room, version, **({"properties": small} if version == 5 else {}))
    sender.send(*(Publish(room.topic(), b"%d" % number, 1, packet_id=number) for number in range(101, many + 1)))
    assert peer.messages(many) == [b"%d" % number for number in range(1, many + 1)]
    peer.quiet()


def test_each_topic_is_ordered_at_each_qos(room: Room, version: int) -> None:
    """[MQTT-4.6.0-5] [MQTT-4.6.0-6] [MQTT3-4.6.0-6]"""
    peer = room.connect("receiver", version)
    peer.subscribe(room.topic("+"))
    sender = room.connect("sender", version)
    for number in range(20):
        for qos in (0, 1, 2):
            sender.publish(room.topic(str(qos)), b"%d" % number, qos)
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
    inbox = []
    while len(inbox) < 60:
        one = peer.read()
        if isinstance(one, Publish):
            inbox.append(one)
            seen[one.qos].append(int(one.payload))
            if one.qos == 1:
                peer.send(Puback(one.packet_id))
            elif one.qos == 2:
                peer.send(Pubrec(one.packet_id))
        elif isinstance(one, Pubrel):
            peer.send(Pubcomp(one.packet_id))
    assert seen == {qos: list(range(20)) for qos in (0, 1, 2)}


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_many_small_messages_at_once_keep_their_order(room: Room, mqtt: MqttGateway, transport: str) -> None:
    """[MQTT-4.6.0-5] [MQTT-4.6.0-6] [MQTT3-4.6.0-6] Each record of TLS has more packets than a turn of the gateway
    serves, and one read brings several records."""
    receiving = room.connect("receiver")
    receiving.subscribe(room.topic(), qos=0)
    ca = mqtt.ca if transport == "tls" else None
    sender = room.adopt(open_socket(mqtt.port if ca is None else mqtt.mqtts, ca), 4)
    sender.send(room.hello("sender", version=4))
    sender.expect(Connack, reason=0)
    ids = range(1, 2001)
    sender.send(*(Publish(room.topic(), b"%d" % number, 1, packet_id=number) for number in ids))
    assert [sender.expect(Puback).packet_id for _ in ids] == list(ids)
    assert receiving.messages(len(ids)) == [b"%d" % number for number in ids]


def test_a_sender_of_both_roles(room: Room, version: int) -> None:
    """[MQTT-2.2.1-4] [MQTT3-2.3.1-4] Ids of the two directions have nothing to do with each other."""
    peer = receiver(room, version)
    peer.send(Publish(room.topic(), b"x", 2, packet_id=1))
    ours = [peer.read(), peer.read()]
    assert {type(one) for one in ours} == {Pubrec, Publish}
    theirs = next(one for one in ours if isinstance(one, Publish))
    assert theirs.packet_id == 1
    peer.send(Pubrel(1))
    peer.expect(Pubcomp, packet_id=1)
    peer.acknowledge(theirs)
    peer.quiet()


def test_all_that_waits_comes_in_order_after_a_failure(room: Room, version: int) -> None:
    """[MQTT-4.4.0-1] [MQTT-4.5.0-1] [MQTT-4.6.0-5] [MQTT3-4.4.0-1] [MQTT3-4.6.0-6] First what was sent, as it was, then
    what was not, and what is published meanwhile."""
    peer = receiver(room, version)
    sender = room.connect("sender")
    for number, qos in enumerate((1, 2, 1)):
        sender.publish(room.topic(), b"%d" % number, qos)
    first = [peer.expect(Publish) for _ in range(3)]
    peer.cut()
    for number, qos in enumerate((2, 1), 3):
        sender.publish(room.topic(), b"%d" % number, qos)
    peer = back(room, version)
    sender.publish(room.topic(), b"5", 1)
    seen = [peer.expect(Publish) for _ in range(6)]
    assert [one.payload for one in seen] == [b"%d" % number for number in range(6)]
    assert [one.dup for one in seen] == [True] * 3 + [False] * 3
    assert [one.packet_id for one in seen[:3]] == [one.packet_id for one in first]
    assert len({one.packet_id for one in seen}) == 6


def test_a_takeover_within_a_delivery(room: Room, version: int) -> None:
    """[MQTT-3.1.4-3] [MQTT-4.3.3-6] [MQTT-4.4.0-1] [MQTT3-3.1.4-2] [MQTT3-4.3.3-1]"""
    peer = receiver(room, version)
    sender = room.connect("sender")
    for payload in (b"a", b"b"):
        sender.publish(room.topic(), payload, 2)
    first, second = peer.expect(Publish), peer.expect(Publish)
    peer.send(Pubrec(first.packet_id))
    peer.expect(Pubrel, packet_id=first.packet_id)
    now = back(room, version)
    peer.ends_with(Reason.SESSION_TAKEN_OVER)
    now.expect(Pubrel, packet_id=first.packet_id)
    now.send(Pubcomp(first.packet_id))
    now.message(b"b", dup=True, packet_id=second.packet_id)
    now.quiet()


def test_a_session_goes_on_in_another_version(room: Room) -> None:
    """[MQTT-3.1.2-5] [MQTT3-3.1.2-4] With what the version at hand can say."""
    peer = receiver(room, 5)
    sender = room.connect("sender")
    told = {Property.USER_PROPERTY: [("a", "b")]}
    sender.publish(room.topic(), b"1", 1, properties=told)
    peer.expect(Publish)
    peer.cut()
    sender.publish(room.topic(), b"2", 1, properties=told)
    peer = back(room, 4)
    peer.message(b"1", dup=True, properties={})
    peer.message(b"2", dup=False, properties={})
    sender.publish(room.topic(), b"3", 1, properties=told)
    peer.expect(Publish, payload=b"3", properties={})
    peer.cut()
    peer = back(room, 5)
    peer.message(b"3", dup=True, properties=told)
    peer.quiet()


# ------------------------------------------------------------------ flow control


def test_receive_maximum_of_a_client(room: Room) -> None:
    """[MQTT-3.3.4-9] [MQTT-3.3.4-10] [MQTT-4.9.0-1] [MQTT-4.9.0-2] [MQTT-4.9.0-3]"""
    peer = room.connect("receiver", properties={Property.RECEIVE_MAXIMUM: 2})
    peer.subscribe(room.topic())
    sender = room.connect("sender")
    for number, qos in enumerate((1, 2, 1, 2, 1)):
        sender.publish(room.topic(), b"%d" % number, qos)
    first, second = peer.expect(Publish, qos=1), peer.expect(Publish, qos=2)
    # All else goes on: pings, messages of QoS 0, what the client itself publishes.
    peer.send(Pingreq())
    peer.expect(Pingresp)
    sender.publish(room.topic(), b"zero")
    assert peer.expect(Publish).payload == b"zero"
    assert peer.publish(room.topic("other"), b"x", 2) == Reason.NO_MATCHING_SUBSCRIBERS
    peer.send(Unsubscribe(99, ["unknown"]))
    peer.expect(Unsuback)
    peer.send(Pubrec(second.packet_id))
    peer.expect(Pubrel)
    peer.quiet()  # PUBREC frees nothing, PUBCOMP does
    peer.send(Pubcomp(second.packet_id))
    third = peer.expect(Publish, payload=b"2")
    peer.quiet()
    peer.send(Puback(first.packet_id))
    fourth = peer.expect(Publish, payload=b"3")
    peer.quiet()
    peer.send(Puback(third.packet_id))
    peer.acknowledge(peer.expect(Publish, payload=b"4"))
    peer.acknowledge(fourth)


def test_receive_maximum_of_the_gateway(narrow_room: Room) -> None:
    """[MQTT-3.3.4-7] [MQTT-4.13.1-1] More than it told is a protocol error; what is acknowledged does not count."""
    room = narrow_room
    peer = room.connect("sender")
    assert peer.connack.properties[Property.RECEIVE_MAXIMUM] == 2
    for _ in range(10):
        peer.publish(room.topic(), b"x", 1)
    receiver = room.connect("receiver", keep=True)
    receiver.subscribe(room.topic(), qos=1)
    peer.send(*(Publish(room.topic(), b"x", 1, packet_id=number) for number in (1, 2, 3)))
    assert [type(one) for one in peer.ends()][-1] is Disconnect


def test_a_smaller_receive_maximum_at_reconnect(room: Room) -> None:
    """[MQTT-3.3.4-9] [MQTT-4.9.0-1] [MQTT-4.9.0-2] It counts for what is sent again as well."""
    peer = receiver(room)
    sender = room.connect("sender")
    for number in range(4):
        sender.publish(room.topic(), b"%d" % number, 1)
    for _ in range(4):
        peer.expect(Publish)
    peer.cut()
    peer = back(room, properties={Property.RECEIVE_MAXIMUM: 1, Property.SESSION_EXPIRY: 60})
    for number in range(4):
        one = peer.expect(Publish, payload=b"%d" % number, dup=True)
        peer.quiet()
        peer.acknowledge(one)
    peer.quiet()


def test_a_smaller_packet_size_at_reconnect(room: Room) -> None:
    """[MQTT-3.1.2-24] [MQTT-3.1.2-25]"""
    peer = receiver(room)
    sender = room.connect("sender")
    for payload, qos in ((b"x" * 300, 1), (b"y" * 300, 2), (b"small", 1)):
        sender.publish(room.topic(), payload, qos)
        peer.expect(Publish)
    peer.cut()
    peer = back(room, properties={Property.MAXIMUM_PACKET_SIZE: 200, Property.SESSION_EXPIRY: 60})
    peer.message(b"small", dup=True)
    peer.quiet()
    peer.cut()
    back(room).quiet()
