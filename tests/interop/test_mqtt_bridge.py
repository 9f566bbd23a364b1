"""Bridges of a gateway in a process of its own to Debian's mosquitto, and to another gateway."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.mosquitto import Mosquitto, Peer, wait_until
from tests.system.gateway_process import Gateway, free_ports

TOKEN = "device-token"

MQTT = """
[[listeners]]
name = "mqtt"
transport = "tcp"
port = {port}
protocols = ["mqtt"]

[mqtt]
sys_interval = 1.0
"""

BRIDGE = """
[[mqtt.bridges]]
name = "{name}"
address = "127.0.0.1:{port}"
version = {version}
retry_initial = 0.1
retry_max = 0.3
{more}
topics = [{topics}]
"""


def bridge(port: int, *topics: str, name: str = "other", version: int = 5, more: str = "") -> str:
    return BRIDGE.format(name=name, port=port, version=version, more=more, topics=", ".join(topics))


def both(filter: str = "#", qos: int = 2, **prefixes: str) -> str:
    return carried(filter, "both", qos, **prefixes)


def carried(filter: str, direction: str, qos: int = 2, **prefixes: str) -> str:
    more = "".join(f', {name} = "{value}"' for name, value in prefixes.items())
    return f'{{ filter = "{filter}", direction = "{direction}", qos = {qos}{more} }}'


class Site:
    """What a test has started, ended with it."""

    def __init__(self, directory: Path, make_gateway: Callable[..., Gateway]) -> None:
        self.directory = directory
        self._make_gateway = make_gateway
        self._peers: list[Peer] = []
        self._brokers: list[Mosquitto] = []

    def mosquitto(self, **more: Any) -> Mosquitto:
        self._brokers.append(Mosquitto(self.directory / f"mosquitto-{len(self._brokers)}", **more))
        return self._brokers[-1]

    def gateway(self, extra: str, port: int | None = None) -> tuple[Gateway, int]:
        """A gateway that is not started, and its MQTT port."""
        port = port or free_ports(1)[0]
        return self._make_gateway(extra=MQTT.format(port=port) + extra), port

    def peer(self, port: int, client_id: str, password: str = "", version: int = 5) -> Peer:
        self._peers.append(Peer(port, client_id, password=password, version=version))
        return self._peers[-1]

    def close(self) -> None:
        for peer in self._peers:
            peer.close()
        for broker in self._brokers:
            broker.stop()


@pytest.fixture
def site(tmp_path: Path, make_gateway: Callable[..., Gateway]) -> Iterator[Site]:
    made = Site(tmp_path, make_gateway)
    yield made
    made.close()


def row(gateway: Gateway, name: str = "other") -> dict[str, Any]:
    rows = gateway.http("GET", "/v1/mqtt/bridges", None, "t-read")[1]["bridges"]
    return next(one for one in rows if one["name"] == name)


def connected(gateway: Gateway, name: str = "other") -> None:
    try:
        wait_until(lambda: row(gateway, name)["connected"])
    except AssertionError:
        raise AssertionError(f"{row(gateway, name)}\n{gateway.said()[-3000:]}") from None


@pytest.mark.parametrize("version", [4, 5])
def test_messages_of_every_qos_go_both_ways_under_their_prefixes_and_never_echo(site: Site, version: int) -> None:
    broker = site.mosquitto().start()
    gateway, port = site.gateway(
        bridge(
            broker.port,
            both("data/#", local_prefix="here/", remote_prefix="there/"),
            carried("low/#", "out", 1),
            version=version,
        )
    )
    gateway.start()
    connected(gateway)
    ours, theirs = site.peer(port, "ours", TOKEN), site.peer(broker.port, "theirs")
    ours.subscribe("#")
    theirs.subscribe("#")
    for qos in range(3):
        ours.publish("here/data/out", f"out-{qos}", qos)
        theirs.publish("there/data/in", f"in-{qos}", qos)
    ours.publish("low/x", "capped", 2)
    ours.publish("not/carried", "private", 1)
    ours.wait(lambda peer: len(peer.got("here/data/in")) >= 3)
    theirs.wait(lambda peer: len(peer.got("there/data/out")) >= 3 and peer.got("low/x"))
    # What would have come back has come when a message after it has.
    ours.publish("here/data/end", "end", 1)
    theirs.publish("there/data/end", "end", 1)
    ours.wait(lambda peer: peer.got("here/data/end") == ["end", "end"])
    theirs.wait(lambda peer: peer.got("there/data/end") == ["end", "end"])
    assert sorted(ours.got("here/data/in")) == ["in-0", "in-1", "in-2"]
    assert ours.got("here/data/out") == ["out-0", "out-1", "out-2"]
    assert theirs.got("there/data/out") == ["out-0", "out-1", "out-2"]
    assert [m.qos for m in theirs.messages if m.topic == "low/x"] == [1]
    assert [m.qos for m in theirs.messages if m.topic == "there/data/out"] == [0, 1, 2]
    assert [m.qos for m in ours.messages if m.topic == "here/data/in"] == [0, 1, 2]
    assert not theirs.got("not/carried")
    found = row(gateway)
    assert (found["sent"], found["received"], found["error"]) == (5, 4, "")
    assert gateway.metric("accessgw_mqtt_bridge_connected", bridge="other") == 1
    assert ours.got("$SYS/broker/connection/other/state") == []
    ours.subscribe("$SYS/broker/connection/+/state")
    ours.wait(lambda peer: peer.got("$SYS/broker/connection/other/state") == ["1"])
    gateway.assert_sound()
