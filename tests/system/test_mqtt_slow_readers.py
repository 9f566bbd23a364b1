"""Subscribers that never read, that fight, that flood: they harm nobody else, and what they cost is bounded."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from protocols.mqtt.encoding import encode
from protocols.mqtt.packets import V5, Connect, Property
from protocols.mqtt.reasons import Reason
from tests.system.gateway_process import PATIENCE, Gateway
from tests.system.mqtt_device import MqttDevice, with_mqtt

SLOW = 6
"""Of each kind of slow reader."""
MESSAGES = 1000
PAYLOAD = b"x" * 4000
SMALL_QUEUES = 'max_queued = 50\nmax_queued_bytes = 262144\nmax_qos0_buffer = 65536\nqueue_overflow = "{policy}"\n'
SMALL_BUFFERS = "\n[limits]\nwrite_buffer = 524288\n"


def resident(gateway: Gateway) -> int:
    """Bytes of memory of the process."""
    assert gateway.process is not None
    with open(f"/proc/{gateway.process.pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def client(gateway: Gateway, name: str) -> dict[str, Any]:
    status, answer = gateway.http("GET", f"/v1/mqtt/clients/{name}", token="t-read")
    return answer if status == 200 else {}


@pytest.mark.parametrize("policy", ["drop_old", "disconnect"])
def test_subscribers_that_never_read(make_gateway: Callable[..., Gateway], policy: str) -> None:
    """Of every QoS, clean and persistent, beside one that reads: it gets all, in order; the others are bounded, what
    they lose is counted, and they are disconnected where the operator wants it."""
    gateway, port = with_mqtt(make_gateway, SMALL_QUEUES.format(policy=policy), SMALL_BUFFERS)
    gateway.start()
    slow: list[MqttDevice] = []
    for number in range(SLOW):
        for qos in (0, 1, 2):
            for expiry in (0, 3600):
                device = MqttDevice(port, f"slow-{qos}-{expiry}-{number}", expiry=expiry)
                device.receive_buffer = 16384
                device.connect()
                device.subscribe("s/#", qos=qos)
                device.stop_reading()
                slow.append(device)
    healthy = MqttDevice(port, "healthy").connect()
    healthy.subscribe("s/#", qos=2)
    publishers = [MqttDevice(port, f"publisher{qos}", expiry=0).connect() for qos in (0, 1, 2)]
    before = resident(gateway)

    def publish(device: MqttDevice, qos: int) -> None:
        for number in range(MESSAGES):
            assert device.publish(f"s/{qos}", b"%d " % number + PAYLOAD, qos)
            if qos and number % 20 == 19:
                # No more at once than the queue of the one that reads holds: it has all of them at any time.
                healthy.wait(lambda: healthy.counts[f"s/{qos}"] > number)  # noqa: B023
        device.finished()

    threads = [threading.Thread(target=publish, args=(device, qos)) for qos, device in enumerate(publishers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
        assert not thread.is_alive()
    for qos in (1, 2):
        numbers = [int(one.payload.split()[0]) for one in healthy.got if one.topic == f"s/{qos}"]
        assert numbers == list(range(MESSAGES))
    at_most_once = [int(one.payload.split()[0]) for one in healthy.got if one.topic == "s/0"]
    assert at_most_once == sorted(set(at_most_once))
    # Unsent bytes of each connection, its window and its queue, twice over.
    allowed = len(slow) * 2 * (524288 + 64 * 4096 + 262_144) + 48 * 1024 * 1024
    assert resident(gateway) - before < allowed, resident(gateway) - before
    for device in slow:
        known = client(gateway, device.name)
        if known.get("connected"):
            assert known["unsent"] <= 524288
            assert known["inflight"] <= 64
            assert known["queued"] <= 50
    dropped = lambda reason: gateway.metric("accessgw_mqtt_publishes_dropped_total", reason=reason)  # noqa: E731
    assert dropped("slow_reader") > 0
    assert dropped("queue_full") > 0
    assert healthy.reason == -1
    if policy == "disconnect":
        told = [device for device in slow if "-0-" not in device.name[4:8]]
        gateway.wait_until(lambda: not any(client(gateway, one.name).get("connected") for one in told))
    gateway.assert_sound()
    for device in [*slow, *publishers, healthy]:
        device.close()


def test_one_that_does_not_acknowledge_is_told_why_it_is_disconnected(make_gateway: Callable[..., Gateway]) -> None:
    gateway, port = with_mqtt(make_gateway, SMALL_QUEUES.format(policy="disconnect"))
    gateway.start()
    for expiry in (0, 3600):
        device = MqttDevice(port, f"silent{expiry}", expiry=expiry, prompt=False).connect()
        device.subscribe("s", qos=1)
        publisher = MqttDevice(port, "publisher", expiry=0).connect()
        for number in range(200):
            publisher.publish("s", b"%d" % number)
        publisher.finished()
        assert device.gone.wait(PATIENCE)
        assert device.reason == Reason.QUOTA_EXCEEDED
        assert [int(payload) for payload in device.payloads] == list(range(64))
        publisher.leave()
    gateway.assert_sound()


def test_many_retained_messages_reach_a_reader_in_a_hurry_and_one_at_leisure(
    make_gateway: Callable[..., Gateway],
) -> None:
    """10,000 of them, of 1 kB: all arrive, and between two readings nobody else waits."""
    gateway, port = with_mqtt(make_gateway)
    gateway.start()
    publisher = MqttDevice(port, "publisher").connect()
    for number in range(10_000):
        publisher.publish(f"r/{number}", b"y" * 1000, int(number % 100 == 0), retain=True)
    publisher.finished()
    slow = MqttDevice(port, "slow", expiry=0)
    slow.receive_buffer = 16384
    slow.connect()
    slow.stop_reading()
    slow.send_subscribe("r/#", qos=1)
    for name, expiry in (("clean", 0), ("durable", 3600)):
        quick = MqttDevice(port, name, expiry=expiry).connect()
        quick.subscribe("r/#", qos=1)
        quick.wait(lambda quick=quick: len(quick.got) >= 10_000)
        assert {one.topic for one in quick.got} == {f"r/{number}" for number in range(10_000)}
        assert len(quick.got) == 10_000
        assert all(one.retain for one in quick.got)
        quick.leave()
    slow.read_on()
    slow.wait(lambda: len(slow.got) >= 10_000)
    gateway.assert_sound()


def test_two_devices_that_fight_for_one_client_id(make_gateway: Callable[..., Gateway]) -> None:
    """Each takes over; the session stays one, nothing acknowledged is lost. [MQTT-3.1.4-3]"""
    gateway, port = with_mqtt(make_gateway)
    gateway.start()
    one, other = MqttDevice(port, "same"), MqttDevice(port, "same")
    one.connect()
    one.subscribe("t", qos=1)
    publisher = MqttDevice(port, "publisher").connect()
    for round in range(40):
        publisher.publish("t", b"%d" % round)
        one, other = other, one
        one.connect()
        assert one.present
        assert other.gone.wait(PATIENCE)
        assert other.reason == Reason.SESSION_TAKEN_OVER
    publisher.finished()
    one.wait(lambda: {int(payload) for payload in one.payloads + other.payloads} == set(range(40)))
    assert gateway.http("GET", "/v1/mqtt/clients/same", token="t-read")[0] == 200
    assert gateway.metric("accessgw_mqtt_sessions") == 2
    gateway.assert_sound()


def test_floods_of_connects_filters_and_wildcards(make_gateway: Callable[..., Gateway]) -> None:
    """One healthy client keeps talking to itself all the while."""
    gateway, port = with_mqtt(make_gateway)
    gateway.start()
    healthy = MqttDevice(port, "healthy").connect()
    healthy.subscribe("mine/#", qos=1)
    sockets = []
    for number in range(300):
        flood = socket.create_connection(("127.0.0.1", port))
        flood.sendall(encoded(Connect(f"flood{number % 40}", V5, number % 3 == 0, password=b"device-token",
                                      properties={Property.SESSION_EXPIRY: 100})))  # fmt: skip
        sockets.append(flood)
        if number % 10 == 0:
            healthy.publish("mine/a", b"%d" % number)
    many = MqttDevice(port, "many").connect()
    for start in range(0, 1200, 100):
        many.send_subscribe(*(f"+/{n}/#" for n in range(start, start + 100)), qos=1)
    many.wait(lambda: len(many.granted) == 1200)
    assert sum(reason == Reason.QUOTA_EXCEEDED for reason in many.granted) == 200, "within the limit, pipelined or not"
    wild = MqttDevice(port, "wild").connect()
    wild.subscribe(*("/".join("+" if number >> bit & 1 else "a" for bit in range(8)) for number in range(200)), qos=1)
    for number in range(100):
        healthy.publish("a/a/a/a/a/a/a/a", b"%d" % number)
        healthy.publish("mine/b", b"%d" % number)
    healthy.finished()
    healthy.wait(lambda: len(healthy.got) == 130)
    wild.wait(lambda: len(wild.got) == 100)
    assert [int(payload) for payload in wild.payloads] == list(range(100))
    for flood in sockets:
        with contextlib.suppress(OSError):
            flood.close()
    gateway.assert_sound()


def encoded(connect: Connect) -> bytes:
    return encode(connect, connect.version)
