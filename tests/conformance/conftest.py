from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.free_ports import free_ports
from protocols.scram import Verifier
from tests.conformance.mqtt_peer import Room
from tests.system.gateway_process import Gateway

EXTRA = """
[[listeners]]
name = "mqtt"
transport = "tcp"
port = {port}
protocols = ["mqtt"]

[[listeners]]
name = "mqtts"
transport = "tls"
port = {tls}
protocols = ["mqtt"]

[[authenticators]]
kind = "scram"
file = "{scram}"

[[authenticators]]
kind = "anonymous"
loopback_only = true

[mqtt]
{settings}

[[mqtt.acl]]
permit = "deny"
action = "publish"
topics = ["forbidden/#"]

[[mqtt.acl]]
permit = "deny"
action = "subscribe"
device = "test_suback*"
topics = ["forbidden/#"]
"""


class MqttGateway(Gateway):
    """A gateway with MQTT on a port of its own, where whoever comes from this machine is let in."""

    def __init__(self, directory: Path, settings: str = "") -> None:
        self.port, self.mqtts = free_ports(2)
        scram = directory / "scram"
        scram.write_text(f"alice:{Verifier.of('secret', b'salt' * 4, 4096)}\n")
        super().__init__(directory, extra=EXTRA.format(port=self.port, tls=self.mqtts, scram=scram, settings=settings))


def _running(directory: Path, settings: str) -> Iterator[MqttGateway]:
    gateway = MqttGateway(directory, settings)
    try:
        gateway.start()
        yield gateway
        gateway.assert_sound()
    finally:
        gateway.close()


@pytest.fixture(scope="session")
def mqtt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MqttGateway]:
    """As it comes."""
    yield from _running(tmp_path_factory.mktemp("conformance"), "")


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MqttGateway]:
    """One that allows little."""
    settings = """max_qos = 1
wildcard_available = false
shared_available = false
subscription_identifiers_available = false
max_retained = 1
sys_interval = 0
max_keep_alive = 60
receive_maximum = 2
topic_alias_maximum = 0
max_packet = 2000"""
    yield from _running(tmp_path_factory.mktemp("narrow"), settings)


@pytest.fixture(scope="session")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MqttGateway]:
    """One that ends whoever says nothing for a second and a half: a test on a busy machine, too."""
    yield from _running(tmp_path_factory.mktemp("hasty"), "max_keep_alive = 1")


def _room(gateway: MqttGateway, request: pytest.FixtureRequest) -> Iterator[Room]:
    room = Room(gateway.port, re.sub(r"\W+", "-", request.node.name).strip("-"))
    yield room
    room.close()


@pytest.fixture
def room(mqtt: MqttGateway, request: pytest.FixtureRequest) -> Iterator[Room]:
    yield from _room(mqtt, request)


@pytest.fixture
def narrow_room(narrow: MqttGateway, request: pytest.FixtureRequest) -> Iterator[Room]:
    yield from _room(narrow, request)


@pytest.fixture
def hasty_room(hasty: MqttGateway, request: pytest.FixtureRequest) -> Iterator[Room]:
    yield from _room(hasty, request)


@pytest.fixture(params=[4, 5], ids=["v311", "v5"])
def version(request: pytest.FixtureRequest) -> int:
    return request.param
