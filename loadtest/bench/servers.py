"""The servers under test as child processes, and what the kernel says of their CPU and memory."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path

from loadtest.free_ports import free_ports

TICK = os.sysconf("SC_CLK_TCK")


class Unavailable(Exception):
    """This peer cannot run here; the message says why, for the row."""


class Server(ABC):
    """One server in a process of its own."""

    name = ""
    wire = "frames"
    process: subprocess.Popen[str]
    port = 0

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @abstractmethod
    def start(self) -> None:
        """Start it and set `process` and `port`; raises Unavailable when it cannot run here."""

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def cpu(self) -> float:
        """User and system seconds so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory(self) -> int:
        """Resident bytes now."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _launch(self, *command: str | Path) -> None:
        """Start a peer that prints "port N"."""
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        if not said.startswith("port "):
            self.process.kill()
            raise Unavailable(f"skipped: {self.name} did not start")
        self.port = int(said.split()[1])


class Floor(Server):
    """Plain C, epoll and send()."""

    name = "C floor"

    def start(self) -> None:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise Unavailable("skipped: no gcc")
        program = self.directory / "floor"
        subprocess.run([compiler, "-O2", "-o", program, Path(__file__).with_name("floor.c")], check=True)
        self._launch(program)


class StockTwisted(Server):
    """Twisted as its manual shows it."""

    name = "stock Twisted"

    def start(self) -> None:
        self._launch(sys.executable, "-m", "loadtest.bench.stock_twisted")


class Gateway(Server):
    """accessgw with everything on: sessions, durable streams, metrics. Its access log is off."""

    name = "accessgw"
    wire = "mmtp"
    control_port = 0

    def start(self) -> None:
        self.port, self.control_port, tls_port = free_ports(3)
        config = self.directory / "accessgw.toml"
        config.write_text(self.settings(tls_port))
        twistd = Path(sys.executable).with_name("twistd")
        log = (self.directory / "gateway.log").open("w")
        self.process = subprocess.Popen(
            [twistd, "--nodaemon", "--pidfile=", "accessgw", "--config", config],
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wait_for_port(self.port, self.process, self.directory / "gateway.log")

    def settings(self, tls_port: int) -> str:
        """Its configuration file."""
        state = self.directory / "state"
        return f"""
state_dir = "{state}"

[[listeners]]
name = "plain"
transport = "tcp"
address = "127.0.0.1"
port = {self.port}

[[listeners]]
name = "phones"
transport = "tls"
address = "127.0.0.1"
port = {tls_port}
protocols = ["mmtp/1", "http/1.1"]

[limits]
max_connections_per_address = 100000
accepts_per_address_per_second = 100000.0
accept_burst_per_address = 100000

[[authenticators]]
kind = "static"
tokens = [{{ token = "bench-device" }}]

[control]
port = {self.control_port}
tokens = [{{ token = "bench", roles = ["push", "read", "operate"] }}]
"""

    def backends(self) -> dict[str, str]:
        """What runs in it, as it says itself."""
        control = http.client.HTTPConnection("127.0.0.1", self.control_port, timeout=10)
        control.request("GET", "/v1/config", headers={"Authorization": "Bearer bench"})
        said: dict[str, str] = json.loads(control.getresponse().read())["backends"]
        control.close()
        return said


def wait_for_port(port: int, process: subprocess.Popen[str], log: Path) -> None:
    """Until something listens there, at most 30 s."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"the gateway did not start:\n{log.read_text()[-2000:]}")
