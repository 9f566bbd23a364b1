"""OpenSSL's own client against the TLS listener."""

from __future__ import annotations

import subprocess

import pytest

from protocols.mmtp import Connection, Hello, Limits, Role
from protocols.mmtp.events import WelcomeReceived
from tests.interop.programs import needs, run
from tests.system.gateway_process import Gateway

pytestmark = needs("openssl", "openssl")


def s_client(gateway: Gateway, *options: str) -> tuple[object, ...]:
    return ("openssl", "s_client", "-connect", f"127.0.0.1:{gateway.tls}", "-servername", "localhost",
            "-CAfile", gateway.ca, "-verify_return_error", *options)  # fmt: skip


@pytest.mark.parametrize("alpn", ["mmtp/1", "http/1.1"])
def test_a_handshake_with_verified_certificate_and_alpn(gateway: Gateway, alpn: str) -> None:
    done = run(*s_client(gateway, "-alpn", alpn))
    said = done.stdout.decode()
    assert f"ALPN protocol: {alpn}" in said, said + done.stderr.decode()
    assert "Verify return code: 0 (ok)" in said
    assert "TLSv1.3" in said


def test_an_unknown_alpn_is_refused_with_its_alert(gateway: Gateway) -> None:
    done = run(*s_client(gateway, "-alpn", "smtp"))
    assert done.returncode != 0
    assert b"no application protocol" in done.stderr


def test_tls_1_1_is_refused(gateway: Gateway) -> None:
    done = run(*s_client(gateway, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"))
    assert b"alert protocol version" in done.stderr


def test_mmtp_spoken_through_s_client(gateway: Gateway) -> None:
    """HELLO goes in at its standard input, WELCOME comes out at its standard output."""
    wire = Connection(Role.CLIENT, limits=Limits(), now=0.0)
    wire.send_hello(Hello(device="s_client", token="device-token"))
    command = [str(part) for part in s_client(gateway, "-alpn", "mmtp/1", "-quiet", "-no_ign_eof")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(wire.to_send(0.0))
        process.stdin.flush()
        events = []
        while not events:
            wire.receive(process.stdout.read1(65536), 0.0)  # type: ignore[attr-defined]
            events = wire.events()
        assert isinstance(events[0], WelcomeReceived)
        assert events[0].welcome.result == 0
    finally:
        process.kill()
        process.wait()
