"""Pushes and messages share the packet ids and the window of one MQTT connection."""

from __future__ import annotations

from collections.abc import Callable

from tests.system.gateway_process import PATIENCE, Gateway
from tests.system.mqtt_device import MqttDevice, with_mqtt


def test_a_push_waits_for_a_window_full_of_messages(make_gateway: Callable[..., Gateway]) -> None:
    """It leaves when the messages are acknowledged, for clean and persistent sessions. [MQTT-3.3.4-9]"""
    gateway, port = with_mqtt(make_gateway, "max_inflight = 3\n")
    gateway.start()
    publisher = MqttDevice(port, "publisher").connect()
    for expiry in (0, 3600):
        device = MqttDevice(port, f"d{expiry}", expiry=expiry, prompt=False).connect()
        device.subscribe("t", qos=1)
        for number in range(3):
            publisher.publish("t", b"%d" % number)
        device.wait(lambda device=device: len(device.got) == 3)
        for number in range(2):
            gateway.push({"device": device.name}, number)
        publisher.publish("t", b"3")
        publisher.finished()
        assert len(device.got) == 3
        for _ in range(3):
            before = len(device.got)
            device.answer()
            if before < 6:
                device.wait(lambda device=device, before=before: len(device.got) > before)
        device.answer()
        device.wait(lambda device=device: len(device.got) == 6)
        assert sorted(one.topic for one in device.got) == ["$push/orders"] * 2 + ["t"] * 4
        device.answer()
        device.cut()
    gateway.assert_sound()


def test_pushes_after_kill_9_take_no_packet_id_of_what_was_in_flight(make_gateway: Callable[..., Gateway]) -> None:
    """[MQTT-2.2.1-4] [MQTT-4.4.0-1]"""
    gateway, port = with_mqtt(make_gateway)
    gateway.start()
    device = MqttDevice(port, "d", prompt=False).connect()
    device.subscribe("t", qos=2)
    publisher = MqttDevice(port, "publisher").connect()
    for number in range(5):
        publisher.publish("t", b"%d" % number, 2)
    device.wait(lambda: len(device.got) == 5)
    first = [one.packet_id for one in device.got]
    gateway.kill()
    assert device.gone.wait(PATIENCE)
    gateway.start()
    for number in range(5):
        gateway.push({"device": "d"}, number)
    device.connect()
    device.wait(lambda: len(device.unanswered) == 10)
    again = [one for one in device.unanswered.values() if one.topic == "t"]
    assert [one.packet_id for one in again] == first
    assert all(one.dup for one in again)
    device.answer()
    publisher.connect()
    publisher.finished()
    publisher.publish("t", b"5", 2)
    device.wait(lambda: b"5" in device.payloads)
    assert [one.payload for one in device.got if one.topic == "t"] == [b"%d" % number for number in range(6)]
    assert [one.payload for one in device.got if one.topic != "t"] == [b"%d" % number for number in range(5)]
    gateway.assert_sound()
