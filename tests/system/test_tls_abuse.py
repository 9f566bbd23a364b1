"""Peers that break TLS: each is refused by a running gateway, with its reason in the access log and the metrics."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL

from loadtest.free_ports import free_ports
from protocols.errors import RemoteError
from protocols.tls.client_context import ClientContext, ClientOptions
from protocols.tls.engine import HandshakeCompleted, PlaintextReceived
from protocols.tls.psk import ExternalPsk
from protocols.tls.pyopenssl_engine import PyOpenSSLEngine
from tests.crypto.authority import Authority
from tests.system.attacker import Attacker
from tests.system.device import Device
from tests.system.gateway_process import PATIENCE, Gateway

LISTENERS = """
[limits]
accepts_per_address_per_second = 100000
accept_burst_per_address = 100000

[[listeners]]
name = "mutual"
transport = "tls"
port = {mutual}
protocols = ["http/1.1"]
client_certificates = "require"
client_ca = "{ca}"
client_crl = "{crl}"

[[listeners]]
name = "newest"
transport = "tls"
port = {newest}
protocols = ["http/1.1"]
tls_minimum = "1.3"
"""
REQUEST = b"GET /nothing HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


class Fortress:
    """One gateway for the whole siege, and who may come in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.devices = Authority(directory, "devices")
        self.mutual, self.newest = free_ports(2)
        self.revoked = self.devices.issue("revoked")
        crl = directory / "devices.crl"
        crl.write_bytes(revocation_list(self.devices, self.revoked.der))
        listeners = LISTENERS.format(mutual=self.mutual, newest=self.newest, ca=self.devices.file, crl=crl)
        self.gateway = Gateway(directory, extra=listeners)
        self.gateway.log_accesses()
        self.gateway.start()

    def attack(self, port: int) -> Attacker:
        attacker = Attacker(self.gateway)
        attacker.socket.close()
        attacker.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        attacker.port = attacker.socket.getsockname()[1]
        return attacker

    def refused(self, reason: str) -> float:
        return self.gateway.metric("accessgw_tls_handshakes_refused_total", reason=reason)


def revocation_list(authority: Authority, certificate: bytes) -> bytes:
    now = datetime.now(UTC)
    serial = x509.load_der_x509_certificate(certificate).serial_number
    entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - timedelta(hours=1)).build()
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.subject)
    builder = builder.last_update(now - timedelta(hours=1)).next_update(now + timedelta(days=1))
    return builder.add_revoked_certificate(entry).sign(authority.key, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.fixture(scope="module")
def fortress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fortress]:
    place = Fortress(tmp_path_factory.mktemp("fortress"))
    yield place
    place.gateway.assert_sound()
    place.gateway.close()


@pytest.fixture
def siege(fortress: Fortress) -> Iterator[Fortress]:
    """Afterwards all connections of the attackers are gone, and a device is served."""
    yield fortress
    fortress.gateway.wait_until(lambda: fortress.gateway.metric("accessgw_connections_open") == 0)
    device = Device(fortress.gateway.tls, "fresh", ca=fortress.gateway.ca, boot=next(_boots)).welcomed()
    assert device.call("gw.time", b"").status == 0
    device.cut()
    fortress.gateway.wait_until(lambda: fortress.gateway.metric("accessgw_connections_open") == 0)


_boots = iter(range(1, 10_000))


class Peer:
    """Our client engine on an attacker's socket."""

    def __init__(self, attacker: Attacker, engine: PyOpenSSLEngine) -> None:
        self.attacker, self.engine = attacker, engine
        self.heard = b""
        self.alert = ""
        engine.start()
        self.say()

    def say(self) -> None:
        self.attacker.send(self.engine.to_send())

    def until(self, true: Callable[[], bool]) -> Peer:
        """Go on until it holds, or until the gateway has ended the connection."""
        while not true():
            try:
                data = self.attacker.socket.recv(65536)
            except ConnectionError:
                break
            if not data:
                break
            try:
                self.engine.feed(data)
            except RemoteError as error:
                self.alert = str(error)
                break
            for event in self.engine.events():
                if isinstance(event, PlaintextReceived):
                    self.heard += event.data
            self.say()
        return self

    def shaken(self) -> Peer:
        return self.until(lambda: self.engine.handshaken)

    def ended(self) -> Peer:
        """By the gateway, which is heard to its end."""
        self.until(lambda: False)
        self.attacker.socket.close()
        return self


def peer(siege: Fortress, port: int, **options: Any) -> Peer:
    context = ClientContext(ClientOptions(verify=False, alpn=["http/1.1"], **options))
    return Peer(siege.attack(port), context.engine("localhost"))


# ---------------------------------------------------------------- certificates


def shown(siege: Fortress, name: str) -> dict[str, bytes]:
    """PEM of chain and key of a certificate with this fault."""
    if name == "absent":
        return {}
    if name == "expired":
        issued = siege.devices.issue("expired", days=-1)
    elif name == "of another authority":
        issued = Authority(siege.directory, "others").issue("foreign")
    elif name == "for servers":
        issued = siege.devices.issue("server", usage=ExtendedKeyUsageOID.SERVER_AUTH)
    elif name == "revoked":
        issued = siege.revoked
    else:
        return forged(siege)
    return {"chain": Path(issued.chain).read_bytes(), "key": Path(issued.key).read_bytes()}


def forged(siege: Fortress) -> dict[str, bytes]:
    """It names our authority as its issuer; another key has signed it."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(siege.devices.subject)
        .issuer_name(siege.devices.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return {"chain": certificate.public_bytes(Encoding.PEM), "key": pem}


CERTIFICATES = {
    "absent": {"certificate_required"},
    "expired": {"certificate_expired"},
    "of another authority": {"unknown_ca"},
    "for servers": {"unsupported_certificate"},
    "revoked": {"certificate_revoked"},
    # OpenSSL looks for an issuer whose key fits, and finds none
    "forged": {"unknown_ca", "decrypt_error", "bad_certificate"},
}


@pytest.mark.parametrize("name", CERTIFICATES)
def test_bad_client_certificates(siege: Fortress, name: str) -> None:
    before = {reason: siege.refused(reason) for reason in CERTIFICATES[name]}
    bad = peer(siege, siege.mutual, **shown(siege, name)).shaken()
    bad.engine.encrypt(REQUEST)
    bad.say()
    bad.ended()
    closed = bad.attacker.closed_as()
    assert bad.heard == b""
    assert closed["reason"] == "handshake_failed"
    alert = next(reason for reason in CERTIFICATES[name] if f"({reason})" in closed["detail"])
    assert siege.refused(alert) == before[alert] + 1


def test_a_good_one_comes_in(siege: Fortress) -> None:
    """So that the refusals above are of what is bad about them."""
    good = siege.devices.issue("good")
    device = peer(siege, siege.mutual, chain=Path(good.chain).read_bytes(), key=Path(good.key).read_bytes()).shaken()
    device.engine.encrypt(REQUEST)
    device.say()
    assert device.ended().heard.startswith(b"HTTP/1.1 404 ")


# ---------------------------------------------------------------- records


def flip(record: bytes) -> bytes:
    return record[:-1] + bytes((record[-1] ^ 1,))


def cut(record: bytes) -> bytes:
    return record[:3] + (len(record) - 6).to_bytes(2, "big") + record[5:-1]


def oversized(record: bytes) -> bytes:
    return record[:3] + (16_384 + 257).to_bytes(2, "big") + record[5:] + bytes(16_384)


def twice(record: bytes) -> bytes:
    return record + record


def plain(record: bytes) -> bytes:
    return b"\x17\x03\x03\x00\x40" + bytes(64)


def hello_again(record: bytes) -> bytes:
    """In the clear: what a renegotiation of TLS 1.2 would begin with."""
    return b"\x16\x03\x03\x00\x04\x01\x00\x00\x00"


RECORDS = {
    "flipped": (flip, "bad_record_mac"),
    "cut": (cut, "bad_record_mac"),
    "oversized": (oversized, "record_overflow"),
    "repeated": (twice, "bad_record_mac"),
    "not encrypted": (plain, "bad_record_mac"),
    "a hand-shake in the clear": (hello_again, "unexpected_message"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_bad_records(siege: Fortress, name: str) -> None:
    make, alert = RECORDS[name]
    bad = peer(siege, siege.gateway.tls).shaken()
    bad.engine.encrypt(b"GET /nothing HTTP/1.1\r\n")
    bad.attacker.send(make(bad.engine.to_send()))
    bad.ended()
    closed = bad.attacker.closed_as()
    assert closed["reason"] == "protocol_error"
    assert f"({alert})" in closed["detail"]
    # and the peer was told why
    assert bad.alert.endswith("alert " + alert.replace("_", " "))
    assert bad.heard == b""


def test_a_record_that_never_ends(siege: Fortress) -> None:
    bad = peer(siege, siege.gateway.tls).shaken()
    bad.engine.encrypt(b"GET /nothing HTTP/1.1\r\n")
    bad.attacker.send(bad.engine.to_send()[:-1])
    bad.attacker.socket.shutdown(socket.SHUT_WR)
    bad.ended()
    assert bad.attacker.closed_as()["reason"] == "peer_reset"


# ---------------------------------------------------------------- tickets, versions, renegotiation


def test_a_ticket_that_nobody_gave_is_a_full_hand_shake(siege: Fortress) -> None:
    before = siege.gateway.metric("accessgw_tls_tickets_refused_total", reason="unknown")
    context = ClientContext(ClientOptions(verify=False, alpn=["http/1.1"]))
    made_up = ExternalPsk(b"\x01" + bytes(16), bytes(32), 16384, "http/1.1")
    engine = context.engine("localhost", psk=made_up)
    engine.early(REQUEST)
    bad = Peer(siege.attack(siege.gateway.tls), engine)
    completed: list[HandshakeCompleted] = []
    while not completed:
        bad.engine.feed(bad.attacker.socket.recv(65536))
        completed += [event for event in bad.engine.events() if isinstance(event, HandshakeCompleted)]
    bad.say()
    assert not completed[0].resumed
    assert completed[0].early == "refused"
    bad.attacker.socket.close()
    assert siege.gateway.metric("accessgw_tls_tickets_refused_total", reason="unknown") == before + 1


OPENSSL = shutil.which("openssl")


@pytest.mark.skipif(not OPENSSL, reason="no openssl here (Debian package openssl)")
@pytest.mark.parametrize(
    ("options", "alert"),
    [
        (("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"), "protocol_version"),
        (("-tls1", "-cipher", "ALL:@SECLEVEL=0"), "protocol_version"),
        (("-tls1_2",), "protocol_version"),
    ],
)
def test_downgrades(siege: Fortress, options: tuple[str, ...], alert: str) -> None:
    before = siege.refused(alert)
    done = subprocess.run(
        [str(OPENSSL), "s_client", "-connect", f"127.0.0.1:{siege.newest}", *options],
        input=b"", capture_output=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode != 0
    siege.gateway.wait_until(lambda: siege.refused(alert) == before + 1)


def test_weak_suites_of_tls_1_2(siege: Fortress) -> None:
    """Whoever removes the better ones from a ClientHello is left with none."""
    before = siege.refused("handshake_failure")
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(b"AES128-SHA:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    bad = Peer(siege.attack(siege.gateway.tls), PyOpenSSLEngine(context, server=False)).ended()
    closed = bad.attacker.closed_as()
    assert closed["reason"] == "handshake_failed"
    assert "(handshake_failure)" in closed["detail"]
    assert siege.refused("handshake_failure") == before + 1


def test_a_downgrade_that_says_so(siege: Fortress) -> None:
    """TLS_FALLBACK_SCSV (RFC 7507): the client could do better and was made to believe that the gateway cannot."""
    before = siege.refused("inappropriate_fallback")
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.set_mode(SSL_MODE_SEND_FALLBACK_SCSV)
    bad = Peer(siege.attack(siege.gateway.tls), PyOpenSSLEngine(context, server=False)).ended()
    assert "(inappropriate_fallback)" in bad.attacker.closed_as()["detail"]
    assert siege.refused("inappropriate_fallback") == before + 1


SSL_MODE_SEND_FALLBACK_SCSV = 0x80
