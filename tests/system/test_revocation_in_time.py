"""The whole of TLS under a Clock: what is revoked, by whatever way, ends connections and voids tickets within 5 seconds."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock

from accessgw.core.interfaces.tls import TicketBinding
from accessgw.core.revoked_connections import RevokedConnections
from accessgw.core.timers import TimingWheel
from accessgw.crypto import revocations
from accessgw.crypto.pem import CertificateError
from accessgw.crypto.revocations import RevocationStore
from accessgw.model.counters import TlsCounters
from accessgw.model.identity import ConnectionInfo
from accessgw.model.listener_settings import CertificateSettings, ListenerSettings
from accessgw.model.reasons import CloseReason
from accessgw.model.settings import GatewaySettings
from accessgw.tls_rooms import TlsRooms
from accessgw.transports.services import OpenConnections
from protocols.errors import RemoteError
from protocols.tls.alerts import CERTIFICATE_REVOKED
from tests.crypto.authority import Authority
from tests.crypto.certificates import self_signed
from tests.crypto.revoking import crl, write

BOUND = 5.0
"""Seconds."""


class Connection:
    def __init__(self, clock, **info):
        self.clock = clock
        self.info = ConnectionInfo(listener="tls", transport="tls", peer="::1", accepted_at=time.time(), **info)
        self.closed = None

    def close(self, reason, detail=""):
        assert reason is CloseReason.REVOKED
        self.closed = self.clock.seconds()


class House:
    """TlsRooms with one listener, and the connections that the test puts there."""

    def __init__(self, directory, monkeypatch, lists=b""):
        self.clock = Clock()
        self.clock.addReader = self.clock.removeReader = lambda descriptor: None
        start = time.time()
        monkeypatch.setattr(time, "time", lambda: start + self.clock.seconds())
        self.authority = Authority(directory, "devices")
        self.certificate = self_signed(directory, "localhost")
        self.crl = write(directory / "crl.pem", lists or crl(self.authority))
        listener = ListenerSettings(
            name="tls",
            transport="tls",
            protocols=("mmtp/1",),
            certificates=(CertificateSettings(chain=self.certificate.chain, key=self.certificate.key),),
            client_certificates="require",
            client_ca=self.authority.file,
            client_crl=self.crl,
        )
        self.settings = GatewaySettings(state_dir=str(directory / "state"), listeners=(listener,))
        self.counters = TlsCounters()
        self.rooms = TlsRooms(
            self.settings,
            reactor=self.clock,
            timers=TimingWheel(self.clock),
            run=maybeDeferred,
            counters=self.counters,
        )
        self.table = OpenConnections()
        RevokedConnections(self.clock, self.table, self.rooms.revocations, self.counters)
        self.rooms.start()
        self.advance(3.0)

    def accept(self, **info):
        connection = Connection(self.clock, id=self.table.next_id(), **info)
        self.table.add(connection)
        return connection

    def accept_certificate(self, issued, *above, **info):
        """As a listener does; `above`: the CAs that issued it, the trusted one last."""
        above = tuple(ca.certificate.public_bytes(Encoding.DER) for ca in above)
        identity, serials = self.rooms.contexts["tls"].identify(issued.der, (issued.der, *above))
        return self.accept(
            certificate=issued.der,
            fingerprint=hashlib.sha256(issued.der).digest(),
            certificate_identity=identity,
            serials=serials,
            **info,
        )

    def advance(self, seconds):
        for _ in range(round(seconds * 4)):
            self.clock.advance(0.25)

    def is_void(self, binding, issued):
        """What the office of tickets asks at HELLO."""
        return self.rooms.tickets["tls"].revocations.is_revoked(binding, issued)


@pytest.fixture
def house(tmp_path, monkeypatch):
    made = House(tmp_path, monkeypatch)
    yield made
    made.rooms.stop()


def test_a_certificate_on_a_new_list(house):
    bad, good = house.authority.issue("bad"), house.authority.issue("good")
    first, second = house.accept_certificate(bad, device="bad"), house.accept_certificate(good, device="good")
    fingerprint = hashlib.sha256(bad.der).digest()
    ticket = TicketBinding("bad", "certificate", fingerprint, 2_000_000_000)
    issued = time.time()
    resumed = house.accept(device="bad", fingerprint=fingerprint, proved_at=issued)
    assert not house.is_void(ticket, issued)
    began = house.clock.seconds()
    write(house.crl, crl(house.authority, bad.der))
    house.advance(BOUND)
    assert first.closed is not None and first.closed - began <= BOUND
    assert resumed.closed is not None and second.closed is None
    assert house.is_void(ticket, issued)
    assert not house.is_void(TicketBinding("good", "certificate", hashlib.sha256(good.der).digest()), issued)
    with pytest.raises(RemoteError) as caught:
        house.accept_certificate(bad)
    assert caught.value.code == CERTIFICATE_REVOKED
    assert house.counters.revoked_closed == 2


def test_a_ca_in_between_on_a_new_list(house, tmp_path):
    bad, good = house.authority.intermediate("bad"), house.authority.intermediate("good")
    below, other = bad.issue("below"), good.issue("other")
    chain = house.authority
    ended = [house.accept_certificate(below, bad, chain, device=f"d{number}") for number in range(3)]
    stays = [house.accept_certificate(other, good, chain), house.accept_certificate(house.authority.issue("x"), chain)]
    ticket = TicketBinding("below", "certificate", hashlib.sha256(below.der).digest(), 2_000_000_000)
    issued, began = time.time(), house.clock.seconds()
    assert not house.is_void(ticket, issued)
    write(house.crl, crl(house.authority, bad.certificate.public_bytes(Encoding.DER)))
    house.advance(BOUND)
    assert all(one.closed is not None and one.closed - began <= BOUND for one in ended)
    assert [one.closed for one in stays] == [None, None]
    assert house.is_void(ticket, issued) and house.is_void(ticket, time.time() + 60)
    with pytest.raises(RemoteError) as caught:
        house.accept_certificate(below, bad, chain)
    assert caught.value.code == CERTIFICATE_REVOKED


def test_more_certificates_than_are_remembered(house, monkeypatch):
    monkeypatch.setattr(revocations, "SEEN", 2)
    issued = [house.authority.issue(f"d{number}") for number in range(5)]
    connections = [house.accept_certificate(one, house.authority, device="d") for one in issued]
    write(house.crl, crl(house.authority, issued[1].der, issued[4].der))
    house.advance(BOUND)
    assert [one.closed is not None for one in connections] == [False, True, False, False, True]


def test_a_device_by_the_control_api(house):
    one, other = house.accept(device="bad"), house.accept(device="good")
    issued = time.time()
    house.rooms.keys.revoke_device("bad")
    house.advance(BOUND)
    assert one.closed is not None and other.closed is None
    assert house.is_void(TicketBinding("bad"), issued)


def test_a_device_and_a_certificate_by_another_process(house, tmp_path):
    issued = house.authority.issue("one")
    device, certificate = house.accept(device="bad"), house.accept_certificate(issued, device="one")
    elsewhere = RevocationStore(Path(house.settings.state_dir) / house.settings.tls.key_store)
    began = house.clock.seconds()
    elsewhere.revoke_device("bad", time.time())
    elsewhere.revoke_certificate(hashlib.sha256(issued.der).digest(), time.time())
    house.advance(BOUND)
    for connection in (device, certificate):
        assert connection.closed is not None and connection.closed - began <= BOUND
    with pytest.raises(RemoteError) as caught:
        house.accept_certificate(issued)
    assert caught.value.code == CERTIFICATE_REVOKED


def test_a_certificate_of_the_listener_is_followed_and_its_end_is_told(house, tmp_path):
    before = house.rooms.contexts["tls"].context()
    renewed = self_signed(tmp_path, "renewed")
    Path(renewed.key).replace(house.certificate.key)
    Path(renewed.chain).replace(house.certificate.chain)
    house.advance(BOUND)
    assert house.rooms.contexts["tls"].context() is not before
    ends = house.rooms.expires_at()
    assert {file for _, file in ends} == {house.certificate.chain, house.authority.file, house.crl}
    renewed_end = x509.load_pem_x509_certificate(Path(house.certificate.chain).read_bytes()).not_valid_after_utc
    assert ends["tls", house.certificate.chain] == renewed_end.timestamp()


def test_a_gateway_does_not_start_without_the_list_it_was_told_to_ask(tmp_path, monkeypatch):
    with pytest.raises(CertificateError, match=r"crl\.pem: expected lists signed by the CAs of clients"):
        House(tmp_path, monkeypatch, crl(Authority(tmp_path, "stranger")))
