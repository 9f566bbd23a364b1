"""Keys that only a provider of OpenSSL has, in the signer: a TPM in software, where it is installed."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocols.signing import ECDSA_DIGEST, KeysOffered, SignatureMade
from tests.crypto.authority import Authority
from tests.crypto.signer_process import BlockingGateway, SignerProcess
from tests.crypto.signing_keys import ec_key
from tests.crypto.software_tpm import MISSING, SoftwareTpm, software_tpm

if MISSING:
    pytest.skip(f"not installed: {MISSING}", allow_module_level=True)


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[SoftwareTpm]:
    with software_tpm(tmp_path_factory.mktemp("tpm")) as tpm:
        yield tpm


@pytest.fixture
def tpm(shared) -> SoftwareTpm:
    shared.forget()
    return shared


@pytest.fixture
def key(tpm, tmp_path) -> str:
    return tpm.make_key(tmp_path / "key.pem")


def public_key(tpm: SoftwareTpm, key: str, directory: Path) -> ec.EllipticCurvePublicKey:
    chain = tpm.make_certificate(key, Authority(directory, "ca"), directory / "chain.pem")
    public = x509.load_pem_x509_certificate(Path(chain).read_bytes()).public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    return public


def signer(tpm: SoftwareTpm, directory: Path, *options: str, monkeypatch) -> SignerProcess:
    for name, value in tpm.environment.items():
        monkeypatch.setenv(name, value)
    return SignerProcess(directory / "signer.sock", *options)


def refusal(process: SignerProcess) -> str:
    """What it says when it does not start."""
    with pytest.raises(AssertionError, match="exit code 1"):
        process.start()
    process.end()
    (line,) = process.lines
    return line


def test_the_signer_signs_with_a_key_that_only_the_provider_has(tpm, key, tmp_path, monkeypatch) -> None:
    assert b"TSS2 PRIVATE KEY" in Path(key).read_bytes()
    public = public_key(tpm, key, tmp_path)
    name = hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
    ordinary = ec_key().write(tmp_path, "ordinary")
    options = ["--provider", "tpm2", "--key", key, "--key", ordinary]
    process = signer(tpm, tmp_path, *options, monkeypatch=monkeypatch).start()
    gateway = BlockingGateway(process.path)
    assert gateway.event().keys == {name, ec_key().id}
    algorithms = {number: hashes.SHA384() if number % 5 == 0 else hashes.SHA256() for number in range(1, 41)}
    digests = {number: hashlib.new(one.name, bytes([number])).digest() for number, one in algorithms.items()}
    for number, digest in digests.items():
        # They come while others are signed, with both kinds of keys.
        gateway.wire.request(number, ec_key().id if number % 2 else name, ECDSA_DIGEST, digest)
    gateway.send()
    # Keys are loaded from the provider while it signs.
    process.send(signal.SIGHUP)
    while digests:
        made = gateway.event()
        if isinstance(made, KeysOffered):
            continue
        assert isinstance(made, SignatureMade), made
        digest = digests.pop(made.id)
        signed_by = ec_key().private.public_key() if made.id % 2 else public
        signed_by.verify(made.signature, digest, ec.ECDSA(utils.Prehashed(algorithms[made.id])))
    process.expect("loaded again")
    gateway.close()
    assert process.end() == 0


def test_a_key_that_stays_in_the_tpm_is_opened_by_uri(tpm, tmp_path, monkeypatch) -> None:
    tpm.keep_key(tmp_path, "0x81000001")
    public = public_key(tpm, "handle:0x81000001", tmp_path)
    options = ["--provider", "tpm2", "--store", "handle:0x81000001"]
    process = signer(tpm, tmp_path, *options, monkeypatch=monkeypatch).start()
    assert "1 key by OpenSSL with tpm2" in process.lines[-1]
    gateway = BlockingGateway(process.path)
    (name,) = gateway.event().keys
    digest = hashlib.sha256(b"data").digest()
    gateway.wire.request(1, name, ECDSA_DIGEST, digest)
    public.verify(gateway.event().signature, digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    gateway.close()
    assert process.end() == 0


def test_a_provider_that_does_not_exist_is_told(tpm, key, tmp_path, monkeypatch) -> None:
    said = refusal(signer(tpm, tmp_path, "--provider", "tpm3", "--key", key, monkeypatch=monkeypatch))
    assert "the OpenSSL provider tpm3 does not load" in said


def test_a_key_without_its_provider_is_told_with_its_path(tpm, key, tmp_path, monkeypatch) -> None:
    said = refusal(signer(tpm, tmp_path, "--key", key, monkeypatch=monkeypatch))
    assert f"{key}: expected an unencrypted private key in PEM" in said


def test_a_key_of_another_tpm_is_told_with_its_path(key, tmp_path, monkeypatch) -> None:
    (tmp_path / "other").mkdir()
    with software_tpm(tmp_path / "other") as other:
        said = refusal(signer(other, tmp_path, "--provider", "tpm2", "--key", key, monkeypatch=monkeypatch))
    assert f"{key}: expected an unencrypted private key in PEM: " in said
    assert "cannot load key" in said


def test_a_key_with_which_the_provider_makes_no_raw_signatures_is_told_at_the_start(tpm, tmp_path, monkeypatch) -> None:
    rsa = tpm.make_key(tmp_path / "rsa.pem", "RSA", "bits:2048")
    said = refusal(signer(tpm, tmp_path, "--provider", "tpm2", "--key", rsa, monkeypatch=monkeypatch))
    assert f"{rsa}: the OpenSSL provider tpm2 does not sign with it: " in said
