"""A connection to another MQTT broker over TLS: its user has it once the other broker has proved who it is."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from accessgw.core.interfaces.clock import Clock
from accessgw.core.interfaces.mqtt import DialUser
from accessgw.core.interfaces.tls import HandshakeThreads
from accessgw.upstreams.bridge_connection import BridgeConnection, told
from accessgw.upstreams.handshake import ClientHandshake
from accessgw.upstreams.tls import ClientTls, bare
from protocols.errors import RemoteError

HANDSHAKE_TIMEOUT = 10.0
"""Seconds from TCP until the other broker has proved who it is."""


class TlsBridgeConnection(BridgeConnection):
    """A BridgeConnection whose MQTT travels in TLS records. A HandshakeOwner: `threads` make its hand-shake."""

    _tls: ClientTls
    """From begin() on."""

    def __init__(self, user: DialUser, threads: HandshakeThreads, clock: Clock) -> None:
        super().__init__(user)
        self._threads = threads
        self._clock = clock
        self._handshake: ClientHandshake | None = None
        """It has the ClientTls until this connection is established."""
        self._timer: Any = None

    def begin(self, tls: ClientTls) -> None:
        """What the connection, which comes up after this, speaks."""
        self._tls = tls
        self._handshake = ClientHandshake(tls, self._threads, self)

    def abort(self) -> None:
        self._stop_timer()
        super().abort()
        if self._handshake is not None:
            self._handshake.abandon()

    # ------------------------------------------------------------------ what Twisted calls

    def dataReceived(self, data: bytes) -> None:
        if self._handshake is not None:
            self._handshake.feed(data)
        elif self._user is not None:
            self._decrypt(data)

    def connectionLost(self, reason: Failure = cast(Failure, None)) -> None:
        if self._handshake is not None:
            self.transport = None
            self._handshake.lost(f"the connection ended in the hand-shake: {told(reason)}")
            return
        if self._user is not None and isinstance(reason.value, ConnectionDone):
            # Without close_notify somebody may have cut it off.
            try:
                self._tls.feed_eof()
            except RemoteError as error:
                self.end(str(error))
        super().connectionLost(reason)

    # ------------------------------------------------------------------ HandshakeOwner

    def send_handshake(self, data: bytes) -> None:
        cast(Any, self.transport).write(data)

    def established(self, plaintext: list[bytes], ciphertext: bytes) -> None:
        self._handshake = None
        self._stop_timer()
        self._come_up()
        self._decrypted(plaintext)
        if ciphertext and self._user is not None:
            self._decrypt(ciphertext)

    def handshake_failed(self, message: str) -> None:
        self._stop_timer()
        self.end(f"TLS: {bare(message)}")
        if self.transport is not None:
            # Behind the alert, if there is one.
            cast(Any, self.transport).loseConnection()

    # ------------------------------------------------------------------

    def _opened(self) -> None:
        if self._handshake is not None:
            self._timer = self._clock.callLater(HANDSHAKE_TIMEOUT, self._took_too_long)
            self._handshake.start(self.transport)

    def _write(self, data: bytes) -> None:
        # The user may answer what came before an error, which it is about to hear of.
        if self._tls.failure is None:
            super()._write(self._tls.encrypt(data))

    def _leave(self) -> None:
        super()._write(self._tls.close())
        super()._leave()

    def _decrypt(self, data: bytes) -> None:
        plaintext = self._tls.receive(data)
        answer = self._tls.to_send()
        if answer:
            super()._write(answer)
        self._decrypted(plaintext)

    def _decrypted(self, plaintext: list[bytes]) -> None:
        tls = self._tls
        for part in plaintext:
            if self._user is not None:
                self._user.received(part)
        if self._user is None:
            return
        if tls.failure is not None:
            words = "the other broker does not accept our certificate: " if tls.refuses_us(tls.failure) else ""
            self.end(f"TLS: {words}{bare(str(tls.failure))}")
            self.abort()
        elif tls.closed:
            self.end("the other side closed the connection")
            if self._up:
                self._leave()

    def _took_too_long(self) -> None:
        self.end(f"TLS: no hand-shake within {HANDSHAKE_TIMEOUT:g} s")
        self.abort()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
