"""TLS of long connections without I/O: contexts from the client's files; ciphertext and plaintext of a connection."""

from __future__ import annotations

from hashlib import sha256
from ipaddress import ip_address

from OpenSSL import SSL, crypto
from service_identity import VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from service_identity.exceptions import CertificateError

from accessgw.client.addresses import Address
from accessgw.client.certificate_files import PathLike, authorities_in, own_certificate
from accessgw.client.tickets import Flight, Handshaken
from protocols.errors import LocalError, RemoteError, without_frames
from protocols.mmtp.tickets import ShownCertificate
from protocols.tls.alerts import BAD_CERTIFICATE, NO_APPLICATION_PROTOCOL, reasons_of
from protocols.tls.client_context import ClientContext, ClientOptions
from protocols.tls.engine import (
    EARLY_ACCEPTED,
    CloseNotifyReceived,
    HandshakeCompleted,
    PlaintextReceived,
    TlsEngine,
    TlsEvent,
    TlsRecords,
)
from protocols.tls.psk import MAX_EARLY_DATA, ExternalPsk
from protocols.tls.records import RecordLayer

ALPN_LONG = "mmtp/1"
ALPN_WEBSOCKET = "http/1.1"


class ClientTls:
    """What all long connections of a client share; the files are read when the first of them needs them."""

    def __init__(self, *, ca: PathLike | None, cert: PathLike | None, key: PathLike | None, insecure: bool) -> None:
        self._ca = ca
        self._cert = cert
        self._key = key
        self._insecure = insecure
        self._contexts: dict[str, ClientContext] = {}
        self._shown: ShownCertificate | None = None

    def check(self) -> None:
        """Raises ValueError, which names the file, when there can be no connection."""
        self._context(ALPN_LONG)

    def connection(self, address: Address, flight: Flight) -> TlsConnection:
        """A new connection, its first flight ready. TLS 1.3 for MMTP, 1.2 or newer in WebSocket.

        Raises ValueError for a file that cannot be used, which it names, and for a name that is none.
        """
        alpn = ALPN_WEBSOCKET if address.websocket else ALPN_LONG
        context = self._context(alpn)
        psk, held = None, flight.ticket
        if held is not None:
            psk = ExternalPsk(held.identity, held.key, min(held.max_early_data, MAX_EARLY_DATA), alpn)
        engine = context.engine(address.name, psk=psk, detachable=True)
        return TlsConnection(
            engine,
            alpn,
            None if self._insecure else address.name,
            early=flight.early,
            shown=self._shown,
        )

    def _context(self, alpn: str) -> ClientContext:
        context = self._contexts.get(alpn)
        if context is None:
            context = self._contexts[alpn] = self._make_context(alpn)
        return context

    def _make_context(self, alpn: str) -> ClientContext:
        chain = key = b""
        if self._cert is not None:
            own = own_certificate(self._cert, self._cert if self._key is None else self._key)
            chain, key = own.chain, own.key
            self._shown = _shown(own.leaf)
        options = ClientOptions(
            authorities=None if self._ca is None else b"".join(authorities_in(self._ca)),
            verify=not self._insecure,
            alpn=(alpn,),
            minimum="1.3" if alpn == ALPN_LONG else "1.2",
            chain=chain,
            key=key,
        )
        try:
            return ClientContext(options)
        except (SSL.Error, crypto.Error) as error:
            # each file alone is good, or there is none
            raise ValueError(f"{self._cert or 'TLS'}: cannot be used: {reasons_of(error)}") from error


class TlsConnection:
    """One connection, from its ClientHello to its end."""

    __slots__ = ("_alpn", "_engine", "_first", "_mute", "_name", "_records", "_shown", "ended", "failure", "handshaken")

    def __init__(
        self, engine: TlsEngine, alpn: str, name: str | None, *, early: bytes, shown: ShownCertificate | None
    ) -> None:
        """`name` is what a certificate of the peer must prove; None: whatever it shows."""
        self._engine: TlsEngine | None = engine
        self._records: TlsRecords = engine
        self._alpn = alpn
        self._name = name
        self._first = b""
        self._mute = False
        self._shown = shown
        self.handshaken: Handshaken | None = None
        """Once the hand-shake is complete."""
        self.failure: RemoteError | None = None
        """What ended it, if it was not in order."""
        self.ended = False
        """The peer has said close_notify."""
        if early:
            engine.early(early)
        engine.start()

    def receive(self, data: bytes) -> bytes:
        """Ciphertext in, plaintext out; an error of the peer behind it is in `failure`, an alert then in to_send()."""
        if self.failure is not None:
            return b""
        try:
            self._records.feed(data)
        except RemoteError as error:
            self._fail(error)
        plaintext: list[bytes] = []
        try:
            self._take(self._records.events(), plaintext)
        except RemoteError as error:
            self._fail(error)
            # Of somebody else than was meant nothing is wanted: the flight that waits has the device's own certificate.
            self._mute = self.handshaken is None
        return plaintext[0] if len(plaintext) == 1 else b"".join(plaintext)

    def _fail(self, error: RemoteError) -> None:
        self.failure = without_frames(error)

    def send(self, data: bytes) -> None:
        """Plaintext to send; nothing happens after the end."""
        if self._mute:
            return
        try:
            self._records.encrypt(data)
        except LocalError:
            return

    def close(self) -> None:
        """Say close_notify, where there is somebody to hear it."""
        self._records.close()

    def to_send(self) -> bytes:
        """Ciphertext for the transport."""
        if self._mute:
            return b""
        first, self._first = self._first, b""
        return first + self._records.to_send()

    def _take(self, events: list[TlsEvent], plaintext: list[bytes]) -> None:
        for event in events:
            match event:
                case PlaintextReceived():
                    plaintext.append(event.data)
                case HandshakeCompleted():
                    self._completed(event)
                    self._detach(plaintext)
                case CloseNotifyReceived():
                    self.ended = True
                case _:
                    pass

    def _completed(self, event: HandshakeCompleted) -> None:
        if event.alpn != self._alpn:
            raise RemoteError(
                NO_APPLICATION_PROTOCOL, f"expected ALPN {self._alpn}, the server chose {event.alpn or 'none'!r}"
            )
        if self._name is not None and not event.resumed:
            check_name(event.peer_chain, self._name)
        self.handshaken = Handshaken(event.resumed, event.early == EARLY_ACCEPTED, self._shown)

    def _detach(self, plaintext: list[bytes]) -> None:
        """Go on without OpenSSL, which takes 26 KiB for a connection that is idle, where that is possible."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        self._first = engine.to_send()
        state = engine.detach()
        if state is not None:
            self._records = layer = RecordLayer(state)
            layer.start()
        self._take(self._records.events(), plaintext)


def check_name(chain: tuple[bytes, ...], name: str) -> None:
    """Whether the leaf of a verified chain is for a DNS name or an address. Raises RemoteError."""
    if not chain:
        raise RemoteError(BAD_CERTIFICATE, f"expected a certificate for {name}, got none")
    leaf = crypto.load_certificate(crypto.FILETYPE_ASN1, chain[0]).to_cryptography()
    try:
        if _is_address(name):
            verify_certificate_ip_address(leaf, name)
        else:
            verify_certificate_hostname(leaf, name)
    except (VerificationError, CertificateError, ValueError) as error:
        raise RemoteError(BAD_CERTIFICATE, f"expected a certificate for {name}: {error}") from error


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _shown(leaf: crypto.X509) -> ShownCertificate:
    fingerprint = sha256(crypto.dump_certificate(crypto.FILETYPE_ASN1, leaf)).digest()
    return ShownCertificate(fingerprint, int(leaf.to_cryptography().not_valid_after_utc.timestamp()))
