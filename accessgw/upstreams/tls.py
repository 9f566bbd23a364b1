"""TLS toward services: contexts of a cluster, which follow their files, and the client side of one connection."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_address

from cryptography import x509
from OpenSSL import SSL, crypto
from service_identity import VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from service_identity.exceptions import CertificateError
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.interfaces.tls import HandshakeThreads
from accessgw.model.route_settings import UpstreamTlsSettings
from accessgw.upstreams.threads import AT_ONCE, Loading
from protocols.errors import RemoteError, without_frames
from protocols.tls.alerts import BAD_CERTIFICATE, reasons_of
from protocols.tls.client_context import ClientContext, ClientOptions
from protocols.tls.engine import CloseNotifyReceived, HandshakeCompleted, PlaintextReceived, TlsEvent
from protocols.tls.pyopenssl_engine import PyOpenSSLEngine, Session

ALPN = ("http/1.1",)
LOOK_AFTER = 1.0
"""Seconds for which the files are taken to be as they were."""
TRY_AGAIN = 60.0
"""Seconds after which files that could not be used are tried again although they are the same: reading them may have failed
for another reason."""
MAX_SESSIONS = 1024
"""Servers of a cluster whose last session is kept."""

_UNREADABLE = (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
"""What parts of a certificate raise when they are asked for."""

log = Logger()


class TlsUnavailable(Exception):
    """No connection can be made: a file is missing or wrong. The message names it."""


@dataclass(slots=True, frozen=True)
class _Kept:
    """A session for resumption, and when the certificate that it stands for ends (wall clock)."""

    session: Session
    not_after: float


@dataclass(slots=True, frozen=True)
class _Loaded:
    """A context, and when our certificate in it ends (wall clock); infinity without one."""

    context: ClientContext
    ends: float


class ClusterTls:
    """TLS of one cluster or bridge. Certificate, key and CAs are loaded on `threads`, and again when they change; until
    the new ones can be used, the old ones stay. `now` is any clock in seconds, `wall` the wall clock, and `used_by` says
    whose it is in the log, such as "cluster payments"."""

    def __init__(
        self,
        settings: UpstreamTlsSettings,
        now: Callable[[], float],
        wall: Callable[[], float] = time.time,
        *,
        used_by: Callable[[], str] = lambda: "an upstream",
        alpn: Sequence[str] = ALPN,
        threads: HandshakeThreads = AT_ONCE,
        loaded: Callable[[], None] = lambda: None,
    ) -> None:
        """`loaded` is called when files were loaded, for the first time or again."""
        self.settings = settings
        self.replaced = False
        """By other settings: what was connected under these ends with what it has in progress."""
        self._alpn = alpn
        self._now = now
        self._wall = wall
        self._used_by = used_by
        self._threads = threads
        self._tell_loaded = loaded
        self._loaded: _Loaded | None = None
        self._stamps: tuple[object, ...] = ()
        """Of the files that `_loaded` was made of."""
        self._refused: tuple[object, ...] = ()
        """Of files that could not be used: they are not tried again before `_again`."""
        self._again = float("-inf")
        self._why = ""
        """What was wrong with those: logged once."""
        self._looked = float("-inf")
        self._loading = False
        self._waiting: list[Callable[[], None]] = []
        """To be called when what is being loaded is there."""
        self._reminded = False
        """It was logged that our certificate has ended."""
        self._sessions: dict[tuple[str, str], _Kept] = {}

    @property
    def ends(self) -> float:
        """Wall-clock second at which our certificate ends; infinity without one, and before it is loaded."""
        return float("inf") if self._loaded is None else self._loaded.ends

    def look(self) -> None:
        """Load the files if they have changed, at most every LOOK_AFTER seconds."""
        now = self._now()
        if self._loading or now - self._looked < LOOK_AFTER:
            return
        self._looked = now
        self._remind()
        stamps = tuple(map(_stamp, (self.settings.ca, self.settings.certificate, self.settings.key)))
        if self._loaded is not None and stamps == self._stamps:
            self._why = ""
        elif stamps != self._refused or now >= self._again:
            self._loading = True
            make = partial(_load, self.settings, self._alpn)
            self._threads.lane().submit(Loading(make, partial(self._told, stamps)), True)

    def prepare(self, then: Callable[[], None]) -> None:
        """Look, and call `then` as soon as open() can give what the files say now: at once where they are loaded."""
        self.look()
        if self._loading:
            self._waiting.append(then)
        else:
            then()

    def open(self, endpoint: str, server_name: str) -> ClientTls:
        """The client side of a new connection to `endpoint`, which must prove to be `server_name` (a DNS name or an
        address), after prepare(). Raises TlsUnavailable."""
        server_name = _in_ascii(server_name)
        if self._loaded is None:
            raise TlsUnavailable(self._why or "the files of TLS are not loaded yet")
        context = self._loaded.context
        place = (endpoint, server_name)
        kept = self._sessions.pop(place, None)
        if kept is not None and kept.not_after <= self._wall():
            kept = None
        engine = context.engine(server_name, session=None if kept is None else kept.session)
        return ClientTls(engine, server_name, lambda session, ends: self._keep(context, place, _Kept(session, ends)))

    def _keep(self, context: ClientContext, place: tuple[str, str], kept: _Kept) -> None:
        if self._loaded is not None and context is self._loaded.context:
            self._sessions.pop(place, None)
            self._sessions[place] = kept
            if len(self._sessions) > MAX_SESSIONS:
                del self._sessions[next(iter(self._sessions))]

    def _told(self, stamps: tuple[object, ...], loaded: _Loaded | BaseException) -> None:
        self._loading = False
        if isinstance(loaded, BaseException):
            self._refuse(stamps, loaded)
        else:
            if self._loaded is not None:
                log.info("TLS of {who}: loaded {certificate} {ca} again", who=self._used_by(),
                         certificate=self.settings.certificate, ca=self.settings.ca)  # fmt: skip
            self._loaded, self._stamps = loaded, stamps
            self._refused, self._why = (), ""
            self._reminded = False
            self._remind()
            # a session proves what the old files proved
            self._sessions.clear()
            self._tell_loaded()
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            try:
                then()
            except Exception:
                log.failure("TLS of {who}: one that waited for the files could not go on", who=self._used_by())

    def _refuse(self, stamps: tuple[object, ...], error: BaseException) -> None:
        before, self._why = self._why, str(error)
        if not isinstance(error, TlsUnavailable):
            log.failure("TLS of {who} could not be loaded", Failure(error), who=self._used_by())
            self._why = f"internal error: {type(error).__name__}"
        self._refused = stamps
        self._again = self._now() + (LOOK_AFTER if self._loaded is None else TRY_AGAIN)
        if self._loaded is not None and self._why != before:
            log.error("TLS of {who}: {why}; the files loaded before stay in force", who=self._used_by(), why=self._why)

    def _remind(self) -> None:
        """Say once that our certificate has ended; it is shown all the same, the other side decides."""
        if self.ends <= self._wall() and not self._reminded:
            self._reminded = True
            when = datetime.fromtimestamp(self.ends, UTC).isoformat(timespec="seconds")
            log.error("CERTIFICATE EXPIRED: {file} ({who}) ended at {when}; replace it",
                      file=self.settings.certificate, who=self._used_by(), when=when)  # fmt: skip


class ClientTls:
    """The client side of one connection: bytes in, bytes out. RemoteError carries a TLS alert.

    One thread at a time may use it. What shake() is given may need a signature and a chain to be verified, so it is for a
    thread of hand-shakes; the rest is for the reactor's.
    """

    __slots__ = ("_engine", "_heard", "_keep", "_not_after", "_resumable", "_server_name", "closed", "failure", "ready",
                 "resumed")  # fmt: skip

    def __init__(self, engine: PyOpenSSLEngine, server_name: str, keep: Callable[[Session, float], None]) -> None:
        self._engine = engine
        self._server_name = server_name
        self._keep = keep
        self._heard = False
        self._not_after = 0.0
        self._resumable = False
        """There is a session which is not kept yet."""
        self.ready = False
        """The server has proved who it is: requests may go."""
        self.resumed = False
        self.failure: RemoteError | None = None
        """How TLS ended, if it did not end well."""
        self.closed = False
        """The server has ended the connection in order."""

    def start(self) -> bytes:
        """The first flight."""
        self._engine.start()
        return self._engine.to_send()

    def shake(self, data: bytes) -> list[bytes]:
        """receive() of a hand-shake: keeps nothing for others, so that it may run on any thread."""
        if self.failure is not None:
            return []
        plaintext: list[bytes] = []
        try:
            self._engine.feed(data)
        except RemoteError as error:
            self.failure = without_frames(error)
        try:
            for event in self._engine.events():
                if part := self._met(event):
                    plaintext.append(part)
        except RemoteError as error:
            self.failure = without_frames(error)
        if plaintext and not self._heard:
            self._heard = self._resumable = True
        return plaintext

    def receive(self, data: bytes) -> list[bytes]:
        """Plaintext in `data`; an error behind it waits in `failure`, and after that nothing is received."""
        plaintext = self.shake(data)
        self.keep_session()
        return plaintext

    def keep_session(self) -> None:
        """After shake(), on the reactor's thread: let the next connection resume where this one allows it. Over TLS 1.3
        a session can be resumed once its ticket has come, and tickets come before the answer."""
        if self._resumable:
            self._resumable = False
            session = self._engine.session()
            if session is not None:
                self._keep(session, self._not_after)

    def to_send(self) -> bytes:
        return self._engine.to_send()

    def encrypt(self, data: bytes) -> bytes:
        """Records of `data`. LocalError after the end of the connection."""
        self._engine.encrypt(data)
        return self._engine.to_send()

    def close(self) -> bytes:
        """The farewell."""
        self._engine.close()
        return self._engine.to_send()

    def feed_eof(self) -> None:
        """The server's FIN: RemoteError when it had not said before that nothing more comes."""
        self._engine.feed_eof()

    def refuses_us(self, error: RemoteError) -> bool:
        """Whether the server refuses our certificate, or the want of one. Over TLS 1.3 we learn of it after our
        hand-shake is complete and a request may have been sent; the server has read none of it."""
        said = str(error)
        about_us = ("certificate", "unknown ca", "access denied")
        return not self._heard and "alert" in said and any(words in said for words in about_us)

    def _met(self, event: TlsEvent) -> bytes:
        if type(event) is PlaintextReceived:
            return event.data
        if type(event) is HandshakeCompleted:
            self._verify(event)
            self.resumed = event.resumed
            self.ready = True
            self._resumable = event.version != "TLSv1.3"
        elif type(event) is CloseNotifyReceived:
            self.closed = True
        return b""

    def _verify(self, event: HandshakeCompleted) -> None:
        """OpenSSL has verified the chain; here is the name (RFC 6125, RFC 9525). Raises RemoteError."""
        try:
            certificate = x509.load_der_x509_certificate(event.peer_certificate)
            self._not_after = certificate.not_valid_after_utc.timestamp()
        except ValueError as error:
            raise RemoteError(BAD_CERTIFICATE, f"the certificate cannot be read: {error}") from error
        check = verify_certificate_ip_address if _is_address(self._server_name) else verify_certificate_hostname
        try:
            check(certificate, self._server_name)
        except (VerificationError, CertificateError, *_UNREADABLE) as error:
            raise RemoteError(
                BAD_CERTIFICATE, f"the certificate is not for {self._server_name}: it names {_names(certificate)}"
            ) from error


def _load(settings: UpstreamTlsSettings, alpn: Sequence[str]) -> _Loaded:
    options = ClientOptions(
        authorities=_read(settings.ca) if settings.ca else None,
        alpn=alpn,
        minimum=settings.minimum,
        chain=_read(settings.certificate) if settings.certificate else b"",
        key=_read(settings.key) if settings.certificate else b"",
    )
    try:
        return _Loaded(ClientContext(options), _end_of(options.chain))
    except (ValueError, SSL.Error, crypto.Error) as error:
        files = ", ".join(filter(None, (settings.ca, settings.certificate, settings.key)))
        raise TlsUnavailable(f"{files}: not usable for TLS: {reasons_of(error)}") from error


def _end_of(chain: bytes) -> float:
    certificates = x509.load_pem_x509_certificates(chain) if chain else []
    return min((one.not_valid_after_utc.timestamp() for one in certificates), default=float("inf"))


def _names(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *_UNREADABLE):
        return "nobody (it has no subject alternative names)"
    return ", ".join(str(name.value) for name in list(names)[:8]) or "nobody"


def _in_ascii(name: str) -> str:
    """As certificates and SNI have it, without the dot of a name that is whole (RFC 6066 section 3)."""
    try:
        plain = name if _is_address(name) else name.encode("idna").decode("ascii").removesuffix(".")
    except UnicodeError:
        plain = ""
    if not plain or "\0" in plain:
        raise TlsUnavailable(f"expected the name or address of a server, got {name!r}")
    return plain


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise TlsUnavailable(f"{path}: {error.strerror or error}") from error


def _stamp(path: str) -> object:
    """What differs when the file does; None when there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    # the last for who may read it: that changes nothing else
    return status.st_mtime_ns, status.st_ino, status.st_size, status.st_ctime_ns


def bare(message: str) -> str:
    """What went wrong, without the `TLS: ` or `TLS ` that engines begin with: who tells says that once."""
    return message.removeprefix("TLS: ").removeprefix("TLS ")
