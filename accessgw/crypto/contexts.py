"""TLS contexts of listeners: certificates by SNI, protocols by ALPN, tickets, replaced whole at a reload."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.logger import Logger

from accessgw.core.interfaces.tls import TICKET_PROTOCOL, Revocations, TicketKeys
from accessgw.crypto.client_certificates import NO_CLIENT_CERTIFICATES, ClientCertificates, authorities_of, identity_in
from accessgw.crypto.pem import CertificateError
from accessgw.crypto.serials import serial_of, serial_of_ca
from accessgw.crypto.server_certificates import SM, KeysElsewhere, LoadedCertificate, by_name, load, moment
from accessgw.crypto.session_keys import SessionKey, SessionKeys
from accessgw.crypto.watched_files import Stamps, WatchedFiles
from accessgw.model.counters import TlsCounters
from accessgw.model.identity import Serials
from accessgw.model.listener_settings import CertificateSettings, ListenerSettings
from protocols.errors import RemoteError
from protocols.tls.alerts import BAD_CERTIFICATE, CERTIFICATE_REVOKED, reasons_of
from protocols.tls.engine import TlsEngine
from protocols.tls.engines import PURE, server_context
from protocols.tls.handshake_notes import KeyLog
from protocols.tls.psk import ExternalPsk
from protocols.tls.server_context import ClientVerification, ServerContext, ServerOptions

if TYPE_CHECKING:
    from protocols.tls.native_context import NativeServerContext

log = Logger()

ALLOWED_BELOW_1_3 = frozenset({"http/1.1", "mqtt"})
"""Protocols whose clients may be too old for TLS 1.3."""
TICKET_IDENTITY = 17
"""Bytes; what is longer is a ticket of OpenSSL's."""

ENGINE = "pyopenssl (" + " ".join(SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode().split()[:2]) + ")"
"""What makes hand-shakes, for the operator."""


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
    session_tickets: int = 1
    """OpenSSL's own tickets after a full hand-shake, where no client certificates are asked for."""
    tickets: TicketKeys | None = None
    """Without them nobody resumes by a ticket of ours."""
    revocations: Revocations | None = None
    """Asked for every client certificate."""
    engine: str = PURE
    """See protocols.tls.engines."""
    session_keys: SessionKeys | None = None
    """Of OpenSSL's own tickets, where the engine takes them (native): without them every process has its own, which end
    with its contexts."""
    keys_elsewhere: KeysElsewhere | None = None
    """Private keys are not read: a Signer has them. Needs the native engine."""
    provider: str = ""
    """Of OpenSSL, which may have private keys. Needs the native engine; not for the profile sm."""

    @classmethod
    def of(cls, listener: ListenerSettings, *, provider: str = "", **others: Any) -> ContextOptions:
        """What stands in the settings of a listener, and `others` beside it."""
        return cls(
            provider="" if listener.profile == SM else provider,
            name=listener.name,
            minimum=listener.tls_minimum,
            groups=listener.groups,
            signature_algorithms=listener.signature_algorithms,
            profile=listener.profile,
            early_data=listener.early_data,
            session_tickets=listener.session_tickets,
            **others,
        )


@dataclass(slots=True, frozen=True)
class _Built:
    """Contexts of files as they were at one moment."""

    context: ServerContext | NativeServerContext
    loaded: list[LoadedCertificate]
    """In the order of the settings."""
    awaited: list[LoadedCertificate]
    """Those in the files whose keys are not elsewhere yet: `loaded` has those before them."""
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
        self._loaded: Sequence[LoadedCertificate] = ()
        self._awaited: Sequence[LoadedCertificate] = ()
        self._told: set[str] = set()
        """Ids of keys that are awaited, and that was logged."""
        files = [path for one in self._settings for path in (one.chain, one.ocsp) if path]
        if options.keys_elsewhere is None:
            files += [one.key for one in self._settings]
        self._watched = WatchedFiles([*files, clients.ca] if clients.mode != "off" else files)
        self._use(self._build())

    def _use(self, built: _Built) -> None:
        self._current, self._expiry, self._staples_end = built.context, built.expiry, built.staples_end
        self._loaded, self._awaited = built.loaded, built.awaited
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
                log.error("CERTIFICATE EXPIRED: {file} ended at {when}; replace it", file=file, when=moment(end))

    def _tell_awaited(self) -> None:
        """Not at once: where key and chain were replaced together, the key is there within a second."""
        awaited = {one.key_id: one.settings.chain for one in self._awaited}
        for key in awaited.keys() - self._told:
            log.error(
                "listener {name}: THE CERTIFICATE IN {chain} WAITS FOR THE SIGNER TO HAVE ITS KEY (id {key}), the one"
                " before it stays in force",
                name=self._options.name,
                chain=awaited[key],
                key=key,
            )
        self._told = set(awaited)

    def context(self) -> Any:
        """Where connections begin: a SSL.Context, or that of the native engine."""
        return self._current.context

    def engine(self) -> TlsEngine:
        return self._current.engine(detachable=True)

    @property
    def offloaded(self) -> bool:
        return self._current.offloaded

    def prepare(self) -> Callable[[], None]:
        """Load the files again; what it returns brings them into force. CertificateError, and nothing changed.

        A certificate whose key the signer does not have stays out until poll() finds that it has; the one before it
        serves meanwhile."""
        built = self._build()

        def swap() -> None:
            self._use(built)
            waiting = {one.settings.chain for one in built.awaited}
            chains = [one for one in self._loaded if one.settings.chain not in waiting]
            if chains:
                log.info(
                    "listener {name}: loaded {names} again, valid until {when}",
                    name=self._options.name,
                    names=", ".join(one.settings.chain for one in chains),
                    when=moment(min(one.ends for one in chains)),
                )

        return swap

    def expires_at(self) -> Mapping[str, float]:
        return self._expiry

    def certificates(self) -> tuple[Sequence[LoadedCertificate], Sequence[LoadedCertificate]]:
        """Those in force, and those in the files that wait for the signer to have their keys."""
        return self._loaded, self._awaited

    def is_own_ticket(self, identity: bytes) -> bool:
        return self._options.tickets is not None and len(identity) == TICKET_IDENTITY

    def identify(self, certificate: bytes, chain: Sequence[bytes] = ()) -> tuple[str, Serials]:
        serials = self._refuse_revoked(certificate, chain)
        identity = identity_in(certificate, self._clients.identity)
        if not identity and self._clients.mode == "require":
            raise RemoteError(BAD_CERTIFICATE, f"the client certificate has no usable {self._clients.identity}")
        return identity, serials

    def poll(self, now: float) -> bool:
        """Whether other files have come into force, or wait to: they changed, a stapled response ended at `now` (wall
        clock), or the signer has a key at last. On the reactor's thread, every second. Files that cannot be used are
        logged, once, and the old ones stay."""
        self._share_tickets(self._current, now)
        self._remind(now)
        stamps = self._watched.changed()
        come = any(self._has_key(one) for one in self._awaited)
        if stamps is None and now < self._staples_end and not come:
            self._tell_awaited()
            return False
        try:
            self.prepare()()
        except CertificateError as error:
            self._watched.take(stamps or self._watched.stamps())
            self._staples_end = float("inf")
            self._awaited = ()
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
        loaded, awaited = self._load(now)
        old = options.minimum == "1.2" and options.profile == "default" and ALLOWED_BELOW_1_3 & set(self._protocols)
        # A ticket of OpenSSL's would carry the certificate of an earlier connection past expiry and revocation.
        tickets = clients.mode == "off" and options.session_tickets > 0
        default, names = by_name(loaded)
        authorities = authorities_of(clients)
        try:
            context = server_context(
                ServerOptions(
                    default,
                    names,
                    alpn=self._protocols,
                    alpn_below_1_3=ALLOWED_BELOW_1_3,
                    minimum="1.2" if old else "1.3",
                    groups=options.groups,
                    signature_algorithms=options.signature_algorithms,
                    clients=ClientVerification(clients.mode, authorities),
                    session_context=options.name.encode(),
                    tickets=tickets,
                    ticket_count=max(options.session_tickets, 1),
                    ticketless=frozenset() if options.tickets is None else frozenset({TICKET_PROTOCOL}),
                    find_psk=self._find_and_count if options.tickets is not None else None,
                    max_early_data=options.early_data,
                    ticket_early_data=tickets and options.early_data > 0,
                    key_log=options.key_log,
                    profile=options.profile,
                    provider=options.provider,
                ),
                options.engine,
            )
        except (SSL.Error, crypto.Error) as error:
            shown = ", ".join(settings.chain for settings in self._settings)
            raise CertificateError(shown, f"OpenSSL refuses it: {reasons_of(error)}") from error
        except ValueError as error:
            raise CertificateError(f"listener {options.name}", str(error)) from error
        self._share_tickets(context, now)
        expiry = {one.settings.chain: one.ends for one in loaded}
        if authorities:
            links = x509.load_pem_x509_certificates(authorities)
            expiry[clients.ca] = min(link.not_valid_after_utc.timestamp() for link in links)
        staples = {one.settings.ocsp: one.staple_end for one in loaded if one.pem.ocsp_response}
        staples_end = min(staples.values(), default=float("inf"))
        before = set(map(id, self._loaded))
        remarks = [remark for one in loaded if id(one) not in before for remark in one.remarks(now)]
        return _Built(context, loaded, awaited, {**expiry, **staples}, staples_end, stamps, remarks)

    def _load(self, now: float) -> tuple[list[LoadedCertificate], list[LoadedCertificate]]:
        """What is to be in force, and what waits for its key."""
        options = self._options
        fresh = [load(one, options.profile, now, options.keys_elsewhere, options.provider) for one in self._settings]
        if not self._loaded:
            return fresh, []  # at a start there is none before
        loaded, awaited = [], []
        for new, old in zip(fresh, self._loaded, strict=True):
            if self._has_key(new) or new.key_id == old.key_id:
                loaded.append(new)
            else:
                awaited.append(new)
                loaded.append(old.stapled_anew(now))
        return loaded, awaited

    def _has_key(self, certificate: LoadedCertificate) -> bool:
        """Whether hand-shakes with it can be signed."""
        elsewhere = self._options.keys_elsewhere
        return elsewhere is None or elsewhere.has_key_of(certificate.chain[0], certificate.settings.chain)

    # ---------------------------------------------------------------- on the threads of hand-shakes

    def _find(self, identity: bytes) -> ExternalPsk | None:
        tickets = self._options.tickets
        opened = tickets.open(identity, self._wall()) if tickets is not None else None
        key = None if tickets is None or opened is None else tickets.key(opened)
        if key is None:
            return None
        return ExternalPsk(identity, key, max_early_data=self._options.early_data, alpn=TICKET_PROTOCOL)

    def _find_and_count(self, identity: bytes) -> ExternalPsk | None:
        found = self._find(identity)
        if found is None and len(identity) == TICKET_IDENTITY:
            refused = self._counters.psk_refused
            with self._lock:
                refused["unknown"] = refused.get("unknown", 0) + 1
        return found
