"""Topic rules that are reloaded hold for subscriptions that were granted before, connected or not."""

from __future__ import annotations

from collections.abc import Callable

from tests.system.gateway_process import Gateway
from tests.system.mqtt_device import MqttDevice, with_mqtt

BEFORE = """acl_default = "deny"
[[mqtt.acl]]
topics = ["news/#", "own/{device}/#"]
"""
AFTER = BEFORE.replace('"news/#", ', "")


def subscriptions(gateway: Gateway, client: str) -> list[str]:
    status, answer = gateway.http("GET", f"/v1/mqtt/clients/{client}", None, "t-read")
    assert status == 200
    return [one["filter"] for one in answer["subscriptions"]]


def test_a_subscription_that_is_no_longer_allowed_ends(make_gateway: Callable[..., Gateway]) -> None:
    gateway, port = with_mqtt(make_gateway, BEFORE)
    gateway.start()
    here, away = MqttDevice(port, "here"), MqttDevice(port, "away")
    for device in (here, away):
        device.connect()
        device.subscribe("news/sport", f"own/{device.name}/x")
    away.cut()
    gateway.wait_until(lambda: not gateway.http("GET", "/v1/mqtt/clients/away", None, "t-read")[1]["connected"])
    gateway.write_config(gateway.extra.replace(BEFORE, AFTER))
    assert gateway.http("POST", "/v1/reload", {}, "t-operate")[0] == 200
    gateway.wait_until(lambda: subscriptions(gateway, "here") == ["own/here/x"])
    assert sorted(subscriptions(gateway, "away")) == ["news/sport", "own/away/x"]
    away.connect()
    gateway.wait_until(lambda: subscriptions(gateway, "away") == ["own/away/x"])
    here.cut()
    away.cut()
    gateway.assert_sound()
