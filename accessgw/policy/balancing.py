"""Which endpoint takes a request: the better of two random ones, by latency times load."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

DECAY = 10.0
"""Seconds in which an observed latency loses most of its weight."""
PENALTY = 1.0
"""Latency that a failed request counts as at least: an endpoint that refuses at once must not look fast."""
_UNKNOWN = 0.0001
"""Latency assumed of an endpoint that has not answered yet: low, so that it gets its first requests."""


class Load:
    """What is known of one endpoint: peak EWMA of its latency, and requests in progress.

    The average follows a worse latency at once and forgets it slowly, so that a server that stalls
    is avoided after its first slow answer.
    """

    __slots__ = ("_latency", "_stamp", "outstanding")

    def __init__(self, now: float) -> None:
        self.outstanding = 0
        self._latency = 0.0
        self._stamp = now

    def observe(self, latency: float, now: float) -> None:
        """One request took `latency` seconds (time-outs count with their whole length)."""
        if latency >= self._latency:
            self._latency = latency
        else:
            weight = math.exp(-max(0.0, now - self._stamp) / DECAY)
            self._latency = self._latency * weight + latency * (1.0 - weight)
        self._stamp = now

    def failed(self, latency: float, now: float) -> None:
        """One request failed after `latency` seconds."""
        self.observe(max(latency, PENALTY), now)

    def latency(self, now: float) -> float:
        """The average in seconds, decayed since the last observation so that nobody is avoided for ever."""
        if now > self._stamp:
            return self._latency * math.exp((self._stamp - now) / DECAY)
        return self._latency

    def cost(self, now: float) -> float:
        """Expected seconds of waiting: latency times what is in progress, this request included."""
        return max(self.latency(now), _UNKNOWN) * (self.outstanding + 1)


class Loaded(Protocol):
    """Anything with a Load."""

    @property
    def load(self) -> Load: ...


T = TypeVar("T", bound=Loaded)


def pick(candidates: Sequence[T], now: float, random: Callable[[], float]) -> T:
    """Power of two choices over at least one candidate; `random` gives numbers in [0, 1)."""
    count = len(candidates)
    if count == 1:
        return candidates[0]
    first = int(random() * count)
    second = int(random() * (count - 1))
    if second >= first:
        second += 1
    one, other = candidates[first], candidates[second]
    return other if other.load.cost(now) < one.load.cost(now) else one
