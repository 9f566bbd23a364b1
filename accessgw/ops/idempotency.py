"""Remembers answers by Idempotency-Key, so that a repeated request is answered and not done again.

In memory and bounded; pushes are not here, since their keys are durable in the store.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.python.failure import Failure

from accessgw.core.interfaces.control import ControlError

Answer = TypeVar("Answer")


@dataclass(slots=True)
class _Entry(Generic[Answer]):
    digest: bytes
    expires: float
    answer: Answer | None = None
    waiting: list[Deferred[Answer]] = field(default_factory=list)


class IdempotencyMemory(Generic[Answer]):
    """Keys and what was answered; `seconds` tells the time, `ttl` is in seconds, `limit` bounds the keys."""

    def __init__(self, seconds: Callable[[], float], ttl: float, limit: int = 10_000) -> None:
        self._seconds = seconds
        self.ttl = ttl
        self._limit = limit
        self._entries: OrderedDict[str, _Entry[Answer]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def run(self, key: str, digest: bytes, action: Callable[[], Deferred[Answer]]) -> Deferred[Answer]:
        """The answer of `action`, or of the earlier request with this key (waited for when it is still running).

        Fails with ControlError 409 when the key belongs to another request. A failed action is
        forgotten: it may be tried again with its key.
        """
        now = self._seconds()
        self._forget(now)
        entry = self._entries.get(key)
        if entry is None:
            return self._begin(key, _Entry(digest, now + self.ttl), action)
        if entry.digest != digest:
            return fail(ControlError(409, "idempotency_conflict", "this Idempotency-Key was used for another request"))
        if entry.answer is not None:
            return succeed(entry.answer)
        waiter: Deferred[Answer] = Deferred()
        entry.waiting.append(waiter)
        return waiter

    def _begin(self, key: str, entry: _Entry[Answer], action: Callable[[], Deferred[Answer]]) -> Deferred[Answer]:
        self._entries[key] = entry

        def done(answer: Answer) -> Answer:
            entry.answer = answer
            waiting, entry.waiting = entry.waiting, []
            for waiter in waiting:
                waiter.callback(answer)
            return answer

        def failed(failure: Failure) -> Failure:
            if self._entries.get(key) is entry:
                del self._entries[key]
            waiting, entry.waiting = entry.waiting, []
            for waiter in waiting:
                waiter.errback(failure)
            return failure

        return maybeDeferred(action).addCallbacks(done, failed)

    def _forget(self, now: float) -> None:
        """Drop what expired; and the oldest when there are too many, finished or not."""
        while self._entries:
            key, oldest = next(iter(self._entries.items()))
            if oldest.expires > now and len(self._entries) < self._limit:
                return
            del self._entries[key]
