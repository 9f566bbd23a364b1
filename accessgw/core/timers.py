"""The timing wheel: time-outs by the hundred thousand for one delayed call of the reactor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from accessgw.core.interfaces.clock import Clock, Timer

_log = Logger()

TICK = 0.25
"""Seconds per slot: how late a time-out may come on an idle reactor."""
SLOTS = 256
SLICE = 0.002
"""Seconds of the reactor that one turn may spend on time-outs."""
_STRIDE = 16
"""Entries looked at between two looks at the time."""


class WheelTimer:
    """One time-out in the wheel. While it has a callback it sits in exactly one slot."""

    __slots__ = ("_callback", "_due", "_slot", "_until", "_wheel")

    def __init__(self, wheel: TimingWheel, due: float, callback: Callable[[], None]) -> None:
        self._wheel = wheel
        self._due = due
        self._until = math.inf
        self._slot = 0
        """Where it is; the tick itself would be an object of its own for each."""
        self._callback: Callable[[], None] | None = callback

    def touch(self, delay: float) -> None:
        """Move it to `delay` seconds from now. Later is only noted, and found when its slot comes up."""
        due = self._wheel.seconds() + delay
        if due < self._due and self._callback is not None:
            self._due = due
            self._wheel.advance(self)
        else:
            self._due = due

    def bound(self, at: float) -> None:
        """However it is touched, it is due at this second of the clock; infinity takes the bound away."""
        self._until = at
        if at < self._due and self._callback is not None:
            self._wheel.advance(self)

    def cancel(self) -> None:
        if self._callback is not None:
            self._callback = None
            self._wheel.discard(self)


class TimingWheel:
    """Timers in 256 slots of a quarter second; what is due later is re-slotted as the wheel turns.

    `clock` is IReactorTime; one callLater is pending per tick, none while there are no timers. A
    turn stops after `SLICE` seconds by `seconds` (the clock's own unless given) and goes on in the
    next one, so that a million time-outs in one slot do not hold the reactor.
    """

    def __init__(self, clock: Clock, seconds: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self.seconds: Callable[[], float] = clock.seconds
        self._stopwatch: Callable[[], float] = clock.seconds if seconds is None else seconds
        self._slots: list[set[WheelTimer]] = [set() for _ in range(SLOTS)]
        self._batch: set[WheelTimer] = set()
        """The slot that is being emptied."""
        self._next = 0
        """First tick whose slot was not taken out yet."""
        self._pending = 0
        self._call: Any = None
        self._turning = False

    def __len__(self) -> int:
        return self._pending

    def schedule(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` `delay` seconds from now or up to a tick later; never earlier."""
        now = self.seconds()
        if self._call is None and not self._turning:
            self._next = int(now / TICK) + 1
            self._call = self._clock.callLater(max(0.0, self._next * TICK - now), self._turn)
        timer = WheelTimer(self, now + delay, callback)
        self._pending += 1
        self._insert(timer)
        return timer

    def advance(self, timer: WheelTimer) -> None:
        """Re-slot a timer that has become due earlier (called by WheelTimer.touch)."""
        self._slots[timer._slot].discard(timer)
        self._batch.discard(timer)
        self._insert(timer)

    def discard(self, timer: WheelTimer) -> None:
        """Take out a cancelled timer (called by WheelTimer.cancel)."""
        self._slots[timer._slot].discard(timer)
        self._batch.discard(timer)
        self._pending -= 1

    def _insert(self, timer: WheelTimer) -> None:
        first = self._next
        due, until = timer._due, timer._until
        tick = math.ceil((due if due < until else until) / TICK)
        if tick < first:
            tick = first
        elif tick >= first + SLOTS:
            tick = first + SLOTS - 1
        timer._slot = slot = tick % SLOTS
        self._slots[slot].add(timer)

    def _turn(self) -> None:
        self._call = None
        now = self.seconds()
        last = int(now / TICK)
        # After a long stop of the process every slot is due once, not once per missed revolution.
        self._next = max(self._next, last - SLOTS + 1)
        self._turning = True
        self._work(now, last)
        self._turning = False
        if self._pending:
            delay = 0.0 if self._batch or self._next <= last else max(0.0, self._next * TICK - self.seconds())
            self._call = self._clock.callLater(delay, self._turn)

    def _work(self, now: float, last: int) -> None:
        deadline = self._stopwatch() + SLICE
        countdown = _STRIDE
        while self._pending:
            if not self._batch:
                if self._next > last:
                    return
                index = self._next % SLOTS
                self._next += 1
                self._batch, self._slots[index] = self._slots[index], self._batch
                continue
            self._look_at(self._batch.pop(), now)
            countdown -= 1
            if not countdown:
                countdown = _STRIDE
                if self._stopwatch() >= deadline:
                    return

    def _look_at(self, timer: WheelTimer, now: float) -> None:
        callback = timer._callback
        if callback is None:
            return
        if timer._due > now and timer._until > now:
            self._insert(timer)
            return
        timer._callback = None
        self._pending -= 1
        try:
            callback()
        except Exception:
            _log.failure("A time-out's callback raised")
