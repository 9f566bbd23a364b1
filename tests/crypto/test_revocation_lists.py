"""Revocation lists: which are believed, what changes while the gateway runs, and what stays in force."""

from __future__ import annotations

import base64
import hashlib
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.logger import formatEvent, globalLogPublisher

from accessgw.core.interfaces.tls import TicketBinding
from accessgw.crypto.pem import CertificateError
from accessgw.crypto.revocation_lists import RevocationLists, load_lists
from accessgw.crypto.revocations import RevocationStore
from accessgw.crypto.serials import serial_of
from accessgw.crypto.services import AuthenticationUnavailable
from tests.crypto.authority import Authority
from tests.crypto.revoking import ECDSA_WITH_SHA256, are_listed, crl, write


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path, "ca")


class House:
    """Lists of one file, over a real store."""

    def __init__(self, directory, authority, content):
        self.path = write(directory / "crl.pem", content)
        self.authorities = [authority.certificate]
        self.store = RevocationStore(directory / "keys")
        self.changes = 0
        self.store.on_change(self.changed)
        self.now = time.time()
        self.lists = RevocationLists(self.path, lambda: self.authorities, self.store, run=self.run, now=self.now)
        self.busy = False
        self.store.poll(self.now)
        self.changes = 0

    def changed(self):
        self.changes += 1

    def run(self, work):
        return fail(AuthenticationUnavailable("busy")) if self.busy else maybeDeferred(work)

    def second(self):
        """One second passes."""
        self.now += 1.0
        self.lists.poll(self.now)
        self.store.poll(self.now)

    def replace(self, content):
        write(self.path, content)


def test_every_list_of_the_file_counts(tmp_path, authority):
    other = authority.intermediate("factory")
    one, two, free = authority.issue("one"), other.issue("two"), authority.issue("free")
    path = write(tmp_path / "crl.pem", crl(authority, one.der, days=2.0) + crl(other, two.der, days=1.0))
    loaded = load_lists(path, [authority.certificate, other.certificate])
    assert loaded.serials == {serial_of(one.der), serial_of(two.der)}
    assert abs(loaded.expires_at - time.time() - 86_400) < 60
    store = RevocationStore(tmp_path / "keys")
    store.use_list(path, loaded.serials, time.time())
    assert [are_listed(store, issued.der) for issued in (one, two, free)] == [True, True, False]


def test_the_same_number_of_another_ca_is_another_certificate(tmp_path, authority):
    stranger = Authority(tmp_path, "stranger")
    issued = authority.issue("one")
    path = write(tmp_path / "crl.pem", crl(stranger, issued.der))
    store = RevocationStore(tmp_path / "keys")
    store.use_list(path, load_lists(path, [stranger.certificate]).serials, time.time())
    assert not are_listed(store, issued.der)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda ca, other: b"", "expected PEM revocation lists, got none"),
        (lambda ca, other: b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "list 1 cannot be read"),
        (lambda ca, other: crl(other), "expected lists signed by the CAs of clients, that of CN=other is not"),
        (lambda ca, other: _with_unknown_algorithm(crl(ca)), "list 1 cannot be read"),
        (lambda ca, other: crl(ca, key=other.key), "that of CN=ca is not"),
        (lambda ca, other: crl(ca) + crl(other), "that of CN=other is not"),
        (
            lambda ca, other: crl(ca, extensions=[x509.DeltaCRLIndicator(1)]),
            "complete lists, that of CN=ca has a critical",
        ),
    ],
)
def test_lists_that_are_not_believed(tmp_path, authority, make, words):
    path = write(tmp_path / "crl.pem", make(authority, Authority(tmp_path, "other")))
    with pytest.raises(CertificateError, match=words):
        load_lists(path, [authority.certificate])
    with pytest.raises(CertificateError, match=words):  # a start refuses them, too
        House(tmp_path, authority, Path(path).read_bytes())


def test_a_flipped_bit_of_what_is_signed_is_found(tmp_path, authority):
    one = x509.load_pem_x509_crl(crl(authority, authority.issue("one").der))
    der, signed = one.public_bytes(Encoding.DER), one.tbs_certlist_bytes
    begin = der.index(signed)
    for at in range(begin, begin + len(signed)):
        damaged = bytearray(der)
        damaged[at] ^= 1 << at % 8
        path = write(tmp_path / "crl.pem", _pem(bytes(damaged)))
        with pytest.raises(CertificateError):
            load_lists(path, [authority.certificate])


def test_a_ca_that_may_not_sign_lists_does_not(tmp_path, authority):
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    now = datetime.now(UTC)
    restricted = (
        x509.CertificateBuilder().subject_name(authority.subject).issuer_name(authority.subject)
        .public_key(authority.key.public_key()).serial_number(1).not_valid_before(now)
        .not_valid_after(now + timedelta(days=1)).add_extension(usage, critical=True).sign(authority.key, hashes.SHA256())
    )  # fmt: skip
    path = write(tmp_path / "crl.pem", crl(authority))
    with pytest.raises(CertificateError, match="expected lists signed by"):
        load_lists(path, [restricted])
    load_lists(path, [restricted, authority.certificate])


def test_a_change_is_in_force_within_two_seconds(tmp_path, authority):
    one, two = authority.issue("one"), authority.issue("two")
    house = House(tmp_path, authority, crl(authority, one.der))
    assert are_listed(house.store, one.der) and not are_listed(house.store, two.der)
    house.second()
    assert house.changes == 0
    house.replace(crl(authority, two.der))
    house.second()
    house.second()
    assert house.changes == 1
    assert not are_listed(house.store, one.der) and are_listed(house.store, two.der)
    # a ticket of the certificate is void as well
    binding = TicketBinding("d", "certificate", hashlib.sha256(two.der).digest())
    assert house.store.is_revoked(binding, house.now - 10.0)


def test_a_file_that_is_being_written_is_waited_for(tmp_path, authority, logged):
    one = authority.issue("one")
    house = House(tmp_path, authority, crl(authority))
    content = crl(authority, one.der)
    for end in range(100, len(content), 100):
        Path(house.path).write_bytes(content[:end])
        house.second()
    assert logged() == []
    Path(house.path).write_bytes(content)
    house.second()
    house.second()
    assert are_listed(house.store, one.der) and logged() == []


def test_what_cannot_be_used_changes_nothing_and_is_said_once(tmp_path, authority, logged):
    one, stranger = authority.issue("one"), Authority(tmp_path, "stranger")
    house = House(tmp_path, authority, crl(authority, one.der))
    for content, words in (
        (crl(stranger), "REVOCATION LIST REFUSED, the one read before stays in force"),
        (crl(authority, days=-0.5), "expired at"),
        (b"damaged", "got none"),
    ):
        house.replace(content)
        before = len(logged())
        for _ in range(5):
            house.second()
        (line,) = logged()[before:]
        assert words in line and house.path in line
        assert are_listed(house.store, one.der) and house.changes == 0
    Path(house.path).unlink()
    for _ in range(3):
        house.second()
    assert "No such file" in logged()[-1] and are_listed(house.store, one.der)
    house.replace(crl(authority))
    house.second()
    house.second()
    assert not are_listed(house.store, one.der)


def test_an_expired_list_is_used_at_a_start_and_said_to_be_every_hour(tmp_path, authority, logged):
    one = authority.issue("one")
    house = House(tmp_path, authority, crl(authority, one.der, days=-0.5))
    assert are_listed(house.store, one.der)
    (line,) = logged()
    assert line.startswith("REVOCATION LIST EXPIRED: ")
    house.second()
    assert len(logged()) == 1
    house.now += 3600.0
    house.second()
    assert len(logged()) == 2


def test_one_that_expires_while_it_is_in_force_stays(tmp_path, authority, logged):
    one = authority.issue("one")
    house = House(tmp_path, authority, crl(authority, one.der))
    house.now += 90_000.0
    house.second()
    assert len(logged()) == 1 and "EXPIRED" in logged()[0]
    assert are_listed(house.store, one.der)


def test_a_busy_moment_is_tried_again(tmp_path, authority):
    one = authority.issue("one")
    house = House(tmp_path, authority, crl(authority))
    house.replace(crl(authority, one.der))
    house.busy = True
    house.second()
    house.second()
    assert not are_listed(house.store, one.der)
    house.busy = False
    house.second()
    assert are_listed(house.store, one.der)


def test_a_reload_reads_it_under_the_cas_of_the_present(tmp_path, authority):
    other = Authority(tmp_path, "other")
    one = other.issue("one")
    house = House(tmp_path, authority, crl(authority))
    house.replace(crl(authority) + crl(other, one.der))
    house.second()
    house.second()
    assert not are_listed(house.store, one.der)
    house.authorities.append(other.certificate)
    house.lists.reload(house.now)
    assert are_listed(house.store, one.der)


def test_a_reload_that_finds_no_thread_is_made_later(tmp_path, authority):
    """A flood of passwords must not keep what a CA revokes from being in force."""
    other = Authority(tmp_path, "other")
    one = other.issue("one")
    house = House(tmp_path, authority, crl(authority))
    house.replace(crl(authority) + crl(other, one.der))
    house.second()
    house.second()
    run, house.lists._run = house.lists._run, lambda work: fail(AuthenticationUnavailable("too many wait"))
    house.authorities.append(other.certificate)
    house.lists.reload(house.now)
    house.second()
    assert not are_listed(house.store, one.der)
    loads = []
    house.lists._run = lambda work: [loads.append(work), run(work)][1]
    for _ in range(3):
        house.second()
    assert are_listed(house.store, one.der)
    assert len(loads) == 1


def test_it_is_loaded_once_at_a_time(tmp_path, authority):
    house = House(tmp_path, authority, crl(authority))
    waiting = []

    def run(work):
        waiting.append(work)
        return Deferred()

    house.lists._run = run
    house.replace(crl(authority, authority.issue("one").der))
    for _ in range(5):
        house.second()
    assert len(waiting) == 1 and house.lists.reload(house.now) is None


def test_a_reload_while_it_is_loaded_reads_it_once_more(tmp_path, authority):
    """The CAs that the load under way has read may be those before."""
    other = Authority(tmp_path, "other")
    one = other.issue("one")
    house = House(tmp_path, authority, crl(authority))
    under_way = []

    def run(work):
        under_way.append((Deferred(), maybeDeferred(work)))
        return under_way[-1][0]

    house.lists._run = run
    house.replace(crl(authority) + crl(other, one.der))
    house.second()
    house.second()
    house.authorities.append(other.certificate)
    house.lists.reload(house.now)
    assert len(under_way) == 1
    for _ in range(2):
        waiting, result = under_way[-1]
        result.chainDeferred(waiting)
    assert len(under_way) == 2 and are_listed(house.store, one.der)
    # and that was all
    house.second()
    assert len(under_way) == 2


def test_what_is_tried_again_every_second_is_said_once(tmp_path, authority, logged):
    house = House(tmp_path, authority, crl(authority))
    house.replace(crl(authority, authority.issue("one").der))
    house.busy = True
    for _ in range(5):
        house.second()
    (line,) = logged()
    assert line.endswith("stays in force: busy")
    house.busy = False
    house.second()
    house.replace(crl(authority, authority.issue("two").der))
    house.busy = True
    for _ in range(5):
        house.second()
    assert len(logged()) == 2


def test_how_many_certificates_are_in_a_list_is_told_in_words(tmp_path, authority):
    said = []
    house = House(tmp_path, authority, crl(authority))
    globalLogPublisher.addObserver(observe := lambda event: said.append(formatEvent(event)))
    try:
        one, two = authority.issue("one"), authority.issue("two")
        for revoked in ((one.der,), (one.der, two.der)):
            house.replace(crl(authority, *revoked))
            house.second()
            house.second()
    finally:
        globalLogPublisher.removeObserver(observe)
    assert said == [f"revocation list {house.path} loaded: {what}" for what in ("1 certificate", "2 certificates")]


def _with_unknown_algorithm(pem: bytes) -> bytes:
    """Signed by what nobody knows."""
    der = x509.load_pem_x509_crl(pem).public_bytes(Encoding.DER)
    changed = der.replace(ECDSA_WITH_SHA256, ECDSA_WITH_SHA256[:-1] + b"\x7f")
    assert changed != der
    return _pem(changed)


def _pem(der: bytes) -> bytes:
    return b"-----BEGIN X509 CRL-----\n" + base64.encodebytes(der) + b"-----END X509 CRL-----\n"
