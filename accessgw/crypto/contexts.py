"""TLS contexts of listeners: certificates by SNI, protocols by ALPN, tickets, replaced whole at a reload."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from OpenSSL import SSL, crypto

from accessgw.core.interfaces.tls import TicketKeys
from accessgw.crypto.client_certificates import NO_CLIENT_CERTIFICATES, ClientCertificates, authorities_of, identity_in
from accessgw.crypto.pem import CertificateError, read_file
from accessgw.model.counters import TlsCounters
from accessgw.model.listener_settings import CertificateSettings
from protocols.errors import RemoteError
from protocols.tls.alerts import BAD_CERTIFICATE
from protocols.tls.engine import TlsEngine
from protocols.tls.handshake_notes import KeyLog
from protocols.tls.psk import ExternalPsk
from protocols.tls.server_context import ClientVerification, ServerCertificate, ServerContext, ServerOptions

ALLOWED_BELOW_1_3 = frozenset({"http/1.1", "mqtt"})
"""Protocols whose clients may be too old for TLS 1.3."""
TICKET_PROTOCOL = "mmtp/1"
"""Of the tickets that we mint: they are given to devices in WELCOME."""
TICKET_IDENTITY = 17
"""Bytes; what is longer is a ticket of OpenSSL's."""

ENGINE = "pyopenssl (" + " ".join(SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode().split()[:2]) + ")"
"""What makes hand-shakes, for the operator."""

_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


@dataclass(slots=True, frozen=True)
class ContextOptions:
    """What a listener sets beside certificates and protocols; see ListenerSettings."""

    name: str = ""
    """Of the listener: OpenSSL's tickets of others are not taken."""
    minimum: str = "1.2"
    groups: tuple[str, ...] = ()
    signature_algorithms: tuple[str, ...] = ()
    profile: str = "default"
    early_data: int = 0
    key_log: KeyLog | None = None
    tickets: TicketKeys | None = None
    """Without them nobody resumes by a ticket of ours."""


@dataclass(slots=True, frozen=True)
class _Certificate:
    """A chain and its key, loaded and checked against each other."""

    settings: CertificateSettings
    chain: list[x509.Certificate]
    kind: type
    """Of the key: of two certificates for a name, the client's signature algorithms choose by it."""
    pem: ServerCertificate

    @property
    def names(self) -> list[str]:
        """The server names it is for: the configured ones, else its own."""
        if self.settings.names:
            return [name.lower() for name in self.settings.names]
        try:
            extension = self.chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            return []
        return [name.lower() for name in extension.value.get_values_for_type(x509.DNSName)]


class ServerContexts:
    """The TlsContexts of one listener.

    TLS 1.3, and 1.2 where a protocol and `minimum` allow it (that one is then the only choice over 1.2). A
    client whose ALPN has nothing in common with `protocols` is refused with alert 120; one without
    ALPN gets through, and the listener decides. Contexts in use are never changed.
    """

    def __init__(
        self,
        certificates: Sequence[CertificateSettings],
        protocols: Sequence[str],
        *,
        clients: ClientCertificates = NO_CLIENT_CERTIFICATES,
        options: ContextOptions = ContextOptions(),
        counters: TlsCounters | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`protocols` best first. The first certificate serves who asks for no other, together with those for the same
        names whose keys are of other kinds. Raises CertificateError, and ValueError for names of groups or algorithms that
        OpenSSL does not know."""
        if not certificates:
            raise ValueError("a TLS listener needs a certificate")
        self._settings = tuple(certificates)
        self._protocols = tuple(protocols)
        self._clients = clients
        self._options = options
        self._counters = counters or TlsCounters()
        self._wall = wall
        self._lock = threading.Lock()
        self._current, self._expiry = self._build()

    def context(self) -> SSL.Context:
        """Where connections begin."""
        return self._current.context

    def engine(self) -> TlsEngine:
        return self._current.engine(detachable=True)

    def prepare(self) -> Callable[[], None]:
        """Load the files again; what it returns brings them into force. CertificateError, and nothing changed."""
        built = self._build()

        def swap() -> None:
            self._current, self._expiry = built

        return swap

    def expires_at(self) -> Mapping[str, float]:
        return self._expiry

    def knows_ticket(self, identity: bytes) -> bool:
        return self._find(identity) is not None

    def identify(self, certificate: bytes) -> str:
        identity = identity_in(certificate, self._clients.identity)
        if not identity and self._clients.mode == "require":
            raise RemoteError(BAD_CERTIFICATE, f"the client certificate has no usable {self._clients.identity}")
        return identity

    def _build(self) -> tuple[ServerContext, dict[str, float]]:
        loaded = [_load(settings) for settings in self._settings]
        options, clients = self._options, self._clients
        old = options.minimum == "1.2" and options.profile == "default" and ALLOWED_BELOW_1_3 & set(self._protocols)
        # A ticket of OpenSSL's would carry the certificate of an earlier connection past expiry and revocation.
        tickets = clients.mode == "off"
        default, by_name = _by_name(loaded)
        try:
            context = ServerContext(
                ServerOptions(
                    default,
                    by_name,
                    alpn=self._protocols,
                    alpn_below_1_3=ALLOWED_BELOW_1_3,
                    minimum="1.2" if old else "1.3",
                    groups=options.groups,
                    signature_algorithms=options.signature_algorithms,
                    clients=ClientVerification(clients.mode, authorities_of(clients)),
                    session_context=options.name.encode(),
                    tickets=tickets,
                    find_psk=self._find_and_count if options.tickets is not None else None,
                    max_early_data=options.early_data,
                    ticket_early_data=tickets and options.early_data > 0,
                    key_log=options.key_log,
                    profile=options.profile,
                )
            )
        except (SSL.Error, crypto.Error) as error:
            shown = ", ".join(settings.chain for settings in self._settings)
            raise CertificateError(shown, f"OpenSSL refuses it: {error}") from error
        expiry = {
            certificate.settings.chain: min(link.not_valid_after_utc.timestamp() for link in certificate.chain)
            for certificate in loaded
        }
        return context, expiry

    # ---------------------------------------------------------------- on the threads of hand-shakes

    def _find(self, identity: bytes) -> ExternalPsk | None:
        tickets = self._options.tickets
        opened = tickets.open(identity, self._wall()) if tickets is not None else None
        if opened is None:
            return None
        return ExternalPsk(identity, opened.key, max_early_data=self._options.early_data, alpn=TICKET_PROTOCOL)

    def _find_and_count(self, identity: bytes) -> ExternalPsk | None:
        found = self._find(identity)
        if found is None and len(identity) == TICKET_IDENTITY:
            refused = self._counters.psk_refused
            with self._lock:
                refused["unknown"] = refused.get("unknown", 0) + 1
        return found


def _by_name(
    loaded: Sequence[_Certificate],
) -> tuple[list[ServerCertificate], dict[str, list[ServerCertificate]]]:
    """The certificates for names that are nobody's, and those of each name: of each kind of key the first."""
    chosen: dict[str, dict[type, ServerCertificate]] = {}
    for certificate in loaded:
        for name in certificate.names:
            chosen.setdefault(name, {}).setdefault(certificate.kind, certificate.pem)
    first = loaded[0]
    default = {first.kind: first.pem}
    for certificate in loaded:
        if certificate.names == first.names:
            default.setdefault(certificate.kind, certificate.pem)
    return list(default.values()), {name: list(kinds.values()) for name, kinds in chosen.items()}


def _load(settings: CertificateSettings) -> _Certificate:
    chain_pem, key_pem = read_file(settings.chain), read_file(settings.key)
    try:
        chain = x509.load_pem_x509_certificates(chain_pem)
    except ValueError as error:
        raise CertificateError(settings.chain, "expected a PEM certificate chain, leaf first") from error
    try:
        key = load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(settings.key, "expected an unencrypted PEM private key") from error
    if not isinstance(key, _PrivateKey):
        raise CertificateError(settings.key, f"expected an EC, RSA or EdDSA key, got {type(key).__name__}")
    if _public(key) != _public(chain[0]):
        raise CertificateError(settings.key, f"is not the key of {settings.chain}")
    return _Certificate(settings, chain, type(key), ServerCertificate(chain_pem, key_pem))


def _public(holder: _PrivateKey | x509.Certificate) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
