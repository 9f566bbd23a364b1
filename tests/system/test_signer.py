"""A gateway whose private keys are in another process: hand-shakes while that is killed, replaced, reloaded."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from protocols.tls.engines import WHY_NOT_NATIVE
from tests.crypto.certificates import self_signed
from tests.crypto.signer_process import SignerProcess
from tests.system.gateway_process import PATIENCE, Gateway
from tests.system.handshake_load import LIMITS, shake_hands

if WHY_NOT_NATIVE:
    pytest.skip(f"no native engine: {WHY_NOT_NATIVE}", allow_module_level=True)

CERTIFICATES = """
[[listeners.certificates]]
chain = "{chain}"
key = "{key}"
"""


def signing_gateway(
    make_gateway: Callable[..., Gateway], signer: str, certificate: str = "", more: str = "", restart_after: float = 0.0
) -> Gateway:
    """`restart_after`: 0 so that a signer which the machine has stopped is not taken for one that hangs."""
    patience = f"signer_timeout = {PATIENCE}\nsigner_restart_after = {restart_after}\n"
    gateway = make_gateway(extra=f'\n[tls]\nsigner = "{signer}"\n{patience}{more}{LIMITS}')
    text = gateway.config.read_text()
    # the certificate belongs to the first listener
    gateway.config.write_text(
        text.replace('\n[[listeners]]\nname = "plain"', certificate + '\n[[listeners]]\nname = "plain"')
    )
    return gateway


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def in_memory(pid: int, wanted: bytes) -> bool:
    """Whether writable memory of the process has these bytes."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, rights = line.split()[:2]
            begin, _, end = place.partition("-")
            if not rights.startswith("rw"):
                continue
            memory.seek(int(begin, 16))
            try:
                if wanted in memory.read(int(end, 16) - int(begin, 16)):
                    return True
            except OSError:
                continue
    return False


def signatures(gateway: Gateway) -> float:
    _, body = gateway.http("GET", "/metrics", token="t-read")
    found = re.search(r'accessgw_tls_signatures_total\{signer="process"\} (\S+)', str(body))
    return float(found[1]) if found else 0.0


def expiry(gateway: Gateway, path: str) -> float:
    _, body = gateway.http("GET", "/metrics", token="t-read")
    found = re.search(rf'accessgw_certificate_expires_seconds\{{.*file="{re.escape(path)}".*\}} (\S+)', str(body))
    assert found is not None
    return float(found[1])


def test_a_signer_of_the_gateways_own_is_killed_under_load_and_nobody_notices(make_gateway, load) -> None:
    gateway = signing_gateway(make_gateway, "process").start()
    assert gateway.process is not None
    (first,) = children(gateway.process.pid)
    running = load(gateway.tls)
    running.more(20)
    os.kill(first, signal.SIGKILL)
    running.more(20)
    (second,) = children(gateway.process.pid)
    assert second != first
    os.kill(second, signal.SIGTERM)
    running.more(20)
    running.stop()
    gateway.assert_sound()


def test_a_signer_of_the_gateways_own_that_hangs_is_replaced_and_clients_see_the_delay_only(make_gateway, load) -> None:
    gateway = signing_gateway(make_gateway, "process", restart_after=0.5).start()
    assert gateway.process is not None
    (first,) = children(gateway.process.pid)
    running = load(gateway.tls)
    running.more(20)
    pidfd = os.pidfd_open(first)
    os.kill(first, signal.SIGSTOP)
    assert select.select([pidfd], [], [], PATIENCE)[0]
    os.close(pidfd)
    running.more(20)
    running.stop()
    (second,) = children(gateway.process.pid)
    assert second != first
    log = gateway.log.read_text()
    assert "has answered nothing for 0.5 s" in log and "is there again" in log
    # its end was ours, and is no news of its own
    assert "signal 9" not in log and "no signer at" not in log
    assert f"the signer is process {second}" in log
    _, status = gateway.http("GET", "/v1/status", token="t-read")
    waiting = status["signer"].pop("waiting")
    assert waiting >= 0
    path = str(gateway.directory / "state" / "signer.sock")
    assert status["signer"] == {"path": path, "connected": True, "away": 0.0, "pid": second}
    gateway.assert_sound()


def test_a_signer_that_is_stopped_does_not_outlive_the_gateway(make_gateway) -> None:
    gateway = signing_gateway(make_gateway, "process").start()
    shake_hands(gateway.tls)
    assert gateway.process is not None
    (child,) = children(gateway.process.pid)
    pidfd = os.pidfd_open(child)
    os.kill(child, signal.SIGSTOP)
    gateway.process.send_signal(signal.SIGTERM)
    gateway.process.wait(PATIENCE)
    ended = select.select([pidfd], [], [], PATIENCE)[0]
    if not ended:
        os.kill(child, signal.SIGKILL)
    os.close(pidfd)
    assert ended


@pytest.mark.skipif(os.getuid() != 0, reason="reading the memory of another process takes root")
@pytest.mark.parametrize(("signer", "holds"), [("threads", True), ("process", False)])
def test_the_memory_of_the_gateway_does_not_have_the_key(make_gateway, tmp_path, signer, holds) -> None:
    certificate = self_signed(tmp_path, "localhost")
    lines = CERTIFICATES.format(chain=certificate.chain, key=certificate.key)
    gateway = signing_gateway(make_gateway, signer, lines).start()
    shake_hands(gateway.tls)
    assert gateway.process is not None
    private = load_pem_private_key(Path(certificate.key).read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    scalar = private.private_numbers().private_value
    pem = Path(certificate.key).read_bytes().splitlines()[1]
    # as numbers of OpenSSL, as in DER, as in the file
    for form in (scalar.to_bytes(32, "little"), scalar.to_bytes(32, "big"), pem):
        if in_memory(gateway.process.pid, form):
            assert holds
            break
    else:
        assert not holds


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signer_of_the_gateways_own_ends_with_it_however_that_ends(make_gateway, number) -> None:
    gateway = signing_gateway(make_gateway, "process").start()
    assert gateway.process is not None
    shake_hands(gateway.tls)
    (child,) = children(gateway.process.pid)
    socket_path = gateway.directory / "state" / "signer.sock"
    assert stat.S_IMODE(socket_path.stat().st_mode) == 0o600
    pidfd = os.pidfd_open(child)
    gateway.process.send_signal(number)
    gateway.process.wait(PATIENCE)
    # readable once the process has ended
    assert select.select([pidfd], [], [], PATIENCE)[0]
    os.close(pidfd)


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_openssl_as_a_client_sees_the_delay_only(make_gateway, tmp_path, kind) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    algorithm = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"] if kind == "ec" else ["rsa:2048"]
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-nodes",
            "-newkey",
            *algorithm,
            "-keyout",
            key,
            "-out",
            chain,
            "-subj",
            "/CN=localhost",
        ],
        check=True,
        capture_output=True,
    )
    path = tmp_path / "signer.sock"
    signer = SignerProcess(path, "--key", str(key))
    # The gateway could not read the key if it wanted to.
    lines = CERTIFICATES.format(chain=chain, key="")
    gateway = signing_gateway(make_gateway, f"unix:{path}", lines).start()
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{gateway.tls}", "-alpn", "http/1.1", "-no_ign_eof"]
    waiting = [
        subprocess.Popen([*command, *version], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for version in (["-tls1_3"], ["-tls1_3"], ["-tls1_2"])
    ]
    # They are shaking hands with a gateway whose signer does not run yet.
    signer.start()
    for client in waiting:
        out, _ = client.communicate(b"Q\n", timeout=PATIENCE)
        assert b"CN = localhost" in out
        assert b"Verification error: self-signed certificate" in out or b"self-signed" in out
        assert re.search(rb"New, TLSv1.[23], Cipher is [A-Z]", out), out
    assert shake_hands(gateway.tls)
    signer.end()
    assert "no signer at" in gateway.log.read_text()


def test_keys_are_replaced_hot_in_both_processes(make_gateway, load, tmp_path) -> None:
    certificate = self_signed(tmp_path, "localhost")
    gateway = signing_gateway(
        make_gateway, "process", CERTIFICATES.format(chain=certificate.chain, key=certificate.key)
    ).start()
    before = shake_hands(gateway.tls)
    (tmp_path / "new").mkdir()
    new = self_signed(tmp_path / "new", "localhost")
    running = load(gateway.tls)
    os.replace(new.key, certificate.key)
    os.replace(new.chain, certificate.chain)
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_until(lambda: shake_hands(gateway.tls) != before)
    running.more(10)
    running.stop()


@pytest.mark.parametrize("ours", [True, False], ids=["process", "unix"])
def test_a_chain_serves_once_its_key_has_come_and_no_hand_shake_fails(make_gateway, load, tmp_path, ours) -> None:
    certificate = self_signed(tmp_path, "localhost")
    path = tmp_path / "signer.sock"
    signer = SignerProcess(path, "--key", certificate.key)
    lines = CERTIFICATES.format(chain=certificate.chain, key=certificate.key)
    gateway = signing_gateway(make_gateway, "process" if ours else f"unix:{path}", lines)
    if not ours:
        signer.start()
    gateway.start()
    before, end = shake_hands(gateway.tls), expiry(gateway, certificate.chain)
    (tmp_path / "new").mkdir()
    new = self_signed(tmp_path / "new", "localhost", lifetime=timedelta(days=2))
    running = load(gateway.tls)
    os.replace(new.chain, certificate.chain)
    waits = f"THE CERTIFICATE IN {certificate.chain} WAITS FOR THE SIGNER TO HAVE ITS KEY"
    gateway.wait_until(lambda: waits in gateway.log.read_text())
    running.more(20)
    assert (shake_hands(gateway.tls), expiry(gateway, certificate.chain)) == (before, end)
    _, answer = gateway.http("POST", "/v1/reload", None, "t-operate")
    assert answer["certificates_waiting"] == [certificate.chain]
    assert certificate.chain not in answer["certificates_loaded"]
    os.replace(new.key, certificate.key)
    if not ours:
        signer.send(signal.SIGHUP)
    gateway.wait_until(lambda: shake_hands(gateway.tls) != before)
    running.more(20)
    running.stop()
    assert expiry(gateway, certificate.chain) > end
    assert gateway.log.read_text().count(waits) == 1
    if not ours:
        signer.end()


def test_with_a_fallback_the_gateway_signs_itself_while_there_is_no_signer(make_gateway, tmp_path) -> None:
    certificate = self_signed(tmp_path, "localhost")
    lines = CERTIFICATES.format(chain=certificate.chain, key=certificate.key)
    gateway = signing_gateway(
        make_gateway, f"unix:{tmp_path / 'nobody.sock'}", lines, "signer_fallback = true\n"
    ).start()
    assert shake_hands(gateway.tls)
    _, body = gateway.http("GET", "/metrics", token="t-read")
    assert re.search(r"accessgw_tls_signer_fallbacks_total 1(\.0)?\n", str(body)), body


def test_without_the_native_engine_the_start_says_why_it_cannot_be(make_gateway) -> None:
    gateway = signing_gateway(make_gateway, "process")
    gateway.environment["ACCESSGW_ACCEL"] = "pure"
    with pytest.raises(AssertionError):
        gateway.start()
    said = 'tls.signer: "process" needs the native TLS engine, which is not available: ACCESSGW_ACCEL is pure'
    assert said in gateway.log.read_text()


def test_the_metrics_count_signatures(make_gateway) -> None:
    gateway = signing_gateway(make_gateway, "process").start()
    shake_hands(gateway.tls)
    assert signatures(gateway) == 1.0
