"""What active checks make of an endpoint: consecutive results decide, not single ones."""

from __future__ import annotations


class Health:
    """State of one endpoint. It counts as healthy until checks have said otherwise."""

    __slots__ = ("_healthy_after", "_streak", "_unhealthy_after", "healthy", "last_error")

    def __init__(self, healthy_after: int, unhealthy_after: int) -> None:
        self._healthy_after = healthy_after
        self._unhealthy_after = unhealthy_after
        self._streak = 0
        """Consecutive results that speak against the present state."""
        self.healthy = True
        self.last_error = ""
        """Of the last failed check, for the status page."""

    def result(self, ok: bool, error: str = "") -> bool:
        """One check ended; True when the state changed."""
        self.last_error = "" if ok else error
        if ok is self.healthy:
            self._streak = 0
            return False
        self._streak += 1
        if self._streak < (self._healthy_after if ok else self._unhealthy_after):
            return False
        self.healthy = ok
        self._streak = 0
        return True
