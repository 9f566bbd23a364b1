"""What mqtt_load.py measures: latencies in a histogram, and what the kernel says of the broker's processes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

SUBSTEPS = 64


class Histogram:
    """Latencies in 64 steps per power of two: within 2 % of the truth in bounded memory."""

    def __init__(self) -> None:
        self.steps: dict[int, int] = {}
        self.slowest = 0

    def add(self, ns: int) -> None:
        shift = max(ns.bit_length() - 7, 0)
        step = shift * SUBSTEPS + (ns >> shift)
        self.steps[step] = self.steps.get(step, 0) + 1
        self.slowest = max(self.slowest, ns)

    def percentile(self, part: float) -> float:
        """Microseconds."""
        total, below = sum(self.steps.values()), 0
        for step in sorted(self.steps):
            below += self.steps[step]
            if below >= part * total:
                if step < 2 * SUBSTEPS:
                    return step / 1e3
                shift = step // SUBSTEPS - 1
                return (step - shift * SUBSTEPS + 0.5) * (1 << shift) / 1e3
        return 0.0


def broker_cpu(pids: Iterable[int]) -> float:
    """Seconds, user and system, with the children that were waited for."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def broker_memory(pids: Iterable[int]) -> int:
    """Resident bytes; smaps_rollup is exact where statm lags behind."""
    kilobytes = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        kilobytes += next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))
    return kilobytes * 1024
