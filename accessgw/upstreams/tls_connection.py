"""A connection to an endpoint over TLS: the owner has it once the server has proved who it is."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any, cast

from twisted.python.failure import Failure

from accessgw.core.interfaces.tls import HandshakeThreads
from accessgw.upstreams.address import Address
from accessgw.upstreams.connection import ConnectionOwner, UpstreamConnection
from accessgw.upstreams.handshake import ClientHandshake
from accessgw.upstreams.tls import ClientTls, ClusterTls, TlsUnavailable, bare
from protocols.errors import RemoteError

_LAST_WORDS = 65536
"""Bytes; an alert has far fewer."""


class TlsUpstreamConnection(UpstreamConnection):
    """An UpstreamConnection whose HTTP travels in TLS records. A HandshakeOwner: `threads` make its hand-shake."""

    def __init__(self, owner: ConnectionOwner, tls: ClusterTls, server_name: str, threads: HandshakeThreads) -> None:
        super().__init__(owner)
        self._cluster_tls = tls
        self._server_name = server_name
        self._threads = threads
        self._tls: ClientTls | None = None
        self._handshake: ClientHandshake | None = None
        """It has the ClientTls until this connection is established."""
        self._dialled = False
        """What the files say is known: TCP is being connected, or this has failed."""
        self._established = False
        self._timer: Any = None
        self._handed_over = False
        """The owner has heard of the outcome."""

    def connect(self, reactor: Any, address: Address, timeout: float) -> None:
        """`timeout` is for files that have to be loaded before, TCP and TLS together."""
        self._timer = reactor.callLater(timeout, self._took_too_long, timeout)
        self._cluster_tls.prepare(partial(self._dial, reactor, address, timeout))

    def _dial(self, reactor: Any, address: Address, timeout: float) -> None:
        if self._handed_over:
            return
        self._dialled = True
        try:
            self._tls = self._cluster_tls.open(address.name, self._server_name)
        except TlsUnavailable as error:
            self._stop_timer()
            self._timer = reactor.callLater(0, self.connecting_failed, f"TLS: {error}")
            return
        self._handshake = ClientHandshake(self._tls, self._threads, self)
        super().connect(reactor, address, timeout)

    @property
    def usable(self) -> bool:
        # What ends a connection may have come right behind an answer, and the answer is told first.
        tls = self._tls
        over = tls is None or tls.failure is not None or tls.closed or self._cluster_tls.replaced
        return not over and super().usable

    def connecting_failed(self, message: str) -> None:
        self._stop_timer()
        if not self._handed_over:
            self._handed_over = True
            super().connecting_failed(message)

    def abort(self) -> None:
        if not self._dialled:
            self.connecting_failed("the connection was given up")
        if self._handshake is not None:
            self._handshake.abandon()
        super().abort()

    def connectionLost(self, reason: Failure = cast(Failure, None)) -> None:
        tls = self._tls
        if self._established and tls is not None:
            if tls.failure is not None:
                self._tell(tls, tls.failure)
            super().connectionLost(reason)
            return
        self._transport = None
        message = f"the connection ended in the hand-shake: {reason.getErrorMessage()}"
        if self._handshake is not None:
            self._handshake.lost(message)
        else:
            self.handshake_failed(message)

    def dataReceived(self, data: bytes) -> None:
        if self._broken:
            return
        if self._handshake is not None:
            self._handshake.feed(data)
        elif self._tls is not None:
            self._decrypt(self._tls, data)

    def _decrypt(self, tls: ClientTls, data: bytes) -> None:
        plaintext = tls.receive(data)
        answer = tls.to_send()
        if answer:
            self._write(answer)
        self._decrypted(tls, plaintext)

    def _decrypted(self, tls: ClientTls, plaintext: list[bytes]) -> None:
        for part in plaintext:
            if self._transport is None or self._broken:
                return
            super().dataReceived(part)
        if tls.failure is not None:
            self._failed(tls, tls.failure)
        elif tls.closed and self._transport is not None:
            self._end()
            self._broken = True

    def _opened(self) -> None:
        if self._handshake is not None:
            self._handshake.start(self._transport)

    # ------------------------------------------------------------------ HandshakeOwner

    def send_handshake(self, data: bytes) -> None:
        if self._transport is not None and not self._broken:
            self._write(data)

    def established(self, plaintext: list[bytes], ciphertext: bytes) -> None:
        tls, self._handshake = self._tls, None
        if self._broken or tls is None:
            # The last flight could not be sent: connectionLost() comes.
            return
        self._established = self._handed_over = True
        self._stop_timer()
        self.owner.connected(self)
        self._decrypted(tls, plaintext)
        if ciphertext and not self._broken and self._transport is not None:
            self._decrypt(tls, ciphertext)

    def handshake_failed(self, message: str) -> None:
        self.connecting_failed(f"TLS: {bare(message)}")
        if self._transport is not None:
            self._end()

    # ------------------------------------------------------------------

    def _send(self, data: bytes) -> bool:
        if self._transport is None or self._broken or self._tls is None:
            return False
        return self._write(self._tls.encrypt(data))

    def _end(self) -> None:
        if self._tls is not None and self._established and not self._broken:
            farewell = self._tls.close()
            if farewell:
                self._transport.write(farewell)
        super()._end()

    def _receive_eof(self) -> None:
        if self._tls is not None and not self._tls.closed:
            # Without close_notify somebody may have cut the answer short.
            self._tls.feed_eof()
        super()._receive_eof()

    def _send_failed(self) -> None:
        # What the server said before it closed may say why.
        if self._tls is not None and self._established and self._socket is not None:
            with contextlib.suppress(OSError, RemoteError):
                self._tls.receive(self._socket.recv(_LAST_WORDS))
        super()._send_failed()

    def _failed(self, tls: ClientTls, error: RemoteError) -> None:
        self._broken = True
        self._tell(tls, error)
        self.abort()

    def _tell(self, tls: ClientTls, error: RemoteError) -> None:
        user, self.user = self.user, None
        if user is not None:
            if tls.refuses_us(error):
                self.left = False
                user.broken("connect", f"TLS: the server does not accept our certificate: {bare(str(error))}")
            else:
                user.broken("reset", str(error))

    def _took_too_long(self, timeout: float) -> None:
        self.connecting_failed(f"TLS: no hand-shake within {timeout:g} s")
        self.abort()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
