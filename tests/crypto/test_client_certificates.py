"""Client certificates: what verifies, what does not, and whom a certificate names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL

from accessgw.crypto.client_certificates import ClientCertificates, identity_in
from accessgw.crypto.contexts import ContextOptions, ServerContexts
from accessgw.crypto.pem import CertificateError
from accessgw.crypto.revocations import RevocationStore
from accessgw.crypto.serials import serial_of
from protocols.errors import RemoteError
from protocols.tls.alerts import BAD_CERTIFICATE, CERTIFICATE_REQUIRED
from protocols.tls.engine import HandshakeCompleted
from protocols.tls.pyopenssl_engine import PyOpenSSLEngine
from tests.crypto.authority import Authority, Issued
from tests.crypto.certificates import self_signed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("authority")


@pytest.fixture(scope="module")
def authority(folder):
    return Authority(folder, "devices-ca")


def contexts(folder, authority, mode="require", rule="cn", protocols=("mqtt", "mmtp/1")):
    clients = ClientCertificates(mode, authority.file, rule)
    return ServerContexts([self_signed(folder, "localhost")], protocols, clients=clients)


def client_context(issued: Issued | None, version=SSL.TLS1_3_VERSION):
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    if issued is not None:
        context.use_certificate_chain_file(issued.chain)
        context.use_privatekey_file(issued.key)
    return context


def shake(server_context, context) -> tuple[HandshakeCompleted, PyOpenSSLEngine]:
    """The server's event and the client; RemoteError of the server."""
    server = PyOpenSSLEngine(server_context, server=True)
    client = PyOpenSSLEngine(context, server=False)
    client.start()
    for _ in range(6):
        server.feed(client.to_send())
        client.feed(server.to_send())
    (event,) = [event for event in server.events() if isinstance(event, HandshakeCompleted)]
    return event, client


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize("mode", ["request", "require"])
def test_a_good_certificate_names_the_device(folder, authority, version, mode):
    served = contexts(folder, authority, mode)
    issued = authority.issue("device-7")
    event, _ = shake(served.context(), client_context(issued, version))
    assert event.peer_certificate == issued.der
    assert served.identify(event.peer_certificate)[0] == "device-7"
    below = authority.intermediate("factory-ca").issue("device-8")
    event, _ = shake(served.context(), client_context(below, version))
    assert served.identify(event.peer_certificate)[0] == "device-8"


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_what_lists_may_name_comes_with_the_identity(folder, authority, version):
    clients = ClientCertificates("require", authority.file)
    options = ContextOptions(revocations=RevocationStore(folder / "keys"))
    served = ServerContexts([self_signed(folder, "localhost")], ("mqtt",), clients=clients, options=options)
    factory = authority.intermediate("factory-1")
    told = []
    for issued in (authority.issue("device-1"), factory.issue("device-2"), factory.issue("device-3")):
        event, _ = shake(served.context(), client_context(issued, version))
        identity, serials = served.identify(event.peer_certificate, event.peer_chain)
        assert serials[0] == serial_of(issued.der)
        told.append((identity, serials[1:]))
    above = serial_of(factory.certificate.public_bytes(Encoding.DER))
    # the trusted one is not among them
    assert told == [("device-1", ()), ("device-2", (above,)), ("device-3", (above,))]
    assert told[1][1][0] is told[2][1][0]  # one for all
    with pytest.raises(RemoteError, match="cannot be read") as caught:
        served.identify(b"no certificate")
    assert caught.value.code == BAD_CERTIFICATE


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_without_a_certificate(folder, authority, version):
    event, _ = shake(contexts(folder, authority, "request").context(), client_context(None, version))
    assert event.peer_certificate == b""
    with pytest.raises(RemoteError, match="did not return a certificate") as caught:
        shake(contexts(folder, authority, "require").context(), client_context(None, version))
    assert caught.value.code in {CERTIFICATE_REQUIRED, 40}  # TLS 1.2 has only handshake_failure for it


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize("mode", ["request", "require"])
def test_bad_certificates_end_the_handshake(folder, authority, version, mode):
    stranger = Authority(folder, "strangers")
    bad = {
        "of another CA": stranger.issue("stranger"),
        "expired": authority.issue("expired", days=-1),
        "not yet valid": authority.issue("early", after=datetime.now(UTC) + timedelta(hours=1)),
        "for servers only": authority.issue("server", usage=ExtendedKeyUsageOID.SERVER_AUTH),
        "issued by a device": Authority.issue(_device_as_authority(folder, authority), "grandchild"),
    }
    served = contexts(folder, authority, mode)
    for what, issued in bad.items():
        with pytest.raises(RemoteError) as caught:
            shake(served.context(), client_context(issued, version))
        assert "certificate verify failed" in str(caught.value), what
        assert caught.value.code in {BAD_CERTIFICATE, 43, 45, 48}, what


def _device_as_authority(folder, authority) -> Authority:
    """A CA whose own certificate is a device's."""
    issued = authority.issue("greedy-device")
    fake = Authority(folder, "greedy")
    fake.certificate = x509.load_der_x509_certificate(issued.der)
    fake.subject, fake.parent = fake.certificate.subject, authority
    fake.key = load_pem_private_key(Path(issued.key).read_bytes(), None)
    return fake


def test_nobody_is_asked_when_off(folder, authority):
    served = ServerContexts([self_signed(folder, "localhost")], ["mqtt"])
    event, _ = shake(served.context(), client_context(authority.issue("device-9")))
    assert event.peer_certificate == b""


def test_a_reload_reads_the_authorities_again(folder):
    first, second = Authority(folder, "first-ca"), Authority(folder, "second-ca")
    file = folder / "current.pem"
    file.write_text(Path(first.file).read_text())
    clients = ClientCertificates("require", str(file))
    served = ServerContexts([self_signed(folder, "localhost")], ["mqtt"], clients=clients)
    old, new = first.issue("old-device"), second.issue("new-device")
    shake(served.context(), client_context(old))
    with pytest.raises(RemoteError):
        shake(served.context(), client_context(new))
    file.write_text("damaged")
    with pytest.raises(CertificateError, match=r"current\.pem: expected PEM certificates of CAs"):
        served.prepare()
    file.write_text(Path(second.file).read_text() + Path(first.file).read_text())
    served.prepare()()
    for issued in (old, new):
        shake(served.context(), client_context(issued))
    file.unlink()
    with pytest.raises(CertificateError, match="No such file"):
        served.prepare()


NAMES = (
    x509.RFC822Name("device@example.com"),
    x509.DNSName("device-11.example.com"),
    x509.DNSName("other.example.com"),
    x509.UniformResourceIdentifier("urn:device:11"),
)


@pytest.mark.parametrize(
    ("rule", "identity"),
    [
        ("cn", "eleven"),
        ("san_dns", "device-11.example.com"),
        ("san_uri", "urn:device:11"),
        ("san_email", "device@example.com"),
    ],
)
def test_rules(authority, rule, identity):
    assert identity_in(authority.issue("eleven", names=NAMES).der, rule) == identity
    assert identity_in(authority.issue("twelve").der, rule) == ("twelve" if rule == "cn" else "")


def test_names_that_are_none(folder, authority):
    assert identity_in(authority.issue("x", common=("two", "names")).der, "cn") == ""
    assert identity_in(authority.issue("x", common=()).der, "cn") == ""
    assert identity_in(authority.issue("x", common=("line\nbreak",)).der, "cn") == ""
    assert identity_in(b"no certificate", "cn") == ""
    nameless = authority.issue("x", common=()).der
    assert contexts(folder, authority, "request").identify(nameless)[0] == ""
    with pytest.raises(RemoteError, match="no usable cn") as caught:
        contexts(folder, authority, "require").identify(nameless)
    assert caught.value.code == BAD_CERTIFICATE
