"""The hand-shake of one connection towards a service, made on the threads of hand-shakes a step at a time."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.interfaces.tls import HandshakeThreads
from accessgw.upstreams.tls import ClientTls

log = Logger()

HELD = 64 * 1024
"""Bytes of ciphertext that may wait while a step runs; above, the connection is not read."""


class HandshakeOwner(Protocol):
    """The connection. Called on the reactor's thread; `established` or `handshake_failed` comes once, at the end."""

    def send_handshake(self, data: bytes) -> None:
        """A flight; the transport may be gone."""

    def established(self, plaintext: list[bytes], ciphertext: bytes) -> None:
        """The server has proved who it is. `plaintext` came right behind, and `ciphertext` is still to be decrypted."""

    def handshake_failed(self, message: str) -> None:
        """It has not, or the connection has ended before."""


class ClientHandshake:
    """A HandshakeStep, again and again, until the server has proved who it is.

    Only the first flight is made on the reactor's thread: a key share, and no signature. While a step runs the thread has
    the ClientTls, and what comes waits here. An end of the connection waits for the step, too: what had come before
    may say why it ended.
    """

    __slots__ = ("_abandoned", "_answer", "_defect", "_held", "_inbox", "_lane", "_lost", "_owner", "_paused", "_plaintext",
                 "_running", "_tls", "_transport", "_work")  # fmt: skip

    def __init__(self, tls: ClientTls, threads: HandshakeThreads, owner: HandshakeOwner) -> None:
        self._tls = tls
        self._lane = threads.lane()
        self._owner = owner
        self._transport: Any = None
        self._inbox: list[bytes] = []
        self._held = 0
        self._work = b""
        self._running = False
        self._paused = False
        self._lost = ""
        """Why the connection has ended, once it has."""
        self._abandoned = False
        """It is over."""
        # What the last step brought:
        self._answer = b""
        self._plaintext: list[bytes] = []
        self._defect: BaseException | None = None

    # ------------------------------------------------------------------ the reactor's thread

    def start(self, transport: Any) -> None:
        """TCP is connected: send the first flight."""
        self._transport = transport
        self._owner.send_handshake(self._tls.start())

    def feed(self, data: bytes) -> None:
        """Ciphertext of the server."""
        if self._abandoned:
            return
        self._inbox.append(data)
        self._held += len(data)
        self._go_on()
        if self._held > HELD and not self._paused:
            self._paused = True
            self._transport.pauseProducing()

    def lost(self, message: str) -> None:
        """The connection has ended."""
        self._transport = None
        self._lost = message
        if not self._running or self._abandoned:
            self._fail(message)

    def abandon(self) -> None:
        """Nobody wants the connection any more: forget what waits. The owner hears at most of its loss."""
        self._abandoned = True
        self._inbox.clear()
        if self._lost:
            self._fail(self._lost)

    def _go_on(self) -> None:
        if not self._running and self._inbox:
            self._work = self._take()
            self._running = True
            # Calls wait for it, and there are few: it goes before those of devices that have not begun.
            self._lane.submit(self, True)

    def _take(self) -> bytes:
        inbox, self._inbox, self._held = self._inbox, [], 0
        return inbox[0] if len(inbox) == 1 else b"".join(inbox)

    def _fail(self, message: str) -> None:
        self._abandoned = True
        self._lost = ""
        self._owner.handshake_failed(message)

    def done(self) -> None:
        self._running = False
        if self._abandoned:
            return
        tls, defect = self._tls, self._defect
        if defect is not None:
            self._defect = None
            log.failure("A hand-shake with a service", Failure(defect))
            self._fail(f"internal error: {type(defect).__name__}")
            return
        if self._answer and self._transport is not None:
            answer, self._answer = self._answer, b""
            self._owner.send_handshake(answer)
        if tls.failure is not None:
            self._fail(str(tls.failure))
        elif tls.closed and not self._plaintext:
            # It would read no request, and none that is sent could be taken back.
            self._fail("the server has ended the connection")
        elif tls.ready and not self._lost:
            self._finish()
        else:
            self._go_on()
            if self._lost and not self._running:
                self._fail(self._lost)
            else:
                self._read_again()

    def _finish(self) -> None:
        self._abandoned = True
        self._tls.keep_session()
        plaintext, self._plaintext = self._plaintext, []
        ciphertext = self._take()
        self._read_again()
        try:
            self._owner.established(plaintext, ciphertext)
        except Exception:
            # As the reactor does where dataReceived() raises: nobody else would end it.
            log.failure("A connection to a service")
            if self._transport is not None:
                self._transport.abortConnection()

    def _read_again(self) -> None:
        if self._paused and self._held <= HELD and self._transport is not None:
            self._paused = False
            self._transport.resumeProducing()

    # ------------------------------------------------------------------ a thread of hand-shakes

    def run(self) -> None:
        if self._abandoned:
            return
        data, self._work = self._work, b""
        try:
            self._plaintext += self._tls.shake(data)
            self._answer = self._tls.to_send()
        except BaseException as error:  # a panic of cryptography's is no Exception, and would end the thread
            self._defect = error
