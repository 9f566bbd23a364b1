"""The accept loop of one listening socket, which survives running out of descriptors."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from accessgw.core.interfaces.clock import Timer
from accessgw.transports.services import TransportServices

_log = Logger()

ACCEPTS_PER_TURN = 16
"""So that a storm of reconnects leaves the reactor time for those who are connected."""
PAUSE = 0.5
"""Seconds without accepting when the system has no memory or descriptors left."""


@implementer(IReadDescriptor)
class Acceptor:
    """Accepts on a listening socket and hands each connection, non-blocking, to `accepted`.

    Out of descriptors it uses a reserved one to take and drop waiting connections, so that their
    peers see an end at once instead of a time-out (counted as refused: `descriptors`).
    """

    __slots__ = ("_accepted", "_fd", "_kind", "_name", "_reserve", "_resume", "_services", "sock")

    def __init__(
        self,
        name: str,
        sock: socket.socket,
        services: TransportServices,
        accepted: Callable[[socket.SocketType, Any], None],
    ) -> None:
        """`accepted` gets the socket and the peer's address as the socket module gives it; it owns the socket."""
        self._name = name
        self.sock = sock
        self._fd = sock.fileno()
        self._kind = (int(sock.family), int(sock.type), sock.proto)
        self._services = services
        self._accepted = accepted
        self._reserve = _spare_descriptor()
        self._resume: Timer | None = None
        services.reactor.addReader(self)

    def stop(self) -> None:
        """Stop accepting and close the socket."""
        if self._fd < 0:
            return
        self._services.reactor.removeReader(self)
        self._fd = -1
        self.sock.close()
        if self._resume is not None:
            self._resume.cancel()
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None

    def fileno(self) -> int:
        return self._fd

    def logPrefix(self) -> str:
        return self._name

    def connectionLost(self, reason: Failure) -> None:
        self.stop()

    def doRead(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, address = self._accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if not self._survive(error):
                    return
                continue
            try:
                self._accepted(sock, address)
            except Exception:
                _log.failure("Accepting a connection on {name} failed", name=self._name)
                sock.close()
            if self._fd < 0:
                return

    def _accept(self) -> tuple[socket.SocketType, Any]:
        # What socket.accept() does, in half the time: that looks up names of numbers, and asks for defaults.
        descriptor, address = self.sock._accept()  # type: ignore[attr-defined]  # of the C class, in no stub
        family, kind, protocol = self._kind
        sock = socket.SocketType(family, kind, protocol, descriptor)
        sock.setblocking(False)
        return sock, address

    def _survive(self, error: OSError) -> bool:
        """Whether to go on accepting in this turn."""
        if error.errno in {errno.EMFILE, errno.ENFILE}:
            # accept(2) says so even when nobody waits, so only a dropped connection is counted.
            try:
                if self._drop_one():
                    self._services.refuse("descriptors")
                    return True
            except BlockingIOError:
                return False
        elif error.errno in {errno.ENOBUFS, errno.ENOMEM}:
            self._services.refuse("memory")
        else:
            # ECONNABORTED, EPERM (a firewall's refusal) and the network errors of accept(2) belong
            # to that one connection.
            return error.errno not in {errno.EBADF, errno.EINVAL, errno.ENOTSOCK}
        self._services.reactor.removeReader(self)
        self._resume = self._services.timers.schedule(PAUSE, self._try_again)
        return False

    def _drop_one(self) -> bool:
        """Take one waiting connection with the reserved descriptor and drop it.

        BlockingIOError when nobody waits; False when another thread or process was quicker with the
        descriptor.
        """
        if self._reserve is None:
            return False
        os.close(self._reserve)
        self._reserve = None
        try:
            self.sock.accept()[0].close()
        except BlockingIOError:
            raise
        except OSError:
            return False
        finally:
            self._reserve = _spare_descriptor()
        return self._reserve is not None

    def _try_again(self) -> None:
        self._resume = None
        if self._fd >= 0:
            if self._reserve is None:
                self._reserve = _spare_descriptor()
            self._services.reactor.addReader(self)


def _spare_descriptor() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
