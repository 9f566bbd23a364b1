"""A histogram of plain ints, cheap enough for every turn of the reactor."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Counts values by upper bounds. `bounds` ascend; one more bucket takes what is above the last."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


def samples(
    bounds: Sequence[float], counts: Sequence[int], total: float, labels: dict[str, str]
) -> list[tuple[str, dict[str, str], float]]:
    """Samples of a Prometheus histogram from the counts of single buckets; `counts` has one more than `bounds`."""
    found: list[tuple[str, dict[str, str], float]] = []
    running = 0
    for bound, count in zip([*(f"{bound:g}" for bound in bounds), "+Inf"], counts, strict=True):
        running += count
        found.append(("_bucket", {**labels, "le": bound}, running))
    return [*found, ("_sum", labels, total), ("_count", labels, running)]
