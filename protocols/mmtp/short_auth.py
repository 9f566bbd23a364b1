"""What proves a short request: its tag, and a counter that is used once (specification, section 12.2)."""

from __future__ import annotations

import hashlib
import hmac

from protocols.errors import LocalError
from protocols.mmtp.fields import sized

TAG_SIZE = 16
COUNTER_WINDOW = 64


def milliseconds(time: float) -> bytes:
    """Wall-clock seconds as the 8 bytes on the wire. Raises LocalError for a time before 1970."""
    if not 0 <= time < 1 << 53:
        raise LocalError(f"time: expected seconds since 1970, got {time}")
    return round(time * 1000).to_bytes(8, "big")


def compute_tag(mac_key: bytes, listener: str, session: str, *, counter: int, time: float, content: bytes) -> bytes:
    """The tag of a short request; `listener` is the value of the HTTP host header, `time` in seconds."""
    message = (
        sized(listener.lower().encode())
        + sized(session.encode())
        + counter.to_bytes(8, "big")
        + milliseconds(time)
        + hashlib.sha256(content).digest()
    )
    return hmac.digest(mac_key, message, "sha256")[:TAG_SIZE]


def tags_equal(one: bytes, other: bytes) -> bool:
    """Whether two tags are the same, in a time that does not tell where they differ."""
    return hmac.compare_digest(one, other)


class CounterWindow:
    """Which counters of a session were used: each at most once, and none far below the highest."""

    __slots__ = ("_highest", "_seen")

    def __init__(self) -> None:
        self._highest = -1
        self._seen = 0

    def accept(self, counter: int) -> bool:
        """Use `counter`; False when it was used before or is COUNTER_WINDOW or more below the highest."""
        ahead = counter - self._highest
        if ahead > 0:
            self._seen = (self._seen << ahead | 1) & ((1 << COUNTER_WINDOW) - 1) if ahead < COUNTER_WINDOW else 1
            self._highest = counter
            return True
        bit = 1 << -ahead if -ahead < COUNTER_WINDOW else 0
        if not bit or self._seen & bit:
            return False
        self._seen |= bit
        return True
