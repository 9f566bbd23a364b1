"""SUBSCRIBE and UNSUBSCRIBE, what matches, and what overlaps (sections 3.8 to 3.11, 4.7, and 3.3.4)."""

from __future__ import annotations

import pytest

from protocols.mqtt.encoding import encode
from protocols.mqtt.packets import (
    Pingreq,
    Pingresp,
    Property,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Unsuback,
    Unsubscribe,
)
from protocols.mqtt.reasons import Reason
from tests.conformance.mqtt_peer import Room

IDENTIFIER = Property.SUBSCRIPTION_IDENTIFIER


def test_suback(room: Room, version: int) -> None:
    """[MQTT-2.2.1-6] [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.8.4-5] [MQTT-3.8.4-6] [MQTT-3.8.4-7] [MQTT-3.9.3-1]
    [MQTT-3.9.3-2] [MQTT3-2.3.1-7] [MQTT3-3.8.4-1] [MQTT3-3.8.4-2] [MQTT3-3.8.4-4] [MQTT3-3.8.4-5] [MQTT3-3.9.3-1]
    [MQTT3-3.9.3-2]"""
    peer = room.connect(version=version)
    filters = [room.topic("a"), "forbidden/x", room.topic("b"), room.topic("c")]
    requests = [SubscriptionRequest(f, qos) for f, qos in zip(filters, (0, 1, 1, 2), strict=True)]
    peer.send(Subscribe(4711, requests))
    refused = Reason.NOT_AUTHORIZED if version == 5 else 0x80
    peer.expect(Suback, packet_id=4711, reasons=[0, refused, 1, 2])
    sender = room.connect("sender")
    for name in ("a", "b", "c"):
        sender.publish(room.topic(name), b"x", 2)
    assert [peer.message().qos for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("granted", [0, 1, 2])
def test_the_lower_qos_holds(room: Room, version: int, granted: int) -> None:
    """[MQTT-3.8.4-8] [MQTT3-3.8.4-6]"""
    peer = room.connect(version=version)
    assert peer.subscribe(room.topic(), qos=granted) == granted
    sender = room.connect("sender")
    for qos in (0, 1, 2):
        sender.publish(room.topic(), b"x", qos)
        peer.message(qos=min(qos, granted))
    peer.quiet()


def test_the_same_filter_again(room: Room, version: int) -> None:
    """[MQTT-3.8.4-3] [MQTT-3.8.4-4] [MQTT3-3.8.4-3] It replaces the subscription; retained messages come again, and
    nothing is lost or doubled."""
    sender = room.connect("sender")
    sender.publish(room.topic("kept"), b"kept", retain=True)
    peer = room.connect(version=version)
    peer.subscribe(room.topic("+"), qos=2)
    peer.message(b"kept", retain=True)
    sender.publish(room.topic("a"), b"1", 1)
    peer.message(b"1", qos=1)
    assert peer.subscribe(room.topic("+"), qos=0) == 0
    peer.message(b"kept", retain=True)
    sender.publish(room.topic("a"), b"2", 1)
    peer.message(b"2", qos=0)
    peer.quiet()
    if version == 5:
        peer.subscribe(room.topic("+"), qos=1, identifier=7, retain_handling=2)
        sender.publish(room.topic("a"), b"3", 1)
        assert peer.message(b"3", qos=1).properties == {IDENTIFIER: [7]}
        peer.quiet()


def test_replacing_loses_nothing(room: Room) -> None:
    """[MQTT-3.8.4-4]"""
    peer, sender = room.connect(), room.connect("sender")
    peer.subscribe(room.topic())
    total = 120  # fewer than the Receive Maximum
    for number in range(total):
        sender.send(Publish(room.topic(), b"%d" % number, 1, packet_id=number + 1))
        if number % 10 == 0:
            peer.send(Subscribe(1000 + number, [SubscriptionRequest(room.topic(), 1)]))
    seen = []
    while len(seen) < total:
        packet = peer.read()
        if isinstance(packet, Publish):
            seen.append(packet.payload)
            peer.send(Puback(packet.packet_id))
    assert seen == [b"%d" % number for number in range(total)]


def test_unsuback(room: Room, version: int) -> None:
    """[MQTT-2.2.1-6] [MQTT-3.10.4-1] [MQTT-3.10.4-2] [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.10.4-6] [MQTT-3.11.3-1]
    [MQTT-3.11.3-2] [MQTT3-2.3.1-7] [MQTT3-3.10.4-1] [MQTT3-3.10.4-2] [MQTT3-3.10.4-4] [MQTT3-3.10.4-5] [MQTT3-3.10.4-6]
    Filters are compared as they are written, not by what they match."""
    peer, sender = room.connect(version=version), room.connect("sender")
    wild, plain, other = room.topic("+"), room.topic("a"), room.topic("b/c")
    peer.subscribe(wild, plain, other)
    peer.send(Unsubscribe(321, [room.topic("unknown"), plain.upper(), room.topic("#"), wild]))
    none, done = Reason.NO_SUBSCRIPTION_EXISTED, Reason.SUCCESS
    peer.expect(Unsuback, packet_id=321, reasons=[none, none, none, done] if version == 5 else [])
    sender.publish(room.topic("z"), b"unseen", 1)
    sender.publish(plain, b"seen", 1)
    peer.message(b"seen")
    peer.unsubscribe(plain, plain)
    sender.publish(plain, b"unseen", 1)
    sender.publish(other, b"seen", 1)
    peer.message(b"seen")
    peer.quiet()


def test_begun_deliveries_go_on_after_unsubscribe(room: Room, version: int) -> None:
    """[MQTT-3.10.4-3] [MQTT3-3.10.4-3]"""
    peer, sender = room.connect(version=version, keep=True), room.connect("sender")
    peer.subscribe(room.topic())
    sender.publish(room.topic(), b"one", 1)
    sender.publish(room.topic(), b"two", 2)
    first, second = peer.expect(Publish), peer.expect(Publish)
    peer.unsubscribe(room.topic())
    peer.cut()
    peer = room.connect(version=version, keep=True, clean=False)
    peer.expect(Publish, dup=True, packet_id=first.packet_id, payload=b"one")
    peer.expect(Publish, dup=True, packet_id=second.packet_id, payload=b"two")
    peer.send(Puback(first.packet_id), Pubrec(second.packet_id))
    peer.expect(Pubrel, packet_id=second.packet_id)
    peer.send(Pubcomp(second.packet_id))
    sender.publish(room.topic(), b"three", 1)
    peer.quiet()


def test_overlapping_subscriptions(room: Room, version: int) -> None:
    """[MQTT-3.3.4-2] [MQTT-3.3.2-3] [MQTT3-3.3.5-1] [MQTT3-3.3.2-3] One copy, at the highest QoS that was granted."""
    peer, sender = room.connect(version=version), room.connect("sender")
    peer.subscribe(room.topic("#"), qos=0)
    peer.subscribe(room.topic("a/+"), qos=2)
    peer.subscribe(room.topic("a/b"), qos=1)
    sender.publish(room.topic("a/b"), b"x", 2)
    peer.message(b"x", qos=2, topic=room.topic("a/b"))
    peer.quiet()


def test_subscription_identifiers(room: Room) -> None:
    """[MQTT-3.3.4-3] [MQTT-3.3.4-4]"""
    peer, sender = room.connect(keep=True), room.connect("sender")
    peer.subscribe(room.topic("#"), identifier=1)
    peer.subscribe(room.topic("a/+"), identifier=268_435_455)
    peer.subscribe(room.topic("+/b"))
    for qos in (0, 1, 2):
        sender.publish(room.topic("a/b"), b"x", qos)
        assert sorted(peer.message().properties[IDENTIFIER]) == [1, 268_435_455]
    sender.publish(room.topic("c"), b"x")
    assert peer.message().properties == {IDENTIFIER: [1]}
    peer.leave()
    sender.publish(room.topic("a/b"), b"queued", 1)
    peer = room.connect(keep=True, clean=False)
    assert sorted(peer.message(b"queued").properties[IDENTIFIER]) == [1, 268_435_455]


def test_no_local(room: Room) -> None:
    """[MQTT-3.8.3-3] By client id: of a session's earlier connection too."""
    peer, other = room.connect(keep=True), room.connect("other")
    peer.subscribe(room.topic(), no_local=True)
    for qos in (0, 1, 2):
        peer.publish(room.topic(), b"mine", qos)
        other.publish(room.topic(), b"theirs", qos)
        peer.message(b"theirs", qos=qos)
    will = room.will("t", b"mine")
    peer.leave()
    peer = room.connect(keep=True, clean=False, will=will)
    peer.cut()
    peer = room.connect(keep=True, clean=False)
    peer.quiet()
    peer.subscribe(room.topic())
    assert peer.publish(room.topic("else"), b"x", 1) == Reason.NO_MATCHING_SUBSCRIBERS
    peer.send(Publish(room.topic(), b"mine"))
    peer.message(b"mine")


@pytest.mark.parametrize(
    ("filter", "topic", "matches"),
    [
        ("/+", "/", True),
        ("+", "/", False),
        ("+/+", "/", True),
        ("a/#", "a", True),
        ("a/+", "a", False),
        ("a/+", "a/", True),
        ("a b", "a b", True),
        ("A", "a", False),
        ("é", "e\u0301", False),
        ("a//b", "a/b", False),
        ("\ufeffa", "\ufeffa", True),
        ("\ufeffa", "a", False),
    ],
)
def test_matching(room: Room, version: int, filter: str, topic: str, matches: bool) -> None:
    """[MQTT-4.7.3-4] [MQTT-3.3.2-3] [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-1.5.4-3] [MQTT3-4.7.3-4] [MQTT3-3.3.2-3]
    [MQTT3-4.7.1-2] [MQTT3-4.7.1-3] [MQTT3-1.5.3-3]"""
    peer = room.connect(version=version)
    peer.subscribe(room.topic("end"), qos=0)
    peer.subscribe(filter, qos=0)
    mine = room.name.encode()
    room.connect("sender").send(Publish(topic, mine), Publish(room.topic("end"), b"end"))
    seen = []
    while (message := peer.message()).payload != b"end":
        if message.payload == mine:
            seen.append(message.topic)
    assert seen == ([topic] if matches else [])


@pytest.mark.parametrize("filter", ["#", "+/#", "+/+", "+/+/+"])
def test_leading_wildcards_and_the_gateways_own_topics(room: Room, version: int, filter: str) -> None:
    """[MQTT-4.7.2-1] [MQTT3-4.7.2-1] Its topics are there, retained, for who names them."""
    peer, named = room.connect(version=version), room.connect("named", version)
    named.subscribe("$SYS/#", qos=0)
    assert named.message(retain=True).topic.startswith("$SYS/")
    room.connect("sender").publish(room.topic("kept/last"), b"kept", 1, retain=True)
    peer.subscribe(filter, room.topic("kept/last"), qos=0)
    seen = {peer.message(retain=True).topic}
    while room.topic("kept/last") not in seen:
        seen.add(peer.message(retain=True).topic)
    assert not [topic for topic in seen if topic.startswith("$")]


@pytest.mark.parametrize("filter", ["", "a#", "a/#/b", "a+", "+a/b", "a/b+", "a\0b", "##"])
def test_wrong_filters(room: Room, version: int, filter: str) -> None:
    """[MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.3-1] [MQTT-4.7.3-2] [MQTT-3.8.3-1] [MQTT-3.10.3-1] [MQTT-4.13.1-1]
    [MQTT3-4.7.1-2] [MQTT3-4.7.1-3] [MQTT3-4.7.3-1] [MQTT3-4.7.3-2] [MQTT3-3.8.3-1] [MQTT3-3.10.3-1] [MQTT3-4.8.0-1]"""
    text = filter.encode()
    nothing = b"\0" if version == 5 else b""
    for first, options in ((0x82, b"\0"), (0xA2, b"")):
        peer = room.connect(version=version)
        body = b"\0\1" + nothing + len(text).to_bytes(2, "big") + text + options
        peer.raw(bytes((first, len(body))) + body)
        said = peer.ends()
        assert len(said) == (version == 5)
        if version == 5:
            assert said[0].reason in (Reason.TOPIC_FILTER_INVALID, Reason.MALFORMED_PACKET, Reason.PROTOCOL_ERROR)


def test_the_longest_names(room: Room, version: int) -> None:
    """[MQTT-4.7.3-3] [MQTT3-4.7.3-3] Two bytes of length cannot say more; ours is the lower bound, max_topic_length."""
    peer = room.connect(version=version)
    longest = room.topic("x" * 1024)[:1024]
    peer.subscribe(longest)
    peer.send(Publish(longest, b"x"))
    peer.message(b"x", topic=longest)
    peer.send(Publish(longest + "y", b"x"))
    said = peer.ends()
    assert [one.reason for one in said] == ([Reason.TOPIC_NAME_INVALID] if version == 5 else [])


@pytest.mark.parametrize(
    "frame",
    [
        "80 06 0001 00 0001 61 00",  # flags of SUBSCRIBE
        "82 03 0001 00",  # no filter
        "82 07 0000 00 0001 61 00",  # packet id 0
        "82 07 0001 00 0001 61 03",  # QoS 3
        "82 07 0001 00 0001 61 40",  # reserved option
        "82 07 0001 00 0001 61 30",  # retain handling 3
        "a0 06 0001 00 0001 61",  # flags of UNSUBSCRIBE
        "a2 03 0001 00",  # no filter
        "60 02 0001",  # flags of PUBREL
        "e1 00",  # flags of DISCONNECT
        "f1 00",  # flags of AUTH
        "c1 00",  # flags of PINGREQ
        "36 04 0001 61 00",  # QoS 3
        "30 80 80 80 80 01",  # a length without end
        "00 00",
        "20 03 00 00 00",  # CONNACK from a client
        "d0 00",  # PINGRESP from a client
        "82 13 0001 00 000c 2473 6861 7265 2f67 2f61 6263 04",  # No Local on a shared subscription
    ],
)
def test_malformed_packets(room: Room, frame: str) -> None:
    """[MQTT-2.1.3-1] [MQTT-3.3.1-4] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.8.3-2] [MQTT-3.8.3-4] [MQTT-3.8.3-5]
    [MQTT-3.10.1-1] [MQTT-3.10.3-2] [MQTT-3.14.1-1] [MQTT-3.15.1-1] [MQTT-4.13.1-1] [MQTT-4.13.2-1] [MQTT-3.14.4-1]
    [MQTT-3.14.4-2] [MQTT-3.14.2-1]"""
    peer = room.connect()
    peer.raw(bytes.fromhex(frame) + b"\xc0\0")
    (last,) = peer.ends()
    assert last.reason in (Reason.MALFORMED_PACKET, Reason.PROTOCOL_ERROR)


@pytest.mark.parametrize(
    "frame",
    [
        "80 06 0001 0001 61 00",
        "82 02 0001",
        "82 06 0000 0001 61 00",
        "82 06 0001 0001 61 03",
        "82 06 0001 0001 61 04",
        "a0 05 0001 0001 61",
        "a2 02 0001",
        "60 02 0001",
        "e1 00",
        "c1 00",
        "f0 00",
        "36 03 0001 61",
        "00 00",
        "20 02 00 00",
        "30 04 0002 6123",  # a topic with a wildcard
        "30 03 0001 ff",
        "30 03 0001 00",
        "32 05 0001 61 0000",  # packet id 0
    ],
)
def test_malformed_packets_before_mqtt_5(room: Room, frame: str) -> None:
    """[MQTT3-2.2.2-2] [MQTT3-2.3.1-1] [MQTT3-3.3.1-4] [MQTT3-3.3.2-2] [MQTT3-3.6.1-1] [MQTT3-3.8.1-1] [MQTT3-3.8.3-3]
    [MQTT3-3.8.3-4] [MQTT3-3.10.1-1] [MQTT3-3.10.3-2] [MQTT3-3.14.1-1] [MQTT3-4.7.1-1] [MQTT3-4.8.0-1] [MQTT3-1.5.3-1]
    [MQTT3-1.5.3-2]"""
    peer = room.connect(version=4)
    peer.raw(bytes.fromhex(frame) + b"\xc0\0")
    assert peer.ends() == []


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ("30 05 0002 6123 00", Reason.TOPIC_NAME_INVALID),  # wildcard in a topic
        ("30 04 0001 ff 00", Reason.MALFORMED_PACKET),
        ("30 03 0000 00", Reason.PROTOCOL_ERROR),  # no topic and no alias
        ("30 07 0001 61 03 23 0000", Reason.TOPIC_ALIAS_INVALID),  # alias 0
        ("30 07 0001 61 03 23 ffff", Reason.TOPIC_ALIAS_INVALID),
        ("30 06 0001 61 02 0b 01", Reason.PROTOCOL_ERROR),  # a Subscription Identifier from a client
        ("30 06 0001 61 02 01 02", Reason.PROTOCOL_ERROR),  # Payload Format Indicator 2
        ("30 08 0001 61 04 01 00 01 00", Reason.PROTOCOL_ERROR),  # twice
        ("30 08 0001 61 04 08 0001 23", Reason.PROTOCOL_ERROR),  # a Response Topic with a wildcard
        ("32 06 0001 61 0000 00", Reason.PROTOCOL_ERROR),  # packet id 0
        ("30 05 0001 61 80 00", Reason.MALFORMED_PACKET),  # a length with padding
        ("38 04 0001 61 00", Reason.MALFORMED_PACKET),  # DUP at QoS 0
        ("e0 02 8e 00", Reason.PROTOCOL_ERROR),  # a reason of servers
        ("e0 07 00 05 11 0000 0001", Reason.PROTOCOL_ERROR),  # an expiry where CONNECT had none
        ("f0 02 19 00", Reason.PROTOCOL_ERROR),  # AUTH where CONNECT had no method
    ],
)
def test_protocol_errors(room: Room, frame: str, reason: int) -> None:
    """[MQTT-4.13.1-1] [MQTT-3.3.2-1] [MQTT-3.3.2-2] [MQTT-3.3.2-8] [MQTT-3.3.2-14] [MQTT-3.3.4-6] [MQTT-1.5.5-1]
    [MQTT-3.3.1-2] [MQTT-3.14.2-1] [MQTT-4.12.0-7] [MQTT-4.7.0-1]"""
    peer = room.connect()
    peer.raw(bytes.fromhex(frame) + b"\xc0\0")
    said = peer.ends()
    assert [one.reason for one in said] == [reason]


def test_requests_and_disconnect_in_one_write(room: Room, version: int) -> None:
    """[MQTT-3.14.4-1] [MQTT3-4.8.0-1] What came before DISCONNECT, or before an error, is done; the gateway's log shows
    no defect."""
    watcher = room.connect("watcher")
    watcher.subscribe(room.topic("+"), qos=0)
    for last in (b"\xe0\0", b"\x36\0", b"\x00\0"):
        peer = room.connect(version=version)
        requests = (Subscribe(1, [SubscriptionRequest("a")]), Unsubscribe(2, ["a"]), Pingreq())
        messages = (Publish(room.topic(str(qos)), last, qos, packet_id=qos) for qos in (0, 1, 2))
        peer.raw(b"".join(encode(packet, version) for packet in (*requests, *messages, Pubrel(2))) + last)
        peer.ends()
        assert watcher.messages(3) == [last] * 3
    peer = room.open(version)
    peer.raw(encode(room.hello(version=version), version) + b"\x36\0")
    assert len(peer.ends()) == (version == 5)


def test_pings_are_not_behind_subscriptions(room: Room) -> None:
    """[MQTT-3.12.4-1] Requests in one write are all answered."""
    peer = room.connect()
    peer.raw(bytes.fromhex("82 07 0001 00 0001 61 00 a2 06 0002 00 0001 61 c0 00".replace(" ", "")))
    assert [type(peer.read()) for _ in range(3)] == [Suback, Unsuback, Pingresp]
