"""Wills: when they are published, when not, and as what (sections 3.1.2.5, 3.1.3.2 and 3.14.4)."""

from __future__ import annotations

import pytest

from protocols.mqtt.packets import Disconnect, Property
from protocols.mqtt.reasons import Reason
from tests.conformance.mqtt_peer import Peer, Room


@pytest.fixture
def watcher(room: Room) -> Peer:
    watcher = room.connect("watcher")
    watcher.subscribe(room.topic("will"), retain_as_published=True)
    return watcher


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("keep", [False, True])
def test_a_cut_connection_leaves_its_will(room: Room, version: int, watcher: Peer, qos: int, keep: bool) -> None:
    """[MQTT-3.1.2-7] [MQTT-3.1.2-8] [MQTT-3.1.2-10] [MQTT-3.1.2-14] [MQTT3-3.1.2-8] [MQTT3-3.1.2-10]
    [MQTT3-3.1.2-16]"""
    room.connect(version=version, keep=keep, will=room.will(qos=qos)).cut()
    watcher.message(b"gone", qos=qos, retain=False)
    # It is removed once published: the session may go on without one.
    room.connect(version=version, keep=keep, clean=False).cut()
    watcher.quiet()
    late = room.connect("late")
    late.subscribe(room.topic("will"))
    late.quiet()


def test_a_retained_will(room: Room, version: int, watcher: Peer) -> None:
    """[MQTT-3.1.2-15] [MQTT3-3.1.2-17]"""
    room.connect(version=version, will=room.will(retain=True)).cut()
    watcher.message(b"gone", retain=True)
    late = room.connect("late")
    late.subscribe(room.topic("will"))
    late.message(b"gone", retain=True)


@pytest.mark.parametrize("keep", [False, True])
def test_disconnect_discards_the_will(room: Room, version: int, watcher: Peer, keep: bool) -> None:
    """[MQTT-3.1.2-8] [MQTT-3.1.2-10] [MQTT-3.14.4-3] [MQTT3-3.14.4-3] [MQTT3-3.1.2-10]"""
    room.connect(version=version, keep=keep, will=room.will()).leave()
    watcher.quiet()


@pytest.mark.parametrize("reason", [Reason.DISCONNECT_WITH_WILL, Reason.UNSPECIFIED])
def test_disconnect_with_another_reason_does_not(room: Room, watcher: Peer, reason: int) -> None:
    """[MQTT-3.1.2-8]"""
    room.connect(will=room.will()).leave(reason)
    watcher.message(b"gone")


def test_no_will_no_message(room: Room, version: int, watcher: Peer) -> None:
    """[MQTT3-3.1.2-12] [MQTT-3.1.2-8]"""
    room.connect(version=version).cut()
    watcher.quiet()


def test_protocol_errors_and_takeovers_leave_the_will(room: Room, version: int, watcher: Peer) -> None:
    """[MQTT-3.1.2-8] [MQTT3-3.1.2-8]"""
    peer = room.connect(version=version, will=room.will(payload=b"malformed"))
    peer.raw(b"\x36\0")  # QoS 3
    peer.ends()
    watcher.message(b"malformed")
    room.connect(version=version, will=room.will(payload=b"displaced"))
    room.connect(version=version)
    watcher.message(b"displaced")


def test_a_new_connection_within_the_delay_prevents_the_will(room: Room, watcher: Peer) -> None:
    """[MQTT-3.1.3-9] [MQTT-3.1.2-8]"""
    room.connect(keep=True, will=room.will(properties={Property.WILL_DELAY: 2})).cut()
    room.connect(keep=True, clean=False)
    for _ in range(2):
        room.a_while()
    watcher.quiet()


def test_the_delay_passes(room: Room, watcher: Peer) -> None:
    """[MQTT-3.1.2-8]"""
    room.connect(keep=True, will=room.will(properties={Property.WILL_DELAY: 1})).cut()
    watcher.message(b"gone")


def test_a_clean_start_ends_the_session_and_the_delay(room: Room, watcher: Peer) -> None:
    """[MQTT-3.1.2-8] The will is due when the session ends, if that is earlier."""
    room.connect(keep=True, will=room.will(properties={Property.WILL_DELAY: 3600})).cut()
    watcher.quiet()
    room.connect(clean=True)
    watcher.message(b"gone")


def test_properties_of_a_will(room: Room, watcher: Peer) -> None:
    """[MQTT-3.1.3-10]"""
    told = {
        Property.PAYLOAD_FORMAT: 1,
        Property.CONTENT_TYPE: "text/plain",
        Property.RESPONSE_TOPIC: "answers",
        Property.CORRELATION_DATA: b"\0\1",
        Property.USER_PROPERTY: [("b", "1"), ("a", "2"), ("b", "1"), ("a", "0")],
    }
    room.connect(will=room.will(properties={**told, Property.WILL_DELAY: 0})).cut()
    assert watcher.message(b"gone").properties == told


def test_a_will_is_forgotten_with_the_first_words_of_disconnect(room: Room, watcher: Peer) -> None:
    """[MQTT-3.14.4-3] [MQTT-3.14.4-1] What follows DISCONNECT is not read."""
    peer = room.connect(will=room.will())
    peer.send(Disconnect())
    peer.raw(b"\x36\0")
    assert peer.ends() == []
    watcher.quiet()
