"""What a hand-shake costs the server on each engine, in CPU time and in bytes, both sides in memory.

`rows()` is for bench_tls; alone: python -m loadtest.bench.tls_handshakes
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from loadtest.bench.report import Report, Row
from protocols.tls.client_context import ClientContext, ClientOptions
from protocols.tls.engine import TlsEngine
from protocols.tls.engines import NATIVE, PURE, WHY_NOT_NATIVE, server_context
from protocols.tls.psk import ExternalPsk
from protocols.tls.pyopenssl_engine import PyOpenSSLEngine
from protocols.tls.records import RecordLayer
from protocols.tls.server_context import ClientVerification, ServerCertificate, ServerOptions

ROUNDS = 5
HANDSHAKES = 200
STOCK = "full, P-256, stock context"
DETACHED = {"engine": "detached", "native": "native, detached"}
"""`engine` is that of pyOpenSSL."""
ALPN = "mmtp/1"
PSK = ExternalPsk(b"\x01" + bytes(range(16)), bytes(range(32)), 16384, ALPN)
EARLY = b"\x80" + bytes(14)
"""As many bytes as a small call."""


@dataclass(slots=True, frozen=True)
class Case:
    """A kind of hand-shake: who makes the server's engine, and what the device brings."""

    name: str
    servers: dict[str, Callable[[bool], TlsEngine]]
    """By engine."""
    client: ClientContext
    psk: ExternalPsk | None = None
    early: bytes = b""


def self_signed(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> ServerCertificate:
    """A certificate for localhost."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return ServerCertificate(certificate.public_bytes(Encoding.PEM), pem)


def _servers(certificate: ServerCertificate, verify: bool = False) -> dict[str, Callable[[bool], TlsEngine]]:
    engines = {"engine": PURE} if WHY_NOT_NATIVE else {"engine": PURE, "native": NATIVE}
    return {name: _server(certificate, verify, engine) for name, engine in engines.items()}


def _server(certificate: ServerCertificate, verify: bool, engine: str) -> Callable[[bool], TlsEngine]:
    clients = ClientVerification("require", certificate.chain) if verify else ClientVerification()
    context = server_context(
        ServerOptions(
            [certificate],
            alpn=[ALPN],
            find_psk={PSK.identity: PSK}.get,
            max_early_data=16384,
            tickets=not verify,
            clients=clients,
        ),
        engine,
    )
    return lambda detach: context.engine(detachable=detach)


def _stock(key: ec.EllipticCurvePrivateKey, certificate: ServerCertificate) -> Callable[[bool], TlsEngine]:
    """A context as pyOpenSSL's own interface makes it: no key log, no early data, no keys. It is never detached."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(x509.load_pem_x509_certificate(certificate.chain))
    context.use_privatekey(key)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_alpn_select_callback(lambda connection, offered: offered[0])
    return lambda detach: PyOpenSSLEngine(context, server=True)


def cases() -> list[Case]:
    """All kinds."""
    p256_key = ec.generate_private_key(ec.SECP256R1())
    p256, rsa_2048 = self_signed(p256_key), self_signed(rsa.generate_private_key(65537, 2048))
    plain = ClientContext(ClientOptions(p256.chain + rsa_2048.chain, alpn=[ALPN]))
    shown = ClientContext(ClientOptions(p256.chain, alpn=[ALPN], chain=p256.chain, key=p256.key))
    return [
        Case(STOCK, {"engine": _stock(p256_key, p256)}, plain),
        Case("full, P-256", _servers(p256), plain),
        Case("full, RSA-2048", _servers(rsa_2048), plain),
        Case("mutual, P-256", _servers(p256, verify=True), shown),
        Case("resumed by a 17-byte key", _servers(p256), plain, PSK),
        Case("0-RTT, answered at once", _servers(p256), plain, PSK, EARLY),
    ]


def rows(handshakes: int = HANDSHAKES) -> list[Row]:
    """Microseconds of the server's CPU, the median of rounds in which the cases take turns; and bytes of flights."""
    every = cases()
    times: dict[tuple[str, str], list[float]] = {}
    flights: dict[tuple[str, str], tuple[int, int]] = {}
    for _ in range(ROUNDS):
        for case in every:
            for engine, make in case.servers.items():
                for detach in (False, True):
                    if detach and case.name == STOCK:
                        continue
                    who = DETACHED[engine] if detach else engine
                    for _ in range(handshakes // ROUNDS):
                        spent, flights[case.name, engine] = _shake(case, make, detach)
                        times.setdefault((case.name, who), []).append(spent)
    found = [Row(f"hand-shake, {name}", who, median(spent), "us") for (name, who), spent in times.items()]
    for (name, engine), (up, down) in flights.items():
        found += [Row(f"first flight up, {name}", engine, up, "bytes"), Row(f"down, {name}", engine, down, "bytes")]
    return found


def _shake(case: Case, make: Callable[[bool], TlsEngine], detach: bool) -> tuple[float, tuple[int, int]]:
    """The server's CPU time of one hand-shake, and the bytes of the first flights."""
    device = case.client.engine("localhost", psk=case.psk)
    if case.early:
        device.early(case.early)
    device.start()
    hello = device.to_send()
    begun = time.thread_time_ns()
    gateway = make(detach)
    gateway.feed(hello)
    gateway.events()
    if case.early:
        gateway.encrypt(case.early)
    answer = gateway.to_send()
    spent = time.thread_time_ns() - begun
    device.feed(answer)
    finished = device.to_send()
    begun = time.thread_time_ns()
    gateway.feed(finished)
    gateway.events()
    gateway.to_send()
    if detach:
        state = gateway.detach()
        if state is None:
            raise RuntimeError(f"{case.name}: the connection was to leave OpenSSL")
        RecordLayer(state)
    del gateway
    spent += time.thread_time_ns() - begun
    return spent / 1e3, (len(hello), len(answer))


def main() -> None:
    """Print the table."""
    report = Report("TLS hand-shakes, the server's side", rows=rows())
    report.relate("engine")
    report.print()


if __name__ == "__main__":
    main()
