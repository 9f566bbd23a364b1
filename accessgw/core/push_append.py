"""Taking pushes in: checks, filters, the durable append, then word to all workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from accessgw.core.interfaces import Refused
from accessgw.core.interfaces.bus import Bus
from accessgw.core.interfaces.control import ControlError
from accessgw.core.interfaces.stores import AppendOutcome, IdempotencyConflict, StreamStore
from accessgw.core.push_notices import TOPIC, encode, notice_of
from accessgw.core.visibility import InvalidWhere, compile_where
from accessgw.model.counters import PushCounters
from accessgw.model.pushes import Priority, PushRequest, PushResult, Scope, StoredPush
from accessgw.model.settings import PushSettings

log = Logger()

MAX_ID = 512
MAX_BIZ = 64
MAX_COLLAPSE = 128


class PushFilters(Protocol):
    """What is used of the filter chain."""

    def push(self, push: PushRequest) -> PushRequest | Deferred[PushRequest]:
        """The push as it goes on; raises, or fails with, Refused."""


def problem(request: PushRequest, max_payload: int) -> str:
    """What is wrong with a request, as `path: message`; empty when nothing is."""
    scope, id, biz = request.stream
    try:
        scope = Scope(scope)
    except ValueError:
        return f"to: expected one of {', '.join(Scope)}, got {scope!r}"
    if scope is Scope.BROADCAST:
        if id:
            return f"to.broadcast: expected no id, got {id!r}"
    elif not 0 < len(id) <= MAX_ID:
        return f"to.{scope}: expected an id of 1..{MAX_ID} characters, got {len(id)}"
    if not 0 < len(biz) <= MAX_BIZ:
        return f"biz: expected 1..{MAX_BIZ} characters, got {len(biz)}"
    if len(request.body) > max_payload:
        return f"payload: expected at most {max_payload} bytes, got {len(request.body)}"
    if len(request.collapse) > MAX_COLLAPSE:
        return f"collapse: expected at most {MAX_COLLAPSE} characters, got {len(request.collapse)}"
    if request.ttl is not None and not 0 < request.ttl < float("inf"):
        return f"ttl: expected seconds above 0, got {request.ttl}"
    if request.priority not in tuple(Priority):
        return f"priority: expected 0, 1 or 2, got {request.priority}"
    try:
        compile_where(request.where)
    except InvalidWhere as error:
        return str(error)
    return ""


class Appender:
    """The way of a push from the control API into its stream."""

    def __init__(
        self,
        store: StreamStore,
        bus: Bus,
        filters: PushFilters,
        wall: Callable[[], float],
        *,
        settings: PushSettings,
        counters: PushCounters,
        live: Callable[[PushRequest], int],
        observe: Callable[[PushRequest], None],
    ) -> None:
        self._store = store
        self._bus = bus
        self._filters = filters
        self._wall = wall
        self.settings = settings
        self._counters = counters
        self._live = live
        self._observe = observe

    async def append(self, requests: Sequence[PushRequest], idempotency_key: str, digest: bytes) -> list[PushResult]:
        """See PushService.append: a bad item has its error, the others are stored in one append.

        Fails with StoreUnavailable or IdempotencyConflict, ControlError for more than max_batch items.
        """
        if len(requests) > self.settings.max_batch:
            raise ControlError(
                413, "too_many", f"expected at most {self.settings.max_batch} pushes, got {len(requests)}"
            )
        results: list[PushResult | None] = []
        accepted: list[PushRequest] = []
        for request in requests:
            checked = await self._check(request)
            if isinstance(checked, str):
                self._counters.append_errors += 1
                results.append(PushResult(request.stream, 0, 0, error=checked))
            else:
                results.append(None)
                accepted.append(checked)
        stored = iter(await self._store_all(accepted, idempotency_key, digest))
        return [result if result is not None else next(stored) for result in results]

    async def _check(self, request: PushRequest) -> PushRequest | str:
        """The request as the filters left it, or what is wrong with it."""
        if error := problem(request, self.settings.max_payload):
            return error
        try:
            filtered = self._filters.push(request)
            if isinstance(filtered, Deferred):
                filtered = await filtered
        except Refused as refusal:
            return f"refused: {refusal}"
        except Exception as error:
            self._counters.filter_errors += 1
            log.failure("a push filter failed")
            return f"refused: a filter failed: {error!r}"
        if filtered is request:
            return request
        return problem(filtered, self.settings.max_payload) or filtered

    async def _store_all(self, accepted: list[PushRequest], idempotency_key: str, digest: bytes) -> list[PushResult]:
        if not accepted:
            return []
        now = self._wall()
        try:
            outcome: AppendOutcome = await self._store.append(
                accepted, now=now, idempotency_key=idempotency_key, digest=digest
            )
        except Exception:
            self._counters.append_errors += len(accepted)
            raise
        if len(outcome.places) != len(accepted):
            raise IdempotencyConflict("the filters let other items pass than the first time")
        notices = []
        results = []
        for request, (epoch, seq) in zip(accepted, outcome.places, strict=True):
            expires_at = None if request.ttl is None else now + request.ttl
            push = StoredPush(seq, request.body, now, expires_at, request.collapse, request.priority, request.where)
            # A repetition may not carry what was stored the first time, but the word may have been lost then.
            notices.append(notice_of(request.stream, epoch, push, inline=not outcome.repeated))
            results.append(PushResult(request.stream, epoch, seq, self._live(request)))
            if not outcome.repeated:
                self._observe(request)
        if not outcome.repeated:
            self._counters.appended += len(accepted)
        for message in encode(notices):
            self._bus.publish(TOPIC, message)
        return results
