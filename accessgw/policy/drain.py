"""How fast connections are told to leave: at a rate, never all at once, and without catching up in a burst.

N connections over T seconds come back somewhere else at no more than 1.2 N/T in any second, even when
the caller was late: what a late turn missed is made good at 5 % above the rate, or T grows.
"""

from __future__ import annotations

INTERVAL = 0.1
"""Seconds between two calls of `release`, as planned."""
CATCH_UP = 1.05
"""How far above the rate lost time is made good; with the interval's granularity it stays below 1.2."""


class DrainPlan:
    """Tells how many of `total` connections to release by now. `rate` is connections per second.

    Connections get `spread` as the GOAWAY's delay: each waits a random part of it, so that the
    batches of single turns blur into an even stream.
    """

    __slots__ = ("_credit", "_last", "_released", "_start", "interval", "rate", "total")

    def __init__(self, total: int, rate: float, now: float, interval: float = INTERVAL) -> None:
        if rate <= 0:
            raise ValueError(f"expected a rate greater than 0, got {rate}")
        self.total = total
        self.rate = rate
        self.interval = interval
        self._start = now
        self._last = now
        self._released = 0
        self._credit = 0.0

    @classmethod
    def over(cls, total: int, seconds: float, now: float, interval: float = INTERVAL) -> DrainPlan:
        """A plan that takes `seconds`; with 0, all leave within one interval."""
        return cls(total, max(total, 1) / max(seconds, interval), now, interval)

    @property
    def remaining(self) -> int:
        """Connections that were not released yet."""
        return self.total - self._released

    @property
    def spread(self) -> float:
        """Seconds over which a released batch leaves, at random."""
        return self.interval

    @property
    def seconds(self) -> float:
        """How long it takes when nobody is late."""
        return self.total / self.rate

    def release(self, now: float) -> int:
        """How many to tell GOAWAY now; they count as released."""
        elapsed = min(max(now - self._last, 0.0), self.interval)
        self._last = now
        # the 1 lets the fraction of a connection carry over to the next call
        most = CATCH_UP * self.rate * self.interval + 1.0
        self._credit = min(self._credit + CATCH_UP * self.rate * elapsed, most)
        due = self.rate * (now - self._start) - self._released
        # 1e-9: a tenth of a second ten times is not quite one second
        count = max(0, min(int(min(due, self._credit) + 1e-9), self.remaining))
        self._released += count
        self._credit -= count
        return count
