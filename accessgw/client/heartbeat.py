"""How long a connection may stay silent: found by bisection for the network that the device is on."""

from __future__ import annotations


class Heartbeat:
    """The longest interval that keeps the path open, searched between a known good and a known bad one.

    Middleboxes forget an idle flow after minutes that nobody tells. Each answered heartbeat raises the
    good end, each connection found dead at a heartbeat lowers the bad end; the search stops when the two
    are within a tenth of each other. It begins at the gateway's hint and never passes `cap`. Seconds.
    """

    __slots__ = ("_bad", "_cap", "_good", "interval")

    FLOOR = 15.0

    def __init__(self, good: float = FLOOR, bad: float = 0.0) -> None:
        self._good = max(good, self.FLOOR)
        self._bad = bad
        self._cap = 0.0
        self.interval = 0.0
        """Seconds of silence before the next heartbeat; 0: none are sent."""

    def hint(self, interval: float, idle_timeout: float) -> None:
        """What WELCOME said; `idle_timeout` bounds the search (the gateway closes after it), 0: unknown."""
        self._cap = 0.8 * idle_timeout if idle_timeout else max(interval, self.FLOOR) * 2
        if self.interval == 0.0 and interval > 0.0:
            self.interval = interval
        elif self.interval == 0.0 and idle_timeout:
            self.interval = self._cap
        if self.interval:
            self._clamp()

    def answered(self) -> None:
        """A heartbeat after a full interval of silence was answered."""
        self._good = max(self._good, min(self.interval, self._cap or self.interval))
        if self._bad and self._bad <= self._good * 1.1:
            self.interval = self._good
        elif self._bad:
            self.interval = (self._good + self._bad) / 2
        else:
            self.interval = min(self._good * 1.5, self._cap)
        self._clamp()

    def failed(self) -> None:
        """The connection was dead when the heartbeat was due."""
        self._bad = self.interval
        if self._good >= self._bad:
            self._good = max(self.FLOOR, self._bad / 2)
        self.interval = (self._good + self._bad) / 2
        self._clamp()

    def learned(self) -> tuple[float, float]:
        """Good and bad ends of the search, to be remembered for this network."""
        return (self._good, self._bad)

    def _clamp(self) -> None:
        if self._cap:
            self.interval = min(self.interval, self._cap)
        # a cap below the floor wins: the gateway closes after it whatever middleboxes do
        self.interval = max(self.interval, min(self.FLOOR, self._cap or self.FLOOR))
