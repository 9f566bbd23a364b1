"""The processes that the tour starts for itself, and the control API of a gateway."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

CONFIGURATION = """\
state_dir = "{directory}/state"

[[listeners]]
name = "tls"
transport = "tls"
port = {tls}
protocols = ["mmtp/1", "http/1.1"]

[[listeners]]
name = "mqtt"
transport = "tcp"
port = {mqtt}
protocols = ["mqtt"]

[[authenticators]]
kind = "static"
tokens = [{{ token = "tour-device", user = "hanmeimei", loopback_only = true }}]

[control]
port = {control}
tokens = [
  {{ token = "tour-push", roles = ["push"], loopback_only = true }},
  {{ token = "tour-read", roles = ["read"], loopback_only = true }},
]

[[clusters]]
name = "demo"
endpoints = ["http://127.0.0.1:{upstream}"]

[[routes]]
operation = "*"
cluster = "demo"

[[routes]]
operation = "feed.*"
cluster = "demo"
idempotent = true

[[mqtt.rules]]
name = "readings"
topics = ["sensors/+/temperature"]
cluster = "demo"
path = "/readings"
"""


class NotRunning(Exception):
    """A process did not start, or ended; the text says what it said."""


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nobody listens now."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def surroundings() -> tuple[str, dict[str, str]]:
    """Working directory and environment in which a child finds this project."""
    root = str(Path(__file__).resolve().parent.parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    return root, os.environ | {"PYTHONPATH": path}


class Child:
    """One process, its output in a file."""

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        self.name = name
        self.log = log
        root, environment = surroundings()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=root, env=environment
            )  # fmt: skip

    def said(self, lines: int = 12) -> str:
        """The end of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    async def until(self, ready: Any, timeout: float = 25.0) -> None:
        """Wait for a state of the process, `ready()` true; NotRunning when it does not come."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while loop.time() < deadline and self._process.poll() is None:
            if await asyncio.to_thread(ready):
                return
            await asyncio.sleep(0.05)
        raise NotRunning(f"{self.name} is not ready (exit code {self._process.poll()})\n{self.said()}")

    async def end(self) -> None:
        """SIGTERM, and SIGKILL for one that does not hear it."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                await asyncio.to_thread(self._process.wait, 8.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def start_upstream(directory: Path, port: int) -> Child:
    """The demo service."""
    command = [sys.executable, "-m", "accessgw.demo.service", "--port", str(port)]
    return Child("the demo upstream", command, directory / "upstream.log")


def start_gateway(directory: Path, *, tls: int, mqtt: int, control: int, upstream: int) -> Child:
    """A gateway with its own configuration and state."""
    config = directory / "accessgw.toml"
    config.write_text(CONFIGURATION.format(directory=directory, tls=tls, mqtt=mqtt, control=control, upstream=upstream))
    twistd = str(Path(sys.executable).with_name("twistd"))
    command = [twistd, "--nodaemon", "--pidfile=", "accessgw", "--config", str(config)]
    return Child("the gateway", command, directory / "gateway.log")


class Http:
    """JSON over HTTP to one server, a connection per request; its methods block."""

    def __init__(self, url: str, token: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"expected http://host:port, got {url!r}")
        self._host = parts.hostname
        self._port = parts.port or 80
        self._token = token

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and parsed answer (text when it is no JSON); OSError when nobody answers."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=10)
        try:
            headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read().decode("utf-8", "replace")
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text

    def ok(self, path: str) -> bool:
        """GET answers 200."""
        try:
            return self.request("GET", path)[0] == 200
        except OSError:
            return False
