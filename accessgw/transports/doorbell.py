"""Calls of other threads to the reactor's, by an eventfd: what callFromThread() does, without its log context and pipe."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from accessgw.core.interfaces.clock import DescriptorReactor

_log = Logger()


@implementer(IReadDescriptor)
class Doorbell:
    """`call` is for any thread; the rest is for the reactor's."""

    __slots__ = ("_calls", "_fd", "_reactor")

    def __init__(self, reactor: DescriptorReactor) -> None:
        self._reactor = reactor
        self._calls: deque[Callable[[], None]] = deque()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def start(self) -> None:
        """Answer from now on; calls until then wait."""
        self._reactor.addReader(self)

    def stop(self) -> None:
        """No thread calls any more. Idempotent."""
        if self._fd >= 0:
            self._reactor.removeReader(self)
            os.close(self._fd)
            self._fd = -1

    def call(self, function: Callable[[], None]) -> None:
        """Call it on the reactor's thread, soon; in the order of the calls."""
        self._calls.append(function)
        os.eventfd_write(self._fd, 1)

    # ------------------------------------------------------------------ as the reactor sees it

    def fileno(self) -> int:
        return self._fd

    def logPrefix(self) -> str:
        return "doorbell"

    def doRead(self) -> None:
        os.eventfd_read(self._fd)
        calls = self._calls
        for _ in range(len(calls)):
            try:
                calls.popleft()()
            except Exception:
                _log.failure("A call from another thread raised")

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops."""
