"""Gauges and counters of MQTT say what happened, in /metrics and in $SYS."""

from __future__ import annotations

from collections.abc import Callable

from tests.system.gateway_process import PATIENCE, Gateway
from tests.system.mqtt_device import MqttDevice, with_mqtt


def test_takeovers_and_groups_of_shared_subscribers_are_counted(make_gateway: Callable[..., Gateway]) -> None:
    gateway, port = with_mqtt(make_gateway)
    gateway.start()
    first, second = MqttDevice(port, "d1").connect(), MqttDevice(port, "d1")
    first.subscribe("$share/a/x", "$share/b/x", "y")
    assert gateway.metric("accessgw_mqtt_shared_subscriptions") == 2
    assert gateway.metric("accessgw_mqtt_subscriptions") == 3
    assert gateway.metric("accessgw_mqtt_takeovers_total") == 0
    second.connect()
    assert first.gone.wait(PATIENCE)
    assert gateway.metric("accessgw_mqtt_takeovers_total") == 1
    second.leave()
    gateway.assert_sound()
