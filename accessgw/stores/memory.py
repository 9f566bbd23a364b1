"""Stores that keep everything in dicts: for tests and trials, with the meaning of the durable ones.

All of it runs on the reactor's thread; Deferreds have fired when they are returned.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from twisted.internet.defer import Deferred, fail, succeed

from accessgw.core.interfaces.stores import AppendOutcome, ClaimState, IdempotencyConflict
from accessgw.model.counters import WebhookCounters
from accessgw.model.presence import PresenceEvent
from accessgw.model.pushes import Cursor, PushRequest, Scope, StoredPush, StreamKey, StreamState
from accessgw.model.settings import PushSettings, WebhookSettings
from accessgw.stores.rules import DROP_WINDOW, IDEMPOTENCY_TTL, EpochSource, kept_pushes, merge_cursors, new_epoch

SWEEP = 1000
"""Rows that one sweep removes."""


@dataclass(slots=True)
class _Log:
    """One stream."""

    key: StreamKey
    epoch: int
    head: int = 0
    floor: int = 0
    pushes: list[StoredPush] = field(default_factory=list)
    """In order of seq."""

    def state(self) -> StreamState:
        return StreamState(self.key, self.epoch, self.head, self.floor)

    def drop_oldest(self, count: int) -> int:
        """Remove so many from the old end and move the floor; how many went."""
        if count > 0:
            self.floor = max(self.floor, self.pushes[count - 1].seq)
            del self.pushes[:count]
        return max(0, count)


class MemoryStreamStore:
    """The StreamStore in memory; see core.interfaces."""

    def __init__(self, settings: PushSettings, *, epoch_source: EpochSource = new_epoch) -> None:
        self._settings = settings
        self._new_epoch = epoch_source
        self._logs: dict[StreamKey, _Log] = {}
        self._requests: dict[str, tuple[bytes, list[tuple[int, int]], float]] = {}
        self._cursors: dict[str, dict[StreamKey, Cursor]] = {}
        self._subscriptions: dict[str, set[str]] = {}

    def append(
        self, requests: Sequence[PushRequest], *, now: float, idempotency_key: str = "", digest: bytes = b""
    ) -> Deferred[AppendOutcome]:
        known = self._requests.get(idempotency_key)
        if known is not None and now - known[2] < IDEMPOTENCY_TTL:
            if known[0] != digest:
                reason = f"idempotency key {idempotency_key!r} was used for another request"
                return fail(IdempotencyConflict(reason))
            return succeed(AppendOutcome(list(known[1]), repeated=True))
        places = []
        for request in requests:
            log = self._logs.get(request.stream)
            if log is None:
                log = self._logs[request.stream] = _Log(request.stream, self._new_epoch())
            places.append((log.epoch, self._add(log, request, now)))
        for key in {request.stream for request in requests}:
            log = self._logs[key]
            log.drop_oldest(len(log.pushes) - kept_pushes(self._settings, key.scope))
        if idempotency_key:
            self._requests[idempotency_key] = (digest, places, now)
        return succeed(AppendOutcome(list(places)))

    def knows_nothing_of(self, device: str, user: str) -> bool:
        return not (
            device in self._cursors
            or device in self._subscriptions
            or any(
                key.scope is Scope.BROADCAST
                or (key.scope is Scope.DEVICE and key.id == device)
                or (key.scope is Scope.USER and key.id == user)
                for key in self._logs
            )
        )

    def _add(self, log: _Log, request: PushRequest, now: float) -> int:
        if request.collapse:
            log.pushes = [push for push in log.pushes if push.collapse != request.collapse]
        log.head += 1
        expires_at = None if request.ttl is None else now + request.ttl
        log.pushes.append(
            StoredPush(log.head, request.body, now, expires_at, request.collapse, request.priority, dict(request.where))
        )
        return log.head

    def states(self, keys: Sequence[StreamKey]) -> Deferred[dict[StreamKey, StreamState]]:
        return succeed({key: self._logs[key].state() for key in keys if key in self._logs})

    def streams_of(self, scope: str, id: str) -> Deferred[list[StreamState]]:
        found = [log.state() for key, log in self._logs.items() if key.scope == scope and key.id == id]
        return succeed(sorted(found, key=lambda state: state.key.biz))

    def read(self, key: StreamKey, after: int, limit: int, max_bytes: int) -> Deferred[list[StoredPush]]:
        log = self._logs.get(key)
        chosen: list[StoredPush] = []
        if log is not None:
            start = bisect_right(log.pushes, after, key=lambda push: push.seq)
            for push in log.pushes[start : start + limit]:
                max_bytes -= len(push.body)
                if chosen and max_bytes < 0:
                    break
                chosen.append(push)
        return succeed(chosen)

    def cursors(self, device: str) -> Deferred[dict[StreamKey, Cursor]]:
        return succeed(dict(self._cursors.get(device, {})))

    def save_cursors(self, device: str, cursors: Sequence[Cursor]) -> None:
        merge_cursors(self._cursors.setdefault(device, {}), cursors)

    def subscriptions(self, device: str) -> Deferred[set[str]]:
        return succeed(set(self._subscriptions.get(device, ())))

    def subscribe(self, device: str, topics: Sequence[str], cursors: Sequence[Cursor] = ()) -> Deferred[None]:
        self.save_cursors(device, cursors)
        self._subscriptions.setdefault(device, set()).update(topics)
        return succeed(None)

    def unsubscribe(self, device: str, topics: Sequence[str]) -> Deferred[None]:
        self._subscriptions.get(device, set()).difference_update(topics)
        return succeed(None)

    def sweep(self, now: float) -> Deferred[int]:
        gone = 0
        for log in self._logs.values():
            if gone >= SWEEP:
                break
            aged = [at for at, p in enumerate(log.pushes, 1) if p.appended_at <= now - self._settings.retention]
            gone += log.drop_oldest(aged[-1] if aged else 0)
            live = [push for push in log.pushes if push.expires_at is None or push.expires_at > now]
            gone += len(log.pushes) - len(live)
            log.pushes = live
        for key in [key for key, (_, _, at) in self._requests.items() if at <= now - IDEMPOTENCY_TTL][:SWEEP]:
            del self._requests[key]
            gone += 1
        return succeed(gone)


@dataclass(slots=True)
class _Claim:
    digest: bytes
    claimed_at: float
    answered: bool = False

    def state(self, digest: bytes) -> str:
        if digest != self.digest:
            return ClaimState.MISMATCH
        return ClaimState.ANSWERED if self.answered else ClaimState.OPEN


class MemoryAnswerStore:
    """The AnswerStore in memory; see core.interfaces."""

    def __init__(self, max_claims: int) -> None:
        self._max_claims = max_claims
        self._claims: dict[tuple[str, str, int], _Claim] = {}
        self._forgotten = -inf
        """When the youngest claim was made that was forgotten for want of room."""

    def claim(
        self, device: str, user: str, call_id: int, digest: bytes, now: float, *, first: float | None = None
    ) -> Deferred[str]:
        if not 0 <= call_id < 1 << 64:
            return fail(ValueError(f"call id: expected 64 bits without sign, got {call_id}"))
        known = self._claims.get((device, user, call_id))
        if known is not None:
            return succeed(known.state(digest))
        if first is not None and first <= self._forgotten:
            return succeed(ClaimState.OPEN)
        self._claims[device, user, call_id] = _Claim(digest, now)
        if len(self._claims) > self._max_claims:
            oldest = self._claims.pop(next(iter(self._claims)))
            self._forgotten = max(self._forgotten, oldest.claimed_at)
        return succeed(ClaimState.NEW)

    def settle(self, device: str, user: str, call_id: int) -> None:
        known = self._claims.get((device, user, call_id))
        if known is not None:
            known.answered = True

    def release(self, device: str, user: str, call_id: int) -> None:
        known = self._claims.get((device, user, call_id))
        if known is not None and not known.answered:
            del self._claims[device, user, call_id]

    def sweep(self, before: float) -> Deferred[int]:
        old = [key for key, claim in self._claims.items() if claim.claimed_at < before][:SWEEP]
        for key in old:
            del self._claims[key]
        return succeed(len(old))


class MemoryOutboxStore:
    """The OutboxStore in memory; see core.interfaces. Counts `dropped`."""

    def __init__(self, settings: WebhookSettings, counters: WebhookCounters) -> None:
        self._max_pending = settings.max_pending
        self._counters = counters
        self._last_seq = 0
        self._events: dict[tuple[str, int, str], PresenceEvent] = {}

    def put(self, event: PresenceEvent) -> Deferred[None]:
        self._events[event.device, event.seq, event.id] = event
        if len(self._events) > self._max_pending:
            self._drop_one()
        return succeed(None)

    def _drop_one(self) -> None:
        last = {device: (device, seq, id) for device, seq, id in self._events}
        oldest = list(self._events)
        chosen = next((key for key in oldest[: DROP_WINDOW + 1] if last[key[0]] == key), oldest[0])
        del self._events[chosen]
        self._counters.dropped += 1
        self._counters.pending = max(0, self._counters.pending - 1)

    def next_seq(self, device: str) -> int:
        self._last_seq += 1
        return self._last_seq

    def pending(self, limit: int) -> Deferred[list[PresenceEvent]]:
        first: dict[str, PresenceEvent] = {}
        for event in self._events.values():
            first.setdefault(event.device, event)
        return succeed(list(first.values())[:limit])

    def done(self, event: PresenceEvent) -> Deferred[None]:
        self._events.pop((event.device, event.seq, event.id), None)
        return succeed(None)
