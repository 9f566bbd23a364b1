"""Bridges of a gateway in a process of its own to Debian's mosquitto, and to another gateway."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from loadtest.free_ports import free_ports
from tests.crypto.authority import Authority
from tests.interop.mosquitto import Mosquitto, Peer, wait_until
from tests.system.gateway_process import Gateway

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

    def peer(self, port: int, client_id: str, password: str = "", keep: bool = False) -> Peer:
        """`keep`: its session outlives its connection."""
        self._peers.append(Peer(port, client_id, password=password, keep=keep))
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


def retained(gateway: Gateway, filter: str) -> int:
    """How many messages are retained."""
    answer = gateway.http("GET", f"/v1/mqtt/retained?filter={filter}", None, "t-read")[1]
    return len(answer["retained"])


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


def test_what_was_acknowledged_while_the_other_broker_was_away_and_we_were_killed_arrives_in_order(site: Site) -> None:
    broker = site.mosquitto(persistent=True).start()
    # The reader's session is older than what it is to get, and mosquitto keeps it.
    reader = site.peer(broker.port, "reader", keep=True)
    reader.subscribe("data/#")
    reader.close()
    gateway, port = site.gateway(bridge(broker.port, carried("data/#", "out"), more='client_id = "carrier"'))
    gateway.start()
    connected(gateway)
    broker.stop()
    wait_until(lambda: not row(gateway)["connected"])
    ours = site.peer(port, "ours", TOKEN)
    for number in range(60):
        ours.publish(f"data/a{number}", f"a{number}", 1 + number % 2)
    ours.close()
    assert row(gateway)["queued"] == 60
    gateway.kill()
    gateway.start()
    assert row(gateway)["queued"] == 60
    ours = site.peer(port, "ours", TOKEN)
    for number in range(60):
        ours.publish(f"data/b{number}", f"b{number}", 1 + number % 2)
    broker.start()
    connected(gateway)
    reader = site.peer(broker.port, "reader", keep=True)
    wanted = [f"{letter}{number}" for letter in "ab" for number in range(60)]
    reader.wait(lambda peer: set(peer.got()) == set(wanted))
    # Our order is that of the wire: mosquitto 2.0.11 may let a new message overtake those that wait for a reader who has
    # just come back.
    assert broker.received("carrier") == [(f"data/{name}", 1 + int(name[1:]) % 2) for name in wanted]
    for qos in (1, 2):
        assert sorted(reader.got(qos=qos)) == sorted(wanted[qos - 1 :: 2])
    wait_until(lambda: row(gateway)["queued"] == row(gateway)["inflight"] == 0)
    gateway.assert_sound()


def test_nothing_is_lost_when_we_are_killed_while_the_queue_is_on_its_way(site: Site) -> None:
    broker = site.mosquitto(extra="max_inflight_messages 5").start()
    gateway, port = site.gateway(bridge(broker.port, carried("data/#", "out")))
    gateway.start()
    connected(gateway)
    theirs = site.peer(broker.port, "theirs")
    theirs.subscribe("data/#")
    # mosquitto 2.0.11 lets a new message of QoS 1 or 2 overtake those that wait for its subscriber's window (its log shows
    # that they came to it in order). It queues none of QoS 0: this one sees the order in which we sent.
    watcher = site.peer(broker.port, "watcher")
    watcher.subscribe("data/#", 0)
    for round in range(2):
        ours = site.peer(port, f"ours-{round}", TOKEN)
        for number in range(40):
            ours.publish("data/x", f"{round}-{number:02}", 1 + number % 2)
        gateway.kill()
        gateway.start()
    wanted = [f"{round}-{number:02}" for round in range(2) for number in range(40)]
    theirs.wait(lambda peer: set(peer.got()) == set(wanted))
    watcher.wait(lambda peer: set(peer.got()) == set(wanted))
    arrived = list(dict.fromkeys(watcher.got()))
    assert [one for one in arrived if one in wanted[::2]] == wanted[::2]
    assert [one for one in arrived if one in wanted[1::2]] == wanted[1::2]
    # Those of QoS 2 not even twice: the other broker's session has outlived our process.
    assert sorted(theirs.got(qos=2)) == wanted[1::2]
    assert set(theirs.got(qos=1)) == set(wanted[::2])
    gateway.assert_sound()


def test_what_the_other_broker_holds_for_us_while_we_are_killed_arrives(site: Site) -> None:
    broker = site.mosquitto().start()
    gateway, port = site.gateway(bridge(broker.port, carried("orders/#", "in")))
    gateway.start()
    connected(gateway)
    ours = site.peer(port, "reader", TOKEN, keep=True)
    ours.subscribe("orders/#")
    theirs = site.peer(broker.port, "theirs")
    for round in range(2):
        for number in range(40):
            theirs.publish("orders/x", f"{round}-{number:02}", 1 + number % 2)
        gateway.kill()
        gateway.start()
    wanted = [f"{round}-{number:02}" for round in range(2) for number in range(40)]
    ours.wait(lambda peer: set(peer.got()) == set(wanted))
    assert list(dict.fromkeys(ours.got(qos=1))) == wanted[::2]
    assert list(dict.fromkeys(ours.got(qos=2))) == wanted[1::2]
    gateway.assert_sound()


@pytest.mark.parametrize("version", [4, 5])
def test_retained_messages_cross_once_with_their_flag(site: Site, version: int) -> None:
    broker = site.mosquitto().start()
    gateway, port = site.gateway(bridge(broker.port, carried("up/#", "out"), carried("down/#", "in"), version=version))
    theirs = site.peer(broker.port, "theirs")
    theirs.publish("down/old", "1", 1, retain=True)
    theirs.subscribe("up/#")
    gateway.start()
    connected(gateway)
    ours = site.peer(port, "ours", TOKEN)
    ours.publish("up/state", "on", 1, retain=True)
    theirs.wait(lambda peer: peer.got("up/state"))
    assert theirs.messages[0].retain
    theirs.publish("down/new", "2", 1, retain=True)
    wait_until(lambda: retained(gateway, "down/%23") == 2)
    ours.subscribe("down/#")
    ours.wait(lambda peer: sorted(peer.got()) == ["1", "2"])
    theirs.publish("down/new", "", 1, retain=True)
    wait_until(lambda: retained(gateway, "down/%23") == 1)
    gateway.assert_sound()


@pytest.mark.parametrize("version", [4, 5])
def test_two_gateways_bridged_to_each_other_both_ways_do_not_loop(site: Site, version: int) -> None:
    left_port, right_port = free_ports(2)
    login = f'username = "b"\npassword = "{TOKEN}"'
    left, _ = site.gateway(
        bridge(right_port, both("t/#"), version=version, more=login + '\nclient_id = "from-left"'), left_port
    )
    right, _ = site.gateway(
        bridge(left_port, both("t/#"), version=version, more=login + '\nclient_id = "from-right"'), right_port
    )
    left.start()
    right.start()
    connected(left)
    connected(right)
    one, two = site.peer(left_port, "one", TOKEN), site.peer(right_port, "two", TOKEN)
    one.subscribe("t/#")
    two.subscribe("t/#")
    for qos in range(3):
        one.publish("t/a", f"left-{qos}", qos)
        two.publish("t/a", f"right-{qos}", qos)
    one.wait(lambda peer: len(set(peer.got())) == 6)
    two.wait(lambda peer: len(set(peer.got())) == 6)
    # Each of them is brought over twice, by either bridge, and then no more.
    for peer, own in ((one, "left-"), (two, "right-")):
        peer.wait(lambda peer, own=own: len(peer.got("t/a")) >= 3 + 2 * 3)
    one.publish("t/end-left", "end", 2)
    two.publish("t/end-right", "end", 2)
    for peer, far in ((one, "t/end-right"), (two, "t/end-left")):
        peer.wait(lambda peer, far=far: len(peer.got(far)) >= 2)
    wait_until(lambda: not any(row(side)[what] for side in (left, right) for what in ("queued", "inflight")))
    moved = [gateway.metric("accessgw_mqtt_publishes_received_total", qos="1") for gateway in (left, right)]
    for peer, own in ((one, "left-"), (two, "right-")):
        for payload in set(peer.got("t/a")):
            assert peer.got("t/a").count(payload) == (1 if payload.startswith(own) else 2), (payload, peer.got())
    assert max(moved) < 20
    left.assert_sound()
    right.assert_sound()


@pytest.mark.parametrize("version", [4, 5])
def test_a_broker_between_two_gateways_hands_on_each_message_once(site: Site, version: int) -> None:
    broker = site.mosquitto().start()
    gateways, peers = [], []
    for name in ("one", "two"):
        more = f'client_id = "bridge-{name}"'
        gateway, port = site.gateway(bridge(broker.port, both("t/#"), version=version, more=more))
        gateways.append(gateway.start())
        connected(gateway)
        peers.append(site.peer(port, name, TOKEN))
        peers[-1].subscribe("t/#")
    one, two = peers
    for qos in range(3):
        one.publish("t/a", f"one-{qos}", qos)
        two.publish("t/b", f"two-{qos}", qos)
    one.publish("t/end", "one", 2)
    two.publish("t/end", "two", 2)
    for peer in peers:
        peer.wait(lambda peer: sorted(peer.got("t/end")) == ["one", "two"])
        assert peer.got("t/a") == ["one-0", "one-1", "one-2"]
        assert peer.got("t/b") == ["two-0", "two-1", "two-2"]
    for gateway in gateways:
        gateway.assert_sound()


def test_tls_verifies_the_other_broker_and_shows_our_certificate(site: Site, tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path, "brokers"), Authority(tmp_path, "strangers")
    server = authority.issue("broker", names=[x509.DNSName("broker.example")], usage=ExtendedKeyUsageOID.SERVER_AUTH)
    ours = authority.intermediate("gateways").issue("gateway")
    port = free_ports(1)[0]
    broker = site.mosquitto(
        extra=f"listener {port} 127.0.0.1\ncafile {authority.file}\ncertfile {server.chain}\nkeyfile {server.key}\n"
        "require_certificate true\n"
    ).start()
    own = f'certificate = "{ours.chain}"\nkey = "{ours.key}"\n'

    def over_tls(name: str, ca: str = authority.file, server_name: str = "broker.example", own: str = own) -> str:
        more = f'tls = true\nca = "{ca}"\nserver_name = "{server_name}"\n{own}'
        return bridge(port, carried(f"{name}/#", "out"), name=name, more=more)

    gateway, mqtt = site.gateway(
        over_tls("good")
        + over_tls("other-name", server_name="elsewhere.example")
        + over_tls("other-ca", ca=stranger.file)
        + over_tls("nobody", own="")
    )
    gateway.start()
    connected(gateway, "good")
    theirs = site.peer(broker.port, "theirs")
    theirs.subscribe("#")
    site.peer(mqtt, "ours", TOKEN).publish("good/x", "secret", 2)
    theirs.wait(lambda peer: peer.got("good/x") == ["secret"])
    for name, words in (
        ("other-name", "TLS: the certificate is not for elsewhere.example"),
        ("other-ca", "certificate verify failed"),
        ("nobody", ""),
    ):
        wait_until(lambda name=name: row(gateway, name)["error"])  # type: ignore[misc]
        assert words in row(gateway, name)["error"]
        assert not row(gateway, name)["connected"]
    gateway.assert_sound()


def test_a_reload_changes_bridges_and_forgets_those_that_are_gone(site: Site) -> None:
    first, second = site.mosquitto().start(), site.mosquitto().start()
    gateway, port = site.gateway(
        bridge(first.port, carried("a/#", "out")) + bridge(first.port, carried("b/#", "out"), name="gone")
    )
    gateway.start()
    connected(gateway)
    connected(gateway, "gone")
    gateway.write_config(MQTT.format(port=port) + bridge(second.port, carried("c/#", "out")))
    status, answer = gateway.http("POST", "/v1/reload", None, "t-operate")
    assert status == 200, answer
    assert answer["needs_restart"] == []
    connected(gateway)
    assert row(gateway)["address"].endswith(str(second.port))
    ours, theirs = site.peer(port, "ours", TOKEN), site.peer(second.port, "theirs")
    theirs.subscribe("#")
    for topic in ("a/x", "b/x", "c/x"):
        ours.publish(topic, topic, 1)
    theirs.wait(lambda peer: peer.got() == ["c/x"])
    clients = gateway.http("GET", "/v1/mqtt/clients", None, "t-read")[1]["clients"]
    assert [one["client"] for one in clients if one["client"].startswith("$")] == ["$bridge/other"]
    gateway.assert_sound()


def test_no_client_of_the_network_can_take_the_session_of_a_bridge(site: Site) -> None:
    gateway, port = site.gateway(bridge(free_ports(1)[0], carried("data/#", "out")))
    gateway.start()
    site.peer(port, "ours", TOKEN).publish("data/x", "kept", 1)
    with socket.create_connection(("127.0.0.1", port), 10) as thief:
        login = ("thief", TOKEN)
        fields = b"".join(len(text).to_bytes(2, "big") + text.encode() for text in ("$bridge/other", *login))
        body = b"\x00\x04MQTT\x04\xc2\x00\x3c" + fields
        thief.sendall(b"\x10" + bytes((len(body),)) + body)
        assert thief.recv(100) == b"\x20\x02\x00\x02"
    assert row(gateway)["queued"] == 1
    wait_until(lambda: "refused" in row(gateway)["error"])
