"""Keys that were replaced go on signing for a while: the certificates before serve until gateways have the new ones."""

from __future__ import annotations

from collections.abc import Sequence

from accessgw.crypto.signers.backend import Backend, Job, Refused

KEEP = 60.0
"""Seconds: from the new key to its chain, and for the hand-shakes that have begun before."""


class Overlap:
    """A Backend of the newest back end and, for keys that this does not have, those before it.

    Immutable, so that threads may sign with one while the next is made.
    """

    def __init__(self, newest: Backend, before: dict[str, tuple[Backend, float]] | None = None) -> None:
        """`before`: which back end has an older key, and the second at which it is dropped."""
        self._newest = newest
        self._before = before or {}
        self.name, self.batch, self.linger = newest.name, newest.batch, newest.linger

    def replaced(self, newest: Backend, until: float) -> Overlap:
        """With another newest one; keys that go with the present one stay until that second, at most."""
        present, coming = self._newest.keys(), newest.keys()
        before = {**self._before, **dict.fromkeys(present, (self._newest, until))}
        return Overlap(newest, {key: held for key, held in before.items() if key not in coming})

    def without_ended(self, now: float) -> Overlap:
        """Without the older keys whose time is over."""
        return Overlap(self._newest, {key: held for key, held in self._before.items() if held[1] > now})

    @property
    def next_end(self) -> float:
        """The second at which the next older key is dropped; infinite without any."""
        return min((until for _, until in self._before.values()), default=float("inf"))

    def newest_keys(self) -> frozenset[str]:
        """Those that were not replaced."""
        return self._newest.keys()

    def keys(self) -> frozenset[str]:
        return self._newest.keys() | self._before.keys()

    def sign(self, jobs: Sequence[Job]) -> list[bytes | Refused]:
        older = {place: self._before[job.key][0] for place, job in enumerate(jobs) if job.key in self._before}
        if not older:
            return self._newest.sign(jobs)
        rest = [job for place, job in enumerate(jobs) if place not in older]
        signed = iter(self._newest.sign(rest) if rest else ())
        return [older[place].sign([job])[0] if place in older else next(signed) for place, job in enumerate(jobs)]
