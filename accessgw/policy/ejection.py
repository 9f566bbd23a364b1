"""Passive outlier ejection: an endpoint that keeps failing real requests is left out for a while."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

MAX_TIME = 300.0
"""Longest ejection in seconds."""


class _Record:
    __slots__ = ("failures", "times", "until")

    def __init__(self) -> None:
        self.failures = 0
        """Consecutive."""
        self.times = 0
        """Ejections that count towards the length of the next one."""
        self.until = 0.0


class Ejector:
    """The endpoints of one cluster, by any hashable key.

    `after` consecutive failures eject for `time` seconds, twice that the second time and so on up to
    MAX_TIME; a period of the same length without ejection takes one step back. At most `max_share` of
    the endpoints are out at once, but one may always be while another remains.
    """

    __slots__ = ("_after", "_max_share", "_records", "_time")

    def __init__(self, after: int, time: float, max_share: float) -> None:
        self._after = after
        self._time = time
        self._max_share = max_share
        self._records: dict[Hashable, _Record] = {}

    def members(self, keys: Iterable[Hashable]) -> None:
        """The endpoints of the cluster are these from now on; known ones keep their record."""
        self._records = {key: self._records.get(key) or _Record() for key in keys}

    def succeeded(self, key: Hashable) -> None:
        """A request to the endpoint went well."""
        record = self._records.get(key)
        if record is not None:
            record.failures = 0

    def failed(self, key: Hashable, now: float) -> bool:
        """A request to the endpoint failed; True when that ejects it."""
        record = self._records.get(key)
        if record is None:
            return False
        record.failures += 1
        if record.failures < self._after or record.until > now or not self._may_eject(now):
            return False
        calm = now - record.until if record.times else 0.0
        record.times = max(0, record.times - int(calm / max(self._length(record.times), 1e-9))) + 1
        record.failures = 0
        record.until = now + self._length(record.times)
        return True

    def ejected(self, key: Hashable, now: float) -> bool:
        """Whether the endpoint is left out now."""
        record = self._records.get(key)
        return record is not None and record.until > now

    def _length(self, times: int) -> float:
        return float(min(self._time * 2 ** min(max(times - 1, 0), 30), max(MAX_TIME, self._time)))

    def _may_eject(self, now: float) -> bool:
        total = len(self._records)
        out = sum(record.until > now for record in self._records.values())
        return out + 1 <= max(int(self._max_share * total), 1 if total > 1 else 0)
