from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from accessgw.core.interfaces.tls import Revocations, TicketBinding
from accessgw.crypto import revocations
from accessgw.crypto.revocations import KEPT, NAME, RevocationStore, TooManyRevocations
from accessgw.crypto.serials import issuer_of, number_of, serial_of
from accessgw.crypto.shared_file import SharedFileError
from accessgw.model.identity import Serial
from tests.crypto.revoking import are_listed

NOW = 1_800_000_000.0
DEVICE = TicketBinding("d1")


def certificate(serial: int, issuer: str = "ca") -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "d1")]))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=90))
        .sign(key, SHA256())
        .public_bytes(Encoding.DER)
    )


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def bound(der: bytes) -> TicketBinding:
    return TicketBinding("d1", "certificate", hashlib.sha256(der).digest(), int(NOW) + 86_400)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def test_it_is_what_the_transports_ask(directory: Path) -> None:
    store: Revocations = RevocationStore(directory)
    assert not store.is_revoked(DEVICE, NOW)


def test_a_device_loses_what_it_had_and_may_prove_itself_again(directory: Path) -> None:
    store = RevocationStore(directory)
    store.revoke_device("d1", NOW)
    assert store.is_revoked(DEVICE, NOW - 1000) and store.is_revoked(DEVICE, NOW)
    assert not store.is_revoked(DEVICE, NOW + 1)
    assert not store.is_revoked(TicketBinding("d2"), NOW - 1000)
    assert RevocationStore(directory).is_revoked(DEVICE, NOW)


def test_a_certificate_is_never_taken_again(directory: Path) -> None:
    der = certificate(7)
    store = RevocationStore(directory)
    store.revoke_certificate(hashlib.sha256(der).digest(), NOW)
    again = RevocationStore(directory)
    assert again.is_revoked(bound(der), NOW + 1e8)
    assert not again.is_revoked(bound(certificate(7)), NOW + 1e8)
    assert not again.is_revoked(DEVICE, NOW)


def test_every_process_knows_within_a_second_and_tells_its_listeners_once(directory: Path) -> None:
    one, other = RevocationStore(directory), RevocationStore(directory)
    told: list[str] = []
    one.on_change(lambda: told.append("one"))
    other.on_change(lambda: told.append("other"))
    for seconds in range(3):
        one.poll(NOW + seconds)
        other.poll(NOW + seconds)
    assert told == []
    one.revoke_device("d1", NOW + 3)
    for seconds in range(3, 6):
        one.poll(NOW + seconds)
        other.poll(NOW + seconds)
    assert sorted(told) == ["one", "other"]
    assert other.is_revoked(DEVICE, NOW)


def test_revocations_of_two_processes_add_up(directory: Path) -> None:
    one, other = RevocationStore(directory), RevocationStore(directory)
    one.revoke_device("d1", NOW)
    other.revoke_device("d2", NOW)
    one.revoke_certificate(bytes(32), NOW)
    assert RevocationStore(directory).count() == {"devices": 2, "certificates": 1, "listed": 0}


def test_devices_are_forgotten_when_nothing_of_theirs_is_left(directory: Path) -> None:
    store = RevocationStore(directory)
    store.revoke_device("d1", NOW)
    store.revoke_certificate(bytes(32), NOW)
    store.revoke_device("d2", NOW + KEPT)
    assert store.count() == {"devices": 1, "certificates": 1, "listed": 0}


def test_the_list_is_bounded(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "MOST", 3)
    store = RevocationStore(directory)
    for number in range(3):
        store.revoke_device(f"d{number}", NOW)
    with pytest.raises(TooManyRevocations, match="at most 3 revoked devices"):
        store.revoke_device("d3", NOW)
    store.revoke_device("d1", NOW + 1)
    store.revoke_certificate(bytes(32), NOW)
    assert store.is_revoked(TicketBinding("d1"), NOW + 1)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"device": {}}', b'{"devices": {"d1": "yes"}}', b"\xff"])
def test_a_damaged_list_is_refused_by_name(directory: Path, content: bytes) -> None:
    store = RevocationStore(directory)
    store.revoke_device("d1", NOW)
    (directory / NAME).write_bytes(content)
    with pytest.raises(SharedFileError, match=f"^{directory / NAME}: is damaged"):
        RevocationStore(directory)
    # who runs already keeps what was known
    store.poll(NOW + 10)
    assert store.is_revoked(DEVICE, NOW)


# ------------------------------------------------------------------ revocation lists


def of_ca(*numbers: int) -> set[Serial]:
    """What a list of "ca" says."""
    return {(issuer_of(name("ca")), number_of(number)) for number in numbers}


def shown(store: RevocationStore, der: bytes, *above: bytes) -> bool:
    """Somebody comes with it, and whether that is refused."""
    return store.certificate_is_revoked(hashlib.sha256(der).digest(), tuple(map(serial_of, (der, *above))))


def test_a_listed_certificate_is_refused(directory: Path) -> None:
    der = certificate(7)
    store = RevocationStore(directory)
    assert not are_listed(store, der)
    store.use_list("ca.crl", of_ca(7), NOW)
    assert are_listed(store, der) and shown(store, der)
    assert not are_listed(store, certificate(8))
    assert not are_listed(store, certificate(7, "another ca"))
    assert not store.are_listed(())
    assert store.count()["listed"] == 1
    store.use_list("other.crl", of_ca(8), NOW)
    assert are_listed(store, der) and are_listed(store, certificate(8))
    store.use_list("ca.crl", set(), NOW)
    assert not are_listed(store, der) and are_listed(store, certificate(8))


def test_a_ca_on_a_list_takes_along_what_it_issued(directory: Path) -> None:
    leaf, above, other = certificate(1, "factory"), certificate(7), certificate(8)
    store = RevocationStore(directory)
    store.use_list("ca.crl", of_ca(7), NOW)
    assert are_listed(store, leaf, above) and shown(store, leaf, above)
    assert not are_listed(store, leaf, other) and not shown(store, leaf, other)


@pytest.mark.parametrize("number", [1, 127, 128, 255, 256, (1 << 158) + 5, (1 << 159) - 1])
def test_numbers_of_every_length_are_found(directory: Path, number: int) -> None:
    store = RevocationStore(directory)
    store.use_list("ca.crl", of_ca(number), NOW)
    assert are_listed(store, certificate(number))
    assert not are_listed(store, certificate(number ^ 2))


def test_issuers_are_shared(directory: Path) -> None:
    (first, number), (second, _) = serial_of(certificate(7)), serial_of(certificate(8))
    assert first is second and number == b"\x07"
    assert number_of(-1) == b"\xff" and number_of(255) == b"\x00\xff"  # a CA may have gone wrong


def test_the_tickets_of_a_certificate_that_was_seen_follow_the_list(directory: Path) -> None:
    listed, other, below = certificate(7), certificate(8), certificate(1, "factory")
    store = RevocationStore(directory)
    assert not shown(store, listed) and not shown(store, other) and not shown(store, below, certificate(9))
    store.use_list("ca.crl", of_ca(7, 9), NOW)
    for der in (listed, below):
        assert store.is_revoked(bound(der), NOW - 100) and store.is_revoked(bound(der), NOW + 100)
    assert not store.is_revoked(bound(other), NOW - 100)
    assert not store.is_revoked(DEVICE, NOW - 100)
    assert store.serials_of(bound(other).fingerprint) == (serial_of(other),)
    assert store.serials_of(bound(certificate(8)).fingerprint) == ()


def test_who_is_locked_out_whatever_lists_say(directory: Path) -> None:
    der = certificate(7)
    fingerprint = hashlib.sha256(der).digest()
    store = RevocationStore(directory)
    store.use_list("ca.crl", of_ca(7), NOW)
    assert not store.is_locked_out("d1", fingerprint, NOW)
    store.revoke_device("d1", NOW)
    assert store.is_locked_out("d1", fingerprint, NOW) and store.is_locked_out("d1", b"", NOW)
    assert not store.is_locked_out("d1", fingerprint, NOW + 1) and not store.is_locked_out("", b"", NOW)
    store.revoke_certificate(fingerprint, NOW)
    assert store.is_locked_out("d1", fingerprint, NOW + 1) and store.is_locked_out("", fingerprint, NOW + 1)
    assert shown(store, der)


def test_tickets_of_unseen_certificates_are_void_after_a_change_of_a_list(directory: Path) -> None:
    binding = bound(certificate(7))
    serials = of_ca(7)
    store = RevocationStore(directory)
    store.use_list("ca.crl", serials, NOW)
    assert store.is_revoked(binding, NOW - 100)
    assert not store.is_revoked(binding, NOW + 1)
    # the same list at the next start, and read again: nothing new
    again = RevocationStore(directory)
    assert again.is_revoked(binding, NOW - 100)
    again.use_list("ca.crl", set(serials), NOW + 1000)
    assert not again.is_revoked(binding, NOW + 1)
    again.use_list("ca.crl", serials | of_ca(1 << 159), NOW + 2000)
    assert again.is_revoked(binding, NOW + 1)
    store.poll(NOW + 2001)
    assert store.is_revoked(binding, NOW + 1)


def test_tickets_of_a_process_that_read_the_list_later_are_void_too(directory: Path) -> None:
    one, other = RevocationStore(directory), RevocationStore(directory)
    for store in (one, other):
        store.use_list("ca.crl", set(), NOW)
    serials = of_ca(7)
    one.use_list("ca.crl", serials, NOW + 100)
    # meanwhile the other one let the device in, and gave it tickets
    other.use_list("ca.crl", serials, NOW + 102)
    one.poll(NOW + 103)
    assert one.is_revoked(bound(certificate(7)), NOW + 101)
    assert not one.is_revoked(bound(certificate(7)), NOW + 103)


def test_a_changed_list_is_told_of(directory: Path) -> None:
    store = RevocationStore(directory)
    told: list[int] = []
    store.on_change(lambda: told.append(1))
    store.use_list("ca.crl", of_ca(7), NOW)
    store.poll(NOW)
    assert told == [1]


def test_certificates_that_were_seen_are_bounded(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "SEEN", 2)
    store = RevocationStore(directory)
    seen = [certificate(n) for n in (1, 2, 3)]
    for der in (seen[1], seen[0], seen[1], seen[2]):
        shown(store, der)
    store.use_list("ca.crl", of_ca(9), NOW)
    assert [store.is_revoked(bound(der), NOW - 1) for der in seen] == [True, False, False]


def test_a_listener_that_fails_keeps_no_other_from_hearing(directory: Path, failures: list[Exception]) -> None:
    store, told = RevocationStore(directory), list[str]()

    def defective() -> None:
        told.append("first")
        raise ZeroDivisionError

    store.on_change(defective)
    store.on_change(lambda: told.append("second"))
    store.revoke_device("d1", NOW)
    store.poll(NOW)
    assert told == ["first", "second"]
    assert [type(one) for one in failures] == [ZeroDivisionError]


@pytest.fixture
def failures() -> Iterator[list[Exception]]:
    """What was logged with a traceback."""
    found: list[Exception] = []

    def observe(event: LogEvent) -> None:
        if "log_failure" in event:
            found.append(event["log_failure"].value)

    globalLogPublisher.addObserver(cast(ILogObserver, observe))
    yield found
    globalLogPublisher.removeObserver(cast(ILogObserver, observe))
