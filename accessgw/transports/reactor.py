"""Twisted's epoll reactor without the log context that it makes around every event, and with an end of its turns.

A read event costs stock Twisted some 2.5 us of context, logger and checks before the descriptor sees it, which is as
much as the system call that follows. A delayed call of 0 seconds costs as much again; at_turn_end() is a list.
Everything else is Twisted's own; what is not a plain read takes its way.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from time import monotonic
from typing import Any

from twisted.internet import epollreactor
from twisted.internet.main import installReactor
from twisted.logger import Logger

log = Logger()

MAX_EVENTS = 256
"""Descriptors that one poll tells of."""
SLICE = 0.001
"""Seconds for which a turn serves descriptors: what is due, and what a turn does at its end, need not wait for a flood of
reads. Who is not served then comes first in the next turn."""
_LOOK_EVERY = 4
"""Descriptors between two looks at the clock."""


class LeanReactor(epollreactor.EPollReactor):
    """An EPollReactor whose read events go straight to the descriptor."""

    def __init__(self) -> None:
        self._ends: list[Callable[[], None]] = []
        self.at_turn_end: Callable[[Callable[[], None]], None] = self._ends.append
        """Call the argument once, after every descriptor that was ready and every delayed call that was due, before the
        reactor waits again; from within such a call, in the next turn. Only from the reactor's thread."""
        self._alone = False
        """One descriptor was ready, and it is being served."""
        self._left: set[int] = set()
        """Descriptors that were ready in the last turn, which was over before they were served."""
        super().__init__()  # type: ignore[no-untyped-call]  # inherited from Twisted, unannotated
        self._forgotten: set[int] = set()
        """Descriptors closed in this iteration, whose events may still be to come;
        a new file may have their numbers."""

    def turn_is_over(self) -> bool:
        """Whether nothing is known that this turn has yet to do, after what is being done now."""
        return self._alone and not (self._ends or self._newTimedCalls or self.threadCallQueue)

    def runUntilCurrent(self) -> None:
        """As Twisted's; most turns have nothing for it."""
        if not (self.threadCallQueue or self._newTimedCalls or self._justStopped):
            pending = self._pendingTimedCalls
            if not pending or pending[0].time > self.seconds():
                return
        super().runUntilCurrent()

    def doPoll(self, timeout: float | None) -> None:
        """Wait for events, at most `timeout` seconds (None: as long as it takes), and serve them."""
        ends = self._ends
        if ends:
            calls = ends[:]
            ends.clear()
            running = self.running
            for call in calls:
                try:
                    call()
                except BaseException:  # the others have been taken off the list
                    log.failure("{call} raised at the end of a turn", call=call)
            if ends or self._justStopped or self.running is not running:
                timeout = 0.0  # whoever stopped it would otherwise wait for somebody's next event
            elif timeout is None or timeout:
                timeout = self.timeout()  # what was ordered or moved may be due sooner than all that was known
        wait = -1.0 if timeout is None else timeout
        # PEP 475: the poll goes on by itself after a signal whose handler raises nothing.
        ready = self._poller.poll(wait, MAX_EVENTS)
        left = self._left
        if left:
            ready.sort(key=lambda one: one[0] not in left)  # the others stay in the kernel's order, which is a fair one
            left.clear()
        self._alone = len(ready) == 1
        selectables: dict[int, Any] = self._selectables
        self._forgotten.clear()
        served, until = 0, monotonic() + SLICE
        for fd, event in ready:
            served += 1
            if not served % _LOOK_EVERY and monotonic() > until:
                left.update(one for one, _ in ready[served - 1 :])
                break
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
        self._alone = False

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
        """As removeReader and removeWriter, for one that is closed right after it: with its last descriptor the kernel
        takes a file out of the set by itself (epoll(7), questions 6 and 7). (A child between fork and exec has another
        for a moment: events of a file that nobody here has any more are passed over.)"""
        fd = descriptor.fileno()
        if self._selectables.get(fd) is descriptor:
            del self._selectables[fd]
            self._reads.discard(fd)
            self._writes.discard(fd)
            self._forgotten.add(fd)


def install() -> None:
    """Make it the reactor of this process; nothing may have imported another."""
    installReactor(LeanReactor())
