"""Server contexts on the system's libssl: the options of server_context, and keys of tickets and signers beside them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocols._native import tls_engine
from protocols.tls.native_engine import NativeEngine
from protocols.tls.profiles import PROFILES, TLS_1_2_CIPHERS
from protocols.tls.server_context import (
    MAX_CHAIN,
    OFF,
    REQUIRE,
    ServerCertificate,
    ServerOptions,
    check_options,
)

TicketKey = tuple[bytes, bytes, bytes]
"""Of TLS's own tickets (RFC 5077 section 4): name of 16 bytes, AES-256 key, HMAC-SHA-256 key of 32 bytes."""
_PROVIDER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_VERSIONS = {"1.2": 0x303, "1.3": 0x304}


class NativeServerContext:
    """The contexts of one listener, as ServerContext; complete from the start and, but for ticket keys, never changed.

    A certificate without a key is signed for elsewhere: see protocols.tls.remote_keys. Under `ticket_keys`, newest first,
    tickets of other contexts and processes are taken; without them a context has keys of its own. `revocation_lists`
    (PEM): then every client certificate needs one of its issuer.

    Raises ValueError for options that contradict each other, or that OpenSSL refuses.
    """

    def __init__(
        self,
        options: ServerOptions,
        *,
        ticket_keys: Sequence[TicketKey] = (),
        revocation_lists: bytes = b"",
    ) -> None:
        check_options(options)
        if options.profile != "default":
            raise ValueError(f"the native engine has no profile {options.profile}: libssl knows none of its suites")
        tickets = options.ticket_count if options.tickets else 0
        if options.provider:
            load_provider(options.provider)
        self._options = options
        self.offloaded = all(one.key for chains in (options.certificates, *options.by_name.values()) for one in chains)
        """Its engines are OffloadedEngines of protocols.tls.crew: none of them stops for a signature."""
        self.context = _context(options, options.certificates, tickets, revocation_lists)
        if options.by_name:
            self.context.set_names(
                [
                    (name, _context(options, certificates, tickets, revocation_lists))
                    for name, certificates in options.by_name.items()
                ]
            )
        if ticket_keys:
            self.set_ticket_keys(ticket_keys)

    def set_ticket_keys(self, keys: Sequence[TicketKey]) -> None:
        """Make tickets with the first of these, and take those of all, from now on. At most three."""
        self.context.set_ticket_keys(keys)

    def engine(self, *, detachable: bool = False) -> NativeEngine:
        """The server side of a new connection."""
        return NativeEngine(self.context, self._options, detachable=detachable)


def _context(
    options: ServerOptions, certificates: Sequence[ServerCertificate], tickets: int, revocation_lists: bytes
) -> tls_engine.Context:
    profile = PROFILES[options.profile]
    context = tls_engine.Context()
    context.configure(
        minimum=_VERSIONS[options.minimum],
        ciphers=TLS_1_2_CIPHERS.decode("ascii"),
        groups=":".join(options.groups or profile.groups),
        signature_algorithms=":".join(options.signature_algorithms or profile.signature_algorithms),
        session_context=hashlib.sha256(options.session_context).digest(),
        tickets=tickets,
        max_early_data=options.max_early_data,
        ticket_early_data=options.ticket_early_data,
        finds_keys=options.find_psk is not None,
        keeps_lines=options.key_log is not None,
        alpn=_wire(options.alpn),
        old_alpn=_wire([name for name in options.alpn if name in options.alpn_below_1_3]),
        ticketless=_wire(sorted(options.ticketless)),
    )
    for one in certificates:
        context.use_certificate(
            one.chain, one.key, "" if one.key else key_id(one.chain), one.ocsp_response, options.provider
        )
    clients = options.clients
    if clients.mode != OFF:
        context.verify_clients(clients.mode == REQUIRE, clients.authorities, revocation_lists, MAX_CHAIN)
    return context


@cache
def load_provider(name: str) -> None:
    """Have a provider of OpenSSL beside the default one, for this process and to its end. Raises ValueError."""
    if not _PROVIDER_NAME.fullmatch(name):
        raise ValueError(f"expected the name of an OpenSSL provider, got {name!r}")
    tls_engine.load_provider(name)


def check_key(certificate: ServerCertificate, provider: str) -> None:
    """ValueError where the key is not that of the chain, or does not sign; it may be one that the provider has. One that
    contexts have already and that does not sign any more, since a TPM was reset, is opened anew for those to come."""
    load_provider(provider)
    tls_engine.Context().use_certificate(certificate.chain, certificate.key, "", b"", provider, True)


def key_id(chain: bytes) -> str:
    """SHA-256 of the public key (SubjectPublicKeyInfo) of the first certificate of a PEM chain, in hexadecimal digits.

    ValueError for a key that is neither RSA nor of an elliptic curve.
    """
    key = x509.load_pem_x509_certificate(chain).public_key()
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise ValueError(f"expected a certificate of an RSA or ECDSA key, got {type(key).__name__}")
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _wire(names: Sequence[str]) -> bytes:
    return b"".join(bytes([len(name)]) + name.encode("ascii") for name in names)
