"""Files of a listener that change while it serves: certificates, CAs, and the OCSP responses that it staples."""

from __future__ import annotations

import base64
import contextlib
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL

from accessgw.crypto.client_certificates import ClientCertificates
from accessgw.crypto.contexts import ContextOptions, ServerContexts
from accessgw.crypto.ocsp import OcspError, response_end
from accessgw.crypto.pem import CertificateError
from accessgw.model.listener_settings import CertificateSettings
from protocols.errors import RemoteError
from protocols.tls import binding
from protocols.tls.engine import PlaintextReceived
from protocols.tls.engines import WHY_NOT_NATIVE
from protocols.tls.records import RecordLayer
from tests.crypto.authority import Authority
from tests.crypto.certificates import self_signed
from tests.crypto.revoking import ECDSA_WITH_SHA256, response, write

SERVER = ExtendedKeyUsageOID.SERVER_AUTH


@pytest.fixture(params=["pure", "native"], autouse=True)
def engine(request):
    if request.param == "native" and WHY_NOT_NATIVE:
        pytest.skip(f"no native engine here: {WHY_NOT_NATIVE}")
    Served.engine = request.param


class Served:
    """Contexts under a clock of the test."""

    engine = "pure"

    def __init__(self, *certificates, **more):
        self.now = time.time()
        options = ContextOptions(engine=self.engine)
        self.contexts = ServerContexts(certificates, ["mqtt"], wall=lambda: self.now, options=options, **more)

    def seconds(self, count=2):
        """That many looks; whether something new came into force."""
        looks = [self._second() for _ in range(count)]
        return any(looks)

    def _second(self):
        self.now += 1.0
        return self.contexts.poll(self.now)

    def shown(self, name="localhost", algorithms=None):
        """(serial number of the leaf, stapled response) that a client gets."""
        link = Link(self.contexts, name, algorithms)
        return link.certificate.serial_number, link.stapled


class Link:
    """A client of pyOpenSSL against an engine of the contexts."""

    def __init__(self, contexts, name="localhost", algorithms=None, issued=None):
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self.stapled = b""
        context.set_ocsp_client_callback(self._staple)
        if algorithms is not None:
            binding.set_signature_algorithms(context, [algorithms])
        if issued is not None:
            context.use_certificate_chain_file(issued.chain)
            context.use_privatekey_file(issued.key)
        self.client = SSL.Connection(context, None)
        self.client.set_tlsext_host_name(name.encode())
        self.client.request_ocsp()
        self.client.set_connect_state()
        self.server = contexts.engine()
        self.events = []
        for _ in range(6):
            self.turn(self.client.do_handshake)
        self.certificate = self.client.get_peer_certificate(as_cryptography=True)

    def _staple(self, connection, data, _):
        self.stapled = data
        return True

    def turn(self, act):
        with contextlib.suppress(SSL.WantReadError):
            act()
        with contextlib.suppress(SSL.WantReadError):
            self.server.feed(self.client.bio_read(65536))
        self.events += self.server.events()
        if answer := self.server.to_send():
            self.client.bio_write(answer)

    def echo(self, data):
        state = self.server.detach()
        assert state is not None
        self.server = RecordLayer(state)
        self.server.start()
        self.turn(lambda: self.client.send(data))
        received = b"".join(event.data for event in self.events if isinstance(event, PlaintextReceived))
        self.events.clear()
        return received


def serial(settings):
    return x509.load_pem_x509_certificate(Path(settings.chain).read_bytes()).serial_number


def replace(settings, other):
    """The files of `other` in the place of those of `settings`."""
    Path(other.key).replace(settings.key)
    Path(other.chain).replace(settings.chain)


def with_key(directory, name, key, names=()):
    """A self-signed certificate for localhost with that key."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    chain = write(directory / f"{name}.pem", certificate.public_bytes(Encoding.PEM))
    private = write(directory / f"{name}-key.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return CertificateSettings(chain=chain, key=private, names=tuple(names))


def test_a_new_certificate_serves_who_comes_next_and_no_connection_notices(tmp_path):
    settings, other = self_signed(tmp_path, "localhost"), self_signed(tmp_path / ".", "renewed")
    served = Served(settings)
    old, new = serial(settings), serial(other)
    link = Link(served.contexts)
    assert served.shown()[0] == old and not served.seconds(5)
    replace(settings, other)
    assert served.seconds(2) and not served.seconds(5)
    assert served.shown()[0] == new
    assert link.echo(b"still here") == b"still here"


def test_between_certificate_and_key_nothing_happens(tmp_path, logged):
    settings, other = self_signed(tmp_path, "localhost"), self_signed(tmp_path, "renewed")
    served = Served(settings)
    Path(other.chain).replace(settings.chain)
    assert not served.seconds(1)
    Path(other.key).replace(settings.key)
    assert served.seconds(2) and logged() == []


def test_what_cannot_be_used_is_said_once_and_the_old_one_stays(tmp_path, logged):
    settings, other = self_signed(tmp_path, "localhost"), self_signed(tmp_path, "renewed")
    served = Served(settings)
    old, new = serial(settings), serial(other)
    Path(other.chain).replace(settings.chain)  # and its key never comes
    assert not served.seconds(10)
    (line,) = logged()
    assert (
        line
        == f"CERTIFICATE REFUSED, those loaded before stay in force: {settings.key}: is not the key of {settings.chain}"
    )
    assert served.shown()[0] == old
    Path(settings.chain).unlink()
    assert not served.seconds(10) and "No such file" in logged()[1] and len(logged()) == 2
    third = self_signed(tmp_path, "third")
    new = serial(third)
    replace(settings, third)
    assert served.seconds(2) and served.shown()[0] == new


def changed(pem, old, new):
    """A certificate with other bytes in it; nobody looks at its own signature."""
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    assert der.count(old) == 1 and len(old) == len(new)
    body = base64.encodebytes(der.replace(old, new))
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # prime256v1 -> a curve that there is not
        (bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d03017f")),
        # the subjectAltName of one name: its length says more than is there
        (b"\x30\x0b\x82\x09localhost", b"\x30\x0b\x82\x7flocalhost"),
    ],
    ids=["curve", "names"],
)
def test_a_certificate_of_which_a_part_cannot_be_read_is_refused_as_others_are(tmp_path, logged, old, new):
    settings, other = self_signed(tmp_path, "localhost"), self_signed(tmp_path, "localhost2")
    pem = Path(settings.chain).read_bytes()
    served = Served(settings)
    before = serial(settings)
    write(settings.chain, changed(pem, old, new))
    assert not served.seconds(5)
    (line,) = logged()
    assert line.startswith(
        f"CERTIFICATE REFUSED, those loaded before stay in force: {settings.chain}: a certificate in it"
    )
    assert served.shown()[0] == before
    with pytest.raises(CertificateError, match=f"{settings.chain}: a certificate in it cannot be used: "):
        Served(settings)
    replace(settings, other)
    assert served.seconds(2)


def test_rsa_and_ecdsa_side_by_side_are_swapped_together(tmp_path):
    modern = with_key(tmp_path, "ecdsa", ec.generate_private_key(ec.SECP256R1()))
    old = with_key(tmp_path, "rsa", rsa.generate_private_key(65537, 2048))
    served = Served(modern, old)
    assert served.shown()[0] == serial(modern)
    assert served.shown(algorithms="ecdsa_secp256r1_sha256")[0] == serial(modern)
    assert served.shown(algorithms="rsa_pss_rsae_sha256")[0] == serial(old)
    before = serial(old)
    replace(old, with_key(tmp_path, "rsa2", rsa.generate_private_key(65537, 2048)))
    assert served.seconds(2)
    assert served.shown(algorithms="rsa_pss_rsae_sha256")[0] == serial(old) != before
    assert served.shown()[0] == serial(modern)


def test_names_choose_and_a_swap_is_for_its_name(tmp_path):
    first, second = (
        self_signed(tmp_path, "localhost"),
        self_signed(tmp_path, "other", ["other.example", "*.wild.example"]),
    )
    served = Served(first, second)
    assert served.shown("other.example")[0] == served.shown("a.wild.example")[0] == serial(second)
    replace(second, self_signed(tmp_path, "renewed"))
    assert served.seconds(2)
    assert served.shown("OTHER.example")[0] == serial(second)
    assert served.shown("unknown.example")[0] == serial(first)


def test_the_cas_of_clients_are_followed(tmp_path):
    first, second = Authority(tmp_path, "first"), Authority(tmp_path, "second")
    file = write(tmp_path / "cas.pem", Path(first.file).read_bytes())
    served = Served(self_signed(tmp_path, "localhost"), clients=ClientCertificates("require", file))
    device = second.issue("device")
    with pytest.raises(RemoteError, match="certificate verify failed"):
        Link(served.contexts, issued=device)
    write(file, Path(second.file).read_bytes())
    assert served.seconds(2)
    assert Link(served.contexts, issued=device).events[0].peer_certificate == device.der


def test_ends_are_told_by_file(tmp_path):
    authority = Authority(tmp_path, "ca")
    issued = authority.issue("localhost", usage=SERVER, days=3.0)
    staple = write(tmp_path / "ocsp.der", response(authority, issued.der, days=2.0))
    settings = CertificateSettings(chain=issued.chain, key=issued.key, ocsp=staple)
    served = Served(settings, clients=ClientCertificates("request", authority.file))
    ends = {Path(path).name: round((end - served.now) / 86_400) for path, end in served.contexts.expires_at().items()}
    assert ends == {"localhost.pem": 3, "ocsp.der": 2, "ca.pem": 10}


# ---------------------------------------------------------------- OCSP


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path, "root").intermediate("ca")  # so that the chain has the issuer in it


def stapling(authority, tmp_path, content):
    issued = authority.issue("localhost", usage=SERVER, days=9.0)
    path = write(tmp_path / "ocsp.der", content(issued))
    return issued, CertificateSettings(chain=issued.chain, key=issued.key, ocsp=path)


def test_a_good_response_is_stapled_replaced_and_dropped_when_it_ends(authority, tmp_path, logged):
    issued, settings = stapling(authority, tmp_path, lambda issued: response(authority, issued.der))
    served = Served(settings)
    first = Path(settings.ocsp).read_bytes()
    assert served.shown()[1] == first
    second = response(authority, issued.der, days=2.0)
    write(settings.ocsp, second)
    assert served.seconds(2) and served.shown()[1] == second
    served.now += 3 * 86_400.0
    assert served.seconds(1) and not served.seconds(5)
    assert served.shown()[1] == b""
    (line,) = logged()
    assert line.startswith(f"NO OCSP RESPONSE IS STAPLED for {settings.chain}: {settings.ocsp}: expired at ")


def test_one_signed_by_what_nobody_knows_is_not_stapled_and_the_certificate_serves(authority, tmp_path, logged):
    def unknown(issued):
        der = response(authority, issued.der)
        assert der.count(ECDSA_WITH_SHA256) == 1
        return der.replace(ECDSA_WITH_SHA256, ECDSA_WITH_SHA256[:-1] + b"\x7f")

    _, settings = stapling(authority, tmp_path, unknown)
    served = Served(settings)
    assert served.shown() == (serial(settings), b"")
    (line,) = logged()
    assert "expected a signature that can be verified: " in line


def test_a_bad_one_is_not_stapled_and_the_certificate_serves(authority, tmp_path, logged):
    other = authority.issue("other", usage=SERVER)
    issued, settings = stapling(authority, tmp_path, lambda issued: response(authority, other.der))
    served = Served(settings)
    assert served.shown() == (x509.load_der_x509_certificate(issued.der).serial_number, b"")
    assert "expected one for certificate" in logged()[0]
    Path(settings.ocsp).unlink()
    served.seconds(3)
    assert "No such file" in logged()[1] and len(logged()) == 2
    good = response(authority, issued.der)
    write(settings.ocsp, good)
    assert served.seconds(2) and served.shown()[1] == good


def test_each_of_two_certificates_has_its_own(authority, tmp_path):
    _issued, settings = stapling(authority, tmp_path, lambda issued: response(authority, issued.der))
    other = with_key(tmp_path, "rsa", rsa.generate_private_key(65537, 2048))
    served = Served(settings, CertificateSettings(chain=other.chain, key=other.key, names=("rsa.example",)))
    assert served.shown("localhost")[1] == Path(settings.ocsp).read_bytes()
    assert served.shown("rsa.example")[1] == b""


def responder(authority, tmp_path, usage):
    issued = Authority(tmp_path, "elsewhere").issue("x") if usage is None else authority.issue("responder", usage=usage)
    return x509.load_der_x509_certificate(issued.der), load_pem_private_key(Path(issued.key).read_bytes(), None)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda ca, der, path: b"damaged", "expected an OCSP response in DER"),
        (
            lambda ca, der, path: ocsp.OCSPResponseBuilder.build_unsuccessful(
                ocsp.OCSPResponseStatus.TRY_LATER
            ).public_bytes(Encoding.DER),
            "expected a successful response, got try_later",
        ),
        (lambda ca, der, path: response(ca, ca.issue("z").der), "expected one for certificate"),
        (lambda ca, der, path: response(ca, der, ocsp.OCSPCertStatus.REVOKED), "good, it is revoked"),
        (lambda ca, der, path: response(ca, der, ocsp.OCSPCertStatus.UNKNOWN), "good, it is unknown"),
        (lambda ca, der, path: response(ca, der, began=-3.0, days=-1.0), "expired at"),
        (lambda ca, der, path: response(ca, der, began=0.5), "valid from"),
        (lambda ca, der, path: response(Authority(path, "stranger"), der), "expected a signature by CN=ca"),
        (lambda ca, der, path: response(ca, der, by=responder(ca, path, None)), "expected a signature by CN=ca"),
        (lambda ca, der, path: response(ca, der, by=responder(ca, path, SERVER)), "expected a signature by CN=ca"),
    ],
)
def test_responses_that_no_client_would_believe(authority, tmp_path, make, words):
    issued = authority.issue("localhost", usage=SERVER)
    chain = x509.load_pem_x509_certificates(Path(issued.chain).read_bytes())
    with pytest.raises(OcspError, match=words):
        response_end(make(authority, issued.der, tmp_path), chain, time.time())


def test_a_responder_that_the_ca_delegated_to_is_believed(authority, tmp_path):
    issued = authority.issue("localhost", usage=SERVER)
    chain = x509.load_pem_x509_certificates(Path(issued.chain).read_bytes())
    by = responder(authority, tmp_path, ExtendedKeyUsageOID.OCSP_SIGNING)
    now = time.time()
    assert abs(response_end(response(authority, issued.der, by=by), chain, now) - now - 86_400) < 60


# ---------------------------------------------------------------- what the log says


def renewed(served, settings, issued):
    write(settings.key, Path(issued.key).read_bytes())
    write(settings.chain, Path(issued.chain).read_bytes())
    assert served.seconds(2)


def test_a_renewal_that_is_refused_says_nothing_of_its_response(authority, tmp_path, logged):
    _issued, settings = stapling(authority, tmp_path, lambda issued: response(authority, issued.der))
    served = Served(settings)
    write(settings.chain, Path(authority.issue("localhost-2", usage=SERVER).chain).read_bytes())
    assert not served.seconds(3)
    (line,) = logged()
    assert line.startswith("CERTIFICATE REFUSED")
    assert served.shown()[1] == Path(settings.ocsp).read_bytes()


def test_an_expired_certificate_is_served_and_said_once(authority, tmp_path, logged):
    issued = authority.issue("localhost", usage=SERVER, days=2.0)
    settings = CertificateSettings(chain=issued.chain, key=issued.key)
    served = Served(settings)
    served.seconds(2)
    assert logged() == []
    served.now += 2 * 86_400.0
    served.seconds(3)
    (line,) = logged()
    assert line.startswith(f"CERTIFICATE EXPIRED: {issued.chain} ended at ")
    renewed(served, settings, authority.issue("other", usage=SERVER, days=1.0))
    assert len(logged()) == 2 and logged()[1].startswith(f"CERTIFICATE EXPIRED: {issued.chain} ended at ")
    renewed(served, settings, authority.issue("third", usage=SERVER, days=9.0))
    served.seconds(3)
    assert len(logged()) == 2


def test_a_certificate_that_is_not_valid_yet_is_said(authority, tmp_path, logged):
    issued = authority.issue("localhost", usage=SERVER)
    settings = CertificateSettings(chain=issued.chain, key=issued.key)
    served = Served(settings)
    served.now -= 40 * 86_400.0
    renewed(served, settings, authority.issue("other", usage=SERVER))
    assert [line.split(":")[0] for line in logged()] == ["CERTIFICATE NOT YET VALID, clients refuse it"]


def test_the_same_names_in_another_order_are_the_same_names(tmp_path):
    first = self_signed(tmp_path, "localhost")
    second = with_key(tmp_path, "rsa", rsa.generate_private_key(65537, 2048))
    served = Served(
        CertificateSettings(chain=first.chain, key=first.key, names=("a.example", "b.example")),
        CertificateSettings(chain=second.chain, key=second.key, names=("b.example", "a.example")),
    )
    serial = x509.load_pem_x509_certificate(Path(second.chain).read_bytes()).serial_number
    assert served.shown("nobody.example", "rsa_pss_rsae_sha256")[0] == serial
