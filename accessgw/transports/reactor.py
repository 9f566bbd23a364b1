"""Twisted's epoll reactor without the log context that it makes around every event.

A read event costs stock Twisted some 2.5 us of context, logger and checks before the descriptor sees it, which is as
much as the system call that follows. Everything else is Twisted's own; what is not a plain read takes its way.
"""

from __future__ import annotations

import select
from typing import Any

from twisted.internet import epollreactor
from twisted.internet.main import installReactor
from twisted.logger import Logger

log = Logger()

MAX_EVENTS = 256
"""Descriptors served between two looks at the delayed calls: what is due need not wait for a flood of reads."""


class LeanReactor(epollreactor.EPollReactor):
    """An EPollReactor whose read events go straight to the descriptor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # inherited from Twisted, unannotated
        self._forgotten: set[int] = set()
        """Descriptors closed in this iteration, whose events may still be to come; a new file may have their numbers."""

    def doPoll(self, timeout: float | None) -> None:
        """Wait for events, at most `timeout` seconds (None: as long as it takes), and serve them."""
        wait = -1.0 if timeout is None else timeout
        # PEP 475: the poll goes on by itself after a signal whose handler raises nothing.
        ready = self._poller.poll(wait, MAX_EVENTS)
        selectables: dict[int, Any] = self._selectables
        self._forgotten.clear()
        for fd, event in ready:
            selectable = selectables.get(fd)
            if selectable is None:
                continue
            if event != select.EPOLLIN:
                if fd in self._forgotten:
                    continue  # its hang-up would end its successor; what is the successor's own comes again
                self._doReadOrWrite(selectable, fd, event)  # type: ignore[no-untyped-call]  # inherited from Twisted, unannotated
                continue
            try:
                why = selectable.doRead()
            except BaseException as error:
                log.failure("{descriptor} raised at doRead", descriptor=selectable)
                why = error
            if why:
                self._disconnectSelectable(selectable, why, True)  # type: ignore[no-untyped-call]  # inherited from Twisted, unannotated

    doIteration = doPoll

    def addReader(self, reader: Any) -> None:
        """As Twisted's, in one step for what is not known yet."""
        fd = reader.fileno()
        if fd not in self._reads and fd not in self._writes:
            try:
                self._poller.register(fd, select.EPOLLIN)
            except OSError:
                pass  # Twisted's way knows what cannot be polled, and raises for the rest
            else:
                self._reads.add(fd)
                self._selectables[fd] = reader
                return
        super().addReader(reader)  # type: ignore[no-untyped-call]  # inherited from Twisted, unannotated

    def removeReader(self, reader: Any) -> None:
        """As Twisted's, in one step for what is only read."""
        fd = reader.fileno()
        if fd in self._reads and fd not in self._writes and self._selectables.get(fd) is reader:
            del self._selectables[fd]
            self._poller.unregister(fd)
            self._reads.remove(fd)
        else:
            super().removeReader(reader)  # type: ignore[no-untyped-call]  # inherited from Twisted, unannotated

    def forget(self, descriptor: Any) -> None:
        """As removeReader and removeWriter, for one that is closed right after it: with its last descriptor the kernel takes a
        file out of the set by itself (epoll(7), questions 6 and 7). (A child between fork and exec has another for a moment:
        events of a file that nobody here has any more are passed over.)"""
        fd = descriptor.fileno()
        if self._selectables.get(fd) is descriptor:
            del self._selectables[fd]
            self._reads.discard(fd)
            self._writes.discard(fd)
            self._forgotten.add(fd)


def install() -> None:
    """Make it the reactor of this process; nothing may have imported another."""
    installReactor(LeanReactor())
