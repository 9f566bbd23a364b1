"""TLS connections and their listener: the engine between the socket and a binding chosen by ALPN."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping

from accessgw.core.interfaces.connections import Binding, BindingFactory
from accessgw.core.interfaces.tls import TlsContexts
from accessgw.model.identity import ConnectionInfo
from accessgw.model.listener_settings import ListenerSettings
from accessgw.model.reasons import CloseReason
from accessgw.transports.listener import SocketListener
from accessgw.transports.opening import Opening, chosen
from accessgw.transports.services import TransportServices
from accessgw.transports.stream import FLUSHING, HANDSHAKE, StreamConnection, ignore
from protocols.errors import LocalError, RemoteError
from protocols.tls.engine import HandshakeCompleted, PlaintextReceived, TlsEngine

NEEDS_ALPN = frozenset({"mmtp/1", "h2"})
"""Protocols that a client must ask for by ALPN; without it one of the others is meant."""
_FAILED_HANDSHAKES = (CloseReason.HANDSHAKE_FAILED, CloseReason.HANDSHAKE_TIMEOUT)


class TlsConnection(StreamConnection):
    """A Connection whose bytes are TLS records on the wire. Byte counters count the wire."""

    __slots__ = ("_engine", "_factories", "_identify", "_plaintext")

    def __init__(  # noqa: PLR0917  # made by its listener alone
        self,
        sock: socket.SocketType,
        info: ConnectionInfo,
        services: TransportServices,
        address: str,
        factories: Mapping[str, BindingFactory],
        identify: Callable[[bytes], str],
    ) -> None:
        """`identify` is TlsContexts.identify."""
        super().__init__(sock, info, services, address)
        self._factories = factories
        self._identify = identify
        self._engine: TlsEngine | None = None
        self._plaintext: Callable[[bytes], None] = ignore
        self._phase = HANDSHAKE

    def begin_tls(self, engine: TlsEngine, data: bytes) -> None:
        """The first ciphertext has come: an engine is not made before, so that a silent peer costs little."""
        self._engine = engine
        self.receive_with(self._ciphertext)
        self._ciphertext(data)

    def write(self, data: bytes) -> None:
        engine = self._engine
        if engine is None or self._phase >= FLUSHING:
            return
        try:
            engine.encrypt(data)
        except LocalError:
            # The peer broke TLS in the bytes that are being worked through; the close is about to come.
            return
        self._send(engine.to_send())

    def finish(self, reason: CloseReason, detail: str = "") -> None:
        # The peer should hear close_notify (RFC 8446 6.1), and its own may still be unread.
        self.close(reason, detail)

    def hand_over(self, binding: Binding, farewell: Callable[[CloseReason], bytes]) -> None:
        if self._phase < FLUSHING:
            self._binding = binding
            self._farewell = farewell
            self._plaintext = binding.data_received

    def _ciphertext(self, data: bytes) -> None:
        engine = self._engine
        if engine is None:
            return
        failure: RemoteError | None = None
        try:
            engine.feed(data)
        except RemoteError as error:
            failure = error
        answer = engine.to_send()
        if answer:
            self._send(answer)
        for event in engine.events():
            if self._phase >= FLUSHING:
                return
            if type(event) is PlaintextReceived:
                self._plaintext(event.data)
            elif type(event) is HandshakeCompleted:
                self._handshaken(event)
            else:
                self.close(CloseReason.PEER_CLOSED)
        if failure is not None:
            self._refuse(engine, failure)

    def _handshaken(self, event: HandshakeCompleted) -> None:
        self._counters.handshakes += 1
        info = self.info
        info.alpn, info.tls_version = event.alpn, event.version
        info.cipher, info.server_name = event.cipher, event.server_name
        if event.peer_certificate:
            try:
                info.certificate_identity = self._identify(event.peer_certificate)
            except RemoteError as error:
                self.close(CloseReason.HANDSHAKE_FAILED, str(error))
                return
        if event.alpn:
            self.await_hello()
            self._speak(self._factories[event.alpn])
            return
        # Many MQTT libraries offer no ALPN at all.
        meant = {name: factory for name, factory in self._factories.items() if name not in NEEDS_ALPN}
        if not meant:
            self.close(CloseReason.HANDSHAKE_FAILED, f"no ALPN, and {', '.join(self._factories)} needs it")
            return
        self.await_hello()
        if len(meant) == 1:
            self._speak(*meant.values())
        else:
            self._plaintext = lambda data: self._sniffed(meant, data)

    def _sniffed(self, meant: Mapping[str, BindingFactory], data: bytes) -> None:
        try:
            factory = chosen(meant, data)
        except RemoteError as error:
            self.close(CloseReason.PROTOCOL_ERROR, f"without ALPN: {error}")
            return
        self._speak(factory)
        self._plaintext(data)

    def _speak(self, factory: BindingFactory) -> None:
        binding = self._start_binding(factory)
        self._plaintext = ignore if binding is None else binding.data_received

    def _refuse(self, engine: TlsEngine, error: RemoteError) -> None:
        if engine.handshaken:
            self.close(CloseReason.PROTOCOL_ERROR, f"alert {error.code}: {error}")
        else:
            self.close(CloseReason.HANDSHAKE_FAILED, f"alert {error.code}: {error}")

    def _say_goodbye(self) -> None:
        engine = self._engine
        if engine is not None:
            engine.close()
            last = engine.to_send()
            if last:
                self._send(last)

    def _peer_finished(self) -> None:
        engine = self._engine
        if engine is None:
            self.close(CloseReason.PEER_CLOSED)
            return
        try:
            engine.feed_eof()
        except RemoteError as error:
            if engine.handshaken:
                self.close(CloseReason.PEER_RESET, str(error))
            else:
                self._refuse(engine, error)
        else:
            self.close(CloseReason.PEER_CLOSED)

    def _lost(self, reason: CloseReason, detail: str) -> None:
        self._plaintext = ignore
        super()._lost(reason, detail)
        self._engine = None
        if self._reason in _FAILED_HANDSHAKES:
            self._counters.handshake_failures += 1


class TlsListener(SocketListener):
    """TLS over TCP; the protocol of each connection is negotiated by ALPN."""

    def __init__(
        self,
        settings: ListenerSettings,
        services: TransportServices,
        factories: Mapping[str, BindingFactory],
        contexts: TlsContexts,
    ) -> None:
        super().__init__(settings, services, factories)
        self._contexts = contexts

    def _begin(self, sock: socket.SocketType, info: ConnectionInfo, key: str, trusted: bool) -> None:
        connection = TlsConnection(sock, info, self._services, key, self._factories, self._contexts.identify)

        def hello(data: bytes) -> None:
            connection.begin_tls(self._contexts.engine(), data)

        connection.begin(Opening(connection, trusted, hello).data_received)
