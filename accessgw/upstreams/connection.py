"""One TCP or Unix connection to an endpoint, carrying one HTTP/1.1 exchange at a time."""

from __future__ import annotations

import socket
from typing import Any, Protocol, cast

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import ClientFactory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from accessgw.upstreams.address import Address
from protocols.errors import RemoteError
from protocols.http import ClientConnection
from protocols.http.events import Headers, HttpEvent


class ConnectionOwner(Protocol):
    """Who opened the connection. `connected` or `connect_failed` comes first, `ended` once after `connected`."""

    def connected(self, connection: UpstreamConnection) -> None: ...

    def connect_failed(self, connection: UpstreamConnection, message: str) -> None: ...

    def ended(self, connection: UpstreamConnection) -> None: ...


class ConnectionUser(Protocol):
    """The exchange that has the connection now."""

    def received(self, events: list[HttpEvent]) -> None: ...

    def drained(self) -> None:
        """Everything sent so far was handed to the kernel."""

    def broken(self, kind: str, message: str) -> None:
        """There will be no (further) response: kind `reset` or `protocol`, or `connect` when the server has refused
        the connection without a look at the request. The connection is gone."""


@implementer(IPullProducer)
class UpstreamConnection(TwistedProtocol):
    """Writes past Twisted's buffer as long as that is empty: a request costs one send() and no epoll_ctl().

    Once the kernel takes less than everything, the rest goes through the transport, and we register
    as its pull producer just to learn when that is empty again.
    """

    def __init__(self, owner: ConnectionOwner) -> None:
        self.owner = owner
        self.user: ConnectionUser | None = None
        self.http = ClientConnection()
        self.requests = 0
        self.left = False
        """Bytes of the present request were handed to the kernel."""
        self.idle_since = 0.0
        self._transport: Any = None
        self._socket: Any = None
        self._connector: Any = None
        self._buffering = False
        self._registering = False
        self._paused = False
        self._broken = False

    # ------------------------------------------------------------------ opening and closing

    def connect(self, reactor: Any, address: Address, timeout: float) -> None:
        """Start to connect; the owner hears of the outcome in a later turn."""
        factory = _Factory(self)
        if address.path:
            self._connector = reactor.connectUNIX(address.path, factory, timeout=timeout)
        else:
            self._connector = reactor.connectTCP(address.host, address.port, factory, timeout=timeout)

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self._connector = None
        self._transport = transport
        handle = getattr(transport, "getHandle", None)
        self._socket = handle() if handle is not None else None
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        self._opened()

    def _opened(self) -> None:
        """There is a transport."""
        self.owner.connected(self)

    def connecting_failed(self, message: str) -> None:
        """Called by the factory."""
        self._connector = None
        self.owner.connect_failed(self, message)

    def connectionLost(self, reason: Failure = cast(Failure, None)) -> None:
        self._transport = None
        user = self.user
        if user is not None:
            try:
                if not isinstance(reason.value, ConnectionDone):
                    raise RemoteError(502, f"the connection broke: {reason.getErrorMessage()}")
                self._receive_eof()
            except RemoteError as error:
                self.user = None
                user.broken("reset", str(error))
            else:
                user.received(self.http.events())
        self.owner.ended(self)

    def _receive_eof(self) -> None:
        """The peer ended the connection; RemoteError when something is missing."""
        self.http.receive_eof()

    @property
    def usable(self) -> bool:
        """Open and ready for another request."""
        return self._transport is not None and not self._buffering and not self._broken and self.http.reusable

    def alive(self) -> bool:
        """Look whether the peer has closed (or said something) while the connection was idle."""
        if self._socket is None:
            return True
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """End it in order; at once when bytes of ours still wait, since nobody wants them any more."""
        self.user = None
        if self._transport is not None:
            if self._buffering:
                self._transport.abortConnection()
            else:
                self._end()

    def _end(self) -> None:
        self._transport.loseConnection()

    def abort(self) -> None:
        """End it at once, connected or not; the present user hears nothing more."""
        self.user = None
        if self._transport is not None:
            self._transport.abortConnection()
        elif self._connector is not None:
            connector, self._connector = self._connector, None
            connector.stopConnecting()

    # ------------------------------------------------------------------ one exchange

    def begin(
        self, user: ConnectionUser, method: str, target: str, headers: Headers, *, body: bytes = b"", more: bool = False
    ) -> bool:
        """Send a request; True when all of it was handed to the kernel. LocalError when HTTP does not allow it, and
        then the connection is as it was."""
        data = self.http.send_request(method, target, headers, body, more)
        self.user = user
        self.requests += 1
        self.left = False
        return self._send(data)

    def send_data(self, data: bytes, more: bool) -> bool:
        """The next part of the request's body; True when all was handed to the kernel."""
        return self._send(self.http.send_data(data, more))

    def pause(self) -> None:
        """Stop reading."""
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pauseProducing()

    def resume(self) -> None:
        """Read again."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        http, user = self.http, self.user
        try:
            http.receive(data)
        except RemoteError as error:
            events = http.events()
            if user is not None and events:
                user.received(events)
            if self.user is not None:
                user, self.user = self.user, None
                user.broken("protocol", str(error))
            self.abort()
            return
        if user is not None:
            events = http.events()
            if events:
                user.received(events)

    def _send(self, data: bytes) -> bool:
        if self._transport is None or self._broken:
            return False
        return self._write(data)

    def _write(self, data: bytes) -> bool:
        """True when all of it was handed to the kernel."""
        if self._socket is not None and not self._buffering:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._send_failed()
                return False
            if sent:
                self.left = True
                if sent == len(data):
                    return True
                data = data[sent:]
        self.left = True
        self._transport.write(data)
        if not self._buffering:
            self._buffering = True
            self._registering = True
            self._transport.registerProducer(self, False)
            self._registering = False
        return False

    def _send_failed(self) -> None:
        # The transport would report what is left of the error as an orderly end.
        self._broken = True
        self._transport.abortConnection()

    # ------------------------------------------------------------------ IPullProducer

    def resumeProducing(self) -> None:
        if self._registering or not self._buffering:
            return
        self._buffering = False
        self._transport.unregisterProducer()
        if self.user is not None:
            self.user.drained()

    def stopProducing(self) -> None:
        self._buffering = False


class _Factory(ClientFactory):
    noisy = False

    def __init__(self, connection: UpstreamConnection) -> None:
        self._connection = connection

    def buildProtocol(self, addr: Any) -> UpstreamConnection:
        return self._connection

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self._connection.connecting_failed(reason.getErrorMessage())
