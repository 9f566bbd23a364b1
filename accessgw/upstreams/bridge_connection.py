"""A connection to another MQTT broker over TCP: what the transport holds is counted, and told."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from accessgw.core.interfaces.mqtt import DialUser

FULL = 65536
"""Bytes that the transport holds when it says that it has enough."""


@implementer(IPushProducer)
class BridgeConnection(TwistedProtocol):
    """A DialedConnection, and the producer by which the transport tells how much it holds."""

    def __init__(self, user: DialUser) -> None:
        self._user: DialUser | None = user
        self.connecting: Any = None
        """The Deferred of the endpoint, until it has fired."""
        self._up = False
        self._full = False
        self._since_full = 0

    @property
    def wanted(self) -> bool:
        """Its user still waits for it, or has it."""
        return self._user is not None

    @property
    def buffered(self) -> int:
        return FULL + self._since_full if self._full else 0

    def write(self, data: bytes) -> None:
        if self._up:
            if self._full:
                self._since_full += len(data)
            self._write(data)

    def pause(self) -> None:
        if self._up:
            cast(Any, self.transport).pauseProducing()

    def resume(self) -> None:
        if self._up:
            cast(Any, self.transport).resumeProducing()

    def close(self) -> None:
        self._user = None
        if self._up:
            self._leave()
        else:
            self.abort()

    def abort(self) -> None:
        self._user = None
        if self.connecting is not None:
            connecting, self.connecting = self.connecting, None
            connecting.cancel()
        if self.transport is not None:
            self._up = False
            cast(Any, self.transport).abortConnection()

    def failed(self, failure: Failure) -> None:
        """It could not be opened."""
        self.connecting = None
        if not failure.check(CancelledError):
            self.end(told(failure))

    def end(self, error: str) -> None:
        """Tell the user that it has ended, unless it knows."""
        user, self._user = self._user, None
        if user is not None:
            user.lost(error)

    # ------------------------------------------------------------------ what is another thing over TLS

    def _opened(self) -> None:
        """TCP is connected."""
        self._come_up()

    def _write(self, data: bytes) -> None:
        cast(Any, self.transport).write(data)

    def _leave(self) -> None:
        """Up, and to be ended once all is written."""
        self._up = False
        cast(Any, self.transport).unregisterProducer()
        cast(Any, self.transport).loseConnection()

    def _come_up(self) -> None:
        if self._user is not None:
            self._up = True
            cast(Any, self.transport).registerProducer(self, True)
            self._user.connected()

    # ------------------------------------------------------------------ what Twisted calls

    def connectionMade(self) -> None:
        self.connecting = None
        transport = cast(Any, self.transport)
        if self._user is None:
            transport.abortConnection()
            return
        transport.setTcpNoDelay(True)
        self._opened()

    def dataReceived(self, data: bytes) -> None:
        if self._user is not None:
            self._user.received(data)

    def connectionLost(self, reason: Failure = cast(Failure, None)) -> None:
        self._up = False
        self.end(told(reason))

    def pauseProducing(self) -> None:
        if not self._full:
            self._full = True
            self._since_full = 0

    def resumeProducing(self) -> None:
        if self._full:
            self._full = False
            if self._user is not None:
                self._user.drained()

    def stopProducing(self) -> None:
        self._full = False


def told(failure: Failure) -> str:
    """One line for operators."""
    error = failure.value
    if isinstance(error, ConnectionDone):
        return "the other side closed the connection"
    return f"{type(error).__name__}: {failure.getErrorMessage()}"[:300]
