"""A request in early data under an ordinary ticket of TLS, recorded whole by somebody on the way and shown again."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.free_ports import free_ports
from tests.system.gateway_process import Gateway
from tests.system.replays import make_old_register
from tests.system.test_tls_door import EARLY, Phone
from tests.system.upstream import Upstream

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl here (Debian package openssl)")
REPLAYS = 100


class Tap:
    """A relay that keeps all that a client says on each connection."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.heard: list[bytes] = []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.server.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                self.heard.append(b"")
                threading.Thread(target=self._carry, args=(near, far, len(self.heard) - 1), daemon=True).start()
                threading.Thread(target=self._carry, args=(far, near, -1), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if number >= 0:
                    self.heard[number] += data
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def show(port: int, flight: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(flight)
        return sock.recv(65536)
    return b""


def _replays_in(log: str) -> int:
    return log.count("its early data was refused: a replay")


def test_it_is_executed_once(make_gateway: Callable[..., Gateway], upstream: Upstream, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    gateway = make_gateway(upstream=upstream.url, extra=EARLY.format(port=port))
    gateway.log_accesses()
    make_old_register(gateway)
    gateway.start()
    tap = Tap(port)
    assert "HTTP/1.1 200" in Phone(gateway, tap.port, tmp_path).ask("/safe/1")
    recorded = tap.heard[-1]
    assert len(upstream.executed) == 1
    logged = len(gateway.access_log.read_text())
    for _ in range(REPLAYS):
        assert show(port, recorded)
    gateway.wait_until(lambda: gateway.metric("accessgw_connections_open") == 0)
    assert gateway.metric("accessgw_tls_early_data_refused_total", reason="replay") == REPLAYS
    assert gateway.metric("accessgw_tls_early_data_accepted_total") == 1
    assert len(upstream.executed) == 1
    # lines are written behind
    gateway.wait_until(lambda: _replays_in(gateway.access_log.read_text()[logged:]) >= REPLAYS)
    assert _replays_in(gateway.access_log.read_text()[logged:]) == REPLAYS
    gateway.assert_sound()
