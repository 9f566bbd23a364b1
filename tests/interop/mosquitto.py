"""mosquitto as the other broker of a bridge, and paho clients that stand by and count what arrives."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from loadtest.free_ports import free_ports
from tests.system.gateway_process import PATIENCE

TIMEOUT = PATIENCE


class Mosquitto:
    """A mosquitto in a process of its own; `start` again after `stop` keeps its port, and its state with
    `persistent`."""

    def __init__(self, directory: Path, extra: str = "", persistent: bool = False) -> None:
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            pytest.skip("mosquitto is not installed")
        self.program = program
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.port = free_ports(1)[0]
        self.process: subprocess.Popen[bytes] | None = None
        lines = ["allow_anonymous true", "max_queued_messages 0", "max_inflight_messages 20"]
        if persistent:
            lines += ["persistence true", f"persistence_location {directory}/", "autosave_interval 1"]
        self.listener = f"listener {self.port} 127.0.0.1\n"
        self.settings = "per_listener_settings false\n" + "\n".join(lines) + "\n"
        self.extra = extra

    def start(self) -> Mosquitto:
        config = self.directory / "mosquitto.conf"
        config.write_text(self.settings + self.listener + self.extra)
        command = [self.program, "-c", config, "-v"]
        if subprocess.run(["id", "-u"], capture_output=True, check=True).stdout.strip() == b"0":
            config.write_text("user root\n" + config.read_text())
        with (self.directory / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self._listens)
        return self

    def _listens(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.said()
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def said(self) -> str:
        return (self.directory / "mosquitto.log").read_text(errors="replace")[-4000:]

    def received(self, client_id: str) -> list[tuple[str, int]]:
        """Topic and QoS of all that this client has sent it, in the order of the wire; of the whole log."""
        log = (self.directory / "mosquitto.log").read_text(errors="replace")
        found = re.findall(rf"Received PUBLISH from {re.escape(client_id)} \(d\d, q(\d), r\d, m\d+, '([^']*)'", log)
        return [(topic, int(qos)) for qos, topic in found]

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(TIMEOUT)


class Peer:
    """A client of either broker, on a thread of its own."""

    def __init__(self, port: int, client_id: str, *, password: str = "", keep: bool = False) -> None:
        """`keep`: its session outlives its connection, and goes on when it connects again by itself."""
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5)
        self.client.reconnect_delay_set(1, 1)
        if password:
            self.client.username_pw_set(client_id, password)
        self.messages: list[paho.MQTTMessage] = []
        self._done = threading.Event()
        self._codes: list[ReasonCode] = []
        self._connected = threading.Event()
        self.client.on_message = lambda client, data, message: self.messages.append(message)
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = self._on_subscribe
        properties = Properties(PacketTypes.CONNECT)
        if keep:
            properties.SessionExpiryInterval = 3600
        self.client.connect("127.0.0.1", port, 60, clean_start=not keep, properties=properties)
        self.client.loop_start()
        assert self._connected.wait(TIMEOUT), f"{client_id} cannot connect"

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        assert not reason.is_failure, reason
        self._connected.set()

    def _on_subscribe(self, client: Any, data: Any, mid: int, reasons: list[ReasonCode], properties: Any) -> None:
        self._codes = reasons
        self._done.set()

    def subscribe(self, filter: str, qos: int = 2) -> None:
        self._done.clear()
        self.client.subscribe(filter, options=SubscribeOptions(qos=qos, retainAsPublished=True))
        assert self._done.wait(TIMEOUT)
        assert not self._codes[0].is_failure, self._codes

    def publish(self, topic: str, payload: str, qos: int = 1, retain: bool = False, **more: Any) -> None:
        """Returns when it is acknowledged (QoS 0: sent)."""
        info = self.client.publish(topic, payload, qos, retain, **more)
        info.wait_for_publish(TIMEOUT)
        assert info.is_published(), f"{topic} was not acknowledged"

    def got(self, topic: str = "", qos: int = -1) -> list[str]:
        """Payloads, of one topic and one QoS or of all."""
        return [
            message.payload.decode()
            for message in list(self.messages)
            if topic in ("", message.topic) and qos in (-1, message.qos)
        ]

    def wait(self, true: Callable[[Peer], object]) -> None:
        try:
            wait_until(lambda: true(self))
        except AssertionError:
            got = [(message.topic, message.payload) for message in self.messages]
            raise AssertionError(f"it got {len(got)} messages, the last ones {got[-40:]}") from None

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def wait_until(true: Callable[[], object], timeout: float = TIMEOUT) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.01)
