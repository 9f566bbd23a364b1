"""Keys in a token: SoftHSM2, where it and the extra pkcs11 are installed."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("pkcs11", reason="the extra pkcs11 is not installed")

from accessgw.crypto.signers.backend import Job, Refused
from accessgw.crypto.signers.pkcs11 import Pkcs11Backend
from protocols.signing import BAD_REQUEST, ECDSA_DIGEST, FAILED, RSA_BLOCK, UNKNOWN_KEY, SignatureMade
from tests.crypto.signer_process import BlockingGateway, SignerProcess
from tests.crypto.signing_keys import ec_key, rsa_key

MODULE = next(
    (
        str(path)
        for path in (
            Path("/usr/lib/softhsm/libsofthsm2.so"),
            Path("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"),
            Path("/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so"),
        )
        if path.exists()
    ),
    "",
)
if not MODULE:
    pytest.skip("no SoftHSM2 (Debian: softhsm2)", allow_module_level=True)

PIN = "4711"


@pytest.fixture(scope="module")
def token(tmp_path_factory) -> Path:
    """A directory with a token that has both keys; the library reads its settings once in a process."""
    directory = tmp_path_factory.mktemp("token")
    (directory / "tokens").mkdir()
    settings = directory / "softhsm2.conf"
    settings.write_text(f"directories.tokendir = {directory / 'tokens'}\nobjectstore.backend = file\n")
    os.environ["SOFTHSM2_CONF"] = str(settings)
    tool = ["softhsm2-util", "--label", "gateway", "--pin", PIN]
    subprocess.run([*tool, "--init-token", "--free", "--so-pin", PIN], check=True, capture_output=True)
    for number, key in enumerate((rsa_key(), ec_key()), 1):
        path = key.write(directory, f"key{number}")
        options = [
            "--import",
            path,
            "--token",
            "gateway",
            "--label",
            f"key{number}",
            "--id",
            f"0{number}",
            "--pin",
            PIN,
        ]
        subprocess.run(["softhsm2-util", *options], check=True, capture_output=True)
    (directory / "pin").write_text(f"{PIN}\n")
    return directory


@pytest.fixture
def backend(token) -> Pkcs11Backend:
    return Pkcs11Backend(MODULE, "gateway", PIN)


def test_a_token_signs_with_both_kinds_of_keys_on_several_threads(backend) -> None:
    assert backend.keys() == {rsa_key().id, ec_key().id}
    keys = [rsa_key(), ec_key()] * 100

    def sign(numbered) -> None:
        seed, key = numbered
        (signature,) = backend.sign([Job(key.id, key.algorithm, key.data(seed))])
        assert isinstance(signature, bytes), signature
        key.verify(signature, key.data(seed))

    with ThreadPoolExecutor(4) as threads:
        assert len(list(threads.map(sign, enumerate(keys)))) == 200


def test_a_session_that_fails_is_replaced(backend) -> None:
    backend._session.close()
    job = Job(ec_key().id, ECDSA_DIGEST, ec_key().data())
    (failed,) = backend.sign([job])
    assert isinstance(failed, Refused)
    assert failed.code == FAILED
    (signature,) = backend.sign([job])
    ec_key().verify(signature, ec_key().data())


def test_a_token_refuses_what_it_has_no_key_for_or_what_is_no_signature(backend) -> None:
    results = backend.sign(
        [
            Job("00" * 32, ECDSA_DIGEST, bytes(32)),
            Job(rsa_key().id, RSA_BLOCK, bytes(256)),
            Job(ec_key().id, ECDSA_DIGEST, b"short"),
        ]
    )
    assert [result.code for result in results if isinstance(result, Refused)] == [
        UNKNOWN_KEY,
        BAD_REQUEST,
        BAD_REQUEST,
    ]


@pytest.mark.parametrize(
    ("module", "label", "pin"),
    [(MODULE, "gateway", "wrong"), (MODULE, "nobody", PIN), ("/nonexistent.so", "gateway", PIN)],
)
def test_a_token_that_cannot_be_used_says_so_without_the_pin(token, tmp_path, module, label, pin) -> None:
    """In a process of its own: a login is of the whole process."""
    (tmp_path / "pin").write_text(pin)
    options = ["--pkcs11-module", module, "--pkcs11-token", label, "--pkcs11-pin-file", str(tmp_path / "pin")]
    signer = SignerProcess(tmp_path / "signer.sock", *options)
    with pytest.raises(AssertionError, match="exit code 1"):
        signer.start()
    signer.end()
    (line,) = signer.lines
    assert f"token {label}: " in line
    assert pin not in line


def test_the_signer_process_serves_the_keys_of_a_token(token, tmp_path) -> None:
    options = ["--pkcs11-module", MODULE, "--pkcs11-token", "gateway", "--pkcs11-pin-file", str(token / "pin")]
    signer = SignerProcess(tmp_path / "signer.sock", *options).start()
    gateway = BlockingGateway(signer.path)
    assert gateway.event().keys == {rsa_key().id, ec_key().id}
    for key in (rsa_key(), ec_key()):
        gateway.wire.request(1, key.id, key.algorithm, key.data())
        made = gateway.event()
        assert isinstance(made, SignatureMade)
        key.verify(made.signature, key.data())
    gateway.close()
    assert signer.end() == 0


def test_a_signer_needs_the_pin_in_a_file_and_no_other_keys(token, tmp_path) -> None:
    module = ["--pkcs11-module", MODULE, "--pkcs11-token", "gateway"]
    for options in (module, [*module, "--pkcs11-pin-file", str(token / "pin"), "--key", str(token / "key1.pem")]):
        signer = SignerProcess(tmp_path / "signer.sock", *options)
        with pytest.raises(AssertionError, match="expected"):
            signer.start()
        signer.end()
