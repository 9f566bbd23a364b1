"""What clients of MQTT may try against a gateway process: none of it reaches what is not theirs, or harms others."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtest.free_ports import free_ports
from protocols.mqtt.encoding import encode
from protocols.mqtt.packets import (
    Connack,
    Connect,
    Pingreq,
    Pingresp,
    Property,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Will,
)
from protocols.mqtt.reasons import Reason
from tests.conformance.mqtt_peer import Peer, Room
from tests.system.gateway_process import PATIENCE, Gateway

EXTRA = """
[[listeners]]
name = "mqtt"
transport = "tcp"
port = {port}
protocols = ["mqtt"]

[[authenticators]]
kind = "anonymous"
loopback_only = true

[limits]
accepts_per_address_per_second = 100000.0
accept_burst_per_address = 100000

[mqtt]
max_packet = 100000
max_retained_bytes = 100000
max_queued_bytes = 100000
receive_maximum = 50
max_unreleased = 60
packet_timeout = 3.0
"""
LARGE = {Property.USER_PROPERTY: [("name", "v" * 30_000)]}


class AbusedGateway(Gateway):
    """A gateway that lets in whoever comes from this machine, by MQTT."""

    def __init__(self, directory: Path) -> None:
        (self.port,) = free_ports(1)
        super().__init__(directory, extra=EXTRA.format(port=self.port))
        self.log_accesses()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AbusedGateway]:
    gateway = AbusedGateway(tmp_path_factory.mktemp("mqtt-abuse"))
    try:
        gateway.start()
        yield gateway
        gateway.assert_sound()
    finally:
        gateway.close()


@pytest.fixture
def room(gateway: AbusedGateway, request: pytest.FixtureRequest) -> Iterator[Room]:
    room = Room(gateway.port, re.sub(r"\W+", "-", request.node.name).strip("-"))
    yield room
    room.close()


@pytest.mark.parametrize(("version", "protocol"), [(3, "mqtt 3.1"), (4, "mqtt 3.1.1"), (5, "mqtt 5")])
def test_the_access_log_says_what_was_spoken(gateway: AbusedGateway, room: Room, version: int, protocol: str) -> None:
    peer = room.connect(version=version, clean=True)
    peer.leave()

    def closed() -> list[str]:
        lines = gateway.accesses()
        return [one["protocol"] for one in lines if one["event"] == "close" and one.get("device") == room.client_id()]

    gateway.wait_until(lambda: bool(closed()))
    assert closed() == [protocol]


def test_a_trace_shows_the_topics_of_what_goes_out(gateway: AbusedGateway, room: Room) -> None:
    peer = room.connect(properties={Property.TOPIC_ALIAS_MAXIMUM: 5})
    peer.subscribe(room.topic())
    seen: list[dict[str, Any]] = []
    stream = http.client.HTTPConnection("127.0.0.1", gateway.control, timeout=PATIENCE)
    stream.request("GET", f"/v1/devices/{room.client_id()}/trace", headers={"authorization": "Bearer t-read"})
    answer = stream.getresponse()
    assert answer.status == 200
    for _ in range(2):
        room.connect("sender").publish(room.topic(), b"x", 1)
        peer.message(b"x")
    while len(seen) < 2:
        line = answer.readline()
        if line.startswith(b"data:"):
            event = json.loads(line[5:])
            if event.get("direction") == "out" and event["frame"] == "publish":
                seen.append(event)
    stream.close()
    assert [event["topic"] for event in seen] == [room.topic()] * 2
    assert seen[0]["alias"] == seen[1]["alias"] > 0


# ---------------------------------------------------------------- packets that are not brought to their end


@pytest.mark.parametrize("keep", [False, True])
def test_a_client_of_311_that_releases_nothing(room: Room, keep: bool) -> None:
    """It has no Receive Maximum, and 65,535 ids. It goes on when it does its part."""
    peer = room.connect(version=4, keep=keep)
    for packet_id in range(1, 61):
        peer.send(Publish(room.topic(), b"x", 2, packet_id=packet_id))
        peer.expect(Pubrec, packet_id=packet_id)
    peer.send(Publish(room.topic(), b"again", 2, dup=True, packet_id=60))
    peer.expect(Pubrec, packet_id=60)
    peer.send(Publish(room.topic(), b"x", 2, packet_id=61))
    assert peer.ends() == []
    peer = room.connect(version=4, keep=keep, clean=False)
    for packet_id in range(1, 61) if keep else ():
        peer.send(Pubrel(packet_id))
        peer.expect(Pubcomp, packet_id=packet_id)
    peer.send(Publish(room.topic(), b"x", 2, packet_id=61))
    peer.expect(Pubrec, packet_id=61)


@pytest.mark.parametrize("version", [4, 5])
def test_half_a_packet_is_not_held_for_ever(room: Room, version: int) -> None:
    """Without a keep alive."""
    watcher = room.connect("watcher")
    watcher.subscribe(room.topic("will"))
    peer = room.connect(version=version, will=room.will())
    peer.raw(encode(Publish(room.topic(), b"x" * 2000), version)[:-1])
    said = peer.ends()
    assert [getattr(one, "reason", None) for one in said] == ([Reason.QUOTA_EXCEEDED] if version == 5 else [])
    watcher.message(b"gone")


def test_a_session_of_5_does_not_collect_ids_over_its_connections(room: Room) -> None:
    peer = room.connect(keep=True)
    for packet_id in range(1, 51):
        peer.send(Publish(room.topic(), b"x", 2, packet_id=packet_id))
        peer.expect(Pubrec, packet_id=packet_id)
    peer.cut()
    peer = room.connect(keep=True, clean=False)
    for packet_id in range(51, 71):
        peer.send(Publish(room.topic(), b"x", 2, packet_id=packet_id))
        refused = Reason.QUOTA_EXCEEDED if packet_id > 60 else Reason.NO_MATCHING_SUBSCRIBERS
        peer.expect(Pubrec, packet_id=packet_id, reason=refused)
    peer.send(Pubrel(1))
    peer.expect(Pubcomp, packet_id=1, reason=0)
    peer.send(Publish(room.topic(), b"x", 2, packet_id=71))
    peer.expect(Pubrec, packet_id=71, reason=Reason.NO_MATCHING_SUBSCRIBERS)


# ---------------------------------------------------------------- authority


@pytest.mark.parametrize("topic", ["$push/orders", "$SYS/broker/version", "$reply/1", "$response/x", "$call/a/1", "$x"])
@pytest.mark.parametrize("version", [4, 5])
def test_a_will_does_not_speak_for_the_gateway(room: Room, version: int, topic: str) -> None:
    """What a client may not publish, its will may not either: a subscriber of `$push/#` takes that for a push."""
    reason = Reason.NOT_AUTHORIZED if version == 5 else 5
    room.refused(Connect(room.client_id(), version, will=Will(topic, b"forged", 0, True)), reason)


@pytest.mark.parametrize("topic", ["$push/orders", "$SYS/broker/version", "$reply/1", "$share/g/t", "$x"])
def test_nobody_publishes_as_the_gateway(room: Room, topic: str) -> None:
    listener = room.connect("listener")
    listener.subscribe("$push/#", "$SYS/broker/version/#", "$reply/#", "$share/g/#", "$x/#", "$share/h/$push/#", qos=1)
    peer = room.connect()
    peer.send(Publish(topic, b"forged", 1, True, False, 7))
    assert peer.expect(Puback, packet_id=7).reason == Reason.NOT_AUTHORIZED
    peer.send(Publish("", b"forged", 0, properties={Property.TOPIC_ALIAS: 1}))
    assert peer.ends()
    later = room.connect("later")
    later.subscribe(f"{topic}/#")
    received = [packet for packet in _until_quiet(listener) + _until_quiet(later) if packet.payload == b"forged"]
    assert received == []


def _until_quiet(peer: Peer) -> list[Publish]:
    peer.send(Pingreq())
    found = []
    while not isinstance(packet := peer.read(), Pingresp):
        if isinstance(packet, Publish):
            found.append(packet)
    return found


@pytest.mark.parametrize("client_id", ["$bridge/x", "$bridge/"])
def test_the_gateways_own_client_ids_are_taken(room: Room, client_id: str) -> None:
    room.refused(Connect(client_id, 5), Reason.CLIENT_ID_NOT_VALID)
    room.refused(Connect(client_id, 4), 2)


@pytest.mark.parametrize("client_id", ["a b", "line\nbreak", "\x1b[2J", "\u2028", "x" * 257])
def test_what_would_disturb_logs_is_no_client_id(room: Room, client_id: str) -> None:
    peer = room.open()
    peer.send(Connect(client_id, 5))
    assert peer.expect(Connack).reason >= 0x80
    assert peer.ends() == []


# ---------------------------------------------------------------- memory


def test_properties_count_where_messages_are_retained(room: Room) -> None:
    """One byte of payload with 30,000 of properties is not one byte."""
    peer = room.connect()
    reasons = [peer.publish(room.topic(f"{n}"), qos=1, retain=True, properties=LARGE) for n in range(4)]
    assert reasons[3] == Reason.QUOTA_EXCEEDED
    assert Reason.QUOTA_EXCEEDED not in reasons[:3]
    for n in range(3):
        peer.publish(room.topic(f"{n}"), b"", qos=1, retain=True)


def test_properties_count_where_messages_wait(room: Room) -> None:
    """For a session that is away (in the store), and for one that does not acknowledge (in memory)."""
    away = room.connect("away", keep=True)
    away.subscribe(room.topic(), qos=1)
    away.leave()
    slow = room.connect("slow", properties={Property.RECEIVE_MAXIMUM: 1})
    slow.subscribe(room.topic(), qos=1)
    peer = room.connect()
    for n in range(6):
        peer.publish(room.topic(), b"%d" % n, qos=1, properties=LARGE)
    away = room.connect("away", keep=True, clean=False)
    assert away.messages(3) == [b"3", b"4", b"5"]
    assert slow.messages(4) == [b"0", b"3", b"4", b"5"]


# ---------------------------------------------------------------- time


def test_filters_that_match_nothing_do_not_hold_the_worker(room: Room) -> None:
    """Ten thousand topics, and hundreds of filters for each of which all of them would have to be looked at: others are
    answered meanwhile."""
    peer = room.connect()
    peer.raw(b"".join(_published(f"{room.name}-{n}/a/b") for n in range(10_000)))
    peer.quiet()
    other = room.connect("other")
    filters = [f"+/+/{room.name}-{n}" for n in range(250)]
    assert set(peer.subscribe(*filters, qos=0)) == {0}
    other.quiet()
    assert set(peer.unsubscribe(*filters)) == {0}


def _published(topic: str) -> bytes:
    return encode(Publish(topic, b""), 5)


# ---------------------------------------------------------------- sessions of others


@pytest.mark.parametrize(
    ("owner", "thief"),
    [("alice-token", "device-token"), ("alice-token", ""), ("device-token", ""), ("", "device-token")],
)
def test_a_session_is_its_owners(room: Room, owner: str, thief: str) -> None:
    """Another user, or one who only claims the client id that somebody proved, finds nothing of it; neither does the
    owner find anything of the thief's."""

    def come(token: str) -> Peer:
        proof = {"username": "u", "password": token.encode()} if token else {}
        return room.connect(keep=True, clean=False, **proof)

    mine = come(owner)
    mine.subscribe(room.topic(), qos=1)
    mine.leave()
    room.connect("publisher").publish(room.topic(), b"secret", qos=1)
    other = come(thief)
    assert not other.connack.session_present
    assert other.publish("elsewhere", qos=1) == Reason.NO_MATCHING_SUBSCRIBERS
    other.quiet()
    other.subscribe(room.topic("thief"))
    other.leave()
    assert not come(owner).connack.session_present


@pytest.mark.parametrize("connected", [True, False])
def test_a_revoked_client_leaves_nothing_behind(gateway: AbusedGateway, room: Room, connected: bool) -> None:
    """Its queue and its subscriptions go with the proof that they stand on."""
    peer = room.connect(keep=True)
    peer.subscribe(room.topic(), qos=1)
    if not connected:
        peer.leave()
    room.connect("publisher").publish(room.topic(), b"waits", qos=1)
    path = f"/v1/devices/{room.client_id()}/close"
    status, answer = gateway.http("POST", path, {"revoke": True}, "t-operate")
    assert (status, answer["revoked"]) == (200, True)
    if connected:
        assert peer.ends()
    publisher = room.connect("publisher")
    assert publisher.publish(room.topic(), b"later", qos=1) == Reason.NO_MATCHING_SUBSCRIBERS
    assert not room.connect(keep=True, clean=False).connack.session_present


def test_a_closed_client_keeps_its_session(gateway: AbusedGateway, room: Room) -> None:
    peer = room.connect(keep=True)
    peer.subscribe(room.topic(), qos=1)
    assert gateway.http("POST", f"/v1/devices/{room.client_id()}/close", None, "t-operate")[0] == 200
    peer.ends_with(Reason.ADMINISTRATIVE_ACTION)
    assert room.connect(keep=True, clean=False).connack.session_present


# ---------------------------------------------------------------- logs


def test_topics_do_not_write_log_lines(gateway: AbusedGateway, room: Room) -> None:
    peer = room.connect()
    topic = f"$x/{room.name}\n2026-01-01T00:00:00 [forged] line\x1b[2J"
    assert peer.publish(topic, qos=1) == Reason.NOT_AUTHORIZED
    line = next(line for line in gateway.said().splitlines() if room.name in line and "denied" in line)
    assert "\\n2026-01-01T00:00:00 [forged] line\\x1b[2J" in line


def test_refusals_do_not_fill_the_log(gateway: AbusedGateway, room: Room) -> None:
    peer = room.connect()
    before = gateway.metric("accessgw_mqtt_acl_denied_total", action="publish")
    peer.raw(encode(Publish(f"$x/{room.name}", b""), 5) * 20_000)
    peer.quiet()
    assert gateway.metric("accessgw_mqtt_acl_denied_total", action="publish") - before == 20_000
    assert sum(room.name in line for line in gateway.said().splitlines()) < 5_000
