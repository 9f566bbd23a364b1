"""The measured round trip, and the time-outs that follow from it."""

from __future__ import annotations

import struct

_TCP_INFO = struct.Struct("8B13I")  # linux/tcp.h, struct tcp_info up to tcpi_last_ack_recv
TCP_INFO_SIZE = _TCP_INFO.size


class RoundTrip:
    """Smoothed round trip and its variation (RFC 6298 section 2), in seconds."""

    __slots__ = ("_first", "_floor", "smoothed", "variation")

    def __init__(self, *, first: float = 0.5, floor: float = 0.1) -> None:
        self.smoothed: float | None = None
        self.variation = 0.0
        self._first = first
        self._floor = floor

    def observe(self, sample: float) -> None:
        """A round trip was measured."""
        if self.smoothed is None:
            self.smoothed = sample
            self.variation = sample / 2
            return
        self.variation += (abs(self.smoothed - sample) - self.variation) / 4
        self.smoothed += (sample - self.smoothed) / 8

    @property
    def probe_after(self) -> float:
        """Silence after which a PING asks whether the peer is still there."""
        if self.smoothed is None:
            return self._first
        return max(self._floor, self.smoothed + 4 * self.variation)

    @property
    def suspect_after(self) -> float:
        """Silence after which the connection is suspect: the probe had a round trip's time to come back."""
        return 2 * self.probe_after + 0.15

    @property
    def inspect_after(self) -> float:
        """Silence after which bytes that the kernel still holds unacknowledged make the connection suspect."""
        smoothed = self._first if self.smoothed is None else self.smoothed
        return 2 * smoothed + 0.15

    @property
    def dead_after(self) -> float:
        """Silence after which the connection is given up."""
        return max(3.0, 3 * self.suspect_after)


def unacknowledged(tcp_info: bytes, waiting: float) -> bool:
    """Whether TCP_INFO shows bytes that left at least `waiting` seconds ago and no acknowledgement since."""
    if len(tcp_info) < _TCP_INFO.size:
        return False
    fields = _TCP_INFO.unpack_from(tcp_info)
    retransmits, in_flight = fields[2], fields[8 + 4]
    since_sent, since_ack = fields[8 + 9] / 1000, fields[8 + 12] / 1000
    slack = waiting - 0.02
    # a retransmission counts as sending, so time since sending says nothing once there was one
    return bool(in_flight > 0 and since_ack >= slack and (retransmits > 0 or since_sent >= slack))
