"""The TLS engine on pyOpenSSL: an OpenSSL connection between two memory buffers."""

from __future__ import annotations

import ipaddress
from typing import Any, NoReturn

from OpenSSL import SSL

from protocols.errors import LocalError, RemoteError
from protocols.tls import binding
from protocols.tls import handshake_notes as labels
from protocols.tls.alerts import (
    INTERNAL_ERROR,
    UNEXPECTED_EOF,
    UNEXPECTED_MESSAGE,
    alert_for,
    alert_for_words,
    alert_in,
    reasons_of,
)
from protocols.tls.client_hello import ClientHello, HelloReader
from protocols.tls.completion import completed_event
from protocols.tls.detaching import TLS_1_3, RecordCount, detached_state
from protocols.tls.engine import (
    EARLY_ACCEPTED,
    EARLY_NONE,
    EARLY_REFUSED,
    CloseNotifyReceived,
    EarlyDataReceived,
    HandshakeRefused,
    PlaintextReceived,
    TlsEvent,
)
from protocols.tls.handshake_notes import NO_TRAITS, ContextTraits, HandshakeNotes
from protocols.tls.psk import ExternalPsk
from protocols.tls.record_state import DetachedState

_CHUNK = 65536
_SLICE = 4096
"""Bytes that OpenSSL is given at once where KeyUpdates are counted: each costs twenty times a record of data."""
MAX_KEY_UPDATES = 32
"""That a peer may send beyond one per reception of application data, as of RecordLimits."""
_ENDED = HandshakeNotes(NO_TRAITS, None)
"""Of all that have ended or are detached; never changed."""
Session = SSL.Session
"""What a client resumes with; holds secrets."""


class PyOpenSSLEngine:
    """One TLS connection, server or client side. See protocols.tls.engine.TlsEngine.

    `context` is an OpenSSL.SSL.Context, never changed here; server_context and client_context make those that
    take early data and pre-shared keys. As a client, `server_name` goes into SNI, and `psk` is offered, or `session`
    resumed; checking the certificate against the name is for whoever made the context. `detachable` is explained at
    detach().
    """

    __slots__ = (
        "_cipher",
        "_closed",
        "_connection",
        "_count",
        "_drained",
        "_early",
        "_early_status",
        "_events",
        "_failure",
        "_hello",
        "_hello_reader",
        "_holding",
        "_is_server",
        "_notes",
        "_out",
        "_peer_closed",
        "_read_begun",
        "_started",
        "_writes_early",
        "handshaken",
        "only_finished_left",
    )

    def __init__(
        self,
        context: SSL.Context,
        *,
        server: bool,
        server_name: str = "",
        psk: ExternalPsk | None = None,
        session: Session | None = None,
        detachable: bool = False,
    ) -> None:
        traits = context.get_app_data()
        self.handshaken = False
        self.only_finished_left = False
        self._is_server = server
        self._connection: Any = SSL.Connection(context, None)
        self._notes = HandshakeNotes(traits if isinstance(traits, ContextTraits) else NO_TRAITS, context)
        self._notes.offered = psk
        self._connection.set_app_data(self._notes)
        self._events: list[TlsEvent] = []
        self._out: list[bytes] = []
        self._failure: tuple[int, str] | None = None
        """Not the exception: it would keep its frames, and those this engine."""
        self._cipher = ""
        """Of TLS 1.3, once the hand-shake is complete."""
        self._closed = False
        self._peer_closed = False
        self._count = RecordCount() if detachable else None
        self._drained = False
        """What OpenSSL wanted to send has been taken, and nothing was asked of it since."""
        self._holding = False
        self._read_begun = False
        self._hello: ClientHello | None = None
        self._hello_reader: HelloReader | None = None
        self._started = False
        self._early = b""
        self._early_status = EARLY_NONE
        self._writes_early = False
        if server:
            if self._notes.traits.max_early_data and binding.HAS_EARLY_DATA:
                self._hello_reader = HelloReader()
            self._connection.set_accept_state()
        else:
            if server_name and not _is_address(server_name):
                self._connection.set_tlsext_host_name(server_name.encode("idna"))
            self._connection.set_connect_state()
            if session is not None:
                self._connection.set_session(session)

    # ------------------------------------------------------------------ in

    def early(self, data: bytes) -> None:
        psk = self._notes.offered
        if self._is_server or psk is None:
            raise LocalError("early data without a pre-shared key to send it under")
        if self._started:
            raise LocalError("early data after the ClientHello")
        if len(self._early) + len(data) > psk.max_early_data:
            raise LocalError(f"expected at most {psk.max_early_data} bytes of early data, got {len(data)} more")
        self._early += data

    def start(self) -> None:
        if self._is_server or self._started:
            return
        self._started = True
        self._drained = False
        binding.clear_errors()
        if self._early:
            self._early_status = EARLY_REFUSED
            try:
                binding.write_early_data(self._connection, self._early)
            except SSL.Error as error:
                raise LocalError(f"TLS refused early data: {reasons_of(error)}") from error
        self._shake_hands()

    def feed(self, data: bytes) -> None:
        if self._failure is not None:
            raise RemoteError(*self._failure)
        if not data or self._peer_closed:
            return
        connection = self._connection
        if connection is None:
            raise LocalError("ciphertext for an engine that is detached")
        self._drained = False
        binding.clear_errors()
        if self.handshaken and self._notes.traits.counts_updates:
            self._read_in_slices(connection, data)
            return
        binding.give(connection, data)
        if not self.handshaken:
            if self._hello_reader is not None and not self._read_hello(self._hello_reader, data):
                return
            self._shake_hands()
            if self._count is not None and self.handshaken:
                self._holding = True
                return
        if self.handshaken:
            self._read()

    def feed_eof(self) -> None:
        if self._failure is not None:
            raise RemoteError(*self._failure)
        if self._holding:
            self._read()
        if not self._peer_closed:
            self._fail(UNEXPECTED_EOF, "the connection ended without close_notify")

    def events(self) -> list[TlsEvent]:
        events = self._events
        if events:
            self._events = []
        return events

    # ------------------------------------------------------------------ out

    def encrypt(self, data: bytes) -> None:
        if not self.handshaken and not self._writes_early:
            raise LocalError("application data before the hand-shake")
        if self._closed or self._failure is not None:
            raise LocalError("application data after the end of the connection")
        connection = self._connection
        if connection is None:
            raise LocalError("application data for an engine that is detached")
        self._drained = False
        binding.clear_errors()
        size = len(data)
        try:
            if not self.handshaken:
                binding.write_early_data(connection, data)
            else:
                sent = connection.send(data) if data else 0
                # OpenSSL takes one record at a time, because pyOpenSSL turns partial writes on.
                view = memoryview(data)
                while sent < size:
                    sent += connection.send(view[sent:])
        except SSL.Error as error:
            raise LocalError(f"TLS refused application data: {reasons_of(error)}") from error
        self._collect()

    def to_send(self) -> bytes:
        self._collect()
        out = self._out
        if not out:
            return b""
        self._out = []
        return out[0] if len(out) == 1 else b"".join(out)

    def close(self) -> None:
        if self._closed or self._failure is not None:
            return
        self._closed = True
        if not self.handshaken or self._connection is None:
            return
        self._drained = False
        try:
            self._connection.shutdown()
        except SSL.Error as error:
            # Only a connection that has already failed inside OpenSSL refuses; there is nothing to say then.
            self._failure = alert_for(error), f"TLS: {reasons_of(error)}"
            self._collect()
            self._end()

    def refuse(self, code: int) -> None:
        self.close()

    def detach(self) -> DetachedState | None:
        if self._connection is None or not self.handshaken:
            return None
        state = None
        if self._count is not None and not (self._read_begun or self._closed or self._peer_closed or self._failure):
            self._collect()
            state = detached_state(self._connection, self._cipher, self._notes, self._count, self._is_server)
        if state is None:
            if self._holding:
                self._read()
            return None
        self._end()
        return state

    def session(self) -> Session | None:
        """Client side: what another connection may resume with. Over TLS 1.3 it is of use once a ticket has come, with
        or before the first answer. None before the hand-shake and after detach()."""
        if self._is_server or not self.handshaken or self._connection is None:
            return None
        session: Session | None = self._connection.get_session()
        return session

    # ------------------------------------------------------------------ the hand-shake

    def _read_hello(self, reader: HelloReader, data: bytes) -> bool:
        """Whether the ClientHello is whole, so that it is known how to receive it."""
        hello = reader.feed(data)
        if hello is None:
            return False
        self._hello_reader = None
        self._hello = hello
        if hello.early_data:
            self._early_status = EARLY_REFUSED
            self._notes.reading_early = self._takes_early(hello)
        return True

    def _takes_early(self, hello: ClientHello) -> bool:
        traits = self._notes.traits
        try:
            psk = self._notes.look_up(hello.identity) if hello.identity else None
        except Exception:
            # OpenSSL is about to ask the same, and then ends the hand-shake with an alert.
            return False
        return traits.ticket_early_data if psk is None else psk.max_early_data > 0

    def _shake_hands(self) -> None:
        connection = self._connection
        try:
            complete = (not self._notes.reading_early or self._read_early()) and binding.shake_hands(
                connection, self._notes
            )
        except SSL.WantReadError:
            complete = False
        except RemoteError as error:
            # Raised by an ALPN callback of pyOpenSSL's, which has no other way to refuse.
            self._fail(error.code, str(error))
        except SSL.Error as error:
            defect = self._notes.defect
            if isinstance(defect, RemoteError):
                self._fail(defect.code, str(defect))
            why = binding.verify_failure(connection)
            self._fail(None, f"hand-shake: {reasons_of(error)}{why and f': {why}'}", defect or error)
        if not complete:
            self._sent_flight()
            return
        if self._notes.defect is not None:
            self._fail(None, "hand-shake: a callback failed", self._notes.defect)
        self.handshaken = True
        self._writes_early = False
        if not self._is_server:
            self._sent_flight()
        event = completed_event(connection, self._notes, self._is_server, self._early_status)
        self._cipher = event.cipher if event.version == TLS_1_3 else ""
        self._events.append(event)

    def _sent_flight(self) -> None:
        """After a step of the hand-shake: is our Finished among what it gave?

        A server makes its application secret together with its Finished, and the step in which it does sends
        nothing after it: tickets need the client's Finished, and answers need encrypt(). A client's Finished is the
        last that its hand-shake sends.
        """
        count = self._count
        if count is None or count.counting:
            return
        self._collect()
        if self.handshaken or (self._is_server and labels.SERVER_APPLICATION in self._notes.lines):
            count.begin()
            self.only_finished_left = self._is_server and not binding.asks_for_certificate(self._connection)

    def _read_early(self) -> bool:
        """All early data that has come, as one event; False as long as there may be more."""
        parts: list[bytes] = []
        try:
            while data := binding.read_early_data(self._connection):
                self._sent_flight()
                parts.append(data)
            over = data is None
            if over:
                self._notes.reading_early = False
                self._sent_flight()
            return over
        finally:
            self._drained = False
            hello = self._hello
            if parts and hello is not None:
                self._writes_early = True
                self._early_status = EARLY_ACCEPTED
                name = self._connection.get_servername()
                self._events.append(
                    EarlyDataReceived(
                        parts[0] if len(parts) == 1 else b"".join(parts),
                        identity=hello.identity,
                        client_random=hello.random,
                        alpn=self._connection.get_alpn_proto_negotiated().decode("latin-1"),
                        server_name=name.decode("latin-1") if name else "",
                    )
                )

    # ------------------------------------------------------------------ inside

    def _read(self) -> None:
        """All records that are whole, as one event: what came together is handled, and answered, together."""
        if not self._read_begun:
            # It stays: nobody counts its records any more, nor needs its secrets.
            self._read_begun = True
            self._holding = False
            self._count = None
            self._notes.lines = {}
        self._drained = False
        parts: list[bytes] = []
        try:
            while True:
                parts.append(self._connection.recv(_CHUNK))
        except SSL.WantReadError:
            self._received(parts)
        except SSL.ZeroReturnError:
            self._received(parts)
            self._peer_closed = True
            self._events.append(CloseNotifyReceived())
        except SSL.Error as error:
            self._received(parts)
            self._fail(None, reasons_of(error), error)

    def _read_in_slices(self, connection: Any, data: bytes) -> None:
        for at in range(0, len(data), _SLICE):
            binding.give(connection, data[at : at + _SLICE])
            self._read()
            if self._peer_closed:
                return
            if self._notes.key_updates > MAX_KEY_UPDATES:
                self._fail(
                    UNEXPECTED_MESSAGE, f"expected at most {MAX_KEY_UPDATES} KeyUpdates without application data"
                )

    def _received(self, parts: list[bytes]) -> None:
        if parts:
            if self._notes.key_updates:
                self._notes.key_updates -= 1
            self._events.append(PlaintextReceived(parts[0] if len(parts) == 1 else b"".join(parts)))

    def _collect(self) -> None:
        """Take what OpenSSL wants to send."""
        connection = self._connection
        if connection is None or self._drained:
            return
        self._drained = True
        ciphertext = binding.take(connection)
        if ciphertext:
            self._out.append(ciphertext)
            if self._count is not None:
                self._count.add(ciphertext)

    def _end(self) -> None:
        """The last reference: OpenSSL's object and its buffers are freed here."""
        self._connection = None
        self._notes = _ENDED
        self._hello_reader = None

    def _fail(self, code: int | None, message: str, error: Exception | None = None) -> NoReturn:
        """Raise RemoteError now and for ever; the alert, if OpenSSL made one, is left for to_send()."""
        self._drained = False
        self._collect()
        if code is None:
            code = alert_in(self._out[-1]) if self._out else None
        if code is None:
            code = alert_for_words(message) if isinstance(error, SSL.Error) else INTERNAL_ERROR
        self._failure = code, f"TLS {message}"
        if self._is_server and not self.handshaken and self._connection is not None:
            self._events.append(HandshakeRefused.of(*binding.shown(self._connection, self._notes)))
        self._end()
        raise RemoteError(*self._failure) from error


def _is_address(name: str) -> bool:
    """SNI carries no addresses (RFC 6066 section 3)."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
