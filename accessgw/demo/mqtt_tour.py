"""The MQTT part of the tour: a thermometer and a display on amqtt's client, processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accessgw.demo.children import surroundings
from accessgw.demo.place import Failed, Place, expect

PATIENCE = 12.0
"""Seconds for one thing to happen."""
READINGS = ("21.5", "21.7", "22.4")


def available() -> bool:
    """Whether amqtt is installed."""
    return importlib.util.find_spec("amqtt") is not None


class Device:
    """One child process that runs accessgw.demo.mqtt_device."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._pushes: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Future[None] | None = None
        self._log: Path | None = None

    async def start(self, place: Place, log: Path) -> None:
        """Start it, and wait until it is connected."""
        root, environment = surroundings()
        self._log = log
        with log.open("wb") as errors:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "accessgw.demo.mqtt_device",
                "--address", place.mqtt, "--token", place.token, "--device", self.name,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors,
                cwd=root, env=environment,
            )  # fmt: skip
        self._reading = asyncio.ensure_future(self._read())
        answer = await self._next(self._answers, "to be connected")
        expect(answer.get("connected") == self.name, f"expected {self.name} to be connected, got {answer}")

    async def tell(self, **command: Any) -> dict[str, Any]:
        """Give it a command; its answer."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        return await self._next(self._answers, f"an answer to {command}")

    async def message(self) -> dict[str, Any]:
        """The next message that it got, and that is no push."""
        return await self._next(self._messages, "a message")

    async def push(self) -> dict[str, Any]:
        """The next push that it got."""
        return await self._next(self._pushes, "a push")

    async def end(self) -> int | None:
        """Let it leave in order, or kill it; its exit code."""
        if self._process is None:
            return None
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._reading is not None:
            await self._reading
        return self._process.returncode

    async def _next(self, queue: asyncio.Queue[dict[str, Any]], what: str) -> dict[str, Any]:
        taking = asyncio.ensure_future(queue.get())
        assert self._reading is not None
        await asyncio.wait((taking, self._reading), timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        if taking.done():
            return taking.result()
        taking.cancel()
        said = self._log.read_text(errors="replace")[-2000:] if self._log is not None else ""
        raise Failed(f"{self.name}: expected {what}, had none in {PATIENCE:g} s\n{said}")

    async def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        with contextlib.suppress(ValueError):
            while line := await self._process.stdout.readline():
                said = json.loads(line)
                if "message" not in said:
                    self._answers.put_nowait(said)
                elif said["message"].startswith("$push/"):
                    self._pushes.put_nowait(said)
                else:
                    self._messages.put_nowait(said)


class MqttTour:
    """Its steps, in order; each raises Failed or gives its tick to `tick`."""

    def __init__(self, place: Place, directory: Path, tick: Callable[[str], None]) -> None:
        self._place = place
        self._directory = directory
        self._tick = tick
        self._thermometer = Device(f"thermometer-{os.getpid()}")
        self._display = Device(f"display-{os.getpid()}")
        self.paid: list[str] = []
        """Call ids of the payments that were made."""

    async def run(self) -> None:
        """All steps."""
        devices = (self._thermometer, self._display)
        codes: list[int | None] = []
        try:
            await asyncio.gather(*(one.start(self._place, self._directory / f"{one.name}.log") for one in devices))
            self._tick(f"two MQTT devices connected to {self._place.mqtt}, on amqtt's client, processes of their own")
            await self._readings()
            await self._call()
            await self._push()
            await self._command()
        finally:
            codes = [await one.end() for one in devices]
        expect(codes == [0, 0], f"expected both devices to leave in order, got exit codes {codes}")
        self._tick("both MQTT devices left in order")

    async def _readings(self) -> None:
        topic = f"sensors/{self._thermometer.name}/temperature"
        answer = await self._display.tell(subscribe="sensors/+/temperature", qos=1)
        expect(answer == {"granted": 1}, f"expected QoS 1 to be granted, got {answer}")
        for reading in READINGS:
            await self._thermometer.tell(publish=topic, payload=reading, qos=1)
        got = [await self._display.message() for _ in READINGS]
        expect(
            [(one["message"], one["payload"]) for one in got] == [(topic, reading) for reading in READINGS],
            f"expected the display to get {READINGS} of {topic}, it got {got}",
        )
        self._tick(f"MQTT from device to device: the display shows {', '.join(READINGS)} °C of {topic}")
        known: Any = None
        try:
            async with asyncio.timeout(PATIENCE):
                while known != list(READINGS):
                    await asyncio.sleep(0.02)
                    _, answer = await asyncio.to_thread(self._place.upstream.request, "GET", "/readings")
                    known = answer.get("devices", {}).get(self._thermometer.name)
        except TimeoutError:
            raise Failed(f"expected the service to have {READINGS}, it has {known}") from None
        self._tick(f"a rule handed the same {len(READINGS)} readings to the service, in order, each once")

    async def _call(self) -> None:
        number = uuid.uuid4().hex
        body = json.dumps({"order": "mqtt", "amount": 350})
        answers = []
        for _ in range(2):
            await self._thermometer.tell(publish=f"$call/payments.pay/{number}", payload=body, qos=1)
            answers.append(await self._thermometer.message())
        first, second = answers
        expect(first["message"] == f"$reply/{number}", f"expected an answer on $reply/{number}, got {first}")
        expect(first == second, f"expected the same answer to the same call, got {first} and {second}")
        paid = json.loads(first["payload"])
        self.paid.append(paid["call"])
        self._tick(f"MQTT call $call/payments.pay, sent twice, answered twice, executed once: {paid['text']['zh']}")

    async def _push(self) -> None:
        text = "固件有更新 New firmware"
        body = {"to": {"device": self._thermometer.name}, "biz": "tour", "payload": {"text": text}}
        status, answer = await asyncio.to_thread(self._place.control.request, "POST", "/v1/push", body)
        expect(status == 200, f"expected 200 for a push, got {status} {answer}")
        # a new device of a user gets the user's last pushes first
        got = await self._thermometer.push()
        while json.loads(got["payload"]) != {"text": text}:
            got = await self._thermometer.push()
        expect(got["message"] == "$push/tour", f"expected a push on $push/tour, got {got}")
        self._tick(f"push to the MQTT device, as PUBLISH on $push/tour: {text}")

    async def _command(self) -> None:
        topic = f"commands/{self._thermometer.name}/interval"
        await self._thermometer.tell(subscribe=f"commands/{self._thermometer.name}/#", qos=2)
        await self._display.tell(publish=topic, payload="10", qos=2)
        got = await self._thermometer.message()
        expect(got == {"message": topic, "qos": 2, "payload": "10"}, f"expected {topic} with QoS 2 and 10, got {got}")
        self._tick(f"MQTT from the display to the thermometer, QoS 2: {topic} = 10")
