"""Serves JSON over HttpExchange: a table of routes, roles, bounded bodies, one form of errors.

What is served stands in control_api.py; this module knows no path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.interfaces.clock import Clock
from accessgw.core.interfaces.control import ControlError
from accessgw.core.interfaces.http import HttpExchange, HttpUpload
from accessgw.core.interfaces.stores import IdempotencyConflict, StoreUnavailable
from accessgw.model.calls import Headers
from accessgw.model.http import BodyCollector, HttpRequest
from accessgw.model.settings import ControlSettings
from accessgw.ops.event_stream import EventStream
from accessgw.ops.idempotency import IdempotencyMemory
from accessgw.ops.tokens import Unauthorized, authorize

log = Logger()

COMMON: Headers = [("cache-control", "no-store"), ("x-content-type-options", "nosniff")]
"""Headers of every answer."""


@dataclass(slots=True, frozen=True)
class Reply:
    """One answer. A `body` of bytes goes out as it is, anything else as JSON."""

    body: Any
    status: int = 200
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)

    def encoded(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else msgspec.json.encode(self.body) + b"\n"


@dataclass(slots=True)
class Request:
    """One request whose body is complete, as a handler gets it."""

    http: HttpRequest
    params: dict[str, str]
    """Parts of the path, percent-decoded."""
    body: bytes
    query: dict[str, str] = field(default_factory=dict)

    @property
    def idempotency_key(self) -> str:
        return self.http.header("idempotency-key")

    @property
    def has_idempotency_key(self) -> bool:
        """It came, if empty."""
        return any(name == "idempotency-key" for name, _ in self.http.headers)

    def digest(self) -> bytes:
        """What the Idempotency-Key stands for: method, target and body."""
        head = f"{self.http.method} {self.http.target}\n".encode(errors="surrogateescape")
        return hashlib.sha256(head + self.body).digest()

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; an empty body is an empty one."""
        if not self.body.strip():
            return {}
        try:
            return msgspec.json.decode(self.body, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise ControlError(400, "invalid", f"expected a JSON object: {error}") from None


Handler = Callable[[Request], "Reply | Deferred[Reply]"]
Subscriber = Callable[[Request, Callable[[dict[str, Any]], None]], Callable[[], None]]


@dataclass(slots=True, frozen=True)
class Route:
    """`path` has names in braces; `role` is what a token needs, empty for everyone."""

    method: str
    path: str
    role: str
    handle: Handler | None = None
    subscribe: Subscriber | None = None
    """Instead of `handle`: the answer is a stream of server-sent events."""
    own_idempotency: bool = False
    """The handler looks after Idempotency-Key itself."""

    @property
    def methods(self) -> tuple[str, ...]:
        """HEAD goes wherever GET does (RFC 9110 9.3.2), but for streams, whose head tells nothing."""
        return ("GET", "HEAD") if self.method == "GET" and self.subscribe is None else (self.method,)

    def match(self, segments: Sequence[str]) -> dict[str, str] | None:
        """The named parts (still percent-encoded), or None when the path is another."""
        pattern = self.path.split("/")
        if len(pattern) != len(segments):
            return None
        params: dict[str, str] = {}
        for expected, segment in zip(pattern, segments, strict=True):
            if expected.startswith("{"):
                params[expected[1:-1]] = segment
            elif expected != segment:
                return None
        return params


class HttpApi:
    """An HttpHandler over a table of routes."""

    MAX_STREAMS = 64
    """Server-sent event streams at once."""

    def __init__(self, routes: Sequence[Route], settings: ControlSettings, clock: Clock) -> None:
        self._routes = routes
        self._clock = clock
        self._answers: IdempotencyMemory[Reply] = IdempotencyMemory(clock.seconds, settings.idempotency_ttl)
        self.settings = settings
        self._streams: set[EventStream] = set()

    def reconfigure(self, settings: ControlSettings) -> None:
        """Use other tokens and bounds from the next request on."""
        self.settings = settings
        self._answers.ttl = settings.idempotency_ttl

    def close(self) -> None:
        """End every stream of events; the gateway stops."""
        for stream in list(self._streams):
            stream.end()

    def __call__(self, exchange: HttpExchange) -> HttpUpload:
        """Check path, method and token with the head alone; answer when the body is complete."""
        try:
            route, params = self._find(exchange.request)
            authorize(exchange.request, route.role, self.settings.tokens)
            length = exchange.request.header("content-length")
            if length.isdecimal() and (len(length) > 18 or int(length) > self.settings.max_body):
                raise self._too_large()
        except ControlError as error:
            _respond(exchange, _error_reply(error))
            return BodyCollector(0, _ignore, _nothing)
        opened: list[EventStream] = []

        def done(body: bytes) -> None:
            request = Request(exchange.request, params, body, exchange.request.query)
            answer = maybeDeferred(self._answer, route, request, exchange, opened)
            answer.addErrback(_failure_reply).addCallback(lambda reply: _respond(exchange, reply))

        def aborted() -> None:
            for stream in opened:
                stream.stop()

        def drained() -> None:
            for stream in opened:
                stream.drained()

        def too_large() -> None:
            _respond(exchange, _error_reply(self._too_large()))

        return BodyCollector(self.settings.max_body, done, too_large, aborted, drained)

    def _find(self, request: HttpRequest) -> tuple[Route, dict[str, str]]:
        segments = request.path.split("/")
        allowed: list[str] = []
        for route in self._routes:
            params = route.match(segments)
            if params is not None:
                if request.method in route.methods:
                    return route, params
                allowed += route.methods
        if allowed:
            raise _MethodNotAllowed(request.method, sorted(set(allowed)))
        raise ControlError(404, "not_found", f"no such path: {request.path}")

    def _answer(
        self, route: Route, request: Request, exchange: HttpExchange, opened: list[EventStream]
    ) -> Deferred[Any]:
        """The reply, or None when a stream of events has begun instead."""
        request.params = _decoded(request.params)
        if route.subscribe is not None:
            opened.append(self._stream(exchange, route.subscribe, request))
            return succeed(None)
        handle = route.handle
        assert handle is not None
        key = request.idempotency_key
        if request.http.method not in ("POST", "DELETE") or route.own_idempotency:
            return _run(handle, request)
        who = request.http.connection.peer or "a Unix socket"
        log.info(
            "control API: {method} {target} from {who}", method=request.http.method, target=request.http.target, who=who
        )
        if not request.has_idempotency_key:
            return _run(handle, request)
        check_key(key)
        return self._answers.run(key, request.digest(), lambda: _run(handle, request))

    def _stream(self, exchange: HttpExchange, subscribe: Subscriber, request: Request) -> EventStream:
        if len(self._streams) >= self.MAX_STREAMS:
            raise ControlError(503, "busy", f"{self.MAX_STREAMS} streams of events are open already")
        stream = EventStream(exchange, self._clock, lambda: self._streams.discard(stream))
        stream.start(lambda emit: subscribe(request, emit))
        self._streams.add(stream)
        return stream

    def _too_large(self) -> ControlError:
        return ControlError(413, "too_large", f"expected a body of at most {self.settings.max_body} bytes")


def _run(handle: Handler, request: Request) -> Deferred[Reply]:
    reply = handle(request)
    return succeed(reply) if isinstance(reply, Reply) else reply


class _MethodNotAllowed(ControlError):
    def __init__(self, method: str, allowed: list[str]) -> None:
        super().__init__(405, "method_not_allowed", f"expected {' or '.join(allowed)}, got {method}")
        self.allow = ", ".join(allowed)


def check_key(key: str) -> None:
    """Raises ControlError 400 unless `key` is usable as an Idempotency-Key."""
    if not 0 < len(key) <= 255 or not key.isprintable():
        raise ControlError(400, "invalid", "expected an Idempotency-Key of 1 to 255 printable characters")


def _decoded(params: dict[str, str]) -> dict[str, str]:
    try:
        return {name: unquote_to_bytes(value).decode() for name, value in params.items()}
    except UnicodeDecodeError:
        raise ControlError(400, "invalid", "expected percent-encoded UTF-8 in the path") from None


def _respond(exchange: HttpExchange, reply: Reply | None) -> None:
    if reply is not None:
        exchange.respond(reply.status, [*reply.headers, *COMMON], reply.encoded())


def _failure_reply(failure: Failure) -> Reply:
    error = failure.value
    if isinstance(error, ControlError):
        return _error_reply(error)
    if isinstance(error, StoreUnavailable):
        return _error_reply(ControlError(503, "store_unavailable", str(error)))
    if isinstance(error, IdempotencyConflict):
        return _error_reply(
            ControlError(409, "idempotency_conflict", "this Idempotency-Key was used for another request")
        )
    log.failure("control API", failure=failure)
    return _error_reply(ControlError(500, "internal", "the request failed; the gateway's log says why"))


def _error_reply(error: ControlError) -> Reply:
    told = {"code": error.code, "message": str(error)}
    if error.path:
        told["path"] = error.path
    headers = [("content-type", "application/json")]
    if isinstance(error, Unauthorized):
        headers.append(("www-authenticate", error.challenge))
    if isinstance(error, _MethodNotAllowed):
        headers.append(("allow", error.allow))
    if error.status == 503:
        headers.append(("retry-after", "1"))
    return Reply({"error": told}, error.status, tuple(headers))


def _ignore(_body: bytes) -> None:
    """The request was answered from its head; its body is nobody's."""


def _nothing() -> None:
    """The same for a body that is too large."""
