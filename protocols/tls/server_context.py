"""Server contexts from plain options: certificates, protocols, pre-shared keys and early data, by server name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL, crypto

from protocols.errors import RemoteError
from protocols.tls import binding
from protocols.tls.alerts import NO_APPLICATION_PROTOCOL
from protocols.tls.handshake_notes import ContextTraits, KeyLog, SelectAlpn
from protocols.tls.profiles import PROFILES, VERSIONS, restrict
from protocols.tls.psk import MAX_EARLY_DATA, FindPsk
from protocols.tls.pyopenssl_engine import PyOpenSSLEngine

MAX_TICKETS = 8
MAX_CHAIN = 4
"""CAs between a client's certificate and a trusted one."""
OFF, REQUEST, REQUIRE = "off", "request", "require"


@dataclass(slots=True, frozen=True)
class ServerCertificate:
    """A chain and its key, both PEM."""

    chain: bytes
    """Leaf first, without the root."""
    key: bytes = field(repr=False)
    """Not encrypted."""
    ocsp_response: bytes = b""
    """DER, stapled when the client asks."""

    @classmethod
    def of(
        cls, chain: Sequence[x509.Certificate], key: PrivateKeyTypes, ocsp_response: bytes = b""
    ) -> ServerCertificate:
        """From loaded objects."""
        pem = b"".join(link.public_bytes(Encoding.PEM) for link in chain)
        return cls(pem, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), ocsp_response)


@dataclass(slots=True, frozen=True)
class ClientVerification:
    """What is asked of client certificates: chain, validity and clientAuth purpose are verified by OpenSSL."""

    mode: str = OFF
    """off | request | require."""
    authorities: bytes = b""
    """PEM of the trusted CAs; their names are told to the client."""


@dataclass(slots=True, frozen=True)
class ServerOptions:
    """All that makes the contexts of one listener."""

    certificates: Sequence[ServerCertificate]
    """For names that no other is for. Of different kinds of keys: the client's signature algorithms decide."""
    by_name: Mapping[str, Sequence[ServerCertificate]] = field(default_factory=dict)
    """By lower-case SNI name, or "*." and its parent."""
    alpn: Sequence[str] = ()
    """Protocols, best first; one has to be among those that a client offers, if it offers any."""
    alpn_below_1_3: frozenset[str] = frozenset()
    """Those of `alpn` that may be spoken over TLS 1.2."""
    minimum: str = "1.3"
    """1.2 | 1.3."""
    groups: Sequence[str] = ()
    """Key exchanges as OpenSSL names them; empty for the profile's."""
    signature_algorithms: Sequence[str] = ()
    """As OpenSSL names them; empty for the profile's."""
    clients: ClientVerification = ClientVerification()
    session_context: bytes = b""
    """Tickets and pre-shared keys of listeners with different values do not mix."""
    tickets: bool = True
    """Serve OpenSSL's own tickets. A ticket of a client certificate outlives its revocation: not beside `clients`."""
    ticket_count: int = 1
    """So many of them after a full hand-shake, 1 to 8. The engine on pyOpenSSL sends two."""
    ticketless: frozenset[str] = frozenset()
    """Protocols whose connections get none of OpenSSL's tickets, since they have their own. The engine on pyOpenSSL, which
    cannot say how many tickets a connection gets, sends them as to others."""
    find_psk: FindPsk | None = None
    max_early_data: int = 0
    """Bytes on a connection, at most 16384; 0 refuses all 0-RTT. A client that sends more is cut off."""
    ticket_early_data: bool = False
    """Take 0-RTT also under OpenSSL's tickets. OpenSSL checks their age to 10 s, not that they come once: whoever
    handles EarlyDataReceived has to strike its client_random, for longer than that, before the data has an effect."""
    key_log: KeyLog | None = None
    profile: str = "default"
    provider: str = ""
    """Of OpenSSL (provider(7)), which may have the private keys: their PEM then says where. Needs the native engine."""


def check_options(options: ServerOptions) -> None:
    """ValueError when they contradict each other."""
    if not options.certificates:
        raise ValueError("a server needs a certificate")
    if options.minimum not in VERSIONS:
        raise ValueError(f"expected minimum to be one of {', '.join(VERSIONS)}, got {options.minimum}")
    if options.profile not in PROFILES:
        raise ValueError(f"expected profile to be one of {', '.join(PROFILES)}, got {options.profile}")
    if not 0 <= options.max_early_data <= MAX_EARLY_DATA:
        raise ValueError(f"expected at most {MAX_EARLY_DATA} bytes of early data, got {options.max_early_data}")
    if options.clients.mode not in (OFF, REQUEST, REQUIRE):
        raise ValueError(f"expected off, request or require of client certificates, got {options.clients.mode}")
    if options.tickets and options.clients.mode != OFF:
        raise ValueError("tickets would carry client certificates past their revocation: expected tickets = False")
    if not 0 < options.ticket_count <= MAX_TICKETS:
        raise ValueError(f"expected 1 to {MAX_TICKETS} tickets, got {options.ticket_count}")
    if options.ticket_early_data and not options.tickets:
        raise ValueError("early data under tickets needs tickets")


class ServerContext:
    """The contexts of one listener, complete from the start and never changed.

    Raises ValueError for options that contradict each other or that OpenSSL does not know, and SSL.Error or
    crypto.Error for certificates and keys that it refuses.
    """

    offloaded = False
    """Its engines need the interpreter's lock: what OpenSSL calls back is Python."""

    def __init__(self, options: ServerOptions) -> None:
        check_options(options)
        for wanted, there, what in (
            (options.max_early_data, binding.HAS_EARLY_DATA, "early data"),
            (options.find_psk, binding.HAS_EXTERNAL_PSK, "external pre-shared keys"),
        ):
            if wanted and not there:
                raise ValueError(f"this build of cryptography has no {what}: {', '.join(binding.missing())}")
        self._options = options
        by_name = {name: _context(options, certificates) for name, certificates in options.by_name.items()}
        self.context = _context(options, options.certificates, by_name)
        """The OpenSSL.SSL.Context that connections begin with."""

    def engine(self, *, detachable: bool = False) -> PyOpenSSLEngine:
        """The server side of a new connection."""
        return PyOpenSSLEngine(self.context, server=True, detachable=detachable)


def _context(
    options: ServerOptions,
    certificates: Sequence[ServerCertificate],
    by_name: Mapping[str, SSL.Context] | None = None,
) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    restrict(
        context,
        PROFILES[options.profile],
        minimum=options.minimum,
        suites=b"",
        groups=options.groups,
        signature_algorithms=options.signature_algorithms,
    )
    # Otherwise OpenSSL looks, in each hand-shake, for an end of our own chain among the authorities of clients.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS | binding.MODE_NO_AUTO_CHAIN)
    # Tickets hold the session themselves; OpenSSL's own guard against replays would need a cache, in each process.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(binding.OP_NO_ANTI_REPLAY if options.tickets else SSL.OP_NO_TICKET)
    context.set_session_id(hashlib.sha256(options.session_context).digest())
    binding.set_max_early_data(context, options.max_early_data)
    for certificate in certificates:
        binding.use_certificate(context, certificate.chain, certificate.key)
    _verify_clients(context, options.clients)
    _staple(context, certificates)
    traits = ContextTraits(
        find_psk=options.find_psk,
        max_early_data=options.max_early_data,
        ticket_early_data=options.ticket_early_data,
        select_alpn=alpn_selector(options.alpn, options.alpn_below_1_3) if options.alpn else None,
        key_log=options.key_log,
        counts_updates=options.profile != "default",  # whose suites the record layer does not know
    )
    binding.answer_callbacks(context, traits, server=True)
    if options.clients.mode != OFF:
        binding.note_refused(context, traits)
    if by_name:
        context.set_tlsext_servername_callback(_sni_switch(by_name))
    return context


def alpn_selector(protocols: Sequence[str], below_1_3: frozenset[str]) -> SelectAlpn:
    """Takes the first of `protocols` that the client offers; over an older TLS, the first of those `below_1_3`."""
    modern = [name.encode("ascii") for name in protocols]
    old = [name.encode("ascii") for name in protocols if name in below_1_3]

    def select(over_1_3: bool, offered: list[bytes]) -> bytes:
        for name in modern if over_1_3 else old:
            if name in offered:
                return name
        raise RemoteError(NO_APPLICATION_PROTOCOL, no_common_protocol(protocols, offered, over_1_3))

    return select


def no_common_protocol(protocols: Sequence[str], offered: Sequence[bytes], over_1_3: bool) -> str:
    """What is said to a client that offers none of `protocols`."""
    shown = ", ".join(name.decode("ascii", "backslashreplace") for name in offered[:8])
    version = "TLSv1.3" if over_1_3 else "TLSv1.2"
    return f"ALPN: expected one of {', '.join(protocols)}, got {shown} over {version}"


def _verify_clients(context: SSL.Context, clients: ClientVerification) -> None:
    if clients.mode == OFF:
        return
    store = context.get_cert_store()
    if store is None:
        raise ValueError("OpenSSL gives no store for the authorities of clients")
    for authority in x509.load_pem_x509_certificates(clients.authorities):
        store.add_cert(crypto.X509.from_cryptography(authority))
        context.add_client_ca(authority)
    context.set_verify_depth(MAX_CHAIN)
    context.set_verify(SSL.VERIFY_PEER | (SSL.VERIFY_FAIL_IF_NO_PEER_CERT if clients.mode == REQUIRE else 0))


def _staple(context: SSL.Context, certificates: Sequence[ServerCertificate]) -> None:
    responses = {
        x509.load_pem_x509_certificates(one.chain)[0]: one.ocsp_response for one in certificates if one.ocsp_response
    }
    if not responses:
        return

    def answer(connection: SSL.Connection, data: Any) -> bytes:
        chosen = connection.get_certificate(as_cryptography=True)
        return responses.get(chosen, b"") if chosen is not None else b""

    context.set_ocsp_server_callback(answer)


def _sni_switch(by_name: Mapping[str, SSL.Context]) -> Callable[[SSL.Connection], None]:
    def switch(connection: SSL.Connection) -> None:
        asked = connection.get_servername()
        if asked is None:
            return
        name = asked.decode("ascii", "replace").lower().rstrip(".")
        context = by_name.get(name) or by_name.get("*." + name.partition(".")[2])
        if context is not None:
            connection.set_context(context)

    return switch
