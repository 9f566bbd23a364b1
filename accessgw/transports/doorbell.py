"""Wakes the reactor's thread from others by an eventfd: what callFromThread() does, without its log context and pipe."""

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
class Bell:
    """Calls `rung` on the reactor's thread, soon and once, however often it was rung since."""

    __slots__ = ("_fd", "_reactor", "_rung")

    def __init__(self, reactor: DescriptorReactor, rung: Callable[[], None]) -> None:
        self._reactor = reactor
        self._rung = rung
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def start(self) -> None:
        """Answer from now on; who rang until then is heard at once."""
        self._reactor.addReader(self)

    def stop(self) -> None:
        """No thread rings any more. Idempotent."""
        if self._fd >= 0:
            self._reactor.removeReader(self)
            os.close(self._fd)
            self._fd = -1

    def ring(self) -> None:
        """From any thread. In C: write an 8-byte number to fileno()."""
        os.eventfd_write(self._fd, 1)

    # ------------------------------------------------------------------ as the reactor sees it

    def fileno(self) -> int:
        return self._fd

    def logPrefix(self) -> str:
        return "doorbell"

    def doRead(self) -> None:
        os.eventfd_read(self._fd)
        self._rung()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops."""


class Doorbell(Bell):
    """Calls of other threads to the reactor's."""

    __slots__ = ("_calls",)

    def __init__(self, reactor: DescriptorReactor) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        super().__init__(reactor, self._answer)

    def call(self, function: Callable[[], None]) -> None:
        """Call it on the reactor's thread, soon; in the order of the calls. From any thread."""
        self._calls.append(function)
        self.ring()

    def _answer(self) -> None:
        calls = self._calls
        for _ in range(len(calls)):
            try:
                calls.popleft()()
            except Exception:
                _log.failure("A call from another thread raised")
