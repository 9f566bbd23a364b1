"""The tour of `make demo`, and the bad network that it makes."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from accessgw.demo.children import Http
from accessgw.demo.mqtt_tour import MqttTour
from accessgw.demo.place import Failed, Place
from accessgw.demo.relay import Relay

needs_amqtt = pytest.mark.skipif(
    importlib.util.find_spec("amqtt") is None, reason="no amqtt here (pip install '.[demo]')"
)


def tour(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "accessgw.demo.tour", *args],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env=os.environ | environment,
    )


@needs_amqtt
def test_everything_happens() -> None:
    done = tour()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All of it happened." in done.stdout
    for text in (
        "已支付 ¥18.80",
        "push to the device",
        "push to the user",
        "push to the topic",
        "push to the broadcast",
        "3 missed pushes came, each once and in order",
        "answered over a short connection",
        "payments exactly once",
        "two MQTT devices connected",
        "MQTT from device to device",
        "a rule handed the same 3 readings to the service",
        "sent twice, answered twice, executed once",
        "as PUBLISH on $push/tour",
        "MQTT from the display to the thermometer, QoS 2",
        "both MQTT devices left in order",
    ):
        assert text in done.stdout
    assert "✗" not in done.stdout


def test_without_amqtt_it_ends_well_and_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\nfound = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'amqtt' else found(name, *more)\n"
    )
    done = tour(PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no MQTT devices: amqtt is not installed" in done.stdout
    assert "All of it happened, but for MQTT." in done.stdout


@needs_amqtt
def test_a_device_that_cannot_connect_is_a_failure_that_is_told() -> None:
    async def bounded() -> None:
        place = Place("", "127.0.0.1:1", "t", None, Http("http://127.0.0.1:1"), Http("http://127.0.0.1:1"), "")
        with TemporaryDirectory() as directory:
            await MqttTour(place, Path(directory), print).run()

    with pytest.raises(Failed, match="expected to be connected"):
        asyncio.run(bounded())


def test_without_a_gateway_it_fails_and_says_so() -> None:
    done = tour("--gateway", "mmtp://127.0.0.1:1")
    assert done.returncode == 1
    assert "✗" in done.stdout
    assert "127.0.0.1" in done.stdout


def test_the_relay_cuts_refuses_and_swallows() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    async def test() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        relay = Relay("127.0.0.1", server.sockets[0].getsockname()[1])
        await relay.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert relay.swallow() == 1
        writer.write(b"lost")
        while relay.swallowed < 4:
            await asyncio.sleep(0.005)
        other_reader, other = await asyncio.open_connection("127.0.0.1", relay.port)
        other.write(b"passes")
        assert await other_reader.readexactly(6) == b"passes", "only what was open then is swallowed"
        assert relay.cut() == 2
        assert await asyncio.gather(reader.read(1), other_reader.read(1), return_exceptions=True)
        relay.refusing = True
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(1) == b""
        await relay.stop()
        server.close()

    async def bounded() -> None:
        async with asyncio.timeout(10):
            await test()

    asyncio.run(bounded())
