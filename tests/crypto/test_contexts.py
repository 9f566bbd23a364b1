"""Contexts: certificates by SNI, reload, errors that name the file; the development certificate."""

from __future__ import annotations

import os
import stat
import time
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store
from OpenSSL import SSL

from accessgw.crypto.contexts import CertificateError, ServerContexts
from accessgw.crypto.development import RENEW_BEFORE, SERVER_LIFETIME, ensure_development_certificate
from accessgw.model.listener_settings import CertificateSettings
from protocols.tls.pyopenssl_engine import PyOpenSSLEngine
from tests.crypto.certificates import self_signed


def presented(contexts, server_name):
    """Common name of the certificate that a client with this SNI gets."""
    client = PyOpenSSLEngine(SSL.Context(SSL.TLS_CLIENT_METHOD), server=False, server_name=server_name)
    server = PyOpenSSLEngine(contexts.context(), server=True)
    client.start()
    while not client.handshaken:
        server.feed(client.to_send())
        client.feed(server.to_send())
    certificate = client._connection.get_peer_certificate(as_cryptography=True)
    return certificate.subject.rfc4514_string().removeprefix("CN=")


def test_the_certificate_is_chosen_by_sni(tmp_path):
    contexts = ServerContexts(
        [
            self_signed(tmp_path, "default.example"),
            self_signed(tmp_path, "pay.example", names=("pay.example", "*.pay.example")),
            self_signed(tmp_path, "own.example"),
        ],
        ["mmtp/1"],
    )
    asked = ("pay.example", "PAY.example", "eu.pay.example", "a.eu.pay.example", "own.example", "unknown.example", "")
    assert [presented(contexts, name) for name in asked] == [
        "pay.example",
        "pay.example",
        "pay.example",
        "default.example",
        "own.example",
        "default.example",
        "default.example",
    ]


def test_reload_takes_new_files_and_keeps_the_old_ones_on_error(tmp_path):
    certificate = self_signed(tmp_path, "localhost", lifetime=timedelta(days=1))
    contexts = ServerContexts([certificate], ["mmtp/1"])
    first, expiry = contexts.context(), contexts.expires_at()[certificate.chain]
    assert time.time() + 86_000 < expiry < time.time() + 86_500
    self_signed(tmp_path, "localhost", lifetime=timedelta(days=9))
    contexts.prepare()()
    second = contexts.context()
    assert second is not first
    assert contexts.expires_at()[certificate.chain] > expiry + 7 * 86400
    Path(certificate.chain).write_text("damaged")
    with pytest.raises(CertificateError, match=r"localhost\.pem: expected a PEM certificate chain"):
        contexts.prepare()()
    assert contexts.context() is second
    assert presented(contexts, "localhost") == "localhost"


def test_errors_name_the_file(tmp_path):
    one, other = self_signed(tmp_path, "one"), self_signed(tmp_path, "other")
    not_a_key = tmp_path / "not-a-key.pem"
    not_a_key.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    for chain, key, message in (
        (str(tmp_path / "absent.pem"), one.key, r"absent\.pem: No such file"),
        (one.chain, str(tmp_path / "absent-key.pem"), r"absent-key\.pem: No such file"),
        (one.chain, str(not_a_key), r"not-a-key\.pem: expected an unencrypted PEM private key"),
        (one.chain, other.key, r"other-key\.pem: is not the key of .*one\.pem"),
    ):
        with pytest.raises(CertificateError, match=message) as problem:
            ServerContexts([CertificateSettings(chain=chain, key=key)], ["mmtp/1"])
        assert problem.value.path in {chain, key}


NOW = time.time()


def test_the_development_certificate_is_made_once(tmp_path):
    state = tmp_path / "var"
    files = ensure_development_certificate(str(state), NOW, "gateway.test")
    before = {path.name: path.read_bytes() for path in state.iterdir()}
    assert ensure_development_certificate(str(state), NOW, "gateway.test") == files
    assert {path.name: path.read_bytes() for path in state.iterdir()} == before
    assert {"ca.pem", "ca-key.pem", "server.pem", "server-key.pem"} <= before.keys()
    for name in ("ca-key.pem", "server-key.pem"):
        assert stat.S_IMODE(os.stat(state / name).st_mode) == 0o600
    assert not [name for name in before if str(os.getpid()) in name]


@pytest.mark.parametrize("host", ["localhost", "gateway.test", "127.0.0.1", "::1"])
def test_the_development_certificate_verifies(tmp_path, host):
    from ipaddress import ip_address

    files = ensure_development_certificate(str(tmp_path), NOW, "gateway.test")
    ca = x509.load_pem_x509_certificate(Path(files.ca).read_bytes())
    leaf = x509.load_pem_x509_certificate(Path(files.chain).read_bytes())
    subject = x509.DNSName(host) if host[-1].isalpha() else x509.IPAddress(ip_address(host))
    PolicyBuilder().store(Store([ca])).build_server_verifier(subject).verify(leaf, [])


def test_the_development_certificate_is_renewed_and_the_authority_stays(tmp_path):
    files = ensure_development_certificate(str(tmp_path), NOW, "gateway.test")
    ca, leaf = Path(files.ca).read_bytes(), Path(files.chain).read_bytes()
    later = NOW + (SERVER_LIFETIME - RENEW_BEFORE).total_seconds()
    ensure_development_certificate(str(tmp_path), later - 60, "gateway.test")
    assert Path(files.chain).read_bytes() == leaf
    ensure_development_certificate(str(tmp_path), later + 60, "gateway.test")
    assert Path(files.chain).read_bytes() != leaf
    assert Path(files.ca).read_bytes() == ca


@pytest.mark.parametrize("lost", ["server.pem", "server-key.pem", "ca-key.pem", "ca.pem"])
def test_lost_and_damaged_files_are_made_again(tmp_path, lost):
    files = ensure_development_certificate(str(tmp_path), NOW, "gateway.test")
    for damage in (Path.unlink, lambda path: path.write_text("damaged")):
        damage(tmp_path / lost)
        ensure_development_certificate(str(tmp_path), NOW, "gateway.test")
        ca = x509.load_pem_x509_certificate(Path(files.ca).read_bytes())
        x509.load_pem_x509_certificate(Path(files.chain).read_bytes()).verify_directly_issued_by(ca)
        ServerContexts([CertificateSettings(chain=files.chain, key=files.key)], ["mmtp/1"])


def test_another_host_name_gets_another_certificate(tmp_path):
    files = ensure_development_certificate(str(tmp_path), NOW, "one.test")
    leaf = Path(files.chain).read_bytes()
    ensure_development_certificate(str(tmp_path), NOW, "two.test")
    assert Path(files.chain).read_bytes() != leaf
