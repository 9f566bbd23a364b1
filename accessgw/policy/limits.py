"""Rate limits: token buckets, alone and one per key."""

from __future__ import annotations

from collections.abc import Hashable


class TokenBucket:
    """Allows `rate` per second in the long run and `burst` at once."""

    __slots__ = ("_burst", "_rate", "_stamp", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._stamp = now

    def take(self, now: float, amount: float = 1.0) -> bool:
        """Take `amount` tokens; False, and nothing taken, when there are not enough."""
        self._refill(now)
        if self._tokens < amount:
            return False
        self._tokens -= amount
        return True

    def wait(self, now: float, amount: float = 1.0) -> float:
        """Seconds until `amount` tokens are there (infinite when it is more than the burst)."""
        self._refill(now)
        if amount > self._burst or (self._rate <= 0 and self._tokens < amount):
            return float("inf")
        return max(0.0, (amount - self._tokens) / self._rate) if self._tokens < amount else 0.0

    def full(self, now: float) -> bool:
        """Nothing is known of the past any more: a new bucket would say the same."""
        self._refill(now)
        return self._tokens >= self._burst

    def _refill(self, now: float) -> None:
        if now > self._stamp:
            self._tokens = min(self._burst, self._tokens + (now - self._stamp) * self._rate)
            self._stamp = now


class KeyedLimiter:
    """One bucket per key, at most `max_keys` of them: the one used least recently is forgotten first."""

    __slots__ = ("_buckets", "_burst", "_max_keys", "_rate")

    def __init__(self, rate: float, burst: float, max_keys: int = 100_000) -> None:
        self._rate = rate
        self._burst = burst
        self._max_keys = max_keys
        self._buckets: dict[Hashable, TokenBucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: Hashable, now: float, amount: float = 1.0) -> bool:
        """Take from the bucket of `key`; False when it has not enough."""
        return self._bucket(key, now).take(now, amount)

    def wait(self, key: Hashable, now: float, amount: float = 1.0) -> float:
        """Seconds until the bucket of `key` has enough."""
        bucket = self._buckets.get(key)
        return bucket.wait(now, amount) if bucket is not None else 0.0

    def sweep(self, now: float, limit: int = 1000) -> int:
        """Forget buckets that are full again among the `limit` used least recently; how many went."""
        stale = []
        for key, bucket in self._buckets.items():
            limit -= 1
            if limit < 0:
                break
            if bucket.full(now):
                stale.append(key)
        for key in stale:
            del self._buckets[key]
        return len(stale)

    def _bucket(self, key: Hashable, now: float) -> TokenBucket:
        # Taken out and put back, so that the dict stays in order of use.
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            if len(self._buckets) >= self._max_keys:
                del self._buckets[next(iter(self._buckets))]
            bucket = TokenBucket(self._rate, self._burst, now)
        self._buckets[key] = bucket
        return bucket
