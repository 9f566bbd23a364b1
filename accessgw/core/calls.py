"""Calls: takes them from any binding and answers each exactly once (see active_call for the way of one)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

from accessgw.core.active_call import ActiveCall
from accessgw.core.builtin_operations import BuiltinOperations
from accessgw.core.claims import Claims
from accessgw.core.filters import FilterChain
from accessgw.core.interfaces.calls import CallResponder, CallUpload
from accessgw.core.interfaces.clock import Clock, Timers
from accessgw.core.interfaces.upstreams import UpstreamClient
from accessgw.core.relay import ResponseRelay
from accessgw.core.tracing import Tracing
from accessgw.model.calls import Answer, Call, CallLogger, CallRecord
from accessgw.model.counters import CallCounters
from accessgw.model.settings import CallSettings
from accessgw.policy.routing import RouteTable

MAX_DETAIL = 256
"""Characters of what is logged of a failure."""


class Calls:
    """A CallService. `routes` may be replaced at any time: a call keeps the route that it has found."""

    def __init__(
        self,
        settings: CallSettings,
        *,
        routes: RouteTable,
        filters: FilterChain,
        claims: Claims,
        upstreams: UpstreamClient,
        operations: BuiltinOperations,
        timers: Timers,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        zone: str,
        counters: CallCounters,
        tracing: Tracing,
        log: CallLogger | None = None,
        observe: Callable[[str, str, str, str, bytes], None] | None = None,
    ) -> None:
        """`observe` is DictionaryService.observe; it gets the bodies of calls that a route took."""
        self.settings = settings
        self.routes = routes
        self.filters = filters
        self.claims = claims
        self.upstreams = upstreams
        self.operations = operations
        self.timers = timers
        self.now: Callable[[], float] = clock.seconds
        self.random_bytes = random_bytes
        self.zone = zone
        self._counters = counters
        self._tracing = tracing
        self._log = log
        self._observe = observe

    def start(self, call: Call, responder: CallResponder) -> CallUpload:
        self._counters.started += 1
        self._counters.open += 1
        active = ActiveCall(self, call, responder)
        active.begin()
        return active

    def observe(self, call: Call, kind: str, body: bytes) -> None:
        """A whole body of a call that a route took: `q` its own, `a` of its answer."""
        if self._observe is not None and body and not call.secret and not call.http_method:
            identity = call.identity
            self._observe(identity.app, kind, call.operation, identity.owner, body)

    def account(
        self,
        call: Call,
        status: int,
        *,
        replayed: bool,
        bytes_in: int,
        relay: ResponseRelay | None,
        answer: Answer | None,
        cluster: str,
    ) -> None:
        """Count and log a call at its last frame."""
        duration = self.now() - call.received_at
        bytes_out = relay.bytes_out if relay is not None else len(answer.body) if answer is not None else 0
        counters = self._counters
        counters.open -= 1
        counters.replayed += replayed
        counters.bytes_in += bytes_in
        counters.bytes_out += bytes_out
        counters.finished[status] = counters.finished.get(status, 0) + 1
        counters.duration_sum += duration
        counters.duration_buckets[bisect_left(counters.BUCKETS, duration)] += 1
        if self._log is None and not self._tracing.watched:
            return
        failure = relay.failure if relay is not None else None
        record = CallRecord(
            operation=call.operation or f"{call.http_method} {call.http_target.partition('?')[0]}",
            device=call.identity.device,
            user=call.identity.user,
            call_id=call.call_id,
            binding=call.binding,
            status=status,
            http_status=relay.http_status if relay is not None else answer.http_status if answer is not None else 0,
            cluster=cluster,
            endpoint=relay.endpoint if relay is not None else "",
            attempts=relay.attempts if relay is not None else 0,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            duration=duration,
            connection_id=call.connection.id if call.connection is not None else 0,
            replayed=replayed,
            reason=failure.kind if failure is not None else "",
            detail=failure.message[:MAX_DETAIL] if failure is not None else "",
        )
        if self._log is not None:
            self._log(record)
        if call.identity.device in self._tracing.watched:
            self._tracing.call(record)
