"""How many retries a cluster may cost: a share of its recent requests, so that retries cannot feed an outage."""

from __future__ import annotations

WINDOW = 10
"""Seconds that are counted."""
FLOOR = 3.0
"""Retries per second that are allowed whatever the traffic."""


class RetryBudget:
    """Counts requests and retries in one-second buckets over the last WINDOW seconds."""

    __slots__ = ("_floor", "_requests", "_retries", "_second", "_share")

    def __init__(self, share: float, floor: float = FLOOR) -> None:
        self._share = share
        self._floor = floor
        self._requests = [0] * WINDOW
        self._retries = [0] * WINDOW
        self._second = 0

    def request(self, now: float) -> None:
        """A request (not a retry) was made."""
        self._advance(now)
        self._requests[self._second % WINDOW] += 1

    def try_retry(self, now: float) -> bool:
        """Whether one more retry is allowed; when it is, it is counted."""
        self._advance(now)
        if sum(self._retries) + 1 > self._share * sum(self._requests) + self._floor * WINDOW:
            return False
        self._retries[self._second % WINDOW] += 1
        return True

    def _advance(self, now: float) -> None:
        second = int(now)
        if second <= self._second:
            return
        for passed in range(max(self._second + 1, second - WINDOW + 1), second + 1):
            self._requests[passed % WINDOW] = 0
            self._retries[passed % WINDOW] = 0
        self._second = second
