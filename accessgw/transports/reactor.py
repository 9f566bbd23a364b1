"""Twisted's epoll reactor without the log context that it makes around every event, and with an end of its turns.

A read event costs stock Twisted some 2.5 us of context, logger and checks before the descriptor sees it, which is as
much as the system call that follows. A delayed call of 0 seconds costs as much again; at_turn_end() is a list.
Stock Twisted looks twice in a turn for what is due, and a connection that says little has every turn for itself.
Everything else is Twisted's own; what is not a plain read takes its way.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from time import monotonic, sleep
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
FEW = 16
"""Descriptors of a turn below which coalescing is worth a pause; where more are served they come together anyway."""
LONGEST = 2_000_000.0
"""Seconds that one poll waits at most; epoll_wait(2) takes milliseconds in an int."""
_LOOK_EVERY = 4
"""Descriptors between two looks at the clock."""
_main_loop = log.failureHandler("Unexpected error in the reactor's main loop")


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
        self._pause = 0.0
        """Of coalesce()."""
        self._busy: Callable[[], bool] = _never
        self._few = False
        """The last turn served few descriptors, and coalescing is on."""
        self._observe: Callable[[float], object] | None = None
        self._began = 0.0
        """When this turn began to serve; 0.0 before the first."""
        super().__init__()  # type: ignore[no-untyped-call]  # inherited from Twisted, unannotated
        self._forgotten: set[int] = set()
        """Descriptors closed in this iteration, whose events may still be to come;
        a new file may have their numbers."""

    def turn_is_over(self) -> bool:
        """Whether nothing is known that this turn has yet to do, after what is being done now."""
        return self._alone and not (self._ends or self._newTimedCalls or self.threadCallQueue)

    def watch_turns(self, observe: Callable[[float], object] | None) -> None:
        """Call the argument with the seconds of each turn, the wait for events not included; None ends it."""
        self._observe = observe

    def coalesce(self, seconds: float, busy: Callable[[], bool] = lambda: True) -> None:
        """As network cards moderate their interrupts: from now on, as long as `busy` says so and few descriptors come in a
        turn, let `seconds` pass before a poll that would wait, so that one turn serves what comes meanwhile. Nothing that
        is due waits for it. 0.0 ends it."""
        self._pause, self._busy = seconds, busy
        self._few = self._few and seconds > 0.0

    def mainLoop(self) -> None:
        """As Twisted's; what raises is logged, and the next turn begins."""
        while self._started:
            with _main_loop:
                while self._started:
                    self.runUntilCurrent()
                    waits = self._end_turn() if self._ends else True
                    self._serve(self.timeout() if waits and self.running else 0.0)
        log.info("Main loop terminated.")

    def runUntilCurrent(self) -> None:
        """As Twisted's; most turns have nothing for it."""
        if not (self.threadCallQueue or self._newTimedCalls or self._justStopped):
            pending = self._pendingTimedCalls
            if not pending or pending[0].time > self.seconds():
                return
        super().runUntilCurrent()

    def timeout(self) -> float | None:
        """As Twisted's: seconds until something is due, None when nothing is known."""
        if self._newTimedCalls:
            self._insertNewDelayedCalls()
        pending = self._pendingTimedCalls
        if not pending:
            return None
        wait: float = pending[0].time - self.seconds()
        return 0.0 if wait < 0.0 else min(wait, LONGEST)

    def doPoll(self, timeout: float | None) -> None:
        """Wait for events, at most `timeout` seconds (None: as long as it takes), and serve them."""
        if self._ends:
            if not self._end_turn():
                timeout = 0.0
            elif timeout is None or timeout:
                due = self.timeout()  # what was ordered or moved may be due sooner than all that was known
                timeout = due if timeout is None else timeout if due is None else min(timeout, due)
        self._serve(timeout)

    doIteration = doPoll

    def _end_turn(self) -> bool:
        """Make the calls that were ordered for now. False: do not wait then. More were ordered; or who was stopped
        would wait for somebody's next event."""
        calls = self._ends[:]
        self._ends.clear()
        running = self.running
        for call in calls:
            try:
                call()
            except BaseException:  # the others have been taken off the list
                log.failure("{call} raised at the end of a turn", call=call)
        return self.running is running and not (self._ends or self._justStopped)

    def _serve(self, timeout: float | None) -> None:
        if self._observe is not None and self._began:
            self._observe(monotonic() - self._began)
        if self._few and timeout != 0.0 and not self._left and self._busy():
            pause = self._pause if timeout is None else min(self._pause, timeout)
            sleep(pause)
            timeout = None if timeout is None else timeout - pause
        # PEP 475: the poll goes on by itself after a signal whose handler raises nothing.
        ready = self._poller.poll(-1.0 if timeout is None else timeout, MAX_EVENTS)
        self._began = began = monotonic()
        left = self._left
        if left:
            ready.sort(key=lambda one: one[0] not in left)  # the others stay in the kernel's order, which is a fair one
            left.clear()
        self._alone = len(ready) == 1
        self._few = self._pause > 0.0 and len(ready) < FEW
        selectables: dict[int, Any] = self._selectables
        self._forgotten.clear()
        served, until = 0, began + SLICE
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
                self._guarded(self._doReadOrWrite, selectable, fd, event)
                continue
            try:
                why = selectable.doRead()
            except BaseException as error:
                log.failure("{descriptor} raised at doRead", descriptor=selectable)
                why = error
            if why:
                self._guarded(self._disconnectSelectable, selectable, why, True)
        self._alone = False

    def _guarded(self, do: Callable[..., object], selectable: Any, *args: object) -> None:
        """What one descriptor raises at its end is nobody else's."""
        try:
            do(selectable, *args)
        except BaseException:
            log.failure("{descriptor} raised at its end", descriptor=selectable)

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


def _never() -> bool:
    return False


def install() -> None:
    """Make it the reactor of this process; nothing may have imported another."""
    installReactor(LeanReactor())
