"""A gateway with every MQTT door, for independent clients, and what it knows of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from loadtest.free_ports import free_ports
from tests.crypto.authority import Authority
from tests.system.gateway_process import Gateway
from tests.system.upstream import Upstream

CONFIGURATION = """
[[listeners]]
name = "mqtt"
transport = "tcp"
port = {mqtt}
protocols = ["mqtt"]

[[listeners]]
name = "mqtts"
transport = "tls"
port = {mqtts}
protocols = ["mqtt"]

[[listeners]]
name = "certified"
transport = "tls"
port = {certified}
protocols = ["mqtt"]
client_certificates = "require"
client_ca = "{devices_ca}"

[[authenticators]]
kind = "certificate"

[mqtt]
sys_interval = 0.5

[[mqtt.acl]]
permit = "deny"
topics = ["forbidden/#"]

[log]
access = "{log}"
"""


class Place:
    """A running gateway: `mqtt` and `mqtts` speak nothing else, `shared` (TLS) and `web` (plain) speak HTTP as well,
    and `certified` asks for certificates of `devices`."""

    def __init__(self, directory: Path, upstream: str) -> None:
        self.devices = Authority(directory, "devices-ca")
        self.gateway = Gateway(directory, upstream=upstream)
        self.mqtt, self.mqtts, self.certified = free_ports(3)
        text = self.gateway.config.read_text().replace('["mmtp/1", "http/1.1"]', '["mmtp/1", "mqtt", "http/1.1"]')
        text += CONFIGURATION.format(
            mqtt=self.mqtt,
            mqtts=self.mqtts,
            certified=self.certified,
            devices_ca=self.devices.file,
            log=self.gateway.access_log,
        )
        self.gateway.config.write_text(text)
        self.shared, self.web = self.gateway.tls, self.gateway.plain
        self.ca = self.gateway.ca

    def client(self, name: str) -> dict[str, Any]:
        """What the gateway knows of a client; empty when it has no session."""
        status, answer = self.gateway.http("GET", f"/v1/mqtt/clients/{quote(name, safe='')}", token="t-read")
        return answer if status == 200 else {}

    def connected(self, name: str, yes: bool = True) -> None:
        """Wait until the client is connected; or is not."""
        self.gateway.wait_until(lambda: self.client(name).get("connected", False) is yes)

    def subscribed(self, name: str, *filters: str) -> None:
        """Wait until the client has these subscriptions."""
        self.gateway.wait_until(
            lambda: set(filters) <= {one["filter"] for one in self.client(name).get("subscriptions", ())}
        )


@contextmanager
def running(directory: Path) -> Iterator[Place]:
    """One that is ended, and must have no defect in its log."""
    upstream = Upstream()
    upstream.start()
    place = Place(directory, upstream.url)
    try:
        place.gateway.start()
        yield place
        place.gateway.assert_sound()
    finally:
        place.gateway.close()
        upstream.stop()
