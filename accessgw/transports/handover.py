"""Hands live TLS connections to another process: descriptors by SCM_RIGHTS, keys and unsent bytes beside them.

One side offers, the other accepts, and only the commit lets it use the keys: never do two processes write under one key,
since that would repeat a nonce. Until the acceptance has come the connection stays where it was, and goes on there when the
other process dies or refuses; from then on it is the other's, or, if the commit does not reach it, nobody's.

The channel is a stream socket of the Unix family between processes that trust each other: what passes holds the keys of
connections. A frame: kind (1) | number of the offer (4) | length (4) | body, big-endian; each OFFER comes with one
descriptor. Bytes of Python cannot be overwritten: both sides drop the state as soon as it is used.
"""

from __future__ import annotations

import os
import socket
import struct
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IFileDescriptorReceiver
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from accessgw.core.interfaces.clock import Timer, Timers
from accessgw.core.interfaces.handover import MovableFactory
from accessgw.model.identity import ConnectionInfo
from accessgw.model.reasons import CloseReason
from accessgw.transports.tls_records import RecordConnection, Released
from protocols.tls.record_state import DetachedState

_log = Logger()

OFFER, ACCEPT, REFUSE, COMMIT, CANCEL = range(1, 6)
WINDOW = 32
"""Offers under way at a time. A connection is released when its offer is sent, so that it stands still but for a moment."""
LARGEST = 1 << 24
"""Bytes of a body: far more than a connection may have unsent."""
_HEAD = struct.Struct("!BII")


class _Offered(msgspec.Struct, array_like=True):
    """The body of an OFFER."""

    info: ConnectionInfo
    binding: bytes
    records: bytes


@dataclass(slots=True)
class _Under:
    """An offer under way."""

    connection: RecordConnection
    released: Released
    descriptor: int
    """A copy, which is ours until the other side has answered: the connection may end before, and its number be used
    again while the frame still waits."""
    told: Deferred[bool]
    overdue: Timer


class _Channel(Protocol, ABC):
    """Frames on the transport."""

    transport: Any

    def __init__(self) -> None:
        self._received = b""

    def dataReceived(self, data: bytes) -> None:
        data = self._received + data
        at = 0
        while len(data) - at >= _HEAD.size:
            kind, number, size = _HEAD.unpack_from(data, at)
            if size > LARGEST:
                self._broken(f"expected a body of at most {LARGEST} bytes, got one of {size}")
                return
            end = at + _HEAD.size + size
            if end > len(data):
                break
            self._frame(kind, number, data[at + _HEAD.size : end])
            at = end
        self._received = data[at:]

    @abstractmethod
    def _frame(self, kind: int, number: int, body: bytes) -> None:
        """A whole one has come."""

    def _say(self, kind: int, number: int, body: bytes = b"") -> None:
        if self.transport is not None:
            self.transport.write(_HEAD.pack(kind, number, len(body)) + body)

    def _broken(self, why: str) -> None:
        _log.error("The channel for handing over connections is closed: {why}", why=why)
        self._abort()

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abortConnection()


class HandoverSender(_Channel):
    """The process that gives its connections away."""

    def __init__(self, timers: Timers, timeout: float = 5.0) -> None:
        """`timeout`: seconds for an answer; without one the channel is closed, and all that is under way stays here."""
        super().__init__()
        self._timers = timers
        self._timeout = timeout
        self._under: dict[int, _Under] = {}
        self._waiting: deque[tuple[RecordConnection, Deferred[bool]]] = deque()
        self._number = 0
        self._lost = False

    def offer(self, connection: RecordConnection) -> Deferred[bool]:
        """Hand it over. True: it is the other process's, and over here. False: it stays here, or has ended."""
        told: Deferred[bool] = Deferred()
        self._waiting.append((connection, told))
        self._go_on()
        return told

    def _go_on(self) -> None:
        while self._waiting and (self._lost or len(self._under) < WINDOW):
            connection, told = self._waiting.popleft()
            released = None if self._lost or self.transport is None else connection.release()
            if released is None:
                told.callback(False)
                continue
            self._number = number = (self._number + 1) & 0xFFFFFFFF
            overdue = self._timers.schedule(self._timeout, self._unanswered)
            under = _Under(connection, released, os.dup(connection.fileno()), told, overdue)
            self._under[number] = under
            body = msgspec.msgpack.encode(_Offered(connection.info, released.binding, released.records))
            self.transport.sendFileDescriptor(under.descriptor)
            self._say(OFFER, number, body)

    def _frame(self, kind: int, number: int, body: bytes) -> None:
        under = self._under.get(number)
        if under is None or kind not in (ACCEPT, REFUSE):
            self._broken(f"expected an answer to an offer, got kind {kind} for {number}")
            return
        del self._under[number]
        if kind == REFUSE:
            _log.warn("A connection was not taken over: {why}", why=body.decode(errors="replace"))
            self._take_back(under)
        elif under.connection.surrender():
            # Our keys are gone before the other side may use its own.
            self._say(COMMIT, number)
            self._close(under)
            under.told.callback(True)
        else:
            self._say(CANCEL, number)
            self._close(under)
            under.told.callback(False)
        self._go_on()

    def _unanswered(self) -> None:
        self._broken(f"no answer within {self._timeout} s")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        under, self._under = self._under, {}
        for one in under.values():
            self._take_back(one)
        self._go_on()

    def _take_back(self, under: _Under) -> None:
        self._close(under)
        under.connection.take_back(under.released)
        under.told.callback(False)

    @staticmethod
    def _close(under: _Under) -> None:
        os.close(under.descriptor)
        under.overdue.cancel()


@implementer(IFileDescriptorReceiver)
class HandoverReceiver(_Channel):
    """The process that takes connections over."""

    def __init__(
        self,
        make: Callable[[socket.socket, ConnectionInfo], RecordConnection],
        factories: Mapping[str, MovableFactory],
    ) -> None:
        """`make` gives the connection of a socket before its first byte, as a listener's does; `factories` by ALPN, ""
        for none."""
        super().__init__()
        self._make = make
        self._factories = factories
        self._descriptors: deque[int] = deque()
        self._accepted: dict[int, tuple[int, _Offered]] = {}

    def fileDescriptorReceived(self, descriptor: int) -> None:
        self._descriptors.append(descriptor)

    def _frame(self, kind: int, number: int, body: bytes) -> None:
        if kind == OFFER:
            self._offered(number, body)
            return
        if number not in self._accepted or kind not in (COMMIT, CANCEL):
            self._broken(f"expected an offer or the end of one, got kind {kind} for {number}")
            return
        descriptor, offered = self._accepted.pop(number)
        if kind == COMMIT:
            self._take(descriptor, offered)
        else:
            os.close(descriptor)

    def _offered(self, number: int, body: bytes) -> None:
        """Look at all of it that does not need the keys to be used."""
        if not self._descriptors or number in self._accepted or len(self._accepted) >= WINDOW:
            self._broken(f"expected a new offer with its descriptor, and at most {WINDOW} of them, got {number}")
            return
        descriptor = self._descriptors.popleft()
        try:
            offered = msgspec.msgpack.decode(body, type=_Offered)
            state = DetachedState.from_bytes(offered.records)
            if not state.is_server or state.closed or state.peer_closed:
                raise ValueError("expected the server's side of a connection that goes on")
            if offered.info.alpn not in self._factories:
                raise ValueError(f"nothing speaks {offered.info.alpn!r} here")
        except ValueError as error:
            os.close(descriptor)
            self._say(REFUSE, number, str(error).encode())
            return
        self._accepted[number] = descriptor, offered
        self._say(ACCEPT, number)

    def _take(self, descriptor: int, offered: _Offered) -> None:
        sock = socket.socket(fileno=descriptor)
        sock.setblocking(False)
        offered.info.share_words()
        connection = self._make(sock, offered.info)
        factory = self._factories[offered.info.alpn]
        try:
            connection.adopt(offered.records, lambda made: factory.resume(made, offered.binding))
        except Exception as error:
            _log.failure("Connection {id} was taken over and could not go on", id=connection.info.id)
            connection.abort(CloseReason.INTERNAL, f"{type(error).__name__} at taking over")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        for descriptor, _ in self._accepted.values():
            os.close(descriptor)
        self._descriptors.clear()
        self._accepted.clear()
