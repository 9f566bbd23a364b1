"""How long to wait before trying again: exponential with full jitter, so that waiters do not return together."""

from __future__ import annotations

from collections.abc import Callable


def full_jitter(attempt: int, initial: float, maximum: float, random: Callable[[], float]) -> float:
    """Seconds before attempt number `attempt` + 1 (0: after the first failure), uniform from 0 up to
    `initial` * 2**attempt but at most `maximum`; `random` gives numbers in [0, 1)."""
    return random() * min(maximum, initial * 2.0 ** min(max(attempt, 0), 60))
