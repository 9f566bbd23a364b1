"""The brokers that bench_mqtt compares, each as a child process with a configuration of its own."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from loadtest.bench.servers import Gateway, Server, Unavailable, wait_for_port
from loadtest.free_ports import free_ports

USER, PASSWORD = "bench", "bench-device"
IN_FLIGHT = 64  # unacknowledged messages towards a client, the gateway's default
QUEUED = 10_000


@dataclass(frozen=True)
class Setup:
    """What a case asks of a broker."""

    acl: bool = False
    durable: bool = False


class MqttServer(Server):
    """A broker on a plain TCP port of loopback."""

    wire = "mqtt"

    def __init__(self, directory: Path, setup: Setup) -> None:
        super().__init__(directory)
        self.setup = setup

    def pids(self) -> list[int]:
        """The process and its descendants now."""
        found = [self.process.pid]
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, children.read_text().split())
        return found

    def version(self) -> str:
        """Name and version, as the peer tells them; the name alone where it tells nothing."""
        return self.name

    def _wait(self, log: Path) -> None:
        try:
            wait_for_port(self.port, self.process, log)
        except RuntimeError as why:
            self.stop()
            raise Unavailable(f"{self.name} did not start: {str(why).strip().splitlines()[-1]}") from None


class Mosquitto(MqttServer):
    """Debian's mosquitto. The password is not checked: its PBKDF2 alone would cost more than everything else."""

    name = "mosquitto"

    def start(self) -> None:
        program = self.program()
        (self.port,) = free_ports(1)
        config, log = self.directory / "mosquitto.conf", self.directory / "mosquitto.log"
        config.write_text(self.settings())
        with log.open("w") as output:
            self.process = subprocess.Popen([program, "-c", config], stdout=output, stderr=output, text=True)
        self._wait(log)

    @staticmethod
    def program() -> str:
        found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
        if found is None:
            raise Unavailable("skipped: no mosquitto")
        return found

    def version(self) -> str:
        said = subprocess.run([self.program(), "-h"], check=False, capture_output=True, text=True).stdout
        return said.partition("\n")[0].replace(" version", "") or self.name

    def settings(self) -> str:
        """Its configuration file. Started by root it would become a user who cannot read the directory."""
        lines = [
            f"user {getpass.getuser()}",
            f"listener {self.port} 127.0.0.1",
            "socket_domain ipv4",
            "allow_anonymous true",
            "set_tcp_nodelay true",
            f"max_inflight_messages {IN_FLIGHT}",
            f"max_queued_messages {QUEUED}",
            "log_dest stderr",
            "log_type error",
        ]
        if self.setup.acl:
            rules = self.directory / "acl"
            rules.write_text(
                "topic read $SYS/#\n"
                f"user {USER}\n"
                "topic deny secret/#\n"
                "topic deny plant/+/keys\n"
                "topic read news/#\n"
                "topic write alarms/#\n"
                "topic readwrite bench/+/+/value\n"
                "pattern readwrite devices/%c/#\n"
            )
            rules.chmod(0o700)
            lines.append(f"acl_file {rules}")
        if self.setup.durable:
            # The whole store is written again each second; nothing nearer to "before it is acknowledged" can be set.
            lines += ["persistence true", f"persistence_location {self.directory}/", "autosave_interval 1"]
        return "\n".join(lines) + "\n"


class Amqtt(MqttServer):
    """amqtt's broker (3.1.1, in memory, no topic rules)."""

    name = "amqtt"

    def start(self) -> None:
        if find_spec("amqtt") is None:
            raise Unavailable("skipped: no amqtt (pip install amqtt)")
        (self.port,) = free_ports(1)
        log = self.directory / "amqtt.log"
        with log.open("w") as output:
            command = [sys.executable, "-m", "loadtest.bench.amqtt_peer", str(self.port)]
            self.process = subprocess.Popen(command, stdout=output, stderr=output, text=True)
        self._wait(log)

    def version(self) -> str:
        return f"{self.name} {metadata.version('amqtt')}"


class MqttGateway(MqttServer, Gateway):
    """accessgw with its SQLite store, topic rules and metrics. Its access log is off."""

    wire = "mqtt"

    def start(self) -> None:
        try:
            Gateway.start(self)
        except RuntimeError as why:
            self.stop()
            raise Unavailable(f"{self.name} did not start: {str(why).strip().splitlines()[-1]}") from None

    def settings(self, tls_port: int) -> str:
        return f"""
state_dir = "{self.directory / "state"}"

[[listeners]]
name = "mqtt"
transport = "tcp"
address = "127.0.0.1"
port = {self.port}
protocols = ["mqtt"]

[limits]
max_connections_per_address = 100000
accepts_per_address_per_second = 100000.0
accept_burst_per_address = 100000

[[authenticators]]
kind = "static"
tokens = [{{ token = "{PASSWORD}", user = "{USER}" }}]

[control]
port = {self.control_port}
tokens = [{{ token = "bench", roles = ["push", "read", "operate"] }}]

[mqtt]
max_inflight = {IN_FLIGHT}
max_queued = {QUEUED}
acl_default = "deny"
acl = [
    {{ permit = "deny", topics = ["secret/#"] }},
    {{ permit = "deny", topics = ["plant/+/keys"], user = "{USER}" }},
    {{ action = "subscribe", topics = ["$SYS/#"] }},
    {{ action = "subscribe", topics = ["news/#"], user = "{USER}" }},
    {{ action = "publish", topics = ["alarms/#"], user = "{USER}" }},
    {{ topics = ["bench/+/+/value"], user = "{USER}" }},
    {{ topics = ["devices/{{device}}/#"] }},
]
"""
