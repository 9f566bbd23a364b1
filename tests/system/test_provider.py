"""A gateway whose private key only a provider of OpenSSL has: a TPM in software, where it is installed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from protocols.tls.engines import WHY_NOT_NATIVE
from tests.crypto.authority import Authority
from tests.crypto.certificates import self_signed
from tests.crypto.signer_process import SignerProcess
from tests.crypto.software_tpm import MISSING, SoftwareTpm, software_tpm
from tests.system.gateway_process import PATIENCE, ROOT, Gateway
from tests.system.handshake_load import LIMITS, Load

if WHY_NOT_NATIVE:
    pytest.skip(f"no native engine: {WHY_NOT_NATIVE}", allow_module_level=True)
if MISSING:
    pytest.skip(f"not installed: {MISSING}", allow_module_level=True)

CERTIFICATES = """
[[listeners.certificates]]
chain = "{chain}"
key = "{key}"
"""


@pytest.fixture
def tpm(tmp_path) -> Iterator[SoftwareTpm]:
    with software_tpm(tmp_path) as tpm:
        yield tpm


class Files:
    """A key in the TPM, and a certificate of it from a CA."""

    def __init__(self, tpm: SoftwareTpm, directory: Path) -> None:
        self.authority = authority = Authority(directory, "ca")
        self.ca = authority.file
        self.key = tpm.make_key(directory / "key.pem")
        self.chain = tpm.make_certificate(self.key, authority, directory / "chain.pem")


@pytest.fixture
def files(tpm, tmp_path) -> Files:
    return Files(tpm, tmp_path)


@pytest.fixture
def make(make_gateway, tpm, files) -> Callable[..., Gateway]:
    """A gateway with the key of the TPM, and these lines under [tls]; not started."""

    def made(lines: str, *, chain: str = "", key: str | None = None) -> Gateway:
        gateway: Gateway = make_gateway(extra=f"\n[tls]\n{lines}\n{LIMITS}")
        certificate = CERTIFICATES.format(chain=chain or files.chain, key=files.key if key is None else key)
        text = gateway.config.read_text()
        # the certificate belongs to the first listener
        gateway.config.write_text(
            text.replace('\n[[listeners]]\nname = "plain"', certificate + '\n[[listeners]]\nname = "plain"')
        )
        gateway.environment |= tpm.environment
        return gateway

    return made


def start_of_client(port: int, ca: str, *options: str) -> subprocess.Popen[str]:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", ca, "-verify_return_error"]
    return subprocess.Popen(
        [*command, "-verify_hostname", "localhost", "-servername", "localhost", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def shaken_hands(client: subprocess.Popen[str]) -> str:
    """What s_client says of a hand-shake that it accepts, to its end."""
    said, _ = client.communicate(timeout=PATIENCE)
    assert client.returncode == 0, said
    assert "Verify return code: 0 (ok)" in said, said
    return said


def refusal(gateway: Gateway) -> str:
    with pytest.raises(AssertionError):
        gateway.start()
    return gateway.said()


def check(gateway: Gateway, code: int = 1) -> str:
    command = [Path(sys.executable).with_name("twistd"), "accessgw", "--config", gateway.config, "--check"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | gateway.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout + done.stderr


@pytest.mark.parametrize(("version", "digest"), [("-tls1_3", "SHA256"), ("-tls1_2", "SHA256"), ("-tls1_2", "SHA384")])
def test_hand_shakes_are_signed_by_the_provider_for_a_client_that_verifies_the_chain(
    make, files, version, digest
) -> None:
    gateway = make('provider = "tpm2"').start()
    said = shaken_hands(start_of_client(gateway.tls, files.ca, version, "-sigalgs", f"ECDSA+{digest}"))
    assert "Peer signature type: ECDSA" in said
    assert f"Peer signing digest: {digest}" in said
    gateway.assert_sound()


def test_the_reactor_goes_on_while_the_provider_makes_a_signature(make, files, tpm) -> None:
    gateway = make('provider = "tpm2"').start()
    os.kill(tpm.process.pid, signal.SIGSTOP)
    client = start_of_client(gateway.tls, files.ca)
    try:
        gateway.wait_until(lambda: gateway.metric("accessgw_tls_handshakes_unfinished") == 1.0)
        assert gateway.http("GET", "/health/ready")[0] == 200
        assert client.poll() is None
    finally:
        os.kill(tpm.process.pid, signal.SIGCONT)
    shaken_hands(client)
    gateway.assert_sound()


def test_many_hand_shakes_at_once_on_several_threads_and_files_that_are_loaded_again(make, files, load) -> None:
    gateway = make('provider = "tpm2"\nhandshake_threads = 4').start()
    running: Load = load(gateway.tls)
    running.more(20)
    for count in range(1, 6):
        # A TPM has room for three keys: the fourth would not be loaded.
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGHUP)
        gateway.wait_until(lambda count=count: gateway.said().count(f"loaded {files.chain} again") == count)
        running.more(5)
    running.stop()
    gateway.assert_sound()


def test_keys_that_are_replaced_leave_the_tpm(make, files, tpm, tmp_path) -> None:
    gateway = make('provider = "tpm2"').start()
    for _ in range(4):
        key = tpm.make_key(tmp_path / "next-key.pem")
        chain = tpm.make_certificate(key, files.authority, tmp_path / "next.pem")
        expected = Path(chain).read_text()
        os.replace(key, files.key)
        os.replace(chain, files.chain)
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGHUP)
        gateway.wait_until(lambda wanted=expected: wanted in shaken_hands(start_of_client(gateway.tls, files.ca)))
    gateway.assert_sound()


def test_a_tpm_that_was_reset_serves_again_once_the_files_are_loaded(make, files, tpm) -> None:
    gateway = make('provider = "tpm2"').start()
    shaken_hands(start_of_client(gateway.tls, files.ca))
    for count in (1, 2):
        tpm.start_again()
        assert start_of_client(gateway.tls, files.ca).wait(PATIENCE) == 1
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGHUP)
        gateway.wait_until(lambda count=count: gateway.said().count(f"loaded {files.chain} again") == count)
        for _ in range(3):
            shaken_hands(start_of_client(gateway.tls, files.ca))
    gateway.assert_sound()


def test_a_signer_of_the_gateways_own_loads_the_provider(make, files) -> None:
    gateway = make('provider = "tpm2"\nsigner = "process"\nsigner_timeout = 90.0\nsigner_restart_after = 0')
    check(gateway, 0)
    gateway.start()
    shaken_hands(start_of_client(gateway.tls, files.ca))
    assert gateway.metric("accessgw_tls_signatures_total", signer="process") == 1.0
    gateway.assert_sound()


def test_a_signer_that_runs_already_has_the_key(make, files, tpm, tmp_path, monkeypatch) -> None:
    for name, value in tpm.environment.items():
        monkeypatch.setenv(name, value)
    signer = SignerProcess(tmp_path / "signer.sock", "--provider", "tpm2", "--key", files.key).start()
    gateway = make(f'signer = "unix:{signer.path}"\nsigner_timeout = 90.0\nsigner_restart_after = 0', key="").start()
    shaken_hands(start_of_client(gateway.tls, files.ca))
    assert signer.end() == 0


def test_hand_shakes_fail_and_nothing_else_when_the_tpm_has_died(make, files, tpm) -> None:
    gateway = make('provider = "tpm2"').start()
    tpm.end()
    client = start_of_client(gateway.tls, files.ca)
    said, _ = client.communicate(timeout=PATIENCE)
    assert client.returncode == 1
    assert "alert internal error" in said
    gateway.wait_until(lambda: gateway.metric("accessgw_tls_handshakes_refused_total", reason="internal_error") == 1.0)
    gateway.assert_sound()


# ---------------------------------------------------------------- what cannot be


def both(gateway: Gateway) -> list[str]:
    """What --check says, and a start."""
    return [check(gateway), refusal(gateway)]


def test_a_provider_that_does_not_exist_is_told_with_the_setting(make) -> None:
    for said in both(make('provider = "tpm3"')):
        assert "tls.provider: the OpenSSL provider tpm3 does not load: " in said
    said = check(make('provider = "tpm3"\nsigner = "process"'))
    assert "tls.provider: the OpenSSL provider tpm3 does not load: " in said


def test_a_key_that_another_tpm_has_is_told_with_its_path(make, files, tmp_path) -> None:
    gateway = make('provider = "tpm2"')
    (tmp_path / "other").mkdir()
    with software_tpm(tmp_path / "other") as other:
        gateway.environment |= other.environment
        for said in both(gateway):
            assert f"{files.key}: with the OpenSSL provider tpm2: no private key that it opens: cannot load key" in said


def test_a_key_of_another_certificate_is_told_with_its_path(make, files, tmp_path) -> None:
    for said in both(make('provider = "tpm2"', chain=self_signed(tmp_path, "localhost").chain)):
        assert f"{files.key}: with the OpenSSL provider tpm2: not the key of the certificate" in said


def test_without_the_native_engine_the_start_says_why_it_cannot_be(make) -> None:
    gateway = make('provider = "tpm2"')
    gateway.environment["ACCESSGW_ACCEL"] = "pure"
    for said in both(gateway):
        assert '"tpm2" needs the native TLS engine, which is not available: ACCESSGW_ACCEL is pure' in said
        assert "tls.provider: " in said


def test_ordinary_keys_are_used_beside_a_provider(make, tmp_path) -> None:
    ordinary: Any = self_signed(tmp_path, "localhost")
    gateway = make('provider = "tpm2"', chain=ordinary.chain, key=ordinary.key).start()
    shaken_hands(start_of_client(gateway.tls, ordinary.chain))
