"""The client's side of keep alive: when a PINGREQ is due, and when its answer is missing (section 3.1.2.10)."""

from __future__ import annotations


class KeepAlive:
    """Times of one connection, in the caller's seconds. A ping is due when for `interval` seconds nothing was sent, or
    nothing came; its answer is missing when another interval has passed."""

    __slots__ = ("interval", "pinged_at", "received_at", "sent_at")

    def __init__(self, now: float) -> None:
        self.interval = 0
        """Seconds; 0: nothing is due (section 3.1.2.10), nor is it before CONNACK."""
        self.sent_at = self.received_at = now
        self.pinged_at: float | None = None
        """When the PINGREQ was sent that is not answered."""

    def due(self) -> float | None:
        """When there is something to do; None: never."""
        if not self.interval:
            return None
        if self.pinged_at is not None:
            return self.pinged_at + self.interval
        return min(self.sent_at, self.received_at) + self.interval
