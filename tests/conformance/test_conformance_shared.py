"""Shared subscriptions (section 4.8.2)."""

from __future__ import annotations

import select

import pytest

from protocols.mqtt.packets import Property, Puback, Publish, Pubrec
from protocols.mqtt.reasons import Reason
from tests.conformance.mqtt_peer import TIMEOUT, Peer, Room


def members(room: Room, *qos: int, version: int = 5) -> list[Peer]:
    """Members of one group, with sessions that last."""
    group = []
    for number, granted in enumerate(qos):
        peer = room.connect(f"member{number}", version, keep=True)
        peer.subscribe(f"$share/group/{room.topic('+')}", qos=granted)
        group.append(peer)
    return group


def chosen(group: list[Peer]) -> tuple[Peer, Peer]:
    """Who got the message, and the other."""
    ready, _, _ = select.select([peer.transport for peer in group], [], [], TIMEOUT)
    (one,) = [peer for peer in group if peer.transport in ready]
    (other,) = [peer for peer in group if peer is not one]
    other.quiet()
    return one, other


def test_each_message_goes_to_one_member(room: Room, version: int) -> None:
    """[MQTT-4.8.2-1] [MQTT-4.8.2-3] [MQTT-3.8.4-8] At the QoS of that member."""
    group = members(room, 0, 2, version=version)
    everyone = room.connect("everyone")
    everyone.subscribe(room.topic("+"))
    sender = room.connect("sender")
    for number in range(10):
        sender.publish(room.topic(), b"%d" % number, 1)
        one, _ = chosen(group)
        one.message(b"%d" % number, qos=0 if one is group[0] else 1)
        everyone.message(b"%d" % number)


def test_groups_are_apart_and_so_are_plain_subscriptions(room: Room) -> None:
    """[MQTT-4.8.2-1] [MQTT-3.8.4-3]"""
    peer = room.connect()
    for filter in ("$share/a/", "$share/b/", ""):
        peer.subscribe(filter + room.topic(), identifier=len(filter) + 1)
    room.connect("sender").publish(room.topic(), b"x", 1)
    told = [peer.message(b"x").properties[Property.SUBSCRIPTION_IDENTIFIER] for _ in range(3)]
    assert sorted(told) == [[1], [10], [10]]
    assert peer.unsubscribe("$share/a/" + room.topic(), "$share/c/" + room.topic()) == [0, 0x11]


@pytest.mark.parametrize(
    "filter", ["$share", "$share/", "$share/g", "$share/g/", "$share//t", "$share/a+/t", "$share/#/t"]
)
def test_wrong_shared_filters(room: Room, version: int, filter: str) -> None:
    """[MQTT-4.8.2-1] [MQTT-4.8.2-2]"""
    peer = room.connect(version=version)
    body = b"\0\1" + (b"\0" if version == 5 else b"") + bytes((0, len(filter))) + filter.encode() + b"\0"
    peer.raw(bytes((0x82, len(body))) + body)
    assert [one.reason for one in peer.ends()] == ([Reason.TOPIC_FILTER_INVALID] if version == 5 else [])


@pytest.mark.parametrize("filter", ["$shared", "$sharex/g/t", "$Share/g/t", "a/$share/g"])
def test_filters_that_merely_look_shared(room: Room, version: int, filter: str) -> None:
    """[MQTT-4.8.2-1] The whole first level is `$share`, or it is a filter like others:
    with no name in it, No Local allowed."""
    peer = room.connect(version=version)
    assert peer.subscribe(filter, qos=1) == 1
    if version == 5:
        assert peer.subscribe(filter, qos=1, no_local=True) == 1


@pytest.mark.parametrize("topic", ["$share", "$share/", "$share/g/t"])
def test_a_shared_filter_is_no_place_to_publish(room: Room, version: int, topic: str) -> None:
    """[MQTT-4.8.2-1] A topic name may look so; ours begin with `$`, and it is refused as they are:
    told, not disconnected."""
    member = room.connect("member")
    member.subscribe("$share/g/t")
    peer = room.connect(version=version)
    assert peer.publish(topic, b"x", 1) == (Reason.NOT_AUTHORIZED if version == 5 else 0)
    peer.quiet()
    member.quiet()


def test_no_local_is_not_for_groups(room: Room) -> None:
    """[MQTT-3.8.3-4]"""
    peer = room.connect()
    body = b"\0\1\0\0\x0a$share/g/t\x04"
    peer.raw(bytes((0x82, len(body))) + body)
    peer.ends_with(Reason.PROTOCOL_ERROR)


def test_a_begun_delivery_is_completed_to_the_same_member(room: Room) -> None:
    """[MQTT-4.8.2-4]"""
    group = members(room, 2, 2)
    room.connect("sender").publish(room.topic(), b"x", 2)
    one, other = chosen(group)
    first = one.expect(Publish, qos=2)
    who = f"member{group.index(one)}"
    one.cut()
    other.quiet()
    one = room.connect(who, keep=True, clean=False)
    again = one.expect(Publish, qos=2, dup=True, packet_id=first.packet_id, payload=b"x")
    one.acknowledge(again)
    other.quiet()


def test_a_begun_delivery_goes_to_nobody_else(room: Room) -> None:
    """[MQTT-4.8.2-5]"""
    group = members(room, 2, 2)
    room.connect("sender").publish(room.topic(), b"x", 2)
    one, other = chosen(group)
    one.expect(Publish, qos=2)
    who = f"member{group.index(one)}"
    one.leave(properties={Property.SESSION_EXPIRY: 0})
    other.quiet()
    room.connect(who).quiet()
    other.quiet()


def test_a_refused_message_goes_to_nobody_else(room: Room) -> None:
    """[MQTT-4.8.2-6]"""
    group = members(room, 2, 2)
    sender = room.connect("sender")
    for qos, answer in ((1, Puback), (2, Pubrec)):
        sender.publish(room.topic(), b"x", qos)
        one, other = chosen(group)
        one.send(answer(one.expect(Publish, qos=qos).packet_id, Reason.UNSPECIFIED))
        one.quiet()
        other.quiet()


def test_retained_messages_are_not_for_groups(room: Room) -> None:
    """[MQTT-4.8.2-1]"""
    room.connect("sender").publish(room.topic(), b"x", 1, retain=True)
    for peer in members(room, 1, 1):
        peer.quiet()
