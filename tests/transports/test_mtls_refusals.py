"""Client certificates that a listener refuses: each for its reason, which is logged, whatever the mode and the version."""

from __future__ import annotations

import base64
import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.internet.threads import deferToThread

from accessgw.core.revoked_connections import RevokedConnections
from accessgw.crypto.client_certificates import ClientCertificates
from accessgw.crypto.contexts import ContextOptions, ServerContexts
from accessgw.crypto.revocation_lists import load_lists
from accessgw.crypto.revocations import RevocationStore
from accessgw.crypto.serials import serial_of
from accessgw.model.counters import TlsCounters
from protocols.tls.engines import WHY_NOT_NATIVE
from tests.crypto.authority import Authority, Issued
from tests.crypto.certificates import self_signed
from tests.crypto.revoking import crl, write
from tests.reactor_loop import run
from tests.transports.support import Journal, echo_factories, listen, make_services

REFUSED = {
    "expired": "certificate has expired",
    "not_yet_valid": "certificate is not yet valid",
    "wrong_ca": "unable to get local issuer certificate",
    "wrong_usage": "unsuitable certificate purpose",
    "forged": "certificate signature failure",
    "too_long": "certificate chain too long",
    "issued_by_a_device": "invalid CA certificate",
    "revoked": "the client certificate, or a CA above it, was revoked",
    "revoked_above": "the client certificate, or a CA above it, was revoked",
}
ALERTS = {
    "expired": "alert 45 (certificate_expired)",
    "not_yet_valid": "alert 42 (bad_certificate)",
    "wrong_ca": "alert 48 (unknown_ca)",
    "wrong_usage": "alert 43 (unsupported_certificate)",
    "forged": "alert 51 (decrypt_error)",
    "too_long": "alert 48 (unknown_ca)",
    "issued_by_a_device": "alert 48 (unknown_ca)",
    "revoked": "alert 44 (certificate_revoked)",
    "revoked_above": "alert 44 (certificate_revoked)",
}
HEARD = {
    "expired": "CERTIFICATE_EXPIRED",
    "not_yet_valid": "BAD_CERTIFICATE",
    "wrong_ca": "UNKNOWN_CA",
    "wrong_usage": "UNSUPPORTED_CERTIFICATE",
    "forged": "DECRYPT_ERROR",
    "too_long": "UNKNOWN_CA",
    "issued_by_a_device": "UNKNOWN_CA",
    "revoked": "CERTIFICATE_REVOKED",
    "revoked_above": "CERTIFICATE_REVOKED",
}
"""What the client's OpenSSL calls the alert."""
FOUND_BY_US = ("revoked", "revoked_above")
"""After the hand-shake, over TLS 1.2 in close_notify."""
TAKEN = ("good", "no_usage", "below", "deep")
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


def forged(issued: Issued) -> Issued:
    """Its signature is not the CA's: a name was put in, say."""
    damaged = bytearray(issued.der)
    damaged[-3] ^= 1
    text = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(bytes(damaged)) + b"-----END CERTIFICATE-----\n"
    Path(issued.chain).write_bytes(text)
    return issued


def below(authority: Authority, name: str, depth: int) -> Issued:
    """With `depth` CAs between it and the trusted one, all of which are shown."""
    links, present = [], authority
    for number in range(depth):
        present = present.intermediate(f"{name}-{number}")
        links.insert(0, Path(present.file).read_bytes())
    issued = present.issue(name)
    leaf = Path(issued.chain).read_bytes().partition(b"-----END CERTIFICATE-----\n")
    Path(issued.chain).write_bytes(leaf[0] + leaf[1] + b"".join(links))
    return issued


def prepare(directory: Path) -> tuple[str, str, dict[str, Issued | None]]:
    """The file of the CA, that of its lists, and who comes."""
    authority = Authority(directory, "devices")
    device = Authority(directory, "device")
    greedy = authority.issue("greedy")
    device.certificate, device.parent = x509.load_der_x509_certificate(greedy.der), authority
    device.subject = device.certificate.subject
    device.key = _key(greedy)
    factory = authority.intermediate("factory")
    closed = authority.intermediate("closed")
    revoked = authority.issue("revoked")
    issued: dict[str, Issued | None] = {
        "absent": None,
        "good": authority.issue("good"),
        "no_usage": authority.issue("no_usage", usage=None),
        "below": factory.issue("below"),
        "deep": below(authority, "deep", 4),
        "expired": authority.issue("expired", days=-1),
        "not_yet_valid": authority.issue("early", after=datetime.now(UTC) + timedelta(hours=1)),
        "wrong_ca": Authority(directory, "strangers").issue("stranger"),
        "wrong_usage": authority.issue("server", usage=ExtendedKeyUsageOID.SERVER_AUTH),
        "forged": forged(authority.issue("forged")),
        "too_long": below(authority, "long", 5),
        "issued_by_a_device": device.issue("grandchild"),
        "revoked": revoked,
        "revoked_above": closed.issue("above"),
    }
    lists = write(directory / "crl.pem", crl(authority, revoked.der, closed.certificate.public_bytes(Encoding.DER)))
    return authority.file, lists, issued


def _key(issued: Issued):
    return load_pem_private_key(Path(issued.key).read_bytes(), None)


def speak(port: int, issued: Issued | None, version: ssl.TLSVersion) -> bytes:
    """What an echo says, or the name of the alert; empty when the connection is ended in order."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    if issued is not None:
        context.load_cert_chain(issued.chain, issued.key)
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as sock,
            context.wrap_socket(sock, server_hostname="gateway.test") as tls,
        ):
            tls.sendall(b"x")
            return tls.recv(1)
    except ssl.SSLError as error:
        return error.reason


def begin(reactor, folder, authority, lists, mode, engine):
    journal = Journal()
    services = make_services(reactor, journal)
    store = RevocationStore(folder / f"keys-{mode}")
    loaded = load_lists(lists, x509.load_pem_x509_certificates(Path(authority).read_bytes()))
    store.use_list(lists, loaded.serials, time.time())
    contexts = ServerContexts(
        [self_signed(folder, "localhost")],
        ("mqtt",),
        clients=ClientCertificates(mode, authority if mode != "off" else ""),
        options=ContextOptions(name=mode, revocations=store, engine=engine),
    )
    listener = listen(
        services, journal, contexts, echo_factories(journal, ("mqtt",)), transport="tls", protocols=("mqtt",)
    )
    return journal, services, store, listener


async def every_combination(reactor, folder, engine, authority, lists, issued):
    seen = {}
    known = seen["known"] = {}
    for mode in ("off", "request", "require"):
        journal, services, _, listener = begin(reactor, Path(folder), authority, lists, mode, engine)
        for version in VERSIONS:
            for name, shown in issued.items():
                opened, closed = len(journal.opened), len(journal.closed)
                answer = await deferToThread(speak, listener.port, shown, version)
                await journal.all_closed(closed + 1)
                reason, detail = journal.closed[closed][:2]
                identities = [info.certificate_identity for info in journal.opened[opened:]]
                seen[mode, version.name, name] = (answer, identities, str(reason), detail)
                info = journal.infos[-1]
                known[mode, version.name, name] = (info.certificate, info.tls_version, info.server_name)
        seen[mode] = dict(services.tls.refused)
        await listener.stop()
    return seen


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mtls")
    return folder, prepare(folder)


@pytest.fixture
def issued(prepared):
    return prepared[1][2]


@pytest.fixture(scope="module", params=["pure", "native"])
def seen(prepared, tmp_path_factory, request):
    if request.param == "native" and WHY_NOT_NATIVE:
        pytest.skip(f"no native engine here: {WHY_NOT_NATIVE}")
    folder = tmp_path_factory.mktemp(request.param)
    return run(every_combination, str(folder), request.param, *prepared[1])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ["request", "require"])
@pytest.mark.parametrize("name", REFUSED)
def test_bad_ones_are_refused_with_their_reason(seen, mode, version, name):
    answer, identities, reason, detail = seen[mode, version.name, name]
    assert (identities, reason) == ([], "handshake_failed")
    if name in FOUND_BY_US and version is ssl.TLSVersion.TLSv1_2:
        assert answer == b""
    else:
        assert HEARD[name] in answer
    assert REFUSED[name] in detail, detail
    assert detail.startswith(ALERTS[name])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ["request", "require"])
def test_what_was_shown_is_known_at_the_end(seen, issued, mode, version):
    shown = "TLSv1.3" if version is ssl.TLSVersion.TLSv1_3 else "TLSv1.2", "gateway.test"
    for name in REFUSED:
        der = x509.load_pem_x509_certificates(Path(issued[name].chain).read_bytes())[0].public_bytes(Encoding.DER)
        assert seen["known"][mode, version.name, name] == (der, *shown), name
    assert seen["known"]["require", version.name, "absent"] == (b"", *shown)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ["request", "require"])
@pytest.mark.parametrize("name", TAKEN)
def test_good_ones_name_the_device(seen, mode, version, name):
    answer, identities, _, _ = seen[mode, version.name, name]
    assert (answer, identities) == (b"x", [name])


@pytest.mark.parametrize("version", VERSIONS)
def test_without_one(seen, version):
    assert seen["off", version.name, "absent"][:2] == (b"x", [""])
    assert seen["request", version.name, "absent"][:2] == (b"x", [""])
    answer, identities, reason, detail = seen["require", version.name, "absent"]
    assert (identities, reason) == ([], "handshake_failed")
    assert ("CERTIFICATE_REQUIRED" if version is ssl.TLSVersion.TLSv1_3 else "HANDSHAKE_FAILURE") in answer
    assert "peer did not return a certificate" in detail


@pytest.mark.parametrize("version", VERSIONS)
def test_nobody_is_asked_when_off(seen, version):
    for name in (*REFUSED, *TAKEN):
        assert seen["off", version.name, name][:2] == (b"x", [""]), name


def test_refusals_are_counted_by_alert(seen):
    assert seen["off"] == {}
    for mode in ("request", "require"):
        counted = seen[mode]
        assert counted["certificate_revoked"] == 4
        assert counted["certificate_expired"] == 2
        assert sum(counted.values()) == 2 * (len(REFUSED) + (mode == "require"))


async def revoked_while_connected(reactor, folder, authority, lists, issued):
    journal, services, store, listener = begin(reactor, Path(folder), authority, lists, "require", "auto")
    counters = TlsCounters()
    RevokedConnections(reactor, services.table, store, counters)
    listed = load_lists(lists, x509.load_pem_x509_certificates(Path(authority).read_bytes())).serials

    def stay(one):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(one.chain, one.key)
        tls = context.wrap_socket(socket.create_connection(("127.0.0.1", listener.port), timeout=10))
        tls.sendall(b"x")
        assert tls.recv(1) == b"x"
        return tls

    def goes_on(tls):
        tls.sendall(b"y")
        return tls.recv(1)

    def ends(tls):
        said = tls.recv(1)
        tls.close()  # the gateway would wait for that some seconds
        return said

    async def revoke(der):
        more = listed | {serial_of(der)}
        await deferToThread(store.use_list, lists, more, time.time())
        store.poll(time.time())

    good, other, below = [await deferToThread(stay, issued[name]) for name in ("good", "no_usage", "below")]
    await revoke(issued["good"].der)
    ended = [await deferToThread(ends, good)]
    await journal.all_closed(1)
    going_on = [await deferToThread(goes_on, tls) for tls in (other, below)]
    _, factory = x509.load_pem_x509_certificates(Path(issued["below"].chain).read_bytes())
    await revoke(factory.public_bytes(Encoding.DER))
    ended.append(await deferToThread(ends, below))
    await journal.all_closed(2)
    going_on.append(await deferToThread(goes_on, other))
    other.close()
    return ended, journal.reasons, going_on, counters.revoked_closed


def test_a_list_that_grows_ends_the_connections_on_it_and_below_what_is_on_it(tmp_path):
    ended, reasons, going_on, count = run(revoked_while_connected, str(tmp_path), *prepare(tmp_path))
    assert (ended, reasons, going_on, count) == ([b"", b""], ["revoked", "revoked"], [b"y"] * 3, 2)
