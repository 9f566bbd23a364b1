"""How long to wait before the next attempt: exponential back-off with full jitter."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Delays uniform in [0, min(cap, initial * 2**failures)].

    Full jitter: after an outage of the gateway its devices come back spread over the whole interval
    instead of in waves. The count of failures falls back to 0 only once a connection has been good for
    `stable` seconds, so one that is accepted and lost at once does not turn into a tight loop.
    """

    __slots__ = ("_cap", "_failures", "_initial", "_random", "_stable", "_up_since")

    def __init__(
        self, random: Callable[[], float], *, initial: float = 0.5, cap: float = 30.0, stable: float = 10.0
    ) -> None:
        self._random = random
        self._initial = initial
        self._cap = cap
        self._stable = stable
        self._failures = 0
        self._up_since: float | None = None

    def up(self, now: float) -> None:
        """A connection is in use."""
        self._up_since = now

    def down(self, now: float) -> None:
        """It ended."""
        if self._up_since is not None and now - self._up_since >= self._stable:
            self._failures = 0
        self._up_since = None

    def next(self, at_least: float = 0.0) -> float:
        """Seconds until the next attempt; `at_least` is what the gateway asked for (spread by up to a fifth)."""
        bound = min(self._cap, self._initial * 2.0 ** min(self._failures, 30))
        self._failures += 1
        jitter = self._random()
        return max(bound * jitter, at_least * (1.0 + 0.2 * jitter))
