"""Recent successes, so that a storm of reconnects does not repeat costly checks. Holds no credentials, only digests."""

from __future__ import annotations

import hmac
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_ENTRIES = 10_000


class SuccessCache(Generic[T]):
    """Values by keyed digest, for a while; the oldest go first when there are too many."""

    def __init__(self, lifetime: float, max_entries: int = MAX_ENTRIES) -> None:
        """`lifetime` in seconds; 0: nothing is kept."""
        self._lifetime = lifetime
        self._max_entries = max_entries
        self._entries: OrderedDict[bytes, tuple[float, T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, now: float) -> T | None:
        """What was put under `key` less than the lifetime ago."""
        found = self._entries.get(key)
        if found is None:
            return None
        if now >= found[0]:
            del self._entries[key]
            return None
        return found[1]

    def put(self, key: bytes, value: T, now: float) -> None:
        """Keep it. Putting it again does not make room, but its time begins anew."""
        if self._lifetime <= 0:
            return
        self._entries[key] = (now + self._lifetime, value)
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()


def digest(key: bytes, *parts: bytes) -> bytes:
    """A keyed digest in which the parts' borders count."""
    return hmac.digest(key, b"".join(len(part).to_bytes(8, "big") + part for part in parts), "sha256")
