"""TLS contexts of listeners: certificates by SNI, protocols by ALPN, tickets, replaced whole at a reload."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from OpenSSL import SSL, crypto
from twisted.logger import Logger

from accessgw.core.interfaces.tls import Revocations, TicketKeys
from accessgw.crypto.client_certificates import NO_CLIENT_CERTIFICATES, ClientCertificates, authorities_of, identity_in
from accessgw.crypto.ocsp import OcspError, response_end
from accessgw.crypto.pem import CertificateError, read_file
from accessgw.crypto.serials import serial_of, serial_of_ca
from accessgw.crypto.session_keys import SessionKey, SessionKeys
from accessgw.crypto.watched_files import Stamps, WatchedFiles
from accessgw.model.counters import TlsCounters
from accessgw.model.identity import Serials
from accessgw.model.listener_settings import CertificateSettings
from protocols.errors import RemoteError
from protocols.tls.alerts import BAD_CERTIFICATE, CERTIFICATE_REVOKED
from protocols.tls.engine import TlsEngine
from protocols.tls.engines import PURE, server_context
from protocols.tls.handshake_notes import KeyLog
from protocols.tls.psk import ExternalPsk
from protocols.tls.server_context import ClientVerification, ServerCertificate, ServerContext, ServerOptions

if TYPE_CHECKING:
    from protocols.tls.native_context import NativeServerContext

log = Logger()

ALLOWED_BELOW_1_3 = frozenset({"http/1.1", "mqtt"})
"""Protocols whose clients may be too old for TLS 1.3."""
TICKET_PROTOCOL = "mmtp/1"
"""Of the tickets that we mint: they are given to devices in WELCOME."""
TICKET_IDENTITY = 17
"""Bytes; what is longer is a ticket of OpenSSL's."""

SM = "sm"
"""The profile whose keys are SM2."""

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
    revocations: Revocations | None = None
    """Asked for every client certificate."""
    engine: str = PURE
    """See protocols.tls.engines."""
    session_keys: SessionKeys | None = None
    """Of OpenSSL's own tickets, where the engine takes them (native): without them every process has its own, which end
    with its contexts."""
    signs_elsewhere: bool = False
    """Private keys are not read: a Signer has them. Needs the native engine."""


@dataclass(slots=True, frozen=True)
class _Certificate:
    """A chain and its key, loaded and checked against each other."""

    settings: CertificateSettings
    chain: list[x509.Certificate]
    kind: type
    """Of the key: of two certificates for a name, the client's signature algorithms choose by it."""
    pem: ServerCertificate
    staple_end: float
    """Wall-clock second at which the stapled response ends."""
    unstapled: str
    """Why the response that the settings name is not stapled."""

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


@dataclass(slots=True, frozen=True)
class _Built:
    """Contexts of files as they were at one moment."""

    context: ServerContext | NativeServerContext
    expiry: dict[str, float]
    staples_end: float
    stamps: Stamps
    remarks: list[str]
    """For the log once it is in force: what is not stapled, what is not valid yet."""


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
        names whose keys are of other kinds. Raises CertificateError, also for names of groups or algorithms that OpenSSL
        does not know."""
        if not certificates:
            raise ValueError("a TLS listener needs a certificate")
        self._settings = tuple(certificates)
        self._protocols = tuple(protocols)
        self._clients = clients
        self._options = options
        self._counters = counters or TlsCounters()
        self._wall = wall
        self._lock = threading.Lock()
        self._shared: tuple[object, Sequence[SessionKey]] = (None, ())
        """The context in force, and the keys of tickets that it was given."""
        files = [path for one in self._settings for path in (one.chain, one.ocsp) if path]
        if not options.signs_elsewhere:
            files += [one.key for one in self._settings]
        self._watched = WatchedFiles([*files, clients.ca] if clients.mode != "off" else files)
        self._use(self._build())

    def _use(self, built: _Built) -> None:
        self._current, self._expiry, self._staples_end = built.context, built.expiry, built.staples_end
        self._watched.take(built.stamps)
        self._expired: set[str] = set()
        for remark in built.remarks:
            log.error("{remark}", remark=remark)
        self._remind(self._wall())

    def _remind(self, now: float) -> None:
        """Say once of a file of certificates that one has ended. A response that ends is told when it is dropped."""
        staples = {one.ocsp for one in self._settings}
        for file, end in self._expiry.items():
            if end <= now and file not in self._expired and file not in staples:
                self._expired.add(file)
                log.error("CERTIFICATE EXPIRED: {file} ended at {when}; replace it", file=file, when=_shown(end))

    def context(self) -> Any:
        """Where connections begin: a SSL.Context, or that of the native engine."""
        return self._current.context

    def engine(self) -> TlsEngine:
        return self._current.engine(detachable=True)

    def prepare(self) -> Callable[[], None]:
        """Load the files again; what it returns brings them into force. CertificateError, and nothing changed."""
        built = self._build()

        def swap() -> None:
            self._use(built)
            log.info(
                "listener {name}: loaded {names} again, valid until {when}",
                name=self._options.name,
                names=", ".join(settings.chain for settings in self._settings),
                when=_shown(min(built.expiry[settings.chain] for settings in self._settings)),
            )

        return swap

    def expires_at(self) -> Mapping[str, float]:
        return self._expiry

    def knows_ticket(self, identity: bytes) -> bool:
        return self._find(identity) is not None

    def identify(self, certificate: bytes, chain: Sequence[bytes] = ()) -> tuple[str, Serials]:
        serials = self._refuse_revoked(certificate, chain)
        identity = identity_in(certificate, self._clients.identity)
        if not identity and self._clients.mode == "require":
            raise RemoteError(BAD_CERTIFICATE, f"the client certificate has no usable {self._clients.identity}")
        return identity, serials

    def poll(self, now: float) -> bool:
        """Whether other files have come into force: they changed, or a stapled response ended at `now` (wall clock). On
        the reactor's thread, every second. Files that cannot be used are logged, once, and the old ones stay."""
        self._share_tickets(self._current, now)
        self._remind(now)
        stamps = self._watched.changed()
        if stamps is None and now < self._staples_end:
            return False
        try:
            self.prepare()()
        except CertificateError as error:
            self._watched.take(stamps or self._watched.stamps())
            self._staples_end = float("inf")
            log.error("CERTIFICATE REFUSED, those loaded before stay in force: {why}", why=str(error))
            return False
        return True

    def _share_tickets(self, context: ServerContext | NativeServerContext, now: float) -> None:
        if self._options.session_keys is None or isinstance(context, ServerContext):
            return
        keys = self._options.session_keys.keys(now)
        shared = self._shared
        if shared[0] is not context or shared[1] is not keys:
            context.set_ticket_keys(keys)
            self._shared = context, keys

    def _refuse_revoked(self, certificate: bytes, chain: Sequence[bytes]) -> Serials:
        revocations = self._options.revocations
        if revocations is None:
            return ()
        try:
            # the last one is the trusted CA, which no list can name
            serials = (serial_of(certificate), *map(serial_of_ca, chain[1:-1]))
        except ValueError as error:
            raise RemoteError(BAD_CERTIFICATE, f"the client certificate cannot be read: {error}") from error
        if revocations.certificate_is_revoked(hashlib.sha256(certificate).digest(), serials):
            raise RemoteError(CERTIFICATE_REVOKED, "the client certificate, or a CA above it, was revoked")
        return serials

    def _build(self) -> _Built:
        stamps = self._watched.stamps()
        options, clients = self._options, self._clients
        now = self._wall()
        loaded = [_load(settings, options.profile, now, options.signs_elsewhere) for settings in self._settings]
        old = options.minimum == "1.2" and options.profile == "default" and ALLOWED_BELOW_1_3 & set(self._protocols)
        # A ticket of OpenSSL's would carry the certificate of an earlier connection past expiry and revocation.
        tickets = clients.mode == "off"
        default, by_name = _by_name(loaded)
        authorities = authorities_of(clients)
        try:
            context = server_context(
                ServerOptions(
                    default,
                    by_name,
                    alpn=self._protocols,
                    alpn_below_1_3=ALLOWED_BELOW_1_3,
                    minimum="1.2" if old else "1.3",
                    groups=options.groups,
                    signature_algorithms=options.signature_algorithms,
                    clients=ClientVerification(clients.mode, authorities),
                    session_context=options.name.encode(),
                    tickets=tickets,
                    find_psk=self._find_and_count if options.tickets is not None else None,
                    max_early_data=options.early_data,
                    ticket_early_data=tickets and options.early_data > 0,
                    key_log=options.key_log,
                    profile=options.profile,
                ),
                options.engine,
            )
        except (SSL.Error, crypto.Error) as error:
            shown = ", ".join(settings.chain for settings in self._settings)
            raise CertificateError(shown, f"OpenSSL refuses it: {error}") from error
        except ValueError as error:
            raise CertificateError(f"listener {options.name}", str(error)) from error
        self._share_tickets(context, now)
        expiry = {
            certificate.settings.chain: min(link.not_valid_after_utc.timestamp() for link in certificate.chain)
            for certificate in loaded
        }
        if authorities:
            links = x509.load_pem_x509_certificates(authorities)
            expiry[clients.ca] = min(link.not_valid_after_utc.timestamp() for link in links)
        staples = {one.settings.ocsp: one.staple_end for one in loaded if one.pem.ocsp_response}
        remarks = [remark for one in loaded for remark in (one.unstapled, _not_yet(one, now)) if remark]
        return _Built(context, {**expiry, **staples}, min(staples.values(), default=float("inf")), stamps, remarks)

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
        if set(certificate.names) == set(first.names):
            default.setdefault(certificate.kind, certificate.pem)
    return list(default.values()), {name: list(kinds.values()) for name, kinds in chosen.items()}


def _load(settings: CertificateSettings, profile: str, now: float, signs_elsewhere: bool) -> _Certificate:
    chain_pem, key_pem = read_file(settings.chain), b"" if signs_elsewhere else read_file(settings.key)
    try:
        chain = x509.load_pem_x509_certificates(chain_pem)
    except ValueError as error:
        raise CertificateError(settings.chain, "expected a PEM certificate chain, leaf first") from error
    staple, end, unstapled = _staple(settings, chain, now)
    pem = ServerCertificate(chain_pem, key_pem, staple)
    if signs_elsewhere:
        return _Certificate(settings, chain, type(chain[0].public_key()), pem, end, unstapled)
    if profile == SM:
        # cryptography knows no SM2 keys; OpenSSL compares the two when it takes them.
        return _Certificate(settings, chain, object, pem, end, unstapled)
    try:
        key = load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(settings.key, "expected an unencrypted PEM private key") from error
    if not isinstance(key, _PrivateKey):
        raise CertificateError(settings.key, f"expected an EC, RSA or EdDSA key, got {type(key).__name__}")
    if _public(key) != _public(chain[0]):
        raise CertificateError(settings.key, f"is not the key of {settings.chain}")
    return _Certificate(settings, chain, type(key), pem, end, unstapled)


def _staple(settings: CertificateSettings, chain: Sequence[x509.Certificate], now: float) -> tuple[bytes, float, str]:
    """What is stapled and when it ends; nothing rather than what clients would refuse, and why."""
    if not settings.ocsp:
        return b"", float("inf"), ""
    try:
        response = read_file(settings.ocsp)
        return response, response_end(response, chain, now), ""
    except (CertificateError, OcspError) as error:
        shown = "" if isinstance(error, CertificateError) else f"{settings.ocsp}: "
        return b"", float("inf"), f"NO OCSP RESPONSE IS STAPLED for {settings.chain}: {shown}{error}"


def _not_yet(certificate: _Certificate, now: float) -> str:
    begins = max(link.not_valid_before_utc.timestamp() for link in certificate.chain)
    if begins <= now:
        return ""
    return f"CERTIFICATE NOT YET VALID, clients refuse it: {certificate.settings.chain} begins at {_shown(begins)}"


def _shown(second: float) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat(timespec="seconds")


def _public(holder: _PrivateKey | x509.Certificate) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
