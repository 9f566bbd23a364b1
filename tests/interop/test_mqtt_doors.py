"""An independent MQTT client through every door: plain, TLS with and without ALPN and 1.2, WebSocket, certificates."""

from __future__ import annotations

import queue
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtest.free_ports import free_ports
from tests.crypto.authority import Authority
from tests.system.gateway_process import PATIENCE, Gateway

mqtt = pytest.importorskip("paho.mqtt.client", reason="no paho-mqtt here (pip install '.[test]')")

MQTT_LISTENERS = """
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
client_ca = "{ca}"

[log]
access = "{log}"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, dict[str, int], Authority]]:
    directory = tmp_path_factory.mktemp("doors")
    authority = Authority(directory, "devices-ca")
    gateway = Gateway(directory)
    text = gateway.config.read_text().replace('["mmtp/1", "http/1.1"]', '["mmtp/1", "mqtt", "http/1.1"]')
    mqtts, certified = free_ports(2)
    text += MQTT_LISTENERS.format(mqtts=mqtts, certified=certified, ca=authority.file, log=gateway.access_log)
    gateway.config.write_text(text)
    gateway.start()
    ports = {"tls": gateway.tls, "plain": gateway.plain, "mqtts": mqtts, "certified": certified}
    yield gateway, ports, authority
    gateway.assert_sound()
    gateway.close()


def echo(
    port: int, name: str, *, version: int = mqtt.MQTTv5, path: str = "", context: ssl.SSLContext | None = None
) -> bytes:
    """Subscribe, publish, and take what comes back."""
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2,
        client_id=name,
        protocol=version,
        transport="websockets" if path else "tcp",
    )
    client.username_pw_set("anybody", "alice-token")
    if path:
        client.ws_set_options(path)
    if context is not None:
        client.tls_set_context(context)
    came: queue.Queue[Any] = queue.Queue()
    client.on_connect = lambda c, data, flags, reason, properties: came.put(reason)
    client.on_subscribe = lambda c, data, mid, reasons, properties: came.put(reasons[0])
    client.on_message = lambda c, data, message: came.put(message.payload)
    client.connect("localhost", port)
    client.loop_start()
    try:
        reason = came.get(timeout=PATIENCE)
        assert not reason.is_failure, reason
        client.subscribe(f"doors/{name}", qos=1)
        assert not came.get(timeout=PATIENCE).is_failure
        client.publish(f"doors/{name}", b"x" * 70_000, qos=1)
        payload = came.get(timeout=PATIENCE)
        assert isinstance(payload, bytes)
        return payload
    finally:
        client.disconnect()
        client.loop_stop()


def context(gateway: Gateway, *alpn: str, old: bool = False) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(gateway.ca))
    if alpn:
        made.set_alpn_protocols(list(alpn))
    if old:
        made.maximum_version = ssl.TLSVersion.TLSv1_2
    return made


@pytest.mark.parametrize("version", [mqtt.MQTTv311, mqtt.MQTTv5])
@pytest.mark.parametrize(
    ("door", "alpn", "old", "path"),
    [
        ("plain", None, False, ""),
        ("plain", None, False, "/mqtt"),
        ("tls", ("mqtt",), False, ""),
        ("tls", (), False, ""),
        ("tls", (), True, ""),
        ("tls", (), False, "/mqtt"),
        ("tls", ("http/1.1",), True, "/mqtt"),
        ("mqtts", (), False, ""),
        ("mqtts", (), True, ""),
        ("mqtts", ("mqtt",), False, ""),
    ],
)
def test_every_door(
    place: tuple[Gateway, dict[str, int], Authority], version: int, door: str, alpn: Any, old: bool, path: str
) -> None:
    gateway, ports, _ = place
    tls = None if alpn is None else context(gateway, *alpn, old=old)
    payload = echo(ports[door], f"d{version}", version=version, path=path, context=tls)
    assert payload == b"x" * 70_000


def test_a_client_certificate_is_asked_for(place: tuple[Gateway, dict[str, int], Authority], tmp_path: Path) -> None:
    gateway, ports, authority = place
    issued = authority.issue("certified-device")
    good = context(gateway)
    good.load_cert_chain(issued.chain, issued.key)
    assert echo(ports["certified"], "certified-device", context=good) == b"x" * 70_000
    with pytest.raises((OSError, ssl.SSLError, queue.Empty, AssertionError)):
        echo(ports["certified"], "certified-device", context=context(gateway, old=True))
    gateway.wait_until(lambda: "handshake_failed" in gateway.access_log.read_text())
