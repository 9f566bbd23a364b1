"""The two load generators of `make bench-mqtt` do and count the same, and notice a broker that does not deliver."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loadtest.bench import bench_mqtt, mqtt_load
from loadtest.bench.mqtt_servers import Mosquitto, MqttServer, Setup
from loadtest.bench.servers import Unavailable

SOURCE = Path(mqtt_load.__file__).with_name("mqtt_load.c")
CONNACK, SUBACK = b"\x20\x02\x00\x00", b"\x90\x03\x00\x01\x00"


@pytest.fixture(scope="module")
def c_load(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc here (Debian package gcc)")
    program = tmp_path_factory.mktemp("load") / "mqtt_load"
    warnings = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
    subprocess.run([compiler, "-O2", "-std=c11", *warnings, "-o", program, SOURCE], check=True)
    return [str(program)]


@pytest.fixture(params=["C", "Python"])
def load(request: pytest.FixtureRequest) -> list[str]:
    if request.param == "C":
        return request.getfixturevalue("c_load")
    return [sys.executable, "-m", "loadtest.bench.mqtt_load"]


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MqttServer]:
    server = Mosquitto(tmp_path_factory.mktemp("mosquitto"), Setup(acl=True))
    try:
        server.start()
    except Unavailable as why:
        pytest.skip(f"{why} (Debian package mosquitto)")
    yield server
    server.stop()


CASES: dict[str, tuple[str, dict[str, object]]] = {
    "fan-out, QoS 0": ("fanout", {"count": 20, "inflight": 10}),
    "fan-out, QoS 1, MQTT 5": ("fanout", {"count": 20, "qos": 1, "version": 5}),
    "pairs, QoS 0": ("pairs", {"count": 5, "size": 4000}),
    "pairs, QoS 1, sessions kept": ("pairs", {"count": 5, "qos": 1, "clean": 0, "version": 5, "inflight": 4}),
    "pairs, QoS 2": ("pairs", {"count": 5, "qos": 2, "version": 5}),
    "pairs by the clock": ("pairs", {"count": 4, "qos": 1, "rate": 200, "inflight": 20}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_delivery_of_a_right_broker_is_counted_and_timed(
    case: str, load: list[str], mosquitto: MqttServer
) -> None:
    command, options = CASES[case]
    answer = bench_mqtt.generated(
        load, command, mosquitto, {**options, "prefix": f"t{list(CASES).index(case)}{load[0][-4:]}", "duration": 0.1}
    )
    each = options["count"] if command == "fanout" else 1
    assert answer["messages"] > 0
    assert answer["deliveries"] == answer["expected"] == answer["messages"] * each
    assert answer["duplicates"] == answer["misordered"] == answer["altered"] == 0
    assert 0 < answer["p50"] <= answer["p99"]
    # A step of the histogram is 1/64 wide, and told by its middle.
    assert answer["p99"] <= answer["max"] * (1 + 1 / 64)
    if "rate" in options:
        assert answer["messages"] + answer["withheld"] <= 0.1 * 200 + 1


@pytest.mark.parametrize("version", [4, 5])
def test_connects_are_counted_when_the_broker_has_ended_them(
    version: int, load: list[str], mosquitto: MqttServer
) -> None:
    answer = bench_mqtt.generated(load, "connect", mosquitto, {"version": version, "duration": 0.1, "concurrency": 3})
    assert answer["cycles"] >= 3, "each of those that are under way at the end is waited for"
    assert 0 < answer["p50"] <= answer["p99"]


def test_memory_is_read_before_and_after_the_idle_connections(load: list[str], mosquitto: MqttServer) -> None:
    answer = bench_mqtt.generated(load, "idle", mosquitto, {"count": 300, "subscribe": 1})
    assert 1_000_000 < answer["memory_before"] <= answer["memory_after"]


def test_the_twins_answer_with_the_same_keys(c_load: list[str], mosquitto: MqttServer) -> None:
    python = [sys.executable, "-m", "loadtest.bench.mqtt_load"]
    one, other = (
        bench_mqtt.generated(each, "pairs", mosquitto, {"count": 1, "duration": 0.05}) for each in (c_load, python)
    )
    assert list(one) == list(other)
    assert (one["generator"], other["generator"]) == ("C", "Python")


# -- a broker that is wrong in one way: it answers CONNECT and SUBSCRIBE, and the publisher's first messages by `answer`


class WrongBroker:
    name = "wrong"

    def __init__(self, answer: Callable[[list[bytes]], bytes]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.answer = answer
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def pids(self) -> list[int]:
        return []

    def serve(self) -> None:
        # Of one pair, the publisher comes first, and publishes only when the subscriber is subscribed.
        publisher, subscriber = self.listener.accept()[0], self.listener.accept()[0]
        with publisher, subscriber:
            for sock in (publisher, subscriber):
                self.packet(sock)
                sock.sendall(CONNACK)
            self.packet(subscriber)
            subscriber.sendall(SUBACK)
            subscriber.sendall(self.answer([self.packet(publisher), self.packet(publisher)]))
            while subscriber.recv(65536):
                pass

    def packet(self, sock: socket.socket) -> bytes:
        head = sock.recv(2, socket.MSG_WAITALL)
        return head + sock.recv(head[1], socket.MSG_WAITALL) if head else b""


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (lambda messages: messages[0], "1 deliveries, 0 duplicates, 0 misordered, 0 altered"),
        (lambda messages: b"".join([messages[0], *messages]), "2 deliveries, 1 duplicates, 0 misordered, 0 altered"),
        (lambda messages: messages[1], "1 deliveries, 0 duplicates, 1 misordered, 0 altered"),
        (lambda messages: messages[0][:1] + bytes([messages[0][1] - 1]) + messages[0][2:-1], "1 altered"),
        (lambda messages: messages[0].replace(b"/0/", b"/1/"), "1 altered"),
    ],
    ids=["lost", "doubled", "overtaken", "cut", "other topic"],
)
def test_a_broker_that_delivers_wrongly_is_noticed(
    load: list[str], answer: Callable[[list[bytes]], bytes], what: str
) -> None:
    broker = WrongBroker(answer)
    options = {"count": 1, "inflight": 2, "duration": 0.1, "timeout": 1.0, "user": "", "password": ""}
    with broker.listener, pytest.raises(bench_mqtt.LoadFailed, match=what):
        bench_mqtt.generated(load, "pairs", broker, options)  # type: ignore[arg-type]
    broker.thread.join(5)


def test_a_refused_connection_is_told_with_its_code(load: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            with listener.accept()[0] as sock:
                sock.recv(1024)
                sock.sendall(b"\x20\x02\x00\x05")
                sock.recv(1024)

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        done = subprocess.run(
            [*load, "fanout", "--port", str(listener.getsockname()[1])], capture_output=True, text=True, check=False
        )
        thread.join(5)
    assert done.returncode == 2
    assert "connection refused: 0x05" in done.stderr
    assert done.stdout == ""


def test_json_is_one_line(load: list[str], mosquitto: MqttServer) -> None:
    command = [*load, "pairs", "--port", str(mosquitto.port), "--user", "bench", "--count", "1", "--duration", "0.05"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.endswith("}\n")
    assert said.count("\n") == 1
    assert json.loads(said)["command"] == "pairs"
