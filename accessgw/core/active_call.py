"""The life of one call: filters, route, claim, upstream; and the asking half of it, the device's upload."""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.call_headers import BadHeader, content_length, towards_upstream
from accessgw.core.claims import Claim, begin_digest, digest_of, streaming_digest_of
from accessgw.core.failures import status_of_failure
from accessgw.core.interfaces import Refused
from accessgw.core.interfaces.calls import CallResponder
from accessgw.core.interfaces.clock import Timer
from accessgw.core.interfaces.upstreams import UpstreamExchange, UpstreamFailure, UpstreamRequest
from accessgw.core.relay import ResponseRelay
from accessgw.model.calls import Answer, Call
from accessgw.model.identity import Strength
from accessgw.model.route_settings import RouteSettings
from accessgw.policy.routing import Route, UnsafePath, render_path
from protocols.mmtp.dictionaries import ANSWER_KIND, REQUEST_KIND
from protocols.mmtp.statuses import Status

if TYPE_CHECKING:
    from accessgw.core.calls import Calls

log = Logger()

MAX_BUILTIN_BODY = 64 * 1024
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""RFC 9110 section 9.2.1."""
_STRENGTH = {"none": Strength.ANONYMOUS, "token": Strength.TOKEN, "certificate": Strength.CERTIFICATE}


class Phase(Enum):
    """Where a call is, which says what becomes of upload bytes."""

    HOLDING = "holding"
    """Filters or the claim are at work: what comes is held (credit bounds it)."""
    COLLECTING = "collecting"
    """The gateway answers itself and needs the whole body."""
    COMPARING = "comparing"
    """A streaming repetition: its body is only hashed, to see whether it is one."""
    WAITING = "waiting"
    """Joined to the attempt that runs."""
    RELAYING = "relaying"
    """An upstream has it."""
    OVER = "over"


class ActiveCall:
    """A CallUpload. The responder gets exactly one final call, unless the device went away."""

    __slots__ = (
        "_bytes_in",
        "_calls",
        "_claim",
        "_complete",
        "_digest",
        "_exchange",
        "_guard",
        "_held",
        "_joined",
        "_limit",
        "_match",
        "_phase",
        "_relay",
        "_responder",
        "call",
    )

    def __init__(self, calls: Calls, call: Call, responder: CallResponder) -> None:
        self.call = call
        self._calls = calls
        self._responder: CallResponder | None = responder
        self._phase = Phase.HOLDING
        self._held: list[bytes] = [call.body] if call.body else []
        self._bytes_in = len(call.body)
        self._complete = not call.more
        self._limit = MAX_BUILTIN_BODY
        self._match: Route | None = None
        self._claim: Claim | None = None
        self._joined: Claim | None = None
        self._digest: hashlib._Hash | None = None
        self._exchange: UpstreamExchange | None = None
        self._relay: ResponseRelay | None = None
        self._guard: Timer | None = None

    # ---------------------------------------------------------------- from the device

    def data(self, data: bytes, more: bool) -> None:
        if self._phase is Phase.OVER or self._complete:
            return
        self._bytes_in += len(data)
        if self._match is not None and self._bytes_in > self._limit:
            self._give_up(Status.FRAME_SIZE)
            return
        self._complete = not more
        if self._digest is not None:
            self._digest.update(data)
            if self._complete and self._claim is not None:
                self._claim.digest = self._digest.digest()
        if self._phase is Phase.RELAYING and self._exchange is not None:
            self._exchange.data(data, more)
        elif self._phase is Phase.COMPARING:
            self._consumed(len(data))
            if self._complete:
                self._compared()
        else:
            if data:
                self._held.append(data)
            if self._phase is Phase.COLLECTING:
                # Credit is given back at once: held back, it would keep a body that is too large from showing it.
                self._consumed(len(data))
                self._collected()

    def cancel(self, status: int) -> None:
        self._give_up(Status.CANCELLED)

    def detach(self) -> None:
        if self._phase is Phase.OVER:
            return
        if not self._complete:
            self._give_up(Status.CANCELLED)
            return
        # A complete request goes on: whoever repeats it finds its answer.
        self._responder = None
        if self._relay is not None:
            self._relay.detach()
        elif self._joined is not None:
            self._give_up(Status.CANCELLED)

    def drained(self) -> None:
        if self._relay is not None:
            self._relay.drained()

    # ---------------------------------------------------------------- filters and route

    def begin(self) -> None:
        """Set it going; the answer may have been given when this returns."""
        try:
            result = self._calls.filters.call(self.call)
        except Refused as error:
            self._answer(Answer(error.status))
            return
        if isinstance(result, Deferred):
            self._watch(self.call.deadline)
            result.addCallbacks(self._filtered, self._filter_refused)
            result.addErrback(self._defect)
        else:
            self._filtered(result)

    def _filter_refused(self, failure: Failure) -> None:
        error = failure.value
        self._answer(Answer(error.status if isinstance(error, Refused) else Status.INTERNAL))

    def _filtered(self, answer: Answer | None) -> None:
        if self._phase is Phase.OVER:
            return
        if answer is not None:
            self._answer(answer)
        elif self.call.operation.startswith("gw."):
            if self.call.early:
                # Some of them change what a device gets, and none is worth telling apart.
                self._answer(Answer(Status.EARLY_DATA_REFUSED))
                return
            self._phase = Phase.COLLECTING
            self._watch(self.call.deadline)
            self._consumed(self._bytes_in)
            self._collected()
        else:
            self._route()

    def _route(self) -> None:
        call, now = self.call, self._calls.now()
        match = self._calls.routes.match(call, now)
        if match is None:
            self._answer(Answer(Status.UNKNOWN_OPERATION))
            return
        self._match = match
        route = match.settings
        call.secret = route.secret
        self._limit = route.max_request_body
        timeout = self._calls.settings.default_timeout if route.timeout is None else route.timeout
        latest = call.received_at + timeout
        call.deadline = latest if call.deadline is None else min(call.deadline, latest)
        if call.identity.strength < _STRENGTH[route.require]:
            known = call.identity.strength > Strength.ANONYMOUS
            self._answer(Answer(Status.FORBIDDEN if known else Status.AUTH))
        elif call.early and not route.idempotent:
            self._answer(Answer(Status.EARLY_DATA_REFUSED))
        elif max(self._bytes_in, content_length(call.headers) if call.http_method else 0) > self._limit:
            self._answer(Answer(Status.FRAME_SIZE))
        elif call.deadline <= now:
            self._answer(Answer(Status.DEADLINE))
        elif call.http_method:
            self._send()
        else:
            self._claim_it(route)

    # ---------------------------------------------------------------- the claim

    def _claim_it(self, route: RouteSettings) -> None:
        call, claims = self.call, self._calls.claims
        key = (call.identity.device, call.identity.user, call.call_id)
        body = b"".join(self._held)
        if self._complete:
            digest = store_digest = digest_of(call.operation, body)
            earlier = claims.earlier(key, digest)
            if earlier is not None and not (route.idempotent and _unknown(earlier)):
                self._repeat(earlier, digest)
                return
        else:
            digest, store_digest = b"", streaming_digest_of(call.operation)
            known = claims.find(key)
            if known and route.idempotent:
                # Taken to be compared, it could not be executed any more when no answer is found.
                self._send()
                return
            self._digest = begin_digest(call.operation, body)
            if known:
                self._phase = Phase.COMPARING
                self._watch(call.deadline)
                self._held.clear()
                self._consumed(len(body))
                return
        durable = route.once == "durable" and not route.idempotent
        if not route.idempotent and (claims.too_old(call) or (not durable and claims.forgotten(call))):
            self._answer(Answer(Status.OUTCOME_UNKNOWN))
            return
        self._claim = claims.begin(key, digest, durable=durable, idempotent=route.idempotent)
        if durable:
            confirmation = claims.confirm(self._claim, store_digest, call)
            if not confirmation.called:
                self._watch(call.deadline)
            confirmation.addCallback(self._confirmed)
            confirmation.addErrback(self._defect)
        else:
            self._send()

    def _confirmed(self, status: int) -> None:
        if self._phase is Phase.OVER:
            # Cancelled or out of time meanwhile: never sent, so the id is free again.
            if status == Status.OK and self._claim is not None:
                self._calls.claims.release(self._claim, Answer(Status.OVERLOAD))
        elif status == Status.OK:
            self._send()
        else:
            self._claim = None
            self._answer(Answer(status))

    def _compared(self) -> None:
        assert self._digest is not None
        call, digest = self.call, self._digest.digest()
        key = (call.identity.device, call.identity.user, call.call_id)
        earlier = self._calls.claims.earlier(key, digest)
        # What was there when it began may be gone by now; it must not be executed in any case.
        self._repeat(earlier if earlier is not None else Answer(Status.OUTCOME_UNKNOWN), digest)

    def _repeat(self, earlier: Claim | Answer, digest: bytes) -> None:
        if isinstance(earlier, Claim):
            self._phase = Phase.WAITING
            self._joined = earlier
            self._watch(self.call.deadline)
            earlier.join(digest, self._replay)
        else:
            self._replay(earlier)

    def _replay(self, answer: Answer) -> None:
        self._joined = None
        route = self._match.settings if self._match is not None else None
        if route is not None and route.idempotent and _unknown(answer):
            self._claim_it(route)
        else:
            self._answer(answer, replayed=answer.http_status != 0)

    # ---------------------------------------------------------------- the upstream

    def _send(self) -> None:
        match, call, calls = self._match, self.call, self._calls
        assert match is not None and call.deadline is not None
        route, now = match.settings, calls.now()
        self._unwatch()
        try:
            target = call.http_target if call.http_method else render_path(route.upstream_path, call)
            headers = towards_upstream(call, calls.zone, now, calls.random_bytes)
        except (UnsafePath, BadHeader) as error:
            self._unsent(Answer(Status.PROTOCOL), str(error))
            return
        if call.deadline <= now:
            self._unsent(Answer(Status.DEADLINE), "out of time before it was sent")
            return
        body = b"".join(self._held)
        self._held.clear()
        if self._complete:
            calls.observe(call, REQUEST_KIND, body)
        request = UpstreamRequest(
            method=call.http_method or route.upstream_method,
            target=target,
            headers=headers,
            body=body,
            more=not self._complete,
            deadline=call.deadline,
            retries=route.retries,
            idempotent=route.idempotent or call.http_method in SAFE_METHODS,
            max_response_body=route.max_response_body,
        )
        self._relay = ResponseRelay(
            self._responder,
            http=bool(call.http_method),
            keep=calls.settings.max_kept_answer if self._claim is not None else 0,
            ended=self._ended,
        )
        self._phase = Phase.RELAYING
        self._exchange = calls.upstreams.request(route.cluster, request, self._relay)
        self._relay.attach(self._exchange)

    def _unsent(self, answer: Answer, why: str) -> None:
        log.info("call {operation} of {device}: {why}", operation=self.call.operation,
                 device=self.call.identity.device, why=why)  # fmt: skip
        if self._claim is not None:
            self._calls.claims.release(self._claim, answer)
        self._answer(answer)

    def _ended(self, failure: UpstreamFailure | None) -> int:
        """The upstream is done with it; gives back the final status. The relay sends the last frame."""
        relay, claim, claims = self._relay, self._claim, self._calls.claims
        assert relay is not None
        once = claim is not None and not claim.idempotent
        status = relay.status if failure is None else status_of_failure(failure, once)
        self._phase = Phase.OVER
        if claim is not None:
            if failure is None:
                claims.finish(claim, relay.answer() if self._complete else None)
            elif failure.kind == "too_large":
                claims.finish(claim, Answer(status, http_status=relay.http_status))
            elif failure.executed:
                claims.lose(claim, Answer(status))
            else:
                claims.release(claim, Answer(status))
        if failure is None and status == Status.OK:
            self._calls.observe(self.call, ANSWER_KIND, relay.body())
        self._account(status, replayed=False)
        return status

    # ---------------------------------------------------------------- the end

    def _give_up(self, status: int) -> None:
        """The device cancels, breaks a bound, or is gone in the middle of its upload."""
        if self._phase is Phase.OVER:
            return
        claim, exchange = self._claim, self._exchange
        if self._joined is not None:
            self._joined.leave(self._replay)
            self._joined = None
        if self._complete and claim is not None and claim.waiters:
            # A repetition on another way waits for this attempt: only this way of it ends.
            responder, self._responder = self._responder, None
            if self._relay is not None:
                self._relay.detach()
            if responder is not None:
                responder.reset(status)
            return
        if exchange is not None:
            exchange.cancel()
            if claim is not None:
                self._calls.claims.lose(claim, Answer(Status.OUTCOME_UNKNOWN))
        self._answer(Answer(status))

    def _answer(self, answer: Answer, replayed: bool = False) -> None:
        """The gateway's own answer, or a kept one."""
        if self._phase is Phase.OVER:
            return
        self._phase = Phase.OVER
        self._unwatch()
        self._held.clear()
        responder, self._responder = self._responder, None
        self._account(answer.status, replayed, answer)
        if responder is None:
            return
        if answer.headers or answer.body or answer.status == Status.OK:
            responder.respond(answer.status, answer.headers, answer.body, False)
        else:
            responder.reset(answer.status)

    def _account(self, status: int, replayed: bool, answer: Answer | None = None) -> None:
        route = self._match.settings if self._match is not None else None
        self._calls.account(
            self.call,
            status,
            replayed=replayed,
            bytes_in=self._bytes_in,
            relay=self._relay,
            answer=answer,
            cluster=route.cluster if route is not None else "",
        )

    def _consumed(self, size: int) -> None:
        if size and self._responder is not None:
            self._responder.upload_consumed(size)

    def _collected(self) -> None:
        """Run one of the gateway's own operations once the body is there."""
        if self._bytes_in > MAX_BUILTIN_BODY:
            self._answer(Answer(Status.FRAME_SIZE))
        elif self._complete:
            self._phase = Phase.WAITING
            result = self._calls.operations.run(self.call, b"".join(self._held))
            if isinstance(result, Answer):
                self._answer(result)
            else:
                result.addCallback(self._answer)
                result.addErrback(self._defect)

    def _watch(self, deadline: float | None) -> None:
        """Before an upstream bounds the time: filters, the store and a slow upload must not hold a call for ever."""
        if self._guard is None:
            left = self._calls.settings.default_timeout if deadline is None else deadline - self._calls.now()
            self._guard = self._calls.timers.schedule(max(0.0, left), self._late)

    def _unwatch(self) -> None:
        if self._guard is not None:
            self._guard.cancel()
            self._guard = None

    def _late(self) -> None:
        self._guard = None
        if self._joined is not None:
            self._joined.leave(self._replay)
            self._joined = None
        self._answer(Answer(Status.DEADLINE))

    def _defect(self, failure: Failure) -> None:
        log.failure("call {operation} failed", failure=failure, operation=self.call.operation)
        self._answer(Answer(Status.INTERNAL))


def _unknown(earlier: Claim | Answer) -> bool:
    return isinstance(earlier, Answer) and earlier.status == Status.OUTCOME_UNKNOWN
