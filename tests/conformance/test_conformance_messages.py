"""Retained messages, what properties messages keep, aliases, sizes and expiry (sections 3.3.1.3, 3.3.2.3 and
3.1.2.11)."""

from __future__ import annotations

import pytest

from protocols.mqtt.packets import (
    Property,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Unsubscribe,
)
from protocols.mqtt.reasons import Reason
from tests.conformance.mqtt_peer import Peer, Room

ALIAS = Property.TOPIC_ALIAS
EXPIRY = Property.MESSAGE_EXPIRY


# ------------------------------------------------------------------ retained messages


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_the_last_retained_message_is_kept(room: Room, version: int, qos: int) -> None:
    """[MQTT-3.3.1-5] [MQTT-3.3.1-9] [MQTT3-3.3.1-5] [MQTT3-3.3.1-6] [MQTT3-3.3.1-7] [MQTT3-3.3.1-8] [MQTT3-3.1.2-7]
    With its QoS, for who comes later, also when its sender is gone."""
    sender = room.connect("sender", version)
    for number in range(3):
        sender.publish(room.topic(), b"%d" % number, qos, retain=True)
    sender.leave()
    for granted in (0, 1, 2):
        late = room.connect(f"late{granted}", version)
        late.subscribe(room.topic("#"), qos=granted)
        late.message(b"2", retain=True, qos=min(qos, granted), topic=room.topic(), dup=False)
        late.quiet()


def test_established_subscriptions_see_no_retain_flag(room: Room, version: int) -> None:
    """[MQTT-3.3.1-12] [MQTT3-3.3.1-9]"""
    peer = room.connect(version=version)
    peer.subscribe(room.topic())
    sender = room.connect("sender", version)
    for qos in (0, 1, 2):
        sender.publish(room.topic(), b"x", qos, retain=True)
        peer.message(b"x", retain=False, qos=qos)


def test_an_empty_retained_message_removes(room: Room, version: int) -> None:
    """[MQTT-3.3.1-6] [MQTT-3.3.1-7] [MQTT3-3.3.1-10] [MQTT3-3.3.1-11] It goes on to subscribers as any other."""
    sender = room.connect("sender", version)
    sender.publish(room.topic(), b"kept", 1, retain=True)
    peer = room.connect(version=version)
    peer.subscribe(room.topic())
    peer.message(b"kept", retain=True)
    sender.publish(room.topic(), b"", 1, retain=True)
    peer.message(b"", retain=False)
    late = room.connect("late", version)
    late.subscribe(room.topic())
    late.quiet()


@pytest.mark.parametrize("payload", [b"other", b""])
def test_without_retain_nothing_retained_changes(room: Room, version: int, payload: bytes) -> None:
    """[MQTT-3.3.1-8] [MQTT3-3.3.1-12]"""
    sender = room.connect("sender", version)
    sender.publish(room.topic(), b"kept", 1, retain=True)
    sender.publish(room.topic(), payload, 1)
    sender.publish(room.topic("b"), b"not kept", 1)
    late = room.connect("late", version)
    late.subscribe(room.topic("+"))
    late.message(b"kept", retain=True)
    late.quiet()


def test_retain_handling(room: Room) -> None:
    """[MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]"""
    room.connect("sender").publish(room.topic(), b"kept", 1, retain=True)
    peer = room.connect()
    for handling, messages in ((1, 1), (1, 0), (2, 0), (0, 1), (0, 1)):
        peer.subscribe(room.topic(), retain_handling=handling)
        assert peer.messages(messages) == [b"kept"] * messages
        peer.quiet()
    peer.unsubscribe(room.topic())
    peer.subscribe(room.topic(), retain_handling=2)
    peer.quiet()
    peer.unsubscribe(room.topic())
    peer.subscribe(room.topic(), retain_handling=1)
    peer.message(b"kept")
    # A session that goes on has the subscription already.
    lasting = room.connect("lasting", keep=True)
    lasting.subscribe(room.topic(), retain_handling=1)
    lasting.message(b"kept")
    lasting.leave()
    lasting = room.connect("lasting", keep=True, clean=False)
    lasting.subscribe(room.topic(), retain_handling=1)
    lasting.quiet()


def test_retain_as_published(room: Room) -> None:
    """[MQTT-3.3.1-12] [MQTT-3.3.1-13] Also for those who come back to it."""
    peer = room.connect(keep=True)
    peer.subscribe(room.topic(), retain_as_published=True)
    sender = room.connect("sender")
    for retain in (True, False):
        for qos in (0, 1, 2):
            sender.publish(room.topic(), b"x", qos, retain=retain)
            peer.message(b"x", retain=retain, qos=qos)
    peer.leave()
    sender.publish(room.topic(), b"queued", 1, retain=True)
    peer = room.connect(keep=True, clean=False)
    peer.message(b"queued", retain=True)


def test_several_retained_messages(room: Room, version: int) -> None:
    """[MQTT-3.8.4-5] [MQTT-3.3.1-9] [MQTT3-3.3.1-6] [MQTT3-3.8.4-4] Each filter of a SUBSCRIBE gets its own."""
    sender = room.connect("sender", version)
    for name in ("a", "b", "c"):
        sender.publish(room.topic(name), name.encode(), 1, retain=True)
    peer = room.connect(version=version)
    peer.send(Subscribe(1, [SubscriptionRequest(room.topic("a"), 1), SubscriptionRequest(room.topic("+"), 1)]))
    peer.expect(Suback, reasons=[1, 1])
    assert sorted(peer.messages(4)) == [b"a", b"a", b"b", b"c"]
    peer.quiet()


# ------------------------------------------------------------------ properties


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_properties_go_on_unaltered(room: Room, qos: int) -> None:
    """[MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20] [MQTT-1.5.7-1]
    Live, retained, and from a queue."""
    told = {
        Property.PAYLOAD_FORMAT: 1,
        Property.CONTENT_TYPE: "application/json; é",
        Property.RESPONSE_TOPIC: "answers/" + room.name,
        Property.CORRELATION_DATA: bytes(range(256)),
        Property.USER_PROPERTY: [("z", "1"), ("a", "2"), ("z", "1"), ("", ""), ("a", "0")],
    }
    peer = room.connect(keep=True)
    peer.subscribe(room.topic())
    room.connect("older", 4).subscribe(room.topic())
    sender = room.connect("sender")
    sender.publish(room.topic(), b"{}", qos, retain=True, properties=told)
    assert peer.message(b"{}").properties == told
    room.peers[1].message(b"{}", properties={})
    late = room.connect("late")
    late.subscribe(room.topic())
    assert late.message(b"{}").properties == told
    if qos:
        peer.leave()
        sender.publish(room.topic(), b"{}", qos, properties=told)
        assert room.connect(keep=True, clean=False).message(b"{}").properties == told


def test_a_payload_format_of_0_is_told(room: Room) -> None:
    """[MQTT-3.3.2-4]"""
    peer = room.connect()
    peer.subscribe(room.topic())
    room.connect("sender").publish(room.topic(), b"x", properties={Property.PAYLOAD_FORMAT: 0})
    assert peer.message().properties == {Property.PAYLOAD_FORMAT: 0}


# ------------------------------------------------------------------ expiry


def test_message_expiry(room: Room) -> None:
    """[MQTT-3.3.2-5] [MQTT-3.3.2-6] [MQTT-4.3.3-7] Less the time waited; deleted when it has passed, but not once
    PUBLISH was sent."""
    away = room.connect("away", keep=True)
    away.subscribe(room.topic())
    away.leave()
    small = {Property.RECEIVE_MAXIMUM: 2, Property.SESSION_EXPIRY: 60}
    begun = room.connect("begun", properties=small)
    begun.subscribe(room.topic())
    live = room.connect("live")
    live.subscribe(room.topic())
    sender = room.connect("sender")
    for seconds, qos in ((1, 2), (1, 1), (100, 1)):
        sender.publish(room.topic(), b"%d" % seconds, qos, retain=seconds == 100, properties={EXPIRY: seconds})
        assert live.message().properties[EXPIRY] == seconds
    sender.publish(room.topic("short"), b"short", 1, retain=True, properties={EXPIRY: 1})
    first, second = begun.expect(Publish, qos=2), begun.expect(Publish, qos=1)
    begun.cut()

    room.a_while()

    away = room.connect("away", keep=True, clean=False)
    assert 90 <= away.message(b"100").properties[EXPIRY] <= 99
    away.quiet()
    late = room.connect("late")
    late.subscribe(room.topic("#"))
    assert 90 <= late.message(b"100", retain=True).properties[EXPIRY] <= 99
    late.quiet()
    begun = room.connect("begun", clean=False, properties=small)
    begun.expect(Publish, dup=True, packet_id=first.packet_id)
    begun.expect(Publish, dup=True, packet_id=second.packet_id)
    begun.send(Puback(second.packet_id), Pubrec(first.packet_id))
    rest = [begun.read(), begun.read()]
    assert {type(one) for one in rest} == {Pubrel, Publish}
    begun.send(Pubcomp(first.packet_id))


def test_messages_that_wait_for_room_expire(room: Room) -> None:
    """[MQTT-3.3.2-5]"""
    peer = room.connect(properties={Property.RECEIVE_MAXIMUM: 1})
    peer.subscribe(room.topic())
    sender = room.connect("sender")
    sender.publish(room.topic(), b"first", 1)
    sender.publish(room.topic(), b"expires", 1, properties={EXPIRY: 1})
    sender.publish(room.topic(), b"stays", 1)
    held = peer.expect(Publish, payload=b"first")
    room.a_while()
    peer.acknowledge(held)
    peer.message(b"stays")
    peer.quiet()


# ------------------------------------------------------------------ sizes


@pytest.mark.parametrize("keep", [False, True])
def test_what_is_too_large_counts_as_delivered(room: Room, keep: bool) -> None:
    """[MQTT-3.1.2-24] [MQTT-3.1.2-25]"""
    peer = room.connect(keep=keep, properties={Property.MAXIMUM_PACKET_SIZE: 200, Property.RECEIVE_MAXIMUM: 1})
    peer.subscribe(room.topic())
    sender = room.connect("sender")
    for qos in (0, 1, 2):
        sender.publish(room.topic(), b"x" * 300, qos)
        sender.publish(room.topic(), b"x", 0, properties={Property.USER_PROPERTY: [("name", "v" * 300)]})
        sender.publish(room.topic(), b"small", qos)
        peer.message(b"small", qos=qos)
    peer.quiet()
    if keep:
        peer.leave()
        sender.publish(room.topic(), b"x" * 300, 1)
        sender.publish(room.topic(), b"small", 1)
        small = {Property.MAXIMUM_PACKET_SIZE: 200}
        peer = room.connect(keep=True, clean=False, properties=small)
        peer.message(b"small")
        peer.quiet()
    late = room.connect("late", properties={Property.MAXIMUM_PACKET_SIZE: 200})
    sender.publish(room.topic("kept"), b"x" * 300, 1, retain=True)
    late.subscribe(room.topic("kept"))
    late.quiet()


@pytest.mark.parametrize("keep", [False, True])
def test_answers_that_a_client_has_no_room_for(room: Room, keep: bool) -> None:
    """[MQTT-3.1.2-24] It is let go, and the gateway's log shows no defect."""
    for size in (1, 10):
        peer = room.open()
        peer.send(room.hello(keep=keep, properties={Property.MAXIMUM_PACKET_SIZE: size}))
        assert peer.ends() == []
    names = [room.topic(str(number)) for number in range(60)]
    for request in (Subscribe(1, [SubscriptionRequest(name) for name in names]), Unsubscribe(1, names)):
        peer = room.connect(keep=keep, properties={Property.MAXIMUM_PACKET_SIZE: 40})
        peer.send(request)
        peer.ends_with(Reason.PACKET_TOO_LARGE)


def test_a_packet_that_is_too_large_for_the_gateway(narrow_room: Room, version: int) -> None:
    """[MQTT-4.13.1-1] [MQTT-3.2.2-15] [MQTT3-4.8.0-1]"""
    room = narrow_room
    peer = room.connect(version=version)
    if version == 5:
        assert peer.connack.properties[Property.MAXIMUM_PACKET_SIZE] == 2000
    peer.send(Publish(room.topic(), b"x" * 2000))
    peer.ends_with(Reason.PACKET_TOO_LARGE)


# ------------------------------------------------------------------ topic aliases


def test_aliases_of_a_client(room: Room) -> None:
    """[MQTT-3.3.2-12] [MQTT-3.3.2-7] [MQTT-3.3.2-9] From 1 to the maximum that it was told;
    gone with the connection."""
    watcher = room.connect("watcher")
    watcher.subscribe(room.topic("+"))
    peer = room.connect(keep=True)
    maximum = peer.connack.properties[Property.TOPIC_ALIAS_MAXIMUM]
    for alias in (1, maximum):
        peer.send(Publish(room.topic(str(alias)), b"whole", properties={ALIAS: alias}))
        watcher.message(b"whole", topic=room.topic(str(alias)), properties={})
        for qos in (0, 1):
            peer.send(Publish("", b"short", qos, packet_id=qos, properties={ALIAS: alias}))
            watcher.message(b"short", topic=room.topic(str(alias)), qos=qos)
            if qos:
                peer.expect(Puback)
    peer.send(Publish(room.topic("new"), b"new", properties={ALIAS: 1}), Publish("", b"x", properties={ALIAS: 1}))
    for _ in range(2):
        watcher.message(topic=room.topic("new"))
    peer.leave()
    peer = room.connect(keep=True, clean=False)
    peer.send(Publish("", b"x", properties={ALIAS: 1}))
    peer.ends_with(Reason.PROTOCOL_ERROR)
    peer = room.connect(keep=True, clean=False)
    peer.send(Publish(room.topic(), b"x", properties={ALIAS: maximum + 1}))
    peer.ends_with(Reason.TOPIC_ALIAS_INVALID)
    watcher.quiet()


def resolved(peer: Peer, aliases: dict[int, str], maximum: int) -> str:
    """The topic of the next message, by the rules of a client."""
    message = peer.message()
    alias = message.properties.get(ALIAS)
    if alias is None:
        assert message.topic
        return message.topic
    assert 1 <= alias <= maximum
    if message.topic:
        aliases[alias] = message.topic
    return aliases[alias]


def test_aliases_towards_a_client(room: Room) -> None:
    """[MQTT-3.1.2-26] [MQTT-3.3.2-11] [MQTT-3.3.2-7] [MQTT-3.3.2-8] Each is introduced on its connection."""
    sender = room.connect("sender")
    told = {Property.TOPIC_ALIAS_MAXIMUM: 2}
    peer = room.connect(keep=True, properties=told)
    peer.subscribe(room.topic("+"))
    names = [room.topic(str(number)) for number in range(6)]
    for _ in range(2):
        aliases: dict[int, str] = {}
        for qos in (0, 1):
            for name in names + names:
                sender.publish(name, b"x", qos)
            assert [resolved(peer, aliases, 2) for _ in range(12)] == names + names
        peer.leave()
        sender.publish(names[0], b"x", 1)
        peer = room.connect(keep=True, clean=False, properties=told)
        assert resolved(peer, {}, 2) == names[0]


def test_no_alias_unasked(room: Room) -> None:
    """[MQTT-3.1.2-27]"""
    sender = room.connect("sender")
    for told in ({}, {Property.TOPIC_ALIAS_MAXIMUM: 0}):
        peer = room.connect(properties=told)
        peer.subscribe(room.topic())
        for _ in range(3):
            sender.publish(room.topic(), b"x")
            peer.message(topic=room.topic(), properties={})


# ------------------------------------------------------------------ request and response


def test_a_request_and_its_answer(room: Room) -> None:
    """[MQTT-3.3.2-15] [MQTT-3.3.2-16]"""
    service, asker = room.connect("service"), room.connect("asker")
    service.subscribe(room.topic("ask"))
    asker.subscribe(room.topic("answers"))
    told = {Property.RESPONSE_TOPIC: room.topic("answers"), Property.CORRELATION_DATA: b"\0 7"}
    asker.publish(room.topic("ask"), b"2+2", 1, properties=told)
    question = service.message(b"2+2").properties
    correlation = {Property.CORRELATION_DATA: question[Property.CORRELATION_DATA]}
    service.publish(question[Property.RESPONSE_TOPIC], b"4", 1, properties=correlation)
    assert asker.message(b"4").properties == correlation
