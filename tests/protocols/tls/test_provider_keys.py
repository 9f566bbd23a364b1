"""Private keys that the native engine uses through a provider of OpenSSL: that of OpenSSL itself, and a TPM's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from protocols.tls import engines
from protocols.tls.server_context import ServerCertificate, ServerOptions
from tests.crypto.authority import Authority
from tests.crypto.software_tpm import MISSING, software_tpm
from tests.protocols.tls.native_links import HAS_NATIVE, native_server
from tests.protocols.tls.provider_links import shake_hands
from tests.protocols.tls.tls_links import issuer, localhost

if not HAS_NATIVE:
    pytest.skip("no native engine here", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[3]
PROVIDER = "default"
"""Has both kinds of keys of ordinary files."""
PEM = Encoding.PEM, PrivateFormat.PKCS8


def certified(key):
    """A certificate of the key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    leaf = issuer()._sign(subject, key, issuer(), names=("localhost",))
    return ServerCertificate(leaf.public_bytes(Encoding.PEM), key.private_bytes(*PEM, NoEncryption()))


@pytest.mark.parametrize("version", ["TLSv1.3", "TLSv1.2"])
@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_the_provider_signs_on_the_thread_of_the_hand_shake(kind, version):
    shake_hands(localhost(kind), PROVIDER, version)


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_curves_of_longer_digests(curve):
    shake_hands(certified(ec.generate_private_key(curve)), PROVIDER)


def test_ordinary_keys_are_used_beside_a_provider_that_has_none():
    shake_hands(localhost("ec"), "legacy")
    shake_hands(localhost("rsa"), "legacy")


def test_a_key_serves_as_long_as_a_context_has_it():
    certificate = localhost("rsa")
    contexts = [native_server(certificates=[certificate], provider=PROVIDER) for _ in range(3)]
    contexts.pop(0)
    contexts.pop()
    shake_hands(certificate, PROVIDER)
    del contexts
    shake_hands(certificate, PROVIDER)


def test_a_provider_that_cannot_be_loaded_is_refused_by_its_name():
    for name in ("absent", "../absent", "a,b", "", "a" * 65):
        with pytest.raises(ValueError, match=r"OpenSSL provider|at most 64"):
            engines.load_provider(name)
    with pytest.raises(ValueError, match="the OpenSSL provider absent does not load: "):
        native_server(provider="absent")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (b"no key", "no private key that it opens: "),
        (localhost("rsa").key, "not the key of the certificate"),
        (Authority, "not the key of the certificate"),
        (BestAvailableEncryption(b"secret"), "no private key that it opens: "),
    ],
)
def test_keys_that_do_not_fit_are_told(key, said):
    certificate = localhost("ec")
    if key is Authority:
        key = ec.generate_private_key(ec.SECP256R1()).private_bytes(*PEM, NoEncryption())
    elif isinstance(key, BestAvailableEncryption):
        key = load_pem_private_key(certificate.key, None).private_bytes(*PEM, key)
    for _ in range(2):
        with pytest.raises(ValueError, match=said):
            engines.check_key(ServerCertificate(certificate.chain, key), PROVIDER)
    engines.check_key(certificate, PROVIDER)


def test_kinds_of_keys_without_raw_signatures_are_refused():
    with pytest.raises(ValueError, match="expected an RSA or EC key"):
        engines.check_key(certified(ed25519.Ed25519PrivateKey.generate()), PROVIDER)


def test_the_engine_on_pyopenssl_refuses_providers():
    with pytest.raises(ValueError, match="an OpenSSL provider needs the native TLS engine: pure is wanted"):
        engines.server_context(ServerOptions([localhost()], provider=PROVIDER), engines.PURE)


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}")
def test_a_key_in_a_tpm_signs_in_memory(tmp_path):
    with software_tpm(tmp_path) as tpm:
        authority = Authority(tmp_path, "ca")
        key = tpm.make_key(tmp_path / "key.pem")
        assert b"TSS2 PRIVATE KEY" in Path(key).read_bytes()
        chain = tpm.make_certificate(key, authority, tmp_path / "chain.pem")
        done = subprocess.run(
            [sys.executable, "-m", "tests.protocols.tls.tpm_handshakes", chain, key, authority.file],
            env=os.environ | tpm.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.stdout.split() == ["TLSv1.3", "TLSv1.2"], done.stderr
