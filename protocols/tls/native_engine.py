"""The TLS engine on the system's libssl, in C: hand-shakes outside of the interpreter's lock, and keys elsewhere.

Importing this fails with an ImportError that tells why where the extension is not built or libssl.so.3 is missing.
"""

from __future__ import annotations

from typing import NoReturn

from protocols._native import tls_engine
from protocols.errors import LocalError, RemoteError
from protocols.signing import ECDSA_DIGEST, RSA_BLOCK
from protocols.tls.alerts import (
    INTERNAL_ERROR,
    NO_APPLICATION_PROTOCOL,
    UNEXPECTED_EOF,
    alert_for_words,
    plaintext_alert,
)
from protocols.tls.engine import (
    EARLY_ACCEPTED,
    EARLY_NONE,
    EARLY_REFUSED,
    CloseNotifyReceived,
    EarlyDataReceived,
    HandshakeCompleted,
    HandshakeRefused,
    PlaintextReceived,
    TlsEvent,
)
from protocols.tls.handshake_notes import KeyLog
from protocols.tls.psk import session_der
from protocols.tls.record_state import DetachedState
from protocols.tls.remote_keys import SigningNeeded
from protocols.tls.server_context import ServerOptions, no_common_protocol

LIBSSL = "libssl.so.3"
"""The ABI that the extension declares for itself."""
VERSION = tls_engine.load(LIBSSL)
"""Of OpenSSL, in its own words."""

Crew = tls_engine.Crew
"""See protocols.tls.crew."""

reap = tls_engine.reap
"""Frees the connections that other threads have dropped while their hand-shakes were stopped on this one; how many."""

_STATUS_ACCEPTED = 2


class NativeEngine:
    """The server side of one connection. See protocols.tls.engine.TlsEngine and protocols.tls.remote_keys.

    A client's 0-RTT data is told, not judged: whoever handles EarlyDataReceived strikes it before it has an effect.
    """

    __slots__ = (
        "_closed",
        "_connection",
        "_detachable",
        "_early_received",
        "_events",
        "_failure",
        "_holding",
        "_identity",
        "_lookup_error",
        "_options",
        "_peer_closed",
        "_read_begun",
        "_rest",
        "_wanted",
        "handshaken",
        "only_finished_left",
    )

    def __init__(self, context: tls_engine.Context, options: ServerOptions, *, detachable: bool = False) -> None:
        self.handshaken = False
        self.only_finished_left = False
        self._connection: tls_engine.Connection | None = tls_engine.Connection(context, detachable)
        self._options = options
        self._detachable = detachable
        self._events: list[TlsEvent] = []
        self._failure: tuple[int, str] | None = None
        """Not the exception: it would keep its frames, and those this engine."""
        self._closed = False
        self._peer_closed = False
        self._holding = False
        self._read_begun = False
        self._early_received = False
        self._identity: bytes | None = None
        self._lookup_error: Exception | None = None
        """What find_psk raised on a thread of the crew."""
        self._rest = b""
        """What was to be sent when OpenSSL's object was freed."""
        self._wanted: SigningNeeded | None = None

    # ------------------------------------------------------------------ in

    def early(self, data: bytes) -> None:
        raise LocalError("early data without a pre-shared key to send it under")

    def start(self) -> None:
        pass

    def refuse_early(self) -> None:
        """Refuse what early data the client offers, whichever key it is under; before the first feed()."""
        self._alive().refuse_early()

    def feed(self, data: bytes) -> None:
        if self._failure is not None:
            raise RemoteError(*self._failure)
        if not data or self._peer_closed:
            return
        connection = self._alive()
        connection.feed(data)
        if not self.handshaken:
            if self._wanted is None:
                self._shake_hands(connection)
        else:
            self._holding = False
            self._read(connection)

    def feed_eof(self) -> None:
        if self._failure is not None:
            raise RemoteError(*self._failure)
        if self._holding:
            self._holding = False
            self._read(self._alive())
        if not self._peer_closed:
            self._fail(UNEXPECTED_EOF, "the connection ended without close_notify")

    def events(self) -> list[TlsEvent]:
        events = self._events
        if events:
            self._events = []
        return events

    # ------------------------------------------------------------------ on a crew, see protocols.tls.crew

    def offload(self, crew: tls_engine.Crew, data: bytes, step: object, begun: bool) -> None:
        crew.submit(self._alive(), data, step, begun, self._find_keys if self._options.find_psk is not None else None)

    def cancel(self) -> None:
        if self._connection is not None:
            self._connection.cancel()

    def resume(self, state: int) -> None:
        connection = self._alive()
        error, self._lookup_error = self._lookup_error, None
        if error is not None:
            self._lookup_failed(error)
        self._come_back(connection, state)

    def _find_keys(self) -> bool:
        # On a thread of the crew, which has the connection: it is freed in resume().
        try:
            self._look_up(self._alive())
        except Exception as error:
            self._lookup_error = error
            return False
        return True

    # ------------------------------------------------------------------ signatures

    def pending_signature(self) -> SigningNeeded | None:
        return self._wanted

    def signed(self, number: int, signature: bytes) -> None:
        if self._answer(number, signature):
            self._shake_hands(self._alive())

    def sign_failed(self, number: int, reason: str) -> None:
        if self._answer(number, b""):
            self._shake_hands(self._alive(), f"hand-shake: no signature: {reason}")

    def _answer(self, number: int, signature: bytes) -> bool:
        wanted = self._wanted
        if wanted is None or wanted.number != number or self._failure is not None:
            return False
        if not self._alive().answer(number, signature):
            raise LocalError("a hand-shake goes on only on the thread on which it stopped for a signature")
        self._wanted = None
        return True

    # ------------------------------------------------------------------ out

    def encrypt(self, data: bytes) -> None:
        if not self.handshaken and not self._early_received:
            raise LocalError("application data before the hand-shake")
        if self._closed or self._failure is not None:
            raise LocalError("application data after the end of the connection")
        if self._wanted is not None:
            raise LocalError("application data while the hand-shake waits for a signature")
        try:
            self._alive().write(data)
        except ValueError as error:
            raise LocalError(f"TLS refused application data: {error}") from error

    def to_send(self) -> bytes:
        out, self._rest = self._rest, b""
        return out if self._connection is None else out + self._connection.take()

    def close(self) -> None:
        if self._closed or self._failure is not None:
            return
        self._closed = True
        connection = self._connection
        if self.handshaken and connection is not None and not connection.shutdown():
            # Only a connection that has already failed inside OpenSSL refuses; there is nothing to say then.
            alert, reason, _ = connection.failure()
            self._end()
            self._failure = alert if alert >= 0 else INTERNAL_ERROR, f"TLS: {reason}"

    def refuse(self, code: int) -> None:
        self.close()

    def detach(self) -> DetachedState | None:
        connection = self._connection
        if connection is None or not self.handshaken:
            return None
        told = None
        if self._detachable and not (self._read_begun or self._closed or self._peer_closed or self._failure):
            told = connection.detach()
        if told is None:
            self._detachable = False
            if self._holding:
                self._holding = False
                self._read(connection)
            return None
        suite, read_secret, write_secret, key, iv, written, unread, exporter_secret, self._rest = told
        self._connection = None
        return DetachedState(
            suite=suite,
            is_server=True,
            read_secret=read_secret,
            write_secret=write_secret,
            read_sequence=0,
            write_sequence=written,
            unread=unread,
            exporter_secret=exporter_secret,
            write_keys=(key, iv),
        )

    # ------------------------------------------------------------------ inside

    def _alive(self) -> tls_engine.Connection:
        if self._connection is None:
            raise LocalError("the engine is detached, or its connection has failed")
        return self._connection

    def _shake_hands(self, connection: tls_engine.Connection, reason: str = "") -> None:
        while (state := connection.step()) == tls_engine.WANT_KEYS:
            try:
                self._look_up(connection)
            except Exception as error:
                self._lookup_failed(error)
        self._come_back(connection, state, reason)

    def _come_back(self, connection: tls_engine.Connection, state: int, reason: str = "") -> None:
        """The hand-shake went as far as it could."""
        if self._options.key_log is not None:
            self._log(connection, self._options.key_log)
        if self._options.max_early_data:
            self._take_early(connection)
        if state == tls_engine.WANT_SIGNATURE:
            self._want_signature(connection)
        elif state == tls_engine.WANT_FINISHED:
            self.only_finished_left = True
        elif state == tls_engine.FAILED:
            self._refuse(connection, reason)
        elif state == tls_engine.COMPLETE:
            self.handshaken = True
            self._events.append(self._completed(connection))
            if self._detachable:
                self._holding = True
            else:
                self._read(connection)

    def _look_up(self, connection: tls_engine.Connection) -> None:
        """Give the keys of the identities in the ClientHello. Raises what find_psk raises."""
        find, limit = self._options.find_psk, self._options.max_early_data
        if find is None:
            return
        for identity in connection.identities():
            psk = find(identity)
            if psk is not None:
                connection.give_key(identity, session_der(psk, limit), psk.max_early_data > 0)

    def _lookup_failed(self, error: Exception) -> NoReturn:
        # Nothing is encrypted yet; OpenSSL waits, and sends no alert of its own.
        self._rest = plaintext_alert(INTERNAL_ERROR)
        self._fail(INTERNAL_ERROR, "hand-shake: the look-up of a pre-shared key failed", error)

    def _log(self, connection: tls_engine.Connection, log: KeyLog) -> None:
        try:
            for line in connection.lines().splitlines():
                log(line)
        except Exception as error:
            self._fail(INTERNAL_ERROR, "hand-shake: a callback failed", error)

    def _take_early(self, connection: tls_engine.Connection) -> None:
        data = connection.early()
        if not data:
            return
        if self._identity is None:
            self._identity = connection.identities()[0]
        self._early_received = True
        told = connection.told()
        self._events.append(
            EarlyDataReceived(
                data,
                identity=self._identity,
                client_random=connection.random(),
                alpn=told[0].decode("latin-1"),
                server_name=told[4].decode("latin-1"),
            )
        )

    def _want_signature(self, connection: tls_engine.Connection) -> None:
        asked = connection.pending_signature()
        if asked is not None and (self._wanted is None or self._wanted.number != asked[0]):
            number, key, is_rsa, block = asked
            self._wanted = SigningNeeded(number, key, RSA_BLOCK if is_rsa else ECDSA_DIGEST, block)

    def _completed(self, connection: tls_engine.Connection) -> HandshakeCompleted:
        alpn, version, cipher, group, name, peer, chain, reused, identity, offered, status = connection.told()
        early = EARLY_NONE
        if offered and self._options.max_early_data:
            early = EARLY_ACCEPTED if status == _STATUS_ACCEPTED else EARLY_REFUSED
        return HandshakeCompleted(
            alpn=alpn.decode("latin-1"),
            version=version,
            cipher=cipher,
            server_name=name.decode("latin-1"),
            peer_certificate=peer,
            peer_chain=chain,
            resumed=bool(reused),
            psk_identity=identity,
            early=early,
            group=group,
        )

    def _read(self, connection: tls_engine.Connection) -> None:
        """All records that are whole, as one event."""
        self._read_begun = True
        data, state = connection.read()
        if data:
            self._events.append(PlaintextReceived(data))
        if state == tls_engine.CLOSED:
            self._peer_closed = True
            self._events.append(CloseNotifyReceived())
        elif state == tls_engine.FAILED:
            self._refuse(connection)

    def _refuse(self, connection: tls_engine.Connection, reason: str = "") -> NoReturn:
        alert, words, offer = connection.failure()
        if offer:
            over_1_3 = connection.told()[1] == "TLSv1.3"
            self._fail(NO_APPLICATION_PROTOCOL, no_common_protocol(self._options.alpn, _names(offer), over_1_3))
        if not reason:
            reason = words or "no reason given"
            if not self.handshaken:
                reason = f"hand-shake: {reason}"
        self._fail(alert if alert >= 0 else alert_for_words(words), reason)

    def _end(self) -> None:
        """Free OpenSSL's object, however long the error that is about to be raised has this engine in its frames."""
        if self._connection is not None:
            self._rest += self._connection.take()
            self._connection.free()
            self._connection = None
        self._wanted = None

    def _fail(self, code: int, message: str, error: Exception | None = None) -> NoReturn:
        """Raise RemoteError now and for ever; the alert, if OpenSSL made one, is left for to_send()."""
        if not self.handshaken and self._connection is not None:
            version, name, certificate = self._connection.shown()
            self._events.append(HandshakeRefused.of(version, name, certificate))
        self._end()
        self._failure = code, f"TLS {message}"
        raise RemoteError(*self._failure) from error


def _names(offer: bytes) -> list[bytes]:
    """Of the extension ALPN (RFC 7301 section 3.1), as far as it is kept."""
    names = []
    while offer:
        names.append(offer[1 : 1 + offer[0]])
        offer = offer[1 + offer[0] :]
    return names
