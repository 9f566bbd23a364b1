"""What connections have to send leaves at the end of the reactor's turn, in one write each.

A TLS record costs 22 bytes and a write several microseconds, so whatever one turn brings about for a device
should share them: answers to its calls, answers of upstreams, pushes, credit. One call at the end of the turn
serves all connections of the worker: it runs after every descriptor that was ready and every timer that was
due, before the reactor waits again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from twisted.logger import Logger

from accessgw.core.interfaces.clock import Clock

log = Logger()

SLICE = 0.002
"""Seconds of the reactor that one round of writes may take."""
_STRIDE = 32
MAX_ANSWERING = 8
"""Devices that wait for the end of a turn with what their own bytes have brought about: in a turn that has much to
read, none waits for more than so many others."""


class Flushable(Protocol):
    """Something with bytes to write."""

    def flush(self) -> None: ...


class Turns(Protocol):
    """A reactor that knows of its turns."""

    @property
    def at_turn_end(self) -> Callable[[Callable[[], None]], None]:
        """Calls its argument once, at the end of this turn (of the next one, if this one is ending)."""

    def turn_is_over(self) -> bool:
        """Whether nothing is known that this turn has yet to do."""


class TurnFlusher:
    """Collects who has something to send. `seconds` measures the slice (the clock's unless given)."""

    def __init__(
        self,
        clock: Clock,
        seconds: Callable[[], float] | None = None,
        turns: Turns | None = None,
    ) -> None:
        """Without `turns` a delayed call stands for the end of one, which costs more."""
        self._seconds: Callable[[], float] = clock.seconds if seconds is None else seconds
        self._waiting: deque[Flushable] = deque()
        self._answering: list[Flushable] = []
        self._at_turn_end = _delayed(clock) if turns is None else turns.at_turn_end
        self._turn_is_over = _never if turns is None else turns.turn_is_over
        self._scheduled = False
        self.gathering = False
        """answer() is called by somebody who sends what is written now together with more, at once."""

    def add(self, one: Flushable) -> None:
        """Call its flush() at the end of this turn. Whoever calls does so once until then."""
        self._waiting.append(one)
        if not self._scheduled:
            self._scheduled = True
            self._at_turn_end(self._run)

    def answer(self, one: Flushable) -> None:
        """The same after a batch of its own bytes: before all of add(), among which it may be as well; at once where
        this turn has nothing else to do, or what is written is gathered."""
        if self.gathering or self._turn_is_over():
            one.flush()
            return
        answering = self._answering
        answering.append(one)
        if len(answering) >= MAX_ANSWERING:
            self._answer()
        elif not self._scheduled:
            self._scheduled = True
            self._at_turn_end(self._run)

    def flush(self) -> None:
        """Write all that waits, now: for long work, which counts its writes to its own slice of the reactor."""
        if self._answering:
            self._answer()
        waiting = self._waiting
        while waiting:
            one = waiting.popleft()
            try:
                one.flush()
            except Exception:
                _defect(one)

    def _answer(self) -> None:
        answering, self._answering = self._answering, []
        for one in answering:
            try:
                one.flush()
            except Exception:
                _defect(one)

    def _run(self) -> None:
        if self._answering:
            self._answer()
        waiting = self._waiting
        if waiting:
            until = self._seconds() + SLICE
            # Those that come up while we write have their turn in the next round.
            for count in range(1, len(waiting) + 1):
                one = waiting.popleft()
                try:
                    one.flush()
                except Exception:
                    _defect(one)
                if count % _STRIDE == 0 and self._seconds() >= until:
                    break
        if waiting or self._answering:
            self._at_turn_end(self._run)
        else:
            self._scheduled = False


def _defect(one: Flushable) -> None:
    """Its trouble is nobody else's."""
    log.failure("{one}: a defect at the end of a turn", one=one)


def _never() -> bool:
    return False


def _delayed(clock: Clock) -> Callable[[Callable[[], None]], None]:
    def at_turn_end(call: Callable[[], None]) -> None:
        clock.callLater(0, call)

    return at_turn_end
