"""What the parts of one connection share: output, events, limits of both sides, header codec."""

from __future__ import annotations

from protocols.mmtp.events import Event
from protocols.mmtp.flow import ControlBudget
from protocols.mmtp.headers import HeaderCodec
from protocols.mmtp.settings import DEFAULT_LIMITS, Limits


class Wire:
    """Plain shared state, so that calls and pushes need no reference to their connection (and make no cycle)."""

    __slots__ = ("budget", "enforced", "events", "headers", "limits", "now", "out", "peer", "refuse", "zstd")

    def __init__(self, limits: Limits, enforced: Limits, now: float) -> None:
        self.limits = limits
        self.enforced = enforced
        """What the peer is held to: our limits, and while it may not have heard them, what it believes."""
        self.peer: Limits = DEFAULT_LIMITS
        """What the peer accepts."""
        self.out: list[bytes] = []
        self.events: list[Event] = []
        self.headers = HeaderCodec()
        self.budget = ControlBudget(limits.control_frame_burst, now)
        self.now = now
        self.zstd = False
        """Both sides named the capability."""
        self.refuse: int | None = None
        """Gateway: status with which further calls are refused."""

    def control_frame(self) -> None:
        """Count one. Raises RemoteError(OVERLOAD)."""
        limits = self.limits
        self.budget.spend(limits.control_frames_per_second, limits.control_frame_burst, self.now)
