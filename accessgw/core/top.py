"""Top talkers: which operations and devices cost most, in bounded memory (space-saving counters)."""

from __future__ import annotations

from typing import Any

from accessgw.model.calls import CallRecord


class _Counted:
    """One entry of a heavy-hitters table."""

    __slots__ = ("bytes", "calls", "errors", "seconds")

    def __init__(self) -> None:
        self.calls = 0
        self.errors = 0
        self.bytes = 0
        self.seconds = 0.0


class _HeavyHitters:
    """The keys that come most often, of any number of keys.

    When the table is full it is thinned out to its busier half; a key that comes often is soon there
    again. Counts are therefore lower bounds for keys that were thinned out once.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: dict[str, _Counted] = {}

    def entry(self, key: str) -> _Counted:
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= self._capacity:
                busier = sorted(self._entries.items(), key=lambda item: -item[1].calls)[: self._capacity // 2]
                self._entries = dict(busier)
            entry = self._entries[key] = _Counted()
        return entry

    def report(self, name: str, limit: int) -> list[dict[str, Any]]:
        busiest = sorted(self._entries.items(), key=lambda item: -item[1].calls)[:limit]
        return [
            {name: key, "calls": e.calls, "errors": e.errors, "bytes": e.bytes, "seconds": round(e.seconds, 6)}
            for key, e in busiest
        ]


class TopTalkers:
    """Takes every finished call; answers who came most since the start."""

    def __init__(self, operations: int = 256, devices: int = 1024) -> None:
        self._operations = _HeavyHitters(operations)
        self._devices = _HeavyHitters(devices)

    def call(self, record: CallRecord) -> None:
        """Count a finished call."""
        for entry in (
            self._operations.entry(record.operation or "(http)"),
            self._devices.entry(record.device),
        ):
            entry.calls += 1
            entry.errors += record.status != 0
            entry.bytes += record.bytes_in + record.bytes_out
            entry.seconds += record.duration

    def report(self, limit: int) -> dict[str, Any]:
        """The busiest operations and devices."""
        return {
            "operations": self._operations.report("operation", limit),
            "devices": self._devices.report("device", limit),
        }
