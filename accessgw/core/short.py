"""Short connections: calls and pending pushes in one `POST /mmtp` (MMTP specification, section 12)."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.authentication import AdmissionRefused
from accessgw.core.call_headers import BUSY, TRY_AGAIN
from accessgw.core.interfaces.calls import CallUpload
from accessgw.core.interfaces.http import HttpExchange, HttpUpload
from accessgw.core.introductions import cursors_of, introduction_of
from accessgw.core.mmtp_binding import MmtpServices
from accessgw.core.registry import DeviceSession
from accessgw.model.calls import Call, Headers
from accessgw.model.http import BodyCollector
from accessgw.model.pushes import Cursor
from accessgw.model.reasons import CloseReason
from protocols.errors import LocalError, RemoteError
from protocols.mmtp.events import PushReceived
from protocols.mmtp.handshake import Welcome
from protocols.mmtp.short import (
    CONTENT_TYPE,
    ShortAnswer,
    ShortCall,
    ShortRequest,
    ShortResponse,
    decode_short_request,
    encode_short_response,
    verify_tag,
)
from protocols.mmtp.short_auth import CounterWindow
from protocols.mmtp.statuses import Status

log = Logger()

MAX_REQUEST = 1024 * 1024
"""Bytes of one POST."""
MAX_ANSWER = 4 * 1024 * 1024
"""Bytes of one answer (specification, section 13): it is held in memory as a whole."""
MAX_PUSHES = 64
MAX_PUSH_BYTES = 64 * 1024
_NOBODY = bytes(32)
"""The key that tags of unknown sessions are checked with, so that they take the same time."""
_LATEST = 1e14
"""Seconds; a time beyond it is no time, and its milliseconds would not fit in the tag's eight bytes."""


class ShortConnections:
    """An HttpHandler of `POST /mmtp`."""

    def __init__(self, services: MmtpServices, time_skew: float) -> None:
        self._services = services
        self._time_skew = time_skew

    def __call__(self, exchange: HttpExchange) -> HttpUpload:
        served = _Exchange(exchange)
        return BodyCollector(
            MAX_REQUEST,
            lambda body: self._received(served, body),
            lambda: exchange.respond(413, [("content-type", "text/plain")], b"at most 1 MiB\n"),
            aborted=served.aborted,
        )

    def _received(self, served: _Exchange, body: bytes) -> None:
        listener = served.exchange.request.header("host")
        proved: list[DeviceSession] = []

        def verify(request: ShortRequest) -> None:
            proved.append(self._session(request, listener))

        try:
            # bodies are expanded for whoever has shown the session's key only
            request = decode_short_request(body, self._services.limits, verify=verify)
        except AdmissionRefused as error:
            self._refuse(served, error)
            return
        except RemoteError as error:
            if error.code in (Status.PROTOCOL, Status.COMPRESSION, Status.FRAME_SIZE):
                status = 413 if error.code == Status.FRAME_SIZE else 400
                served.exchange.respond(status, [("content-type", "text/plain")], f"{error}\n".encode())
            else:
                self._respond(served, ShortResponse(error.code, message=str(error)), zstd=False)
            return
        session = proved[0] if proved else None
        Deferred.fromCoroutine(self._serve(served, request, session)).addErrback(self._defect, served)

    def _refuse(self, served: _Exchange, error: AdmissionRefused) -> None:
        refusal = ShortResponse(error.status, retry_after=error.retry_after, message=str(error))
        self._respond(served, refusal, zstd=False)

    async def _serve(self, served: _Exchange, request: ShortRequest, session: DeviceSession | None) -> None:
        """`session` is the one whose key the request has shown; None: it brings a HELLO."""
        welcome: Welcome | None = None
        try:
            if session is None:
                assert request.hello is not None
                info = served.exchange.request.connection
                session = await self._services.sessions.admit_short(introduction_of(request.hello, info), info)
                welcome = self._services.welcome(session, request.hello)
                cursors = cursors_of(session.identity, request.hello.cursors)
            else:
                cursors = cursors_of(session.identity, request.cursors)
        except AdmissionRefused as error:
            self._refuse(served, error)
            return
        response = ShortResponse(welcome=welcome)
        response.answers = await self._call(served, session, request.calls)
        if served.gone:
            return
        if request.max_pushes:
            await self._add_pushes(response, session, cursors, min(request.max_pushes, MAX_PUSHES))
        self._respond(served, response, session.zstd)

    def _session(self, request: ShortRequest, listener: str) -> DeviceSession:
        """The session that the tag proves. Raises AdmissionRefused."""
        session = self._services.sessions.by_id(request.session)
        key = session.mac_key if session is not None else _NOBODY
        genuine = request.time < _LATEST and verify_tag(request, key, listener)
        if session is None or not genuine:
            # One answer for both, so that nobody learns which sessions there are.
            raise AdmissionRefused(Status.SESSION_UNKNOWN, CloseReason.AUTH_FAILED, "no such session")
        if not math.fabs(request.time - self._services.wall()) <= self._time_skew:
            raise AdmissionRefused(Status.AUTH, CloseReason.AUTH_FAILED, "the time is off")
        if session.replay is None:
            session.replay = CounterWindow()
        if not session.replay.accept(request.counter):
            raise AdmissionRefused(Status.AUTH, CloseReason.AUTH_FAILED, "the counter was used")
        return session

    # ---------------------------------------------------------------- calls

    def _call(self, served: _Exchange, session: DeviceSession, calls: list[ShortCall]) -> Deferred[list[ShortAnswer]]:
        """Start every call; fires when each has its last frame."""
        done: Deferred[list[ShortAnswer]] = Deferred()
        answers: list[ShortAnswer] = []
        made: list[Call] = []
        if not calls:
            done.callback(answers)
            return done

        def answered(answer: ShortAnswer) -> None:
            call = made[answer.index]
            answer.secret = call.secret or self._services.is_secret(call.operation)
            answers.append(answer)
            if len(answers) == len(calls):
                done.callback(answers)

        now = self._services.clock.seconds()
        for index, one in enumerate(calls):
            responder = _ShortResponder(index, answered)
            call = Call(
                operation=one.operation,
                identity=session.identity,
                call_id=one.call_id,
                headers=one.headers,
                body=one.body,
                deadline=None if one.timeout is None else now + one.timeout,
                resent=one.resent,
                age=one.age,
                binding="mmtp-short",
                connection=served.exchange.request.connection,
                received_at=now,
            )
            made.append(call)
            served.uploads.append(self._services.calls.start(call, responder))
        return done

    async def _add_pushes(
        self, response: ShortResponse, session: DeviceSession, cursors: list[Cursor], limit: int
    ) -> None:
        try:
            pending = await self._services.pushes.pending(session, cursors, limit, MAX_PUSH_BYTES)
        except Exception:
            # The calls were executed: their answers must not be lost for the pushes' sake.
            log.failure("pending pushes of {device} cannot be read", device=session.identity.device)
            response.more_pushes = True
            return
        now = self._services.wall()
        for key, epoch, push in pending:
            ttl = None if push.expires_at is None else max(0.0, push.expires_at - now)
            response.pushes.append(
                PushReceived(
                    alias=0,
                    scope=key.scope,
                    id=key.id,
                    biz=key.biz,
                    epoch=epoch,
                    seq=push.seq,
                    body=push.body,
                    ttl=ttl,
                    collapse=push.collapse,
                    priority=push.priority,
                )
            )
        response.more_pushes = len(pending) >= limit
        response.secret_biz = frozenset(push.biz for push in response.pushes if self._services.is_secret(push.biz))

    # ---------------------------------------------------------------- the answer

    def _respond(self, served: _Exchange, response: ShortResponse, zstd: bool) -> None:
        response.time = self._services.wall()
        try:
            body = encode_short_response(response, zstd=zstd)
        except LocalError as error:
            log.error("an answer does not fit into a short connection: {error}", error=error)
            for answer in response.answers:
                answer.reset, answer.headers, answer.body = True, [], b""
                answer.status = answer.status or Status.INTERNAL
            body = encode_short_response(response, zstd=zstd)
        served.exchange.respond(200, [("content-type", CONTENT_TYPE), ("cache-control", "no-store")], body)

    def _defect(self, failure: Failure, served: _Exchange) -> None:
        log.failure("a short connection failed", failure=failure)
        with suppress(LocalError):
            self._respond(served, ShortResponse(Status.INTERNAL), zstd=False)


class _Exchange:
    """One POST, and what to do when its client goes away."""

    __slots__ = ("exchange", "gone", "uploads")

    def __init__(self, exchange: HttpExchange) -> None:
        self.exchange = exchange
        self.gone = False
        self.uploads: list[CallUpload] = []

    def aborted(self) -> None:
        """Calls go on without it; their answers are kept for a repetition."""
        self.gone = True
        for upload in self.uploads:
            upload.detach()


class _ShortResponder:
    """Collects one answer. A CallResponder whose device takes everything at once."""

    __slots__ = ("_answered", "_headers", "_index", "_parts", "_size", "_status")

    def __init__(self, index: int, answered: Callable[[ShortAnswer], None]) -> None:
        self._index = index
        self._answered: Callable[[ShortAnswer], None] | None = answered
        self._status = 0
        self._headers: Headers = []
        self._parts: list[bytes] = []
        self._size = 0

    def respond(self, status: int, headers: Headers, body: bytes, more: bool) -> None:
        self._status = status
        self._headers = headers
        self.data(body, more)

    def data(self, data: bytes, more: bool) -> None:
        self._size += len(data)
        self._parts.append(data)
        if self._size > MAX_ANSWER:
            self.reset(Status.FRAME_SIZE)
        elif not more:
            self._finish(ShortAnswer(self._index, self._status, self._headers, b"".join(self._parts)))

    def reset(self, status: int) -> None:
        if status in BUSY:
            self._finish(ShortAnswer(self._index, status, TRY_AGAIN))
        else:
            self._finish(ShortAnswer(self._index, status, reset=True))

    def unsent(self) -> int:
        return 0

    def upload_consumed(self, size: int) -> None:
        """Credit does not apply to short connections."""

    def _finish(self, answer: ShortAnswer) -> None:
        self._parts.clear()
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(answer)
