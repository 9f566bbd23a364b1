"""HAProxy before a gateway, as the runbook configures it: health checks, and the address of the device."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loadtest.free_ports import free_ports
from tests.interop.programs import needs
from tests.system.device import Device, Gone
from tests.system.gateway_process import Gateway

pytestmark = needs("haproxy", "haproxy")

CONFIG = """
global
    log stdout format raw local0
defaults
    mode tcp
    log global
    timeout connect 60s
    timeout client 60s
    timeout server 60s
    # without it a check that is answered only after `inter` has failed
    timeout check 60s
    default-server inter 1s fastinter 1s downinter 1s fall 1 rise 1
frontend devices
    bind 127.0.0.1:{front}
    default_backend phones
backend phones
    {check}
    server gw1 127.0.0.1:{proxied} check port {control} send-proxy-v2
"""


@pytest.fixture
def proxied(make_gateway: Callable[..., Gateway]) -> tuple[Gateway, int]:
    """A gateway whose listener at that port believes a PROXY header from loopback."""
    (port,) = free_ports(1)
    extra = (
        f'\n[[listeners]]\nname = "proxied"\ntransport = "tcp"\nport = {port}\nprotocols = ["mmtp/1"]\n'
        'proxy_protocol_from = ["127.0.0.1/32"]\n'
    )
    return make_gateway(extra=extra).start(), port


@pytest.fixture
def start_haproxy(proxied: tuple[Gateway, int], tmp_path: Path) -> Iterator[Callable[[str], tuple[int, Path]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(check: str) -> tuple[int, Path]:
        """(its port, its log)."""
        gateway, port = proxied
        (front,) = free_ports(1)
        config, log = tmp_path / "haproxy.cfg", tmp_path / "haproxy.log"
        config.write_text(CONFIG.format(front=front, check=check, proxied=port, control=gateway.control))
        with log.open("wb") as out:
            started.append(subprocess.Popen([str(shutil.which("haproxy")), "-f", config], stdout=out, stderr=out))
        return front, log

    yield start
    for process in started:
        process.kill()
        process.wait()


def comes_through(front: int) -> bool:
    try:
        Device(front, "first").welcomed().cut()
    except Gone:
        return False
    return True


@pytest.mark.parametrize("check", ["option httpchk GET /health/ready", "option httpchk HEAD /health/ready HTTP/1.0"])
def test_devices_come_through_while_the_gateway_is_ready(
    proxied: tuple[Gateway, int], start_haproxy: Callable[[str], tuple[int, Path]], check: str
) -> None:
    gateway, _ = proxied
    front, log = start_haproxy(check)
    gateway.wait_until(lambda: comes_through(front))
    device = Device(front, "phone").welcomed()
    status, row = gateway.http("GET", "/v1/devices/phone", token="t-read")
    assert (status, row["connection"]["listener"], row["connection"]["peer"]) == (200, "proxied", "127.0.0.1")
    assert "DOWN" not in log.read_text(), "every check was answered well"

    gateway.http("POST", "/v1/drain", {"seconds": 60}, "t-operate")
    gateway.wait_until(lambda: "gw1 is DOWN" in log.read_text())
    assert "503" in log.read_text()
    with pytest.raises((Gone, ConnectionError)):
        Device(front, "late").welcomed()
    device.cut()
