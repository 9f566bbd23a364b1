"""Acknowledging pushes on the device: collected, sent with other frames, or by a timer (specification, 10.3)."""

from __future__ import annotations

from collections.abc import Sequence

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.frames import RANGES, FrameType, encode_ack, encode_frame
from protocols.mmtp.settings import Limits
from protocols.mmtp.statuses import Status
from protocols.mmtp.unacknowledged import MAX_RANGES, Unacknowledged
from protocols.mmtp.varint import encode_varint

ACK_AFTER = 8
"""Pushes after which an ACK leaves at once."""
ACK_DELAY = 0.2
"""Seconds after which it leaves at the latest."""


class Acknowledger:
    """What came, what the application has processed, and what the gateway was told of it."""

    __slots__ = ("_unacknowledged", "deadline", "extra_bytes", "pending")

    def __init__(self) -> None:
        self._unacknowledged = Unacknowledged()
        self.pending = 0
        """Acknowledgements not sent yet."""
        self.deadline: float | None = None
        self.extra_bytes = 0
        """What our WINDOW added to the window."""

    def came(self, index: int, size: int, limits: Limits) -> None:
        """A push came. Raises RemoteError(FLOW_CONTROL) beyond the window."""
        if not self._unacknowledged.fits(size, limits.push_window, limits.push_window_bytes + self.extra_bytes):
            raise RemoteError(Status.FLOW_CONTROL, f"PUSH: {len(self._unacknowledged)} unacknowledged fill the window")
        self._unacknowledged.add((size, index))

    def processed(self, count: int, now: float) -> None:
        """The `count` oldest were processed. Raises LocalError when there are not so many."""
        try:
            self._unacknowledged.oldest(count)
        except ValueError as error:
            raise LocalError(str(error)) from None
        self.pending += count
        if self.deadline is None:
            self.deadline = now + ACK_DELAY

    def due(self, now: float) -> bool:
        """An ACK should leave even if nothing else does."""
        return self.pending >= ACK_AFTER or (self.deadline is not None and now >= self.deadline)

    def take(self) -> bytes:
        """The ACK of what is pending."""
        frame = encode_ack(self.pending)
        self.pending = 0
        self.deadline = None
        return frame

    def processed_out_of_order(self, indexes: Sequence[int]) -> bytes:
        """The frames that acknowledge pushes by their numbers (PushReceived.index). Raises LocalError."""
        places = self._unacknowledged.places(sorted(set(indexes)))
        pairs: list[tuple[int, int]] = []
        position = 0
        for place in places:
            if pairs and place == position:
                pairs[-1] = (pairs[-1][0], pairs[-1][1] + 1)
            else:
                pairs.append((place - position, 1))
            position = place + 1
        if not 1 <= len(pairs) <= MAX_RANGES:
            raise LocalError(f"ACK: expected 1..{MAX_RANGES} ranges, got {len(pairs)}")
        before = self.take() if self.pending else b""
        self._unacknowledged.ranges(pairs)
        payload = b"".join(encode_varint(skip) + encode_varint(count) for skip, count in pairs)
        return before + encode_frame(FrameType.ACK, RANGES, payload)
