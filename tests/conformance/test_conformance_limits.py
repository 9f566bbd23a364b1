"""A gateway that allows little: what it tells, what it refuses, and how (sections 3.2.2.3 and 4.13)."""

from __future__ import annotations

import pytest

from protocols.mqtt.packets import V5, Property, Publish, Suback, Subscribe, SubscriptionRequest
from protocols.mqtt.reasons import Reason
from tests.conformance.mqtt_peer import Room


def test_limits_are_told(narrow_room: Room) -> None:
    """[MQTT-3.2.2-9]"""
    told = narrow_room.connect(keep_alive=90).connack.properties
    assert told[Property.MAXIMUM_QOS] == 1
    assert told[Property.WILDCARD_AVAILABLE] == 0
    assert told[Property.SHARED_AVAILABLE] == 0
    assert told[Property.SUBSCRIPTION_IDENTIFIERS_AVAILABLE] == 0
    assert Property.TOPIC_ALIAS_MAXIMUM not in told
    assert told[Property.SERVER_KEEP_ALIVE] == 60


def test_a_subscription_of_any_qos_is_accepted(narrow_room: Room, version: int) -> None:
    """[MQTT-3.2.2-10]"""
    peer = narrow_room.connect(version=version)
    for qos in (0, 1, 2):
        assert peer.subscribe(narrow_room.topic(), qos=qos) == qos
    narrow_room.connect("sender").publish(narrow_room.topic(), b"x", 1)
    peer.message(b"x", qos=1)


def test_too_high_a_qos(narrow_room: Room, version: int) -> None:
    """[MQTT-3.2.2-11] [MQTT-3.2.2-12] [MQTT-4.13.1-1]"""
    peer = narrow_room.connect(version=version)
    peer.send(Publish(narrow_room.topic(), b"x", 2, packet_id=1))
    peer.ends_with(Reason.QOS_NOT_SUPPORTED)
    refused = narrow_room.hello("other", version, will=narrow_room.will(qos=2))
    if version == V5:
        narrow_room.refused(refused, Reason.QOS_NOT_SUPPORTED)
    else:
        peer = narrow_room.open(version)
        peer.send(refused)
        assert peer.ends() == []


def test_subscriptions_that_are_not_available(narrow_room: Room) -> None:
    """[MQTT-3.8.4-7] [MQTT-3.9.3-2]"""
    room = narrow_room
    for filter, reason in (
        (room.topic("+"), Reason.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED),
        ("$share/g/" + room.topic(), Reason.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED),
    ):
        peer = room.connect()
        peer.send(Subscribe(1, [SubscriptionRequest(filter)]))
        said = peer.read()
        assert reason in (said.reasons if isinstance(said, Suback) else [said.reason])
    peer = room.connect()
    peer.send(Subscribe(1, [SubscriptionRequest("a")], {Property.SUBSCRIPTION_IDENTIFIER: 1}))
    peer.ends_with(Reason.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED)


def test_no_wildcards_before_mqtt_5(narrow_room: Room) -> None:
    """[MQTT3-3.8.3-2]"""
    peer = narrow_room.connect(version=4)
    for filter in ("#", "+", narrow_room.topic("+"), narrow_room.topic("#")):
        peer.send(Subscribe(1, [SubscriptionRequest(filter, 1), SubscriptionRequest(narrow_room.topic(), 1)]))
        peer.expect(Suback, reasons=[0x80, 1])


def test_an_alias_where_there_are_none(narrow_room: Room) -> None:
    """[MQTT-3.2.2-17] [MQTT-3.2.2-18]"""
    peer = narrow_room.connect()
    peer.send(Publish(narrow_room.topic(), b"x", properties={Property.TOPIC_ALIAS: 1}))
    peer.ends_with(Reason.TOPIC_ALIAS_INVALID)


@pytest.mark.parametrize("keep_alive", [0, 60])
def test_the_keep_alive_that_was_told_holds(hasty_room: Room, keep_alive: int) -> None:
    """[MQTT-3.1.2-21] [MQTT-3.2.2-21] [MQTT-3.1.2-22]"""
    peer = hasty_room.connect(keep_alive=keep_alive)
    assert peer.connack.properties[Property.SERVER_KEEP_ALIVE] == 1
    peer.ends_with(Reason.KEEP_ALIVE_TIMEOUT)


def test_what_cannot_be_done_now(narrow_room: Room) -> None:
    """[MQTT3-4.8.0-2] [MQTT-3.4.2-1] There is room for one retained message. MQTT 5 says so; before it, the connection
    ends, and the client tries again."""
    room = narrow_room
    newer, older = room.connect("newer"), room.connect("older", 4)
    assert newer.publish(room.topic("a"), b"x", 1, retain=True) < 0x80
    assert newer.publish(room.topic("b"), b"x", 1, retain=True) == Reason.QUOTA_EXCEEDED
    assert older.publish(room.topic("a"), b"y", 1, retain=True) == 0
    older.send(Publish(room.topic("b"), b"x", 1, True, packet_id=9))
    assert older.ends() == []
    newer.publish(room.topic("a"), b"", 1, retain=True)
