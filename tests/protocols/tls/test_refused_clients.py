"""What is known of a client whose hand-shake fails, on both engines, and what is told of its certificate."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from accessgw.crypto.client_certificates import ClientCertificates
from accessgw.crypto.contexts import ContextOptions, ServerContexts
from protocols.errors import RemoteError
from protocols.tls.described import MAX_WORDS, described
from protocols.tls.engine import MAX_SHOWN, HandshakeRefused
from protocols.tls.engines import WHY_NOT_NATIVE
from tests.crypto.authority import Authority, Issued
from tests.crypto.certificates import self_signed

ENGINES = ("pure",) if WHY_NOT_NATIVE else ("pure", "native")
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
NAMES = {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}


def refusal(engine: Any, version: ssl.TLSVersion, issued: Issued | None, alpn: str = "mqtt") -> HandshakeRefused:
    """What the engine tells right before its RemoteError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols([alpn])
    if issued is not None:
        context.load_cert_chain(issued.chain, issued.key)
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(into, out, server_hostname="gw.test")
    with pytest.raises(RemoteError):
        for _ in range(5):
            with suppress(ssl.SSLWantReadError):
                client.do_handshake()
            engine.feed(out.read())
            into.write(engine.to_send())
    (event,) = engine.events()
    assert type(event) is HandshakeRefused
    return event


@pytest.fixture(params=ENGINES)
def contexts(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[ServerContexts, Authority]:
    authority = Authority(tmp_path, "devices")
    clients = ClientCertificates("require", authority.file)
    options = ContextOptions(name="x", engine=request.param)
    made = ServerContexts([self_signed(tmp_path, "localhost")], ("mqtt",), clients=clients, options=options)
    return made, authority


@pytest.mark.parametrize("version", VERSIONS)
def test_a_certificate_that_is_not_taken_is_told_and_none_above_the_bound(
    contexts: tuple[ServerContexts, Authority], version: ssl.TLSVersion
) -> None:
    made, authority = contexts
    expired = authority.issue("d1", days=-1)
    assert refusal(made.engine(), version, expired) == HandshakeRefused(NAMES[version], "gw.test", expired.der)
    large = authority.issue("d2", days=-1, names=[x509.DNSName(f"{number}.{'x' * 60}") for number in range(150)])
    assert len(large.der) > MAX_SHOWN
    assert refusal(made.engine(), version, large) == HandshakeRefused(NAMES[version], "gw.test")


@pytest.mark.parametrize("version", VERSIONS)
def test_other_refusals_tell_what_came_before_them(
    contexts: tuple[ServerContexts, Authority], version: ssl.TLSVersion
) -> None:
    made, authority = contexts
    assert refusal(made.engine(), version, None) == HandshakeRefused(NAMES[version], "gw.test")
    assert refusal(made.engine(), version, authority.issue("d1"), "imap").certificate == b""


def test_what_is_no_tls_tells_nothing(contexts: tuple[ServerContexts, Authority]) -> None:
    engine = contexts[0].engine()
    with pytest.raises(RemoteError):
        engine.feed(b"SSH-2.0-OpenSSH_9.2\r\n" + bytes(60))
    (event,) = engine.events()
    assert type(event) is HandshakeRefused
    assert (event.server_name, event.certificate) == ("", b"")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    names = [x509.UniformResourceIdentifier("urn:d1"), x509.DNSName("d1.test")]
    authority = Authority(tmp_path_factory.mktemp("one"), "devices")
    return authority.issue("d1", common=("a,\n" + "x" * 55,) * 8, names=names).der


def test_a_certificate_is_told_by_its_names_within_bounds(certificate: bytes) -> None:
    told = described(certificate)
    assert told["names"] == "d1.test, urn:d1"
    assert told["subject"].startswith("CN=a\\,") and told["subject"].endswith("...")
    assert len(told["subject"]) == MAX_WORDS
    parsed = x509.load_der_x509_certificate(certificate)
    assert parsed.public_bytes(Encoding.DER) == certificate
    assert told["serial"] == f"{parsed.serial_number:x}"


@given(st.data())
def test_whatever_is_in_it_is_told_or_left_out(certificate: bytes, data: st.DataObject) -> None:
    damaged = bytearray(certificate)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    told = described(
        bytes(damaged[: data.draw(st.integers(0, len(damaged)))]) if data.draw(st.booleans()) else bytes(damaged)
    )
    assert told.keys() <= {"subject", "names", "serial"}
    assert all(0 < len(words) <= MAX_WORDS for words in told.values())
