"""kill -9 of a gateway full of MQTT: what was acknowledged arrives, QoS 2 once, and sessions and wills go on."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

from protocols.mqtt.packets import Property, Will
from tests.system.gateway_process import PATIENCE, Gateway
from tests.system.mqtt_device import MqttDevice, with_mqtt

ROUNDS = 4
MOST = 400
"""Messages of one publisher between two kills."""
LARGE_QUEUES = "max_queued = 100000\nmax_queued_bytes = 100000000\n"


def test_a_storm_survives_kill_9(make_gateway: Callable[..., Gateway]) -> None:
    """Every acknowledged message of QoS 1 arrives, every one of QoS 2 exactly once, in order: at subscribers that are
    connected, that come and go, and that are away. Both sides repeat what was in flight, as the standard asks.

    [MQTT-4.4.0-1] [MQTT-3.1.2-5] [MQTT-3.1.2-6]
    """
    chance = random.Random(3)
    gateway, port = with_mqtt(make_gateway, LARGE_QUEUES)
    gateway.start()
    publishers = {f"p{qos}{n}": (MqttDevice(port, f"p{qos}{n}"), qos) for qos in (1, 2) for n in (1, 2)}
    subscribers = {f"{kind}{qos}": MqttDevice(port, f"{kind}{qos}") for kind in ("on", "away") for qos in (1, 2)}
    for name, device in subscribers.items():
        assert device.connect().subscribe("storm/#", qos=int(name[-1])) == [int(name[-1])]
    for name in ("away1", "away2"):
        subscribers[name].leave()
    numbers = dict.fromkeys(publishers, 0)
    sent: list[Any] = []

    def storm(name: str) -> None:
        device, qos = publishers[name]
        for _ in range(MOST):
            numbers[name] += 1
            if not device.publish(f"storm/{name}", b"%s %d" % (name.encode(), numbers[name]), qos):
                return
            sent.append(None)

    for round in range(ROUNDS):
        for device, _ in publishers.values():
            device.connect()
            assert device.present == (round > 0)
        if round:
            for name in ("on1", "on2"):
                assert subscribers[name].connect().present
        if round == 2:
            # One that was away is in the midst of its queue when the next kill comes.
            assert subscribers["away2"].connect().present
        begun = len(sent)
        threads = [threading.Thread(target=storm, args=(name,)) for name in publishers]
        for thread in threads:
            thread.start()
        most = begun + chance.randint(200, MOST * 3)
        gateway.wait_until(lambda most=most: len(sent) >= most)
        gateway.kill()
        for device in [*(device for device, _ in publishers.values()), *subscribers.values()]:
            assert device.gone.wait(PATIENCE), device.name
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        gateway.start()

    for device, _ in publishers.values():
        assert device.connect().present
        device.finished()
    for device in subscribers.values():
        assert device.connect().present
    for name, (device, qos) in publishers.items():
        acknowledged = set(device.acknowledged)
        assert len(acknowledged) > 100
        for subscriber in subscribers.values():
            lowest = min(qos, int(subscriber.name[-1]))
            subscriber.wait(lambda one=subscriber, promised=acknowledged: promised <= set(one.payloads))
            mine = [one.payload for one in subscriber.got if one.topic == f"storm/{name}"]
            assert {one.qos for one in subscriber.got if one.topic == f"storm/{name}"} == {lowest}
            first = list(dict.fromkeys(mine))
            order = [int(payload.split()[1]) for payload in first]
            assert order == sorted(order), f"{name} at {subscriber.name}"
            if lowest == 2:
                assert len(mine) == len(first), "exactly once"
    gateway.assert_sound()


def test_retained_messages_subscriptions_wills_and_expiry_survive_kill_9(make_gateway: Callable[..., Gateway]) -> None:
    """[MQTT-3.1.2-8] [MQTT-3.1.3-9] [MQTT-3.1.2-23] [MQTT-3.2.2-3]"""
    gateway, port = with_mqtt(make_gateway)
    gateway.start()

    def device(name: str, will: str = "", delay: int = 0, **more: Any) -> MqttDevice:
        properties = {Property.WILL_DELAY: delay} if delay else {}
        last = Will(f"will/{will}", name.encode(), 1, False, properties) if will else None
        return MqttDevice(port, name, will=last, **more).connect()

    watcher = device("watcher")
    watcher.subscribe("will/#", "kept/#")
    short, long = device("short", expiry=2), device("long")
    for one in (short, long):
        one.subscribe("x")
        one.leave()
    left_at = time.monotonic()
    # Forgotten wills are durable with the next that is acknowledged.
    device("polite", "polite").leave()
    device("polite-too", "polite", expiry=0).leave()
    publisher = device("publisher")
    for name, payload in (("a", b"1"), ("b", b"2"), ("a", b"3"), ("b", b""), ("c", b"4")):
        publisher.publish(f"kept/{name}", payload, 2 if name == "c" else 1, retain=True)
    publisher.finished()
    at_once = device("at-once", "now", expiry=0)
    ending = device("ending", "ending", delay=500, expiry=0)
    later = device("later", "later", delay=1)
    much_later = device("much-later", "much-later", delay=500)
    back = device("back", "back", delay=3)
    gateway.kill()
    for one in (watcher, publisher, at_once, ending, later, much_later, back):
        assert one.gone.wait(PATIENCE)

    gateway.start()
    assert back.connect().present, "in time for its will"
    assert watcher.connect().present
    published = lambda: {one.payload for one in watcher.got if one.topic.startswith("will/")}  # noqa: E731
    watcher.wait(lambda: {b"at-once", b"ending", b"later"} <= published())
    gateway.kill()
    for one in (watcher, back):
        assert one.gone.wait(PATIENCE)

    gateway.start()
    assert watcher.connect().present
    watcher.wait(lambda: b"back" in published())
    gateway.wait_until(lambda: time.monotonic() > left_at + 2.5)
    assert not short.connect().present, "it has gone on to expire"
    assert long.connect().present
    reader = MqttDevice(port, "reader", expiry=0).connect(clean=True)
    reader.subscribe("kept/#")
    reader.wait(lambda: len(reader.got) >= 2)
    assert {(one.topic, one.payload, one.retain) for one in reader.got} == {
        ("kept/a", b"3", True), ("kept/c", b"4", True)
    }  # fmt: skip
    publisher.connect()
    publisher.publish("will/end", b"end")
    watcher.wait(lambda: b"end" in published())
    assert published() == {b"at-once", b"ending", b"later", b"back", b"end"}
    gateway.assert_sound()
