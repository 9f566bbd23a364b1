"""Kept answers: complete answers of calls, for repetitions, bounded by number, bytes and time."""

from __future__ import annotations

from collections import OrderedDict

from accessgw.model.calls import Answer
from accessgw.model.settings import CallSettings

ClaimKey = tuple[str, str, int]
"""(device, user, call id)."""
_OVERHEAD = 512
"""What an entry costs beside its text, roughly; so that many empty answers are bounded too."""


class KeptAnswer:
    """One answer and what it answers."""

    __slots__ = ("answer", "digest", "expires_at", "size")

    def __init__(self, answer: Answer, digest: bytes, size: int, expires_at: float) -> None:
        self.answer = answer
        self.digest = digest
        """SHA-256 of the operation and the whole body."""
        self.size = size
        self.expires_at = expires_at


class KeptAnswers:
    """Least recently used first out, those that can be had again (`spare`) before all others; each use renews the
    time. `now` is the worker's clock."""

    def __init__(self, settings: CallSettings) -> None:
        self._settings = settings
        self._kept: OrderedDict[ClaimKey, KeptAnswer] = OrderedDict()
        self._spare: OrderedDict[ClaimKey, KeptAnswer] = OrderedDict()
        """Of idempotent calls, which may be executed again."""
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept) + len(self._spare)

    def keep(self, key: ClaimKey, digest: bytes, answer: Answer, now: float, spare: bool = False) -> bool:
        """False when the answer is too large to be kept."""
        size = _OVERHEAD + len(answer.body) + sum(len(n) + len(v) for n, v in answer.headers)
        if len(answer.body) > self._settings.max_kept_answer or size > self._settings.max_answer_bytes:
            return False
        self._drop(key)
        kept = self._spare if spare else self._kept
        kept[key] = KeptAnswer(answer, digest, size, now + self._settings.answer_horizon)
        self.bytes += size
        while self.bytes > self._settings.max_answer_bytes or len(self) > self._settings.max_answers:
            self._drop(next(iter(self._spare or self._kept)))
        return True

    def find(self, key: ClaimKey, now: float) -> KeptAnswer | None:
        """The answer, if it is still there."""
        table = self._kept if key in self._kept else self._spare
        kept = table.get(key)
        if kept is None:
            return None
        if kept.expires_at <= now:
            self._drop(key)
            return None
        kept.expires_at = now + self._settings.answer_horizon
        table.move_to_end(key)
        return kept

    def sweep(self, now: float, limit: int = 1000) -> bool:
        """Drop up to `limit` answers whose time is over; True when there may be more."""
        for table in (self._kept, self._spare):
            while table:
                key, kept = next(iter(table.items()))
                if kept.expires_at > now:
                    break
                if limit == 0:
                    return True
                limit -= 1
                self._drop(key)
        return False

    def _drop(self, key: ClaimKey) -> None:
        kept = self._kept.pop(key, None) or self._spare.pop(key, None)
        if kept is not None:
            self.bytes -= kept.size
