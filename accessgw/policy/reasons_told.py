"""Which reasons of a failure are worth another line of the log: each once an hour, and not many of them."""

from __future__ import annotations

TELL_AGAIN = 3600.0
"""Seconds after which the same reason may be told again."""
MAX_TOLD = 16
"""Reasons that are told within TELL_AGAIN; a peer that thinks of more is not worth more lines."""


class ReasonsTold:
    """What was told of one peer, and when. Bounds the lines whatever the peer says."""

    __slots__ = ("_told",)

    def __init__(self) -> None:
        self._told: dict[str, float] = {}
        """Reason -> second at which it may be told again."""

    def may(self, reason: str, now: float) -> bool:
        """Whether `reason` is to be told at `now` (seconds of any clock); it counts as told then."""
        told = self._told
        if now < told.get(reason, now):
            return False
        if reason not in told and len(told) >= MAX_TOLD:
            for old in [each for each, again in told.items() if again <= now]:
                del told[old]
            if len(told) >= MAX_TOLD:
                return False
        told[reason] = now + TELL_AGAIN
        return True

    def forget(self) -> None:
        """What was told is of before: each reason may be told again."""
        self._told.clear()
