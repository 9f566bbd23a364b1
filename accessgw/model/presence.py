"""Connect and disconnect events of devices."""

from __future__ import annotations

from msgspec import Struct


class PresenceEvent(Struct, frozen=True):
    """One event, as the webhook sends it.

    `seq` orders the events of one device; `id` names the event for deduplication, since delivery is
    at least once.
    """

    id: str
    seq: int
    device: str
    user: str
    event: str
    """connect | disconnect."""
    at: float
    """Wall-clock second."""
    reason: str = ""
    """CloseReason of a disconnect."""
