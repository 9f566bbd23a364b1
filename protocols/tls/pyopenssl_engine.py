"""The TLS engine on pyOpenSSL: an OpenSSL connection between two memory buffers."""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from protocols.errors import LocalError, RemoteError
from protocols.tls.alerts import INTERNAL_ERROR, UNEXPECTED_EOF, alert_for, alert_in
from protocols.tls.engine import CloseNotifyReceived, HandshakeCompleted, PlaintextReceived, TlsEvent
from protocols.tls.record_state import DetachedState

_CHUNK = 65536


class PyOpenSSLEngine:
    """One TLS connection, server or client side. See protocols.tls.engine.TlsEngine.

    `context` is an OpenSSL.SSL.Context, never changed here. As a client, `server_name` goes into
    SNI; checking the certificate against it is for whoever made the context.
    """

    __slots__ = ("_closed", "_connection", "_events", "_failure", "_is_server", "_out", "_peer_closed", "handshaken")

    def __init__(self, context: SSL.Context, *, server: bool, server_name: str = "") -> None:
        self.handshaken = False
        self._is_server = server
        self._connection = SSL.Connection(context, None)
        self._events: list[TlsEvent] = []
        self._out: list[bytes] = []
        self._failure: RemoteError | None = None
        self._closed = False
        self._peer_closed = False
        if server:
            self._connection.set_accept_state()
        else:
            if server_name:
                self._connection.set_tlsext_host_name(server_name.encode("idna"))
            self._connection.set_connect_state()

    # ------------------------------------------------------------------ in

    def start(self) -> None:
        if not self._is_server:
            self._shake_hands()

    def early(self, data: bytes) -> None:
        raise LocalError("early data without a pre-shared key")

    def detach(self) -> DetachedState | None:
        return None

    def feed(self, data: bytes) -> None:
        if self._failure is not None:
            raise self._failure
        if not data or self._peer_closed:
            return
        self._connection.bio_write(data)
        if not self.handshaken:
            self._shake_hands()
        if self.handshaken:
            self._read()

    def feed_eof(self) -> None:
        if self._failure is not None:
            raise self._failure
        if not self._peer_closed:
            self._fail(UNEXPECTED_EOF, "the connection ended without close_notify")

    def events(self) -> list[TlsEvent]:
        events = self._events
        if events:
            self._events = []
        return events

    # ------------------------------------------------------------------ out

    def encrypt(self, data: bytes) -> None:
        if not self.handshaken:
            raise LocalError("application data before the hand-shake")
        if self._closed or self._failure is not None:
            raise LocalError("application data after the end of the connection")
        connection = self._connection
        size = len(data)
        try:
            sent = connection.send(data) if data else 0
            # OpenSSL takes one record at a time, because pyOpenSSL turns partial writes on.
            view = memoryview(data)
            while sent < size:
                sent += connection.send(view[sent:])
        except SSL.Error as error:
            raise LocalError(f"TLS refused application data: {_text(error)}") from error
        self._collect(size)

    def to_send(self) -> bytes:
        self._collect(0)
        out = self._out
        if not out:
            return b""
        self._out = []
        return out[0] if len(out) == 1 else b"".join(out)

    def close(self) -> None:
        if self._closed or self._failure is not None:
            return
        self._closed = True
        if not self.handshaken:
            return
        try:
            self._connection.shutdown()
        except SSL.Error as error:
            # Only a connection that has already failed inside OpenSSL refuses; there is nothing to say then.
            self._failure = RemoteError(alert_for(error), f"TLS: {_text(error)}")

    # ------------------------------------------------------------------ inside

    def _shake_hands(self) -> None:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return
        except RemoteError as error:
            # Raised by our own ALPN callback, which has no other way to refuse.
            self._fail(error.code, str(error))
        except SSL.Error as error:
            self._fail(None, f"hand-shake: {_text(error)}", error)
        self.handshaken = True
        connection = self._connection
        name = connection.get_servername() if self._is_server else None
        # Without a request for a certificate there is none, and without verification it would prove nothing.
        asked = connection.get_context().get_verify_mode() & SSL.VERIFY_PEER
        certificate = connection.get_peer_certificate(as_cryptography=True) if asked else None
        self._events.append(
            HandshakeCompleted(
                alpn=connection.get_alpn_proto_negotiated().decode("latin-1"),
                version=connection.get_protocol_version_name(),
                cipher=connection.get_cipher_name() or "",
                server_name=name.decode("latin-1") if name else "",
                peer_certificate=certificate.public_bytes(Encoding.DER) if certificate else b"",
            )
        )

    def _read(self) -> None:
        """All records that are whole, as one event: what came together is handled, and answered, together."""
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
            self._fail(None, _text(error), error)

    def _received(self, parts: list[bytes]) -> None:
        if parts:
            self._events.append(PlaintextReceived(parts[0] if len(parts) == 1 else b"".join(parts)))

    def _collect(self, plaintext: int) -> None:
        """Take what OpenSSL wants to send; `plaintext` bytes are known to be in it."""
        size = max(_CHUNK // 4, plaintext + (plaintext // 16384 + 1) * 64)
        while True:
            try:
                data = self._connection.bio_read(size)
            except SSL.Error:
                # WantReadError: empty. Nothing else can go wrong with a memory buffer.
                return
            self._out.append(data)
            if len(data) < size:
                return

    def _fail(self, code: int | None, message: str, error: SSL.Error | None = None) -> None:
        """Raise RemoteError now and for ever; the alert, if OpenSSL made one, is left for to_send()."""
        self._collect(0)
        if code is None:
            code = alert_in(self._out[-1]) if self._out else None
        if code is None:
            code = INTERNAL_ERROR if error is None else alert_for(error)
        self._failure = RemoteError(code, f"TLS {message}")
        raise self._failure from error


def _text(error: SSL.Error) -> str:
    """OpenSSL's reasons, without its library and function names."""
    if error.args and isinstance(error.args[0], list):
        return "; ".join(str(entry[-1]) for entry in error.args[0]) or "no reason given"
    return " ".join(str(part) for part in error.args) or type(error).__name__
