"""TLS of a whole gateway, with openssl s_client: early data, the key log, refusals with their reasons, counters."""

from __future__ import annotations

import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.free_ports import free_ports
from tests.system.gateway_process import PATIENCE, Gateway
from tests.system.upstream import Upstream

MakeGateway = Callable[..., Gateway]
OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(not OPENSSL, reason="openssl is not installed")

EARLY = """
[tls]
replay_window = 1.0

[[listeners]]
name = "early"
transport = "tls"
port = {port}
protocols = ["http/1.1", "mmtp/1"]
early_data = 4096

[[routes]]
path = "/safe/"
cluster = "business"
idempotent = true
require = "none"
"""


def s_client(gateway: Gateway, port: int, *arguments: str, data: bytes = b"") -> str:
    command = [str(OPENSSL), "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", "-ign_eof"]
    command += ["-CAfile", str(gateway.ca), "-alpn", "http/1.1", *arguments]
    done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=PATIENCE)
    return (done.stdout + done.stderr).decode(errors="replace")


def request(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode()


class Phone:
    """Asks in early data, each time under a new ticket."""

    def __init__(self, gateway: Gateway, port: int, directory: Path) -> None:
        self.gateway, self.port = gateway, port
        self.session, self.request = directory / "session.pem", directory / "request"

    def ask(self, path: str, method: str = "GET") -> str:
        s_client(self.gateway, self.port, "-sess_out", str(self.session), data=request("/.well-known/accessgw"))
        self.request.write_bytes(request(path, method))
        return s_client(self.gateway, self.port, "-sess_in", str(self.session), "-early_data", str(self.request))


def test_idempotent_requests_are_served_from_early_data(
    make_gateway: MakeGateway, upstream: Upstream, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    gateway = make_gateway(upstream=upstream.url, extra=EARLY.format(port=port)).start()
    phone = Phone(gateway, port, tmp_path)
    at_first = phone.ask("/safe/0")
    # the register is new: nobody can say what was seen before the start
    assert "HTTP/1.1 425" in at_first, at_first
    assert upstream.executed == []
    gateway.wait_until(lambda: "HTTP/1.1 200" in phone.ask("/safe/1"))
    assert [path for path, _ in upstream.executed] == ["/safe/1"]
    assert gateway.metric("accessgw_tls_early_data_refused_total", reason="not_ready") >= 1
    assert gateway.metric("accessgw_tls_early_data_accepted_total") == 1
    for path, method in (("/api/2", "GET"), ("/safe/3", "POST"), ("/mmtp", "POST"), ("/mmtp", "GET")):
        said = phone.ask(path, method)
        assert "Early data was accepted" in said
        assert "HTTP/1.1 425" in said, (path, method, said)
    assert "HTTP/1.1 200" in phone.ask("/.well-known/accessgw")
    assert [path for path, _ in upstream.executed] == ["/safe/1"]
    gateway.assert_sound()
    assert gateway.terminate() in (0, -signal.SIGTERM)


def test_the_key_log_has_what_the_client_has(make_gateway: MakeGateway, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.keys", tmp_path / "theirs.keys"
    gateway = make_gateway(extra=f'\n[tls]\nkey_log = "{ours}"\n').start()
    gateway.wait_until(lambda: "SECRETS OF ALL TLS CONNECTIONS ARE WRITTEN" in gateway.said())
    s_client(gateway, gateway.tls, "-keylogfile", str(theirs), data=request("/.well-known/accessgw"))
    assert stat.S_IMODE(ours.stat().st_mode) == 0o600
    lines = {line for line in theirs.read_text().splitlines() if "TRAFFIC_SECRET" in line}
    assert len(lines) == 4
    assert lines <= set(ours.read_text().splitlines())


def test_a_key_log_that_others_may_read_is_refused(make_gateway: MakeGateway, tmp_path: Path) -> None:
    ours = tmp_path / "ours.keys"
    ours.touch(0o640)
    gateway = make_gateway(extra=f'\n[tls]\nkey_log = "{ours}"\n')
    with pytest.raises(AssertionError, match="exit code 1"):
        gateway.start()
    assert f"accessgw: {ours}: holds the keys of all traffic: expected a file of mode 0600, got 0640" in gateway.said()
    assert "Traceback" not in gateway.said()


def test_a_refused_hand_shake_is_logged_with_peer_alert_and_cause(make_gateway: MakeGateway) -> None:
    gateway = make_gateway()
    gateway.log_accesses()
    gateway.start()
    with socket.create_connection(("127.0.0.1", gateway.tls), timeout=PATIENCE) as sock:
        sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        while sock.recv(100):
            pass
    s_client(gateway, gateway.tls, "-alpn", "imap")

    def refusals() -> list[dict[str, object]]:
        return [row for row in gateway.accesses() if row.get("reason") == "handshake_failed"]

    gateway.wait_until(lambda: len(refusals()) == 2)
    first, second = refusals()
    assert first["peer"] == second["peer"] == "127.0.0.1"
    assert str(first["detail"]).startswith("alert 70 (protocol_version): TLS hand-shake: ")
    assert str(second["detail"]).startswith("alert 120 (no_application_protocol): TLS ALPN: expected one of ")
    for reason in ("protocol_version", "no_application_protocol"):
        assert gateway.metric("accessgw_tls_handshakes_refused_total", reason=reason) == 1
    assert gateway.metric("accessgw_tls_handshake_steps_waiting") == 0
    gateway.assert_sound()


@pytest.mark.parametrize("engine", ["auto", "pure"])
def test_a_full_handshake_gives_one_ticket(make_gateway: MakeGateway, engine: str) -> None:
    gateway = make_gateway(extra=f'\n[tls]\nengine = "{engine}"\n').start()
    said = s_client(gateway, gateway.tls, "-tls1_3", data=request("/.well-known/accessgw"))
    assert "HTTP/1.1 200" in said
    assert said.count("Post-Handshake New Session Ticket arrived") == 1, said


def test_its_memory_is_dumped_nowhere(make_gateway: MakeGateway) -> None:
    gateway = make_gateway().start()
    assert gateway.process is not None
    limits = Path(f"/proc/{gateway.process.pid}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert line.split()[-3:-1] == ["0", "0"]
