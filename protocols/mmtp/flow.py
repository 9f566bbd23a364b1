"""Credit for bodies, and the budget of control frames (specification, sections 9 and 13)."""

from __future__ import annotations

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.statuses import Status

LARGEST_CREDIT = (1 << 31) - 1
SMALL_INCREMENT = 1024
"""A WINDOW frame with less counts as a control frame."""


class SendCredit:
    """One sender's view of one window: a call's or the connection's."""

    __slots__ = ("outstanding",)

    def __init__(self) -> None:
        self.outstanding = 0

    def extend(self, increment: int) -> None:
        """WINDOW came. Raises RemoteError(FLOW_CONTROL) when no sender could use so much."""
        self.outstanding -= increment
        if self.outstanding < -LARGEST_CREDIT:
            raise RemoteError(Status.FLOW_CONTROL, f"window: more than {LARGEST_CREDIT} bytes of credit")


class ReceiveCredit:
    """One receiver's view of one window.

    `outstanding` is what the sender believes to be outstanding; `owed` of these bytes were consumed but not
    yet given back with WINDOW.
    """

    __slots__ = ("outstanding", "owed")

    def __init__(self) -> None:
        self.outstanding = 0
        self.owed = 0

    def take(self, size: int, window: int) -> None:
        """Body bytes came. Raises RemoteError(FLOW_CONTROL) beyond `window`."""
        self.outstanding += size
        if self.outstanding > window:
            raise RemoteError(Status.FLOW_CONTROL, f"body: {self.outstanding} bytes outstanding, window {window}")

    def owe(self, size: int) -> None:
        """Bytes were consumed. Raises LocalError beyond what came."""
        if not 0 <= size <= self.outstanding - self.owed:
            raise LocalError(f"consumed: expected at most {self.outstanding - self.owed} bytes, got {size}")
        self.owed += size

    def increment(self, window: int) -> int:
        """What to give back now: all that is owed once it is a quarter of `window`, else 0."""
        owed = self.owed
        if owed == 0 or owed < window // 4:
            return 0
        self.outstanding -= owed
        self.owed = 0
        return owed

    @property
    def unconsumed(self) -> int:
        """Bytes that came and were not consumed."""
        return self.outstanding - self.owed


class ControlBudget:
    """A token bucket over the frames that cost the sender nothing."""

    __slots__ = ("_at", "_tokens")

    def __init__(self, burst: int, now: float) -> None:
        self._tokens = float(burst)
        self._at = now

    def spend(self, rate: float, burst: int, now: float) -> None:
        """One more control frame. Raises RemoteError(OVERLOAD) when there are too many."""
        tokens = min(float(burst), self._tokens + (now - self._at) * rate)
        self._at = now
        if tokens < 1:
            raise RemoteError(Status.OVERLOAD, f"control frames: more than {burst}, then {rate} per second")
        self._tokens = tokens - 1
