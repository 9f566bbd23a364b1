"""A reactor descriptor on a stream socket that sends first and buffers the rest.

Twisted's own transports cost twice as much per event (log context, write queue, epoll_ctl around
every write); this one registers itself with the reactor and talks to the socket directly.
"""

from __future__ import annotations

import errno
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from accessgw.core.interfaces.clock import DescriptorReactor
from accessgw.model.counters import TransportCounters
from accessgw.model.reasons import CloseReason

MOST_HELD = 16 * 1024
"""Bytes that wait for the end of a step. What writes as long as nothing is buffered must not fill this instead."""


@implementer(IReadWriteDescriptor)
class StreamDescriptor(ABC):
    """The sending half and the reactor's side of a connection; StreamConnection is the rest."""

    __slots__ = ("_counters", "_fd", "_held", "_out", "_reactor", "_sock", "buffered", "bytes_out")

    def __init__(self, sock: socket.SocketType, reactor: DescriptorReactor, counters: TransportCounters) -> None:
        """`sock` is non-blocking."""
        self.buffered = 0
        self.bytes_out = 0
        self._sock = sock
        self._fd = sock.fileno()
        self._reactor = reactor
        self._counters = counters
        self._out: bytearray | None = None
        """What waits for the kernel."""
        self._held: bytearray | None = None
        """What waits for the end of a step, see _hold()."""

    # ------------------------------------------------------------------ for the subclass

    @abstractmethod
    def _emptied(self) -> None:
        """The kernel took the last buffered byte."""

    @abstractmethod
    def _grown(self) -> None:
        """`buffered` has become more."""

    @abstractmethod
    def _lost(self, reason: CloseReason, detail: str) -> None:
        """The connection is over; close the socket. Called any number of times."""

    @abstractmethod
    def doRead(self) -> None:
        """The socket is readable. Never returns a reason: it ends the connection itself."""

    def _send(self, data: bytes | bytearray) -> None:
        held = self._held
        if held is not None:
            held += data
            if len(held) < MOST_HELD:
                return
            self._held = None
            data = held
        out = self._out
        if out is None:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._broken(error.errno or 0)
                return
            self.bytes_out += sent
            self._counters.bytes_out += sent
            if sent == len(data):
                return
            self._out = out = bytearray(memoryview(data)[sent:])
            self._reactor.addWriter(self)
        else:
            out += data
        self.buffered = len(out)
        self._grown()

    def _hold(self, data: bytes) -> None:
        """Send it with what is sent until _send_held() or as much as fits MOST_HELD, in one system call and one segment;
        behind what is buffered, like all the rest. Within a step there may be another one, whose bytes are added."""
        if self._held is None:
            self._held = bytearray(data)
        elif data:
            self._send(data)

    def _send_held(self) -> None:
        held, self._held = self._held, None
        if held:
            self._send(held)

    def _broken(self, error: int) -> None:
        """The socket failed with this errno."""
        reason = CloseReason.PEER_TIMEOUT if error == errno.ETIMEDOUT else CloseReason.PEER_RESET
        self._lost(reason, os.strerror(error))

    def _close_socket(self, forget: Callable[[StreamDescriptor], None]) -> None:
        """Leave the reactor by `forget` and close; the kernel still sends what it has taken."""
        forget(self)
        self._fd = -1
        self._sock.close()
        self._out = self._held = None
        self.buffered = 0

    # ------------------------------------------------------------------ as the reactor sees it

    def fileno(self) -> int:
        return self._fd

    def logPrefix(self) -> str:
        return "connection"

    def doWrite(self) -> None:
        """Send what is buffered."""
        out = self._out
        if out is None:
            return
        try:
            sent = self._sock.send(out)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._broken(error.errno or 0)
            return
        self.bytes_out += sent
        self._counters.bytes_out += sent
        del out[:sent]
        self.buffered = len(out)
        if out:
            return
        self._out = None
        self._reactor.removeWriter(self)
        self._emptied()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor saw a hang-up with nothing left to read, or is stopping."""
        try:
            error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        except OSError as problem:
            error = problem.errno or 0
        if error:
            self._broken(error)
        elif isinstance(reason.value, ConnectionDone):
            self._lost(CloseReason.PEER_CLOSED, "")
        else:
            self._lost(CloseReason.PEER_RESET, "hang-up")

    readConnectionLost = connectionLost
