"""The HTTP/1.1 binding: requests of a connection to one handler, answers back in order."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Mapping
from contextlib import suppress
from http import HTTPStatus
from types import MappingProxyType

from accessgw.core.interfaces.connections import Connection
from accessgw.core.interfaces.http import HttpHandler, HttpUpload
from accessgw.model.calls import Headers
from accessgw.model.http import HttpRequest
from accessgw.model.identity import ConnectionInfo
from accessgw.model.listener_settings import TransportLimits
from accessgw.model.reasons import CloseReason
from accessgw.transports.websocket import WebSocketConnection, WebSocketEndpoint
from protocols.errors import RemoteError
from protocols.http.events import DataReceived, HttpEvent, MessageComplete, RequestReceived
from protocols.http.limits import DEFAULT_LIMITS, HttpLimits
from protocols.http.server import ServerConnection
from protocols.http.websocket_handshake import answer_upgrade, expectation

PIECE = 64 * 1024
"""A large answer goes to the connection in pieces of this size, the next when the kernel took the last."""


NO_WEBSOCKETS: Mapping[str, WebSocketEndpoint] = MappingProxyType({})
NO_ORIGINS: Mapping[str, Collection[str]] = MappingProxyType({})


class HttpBindingFactory:
    """Makes the binding of each HTTP connection; `handler` is called with every request's head.

    `limits` has http_idle_timeout between requests; hello_timeout bounds every request head, and the
    write_buffer a handler that writes without looking at `buffered`. `wire` bounds what the peer may
    make the parser keep. GET on a path of `websockets` is an upgrade or an error, never a request for
    the handler; `origins` maps names of listeners to the only Origins from which they take upgrades.
    """

    def __init__(
        self,
        handler: HttpHandler,
        limits: TransportLimits,
        wire: HttpLimits = DEFAULT_LIMITS,
        *,
        websockets: Mapping[str, WebSocketEndpoint] = NO_WEBSOCKETS,
        origins: Mapping[str, Collection[str]] = NO_ORIGINS,
    ) -> None:
        self._handler = handler
        self._limits = limits
        self._wire = wire
        self._websockets = websockets
        self._origins = origins

    def replace_limits(self, limits: TransportLimits) -> None:
        """Use these for connections from now on."""
        self._limits = limits

    def takes_early_data(self, info: ConnectionInfo) -> bool:
        """Each request of it is looked at by itself."""
        return True

    def __call__(self, connection: Connection) -> HttpBinding:
        return HttpBinding(
            connection,
            self._handler,
            self._limits,
            ServerConnection(limits=self._wire),
            self._websockets,
            self._origins.get(connection.info.listener, ()),
        )


class HttpBinding:
    """One HTTP connection: at most one exchange at a time, pipelined requests wait."""

    __slots__ = ("_backlog", "_backlog_size", "_connection", "_ending", "_exchange", "_handler", "_http",
                 "_in_head", "_limits", "_origins", "_paused", "_pumping", "_replayed", "_upload",
                 "_websockets")  # fmt: skip

    def __init__(  # noqa: PLR0917  # made by its factory alone
        self,
        connection: Connection,
        handler: HttpHandler,
        limits: TransportLimits,
        http: ServerConnection,
        websockets: Mapping[str, WebSocketEndpoint],
        origins: Collection[str],
    ) -> None:
        self._connection = connection
        self._handler = handler
        self._limits = limits
        self._http = http
        self._websockets = websockets
        self._origins = origins
        self._exchange: Exchange | None = None
        self._upload: HttpUpload | None = None
        self._backlog: deque[memoryview] = deque()
        self._backlog_size = 0
        self._in_head = True
        """hello_timeout is running."""
        self._paused = False
        self._pumping = False
        self._replayed = False
        """What comes before the end of the hand-shake may have been served already."""
        self._ending: tuple[CloseReason, str] | None = None
        """Close with this once the backlog is empty; nothing is read any more. After an upgrade just the latter."""

    # ------------------------------------------------------------------ Binding

    def data_received(self, data: bytes) -> None:
        if self._ending is not None:
            return
        try:
            self._http.receive(data)
        except RemoteError as error:
            self._refuse(error)
            return
        self._pump()

    def early_data_received(self, data: bytes, replayed: bool) -> None:
        self._replayed = replayed
        self.data_received(data)

    def handshake_completed(self) -> None:
        """A request that is begun and not whole is served as one that came after."""

    def drained(self) -> None:
        self._feed()
        if self._backlog or self._connection.buffered:
            return
        if self._exchange is not None:
            if self._upload is not None:
                self._upload.drained()
        elif self._ending is None:
            self._settle()

    def aged(self) -> None:
        if self._ending is not None:
            return
        self._http.stop_keep_alive()
        if self._exchange is None:
            self._end(CloseReason.MAX_AGE)

    def late(self) -> None:
        if self._ending is not None:
            return
        begun = not self._http.idle
        with suppress(RemoteError):
            self._http.receive_eof()
        if begun and self._http.answerable:
            self._answer_error(408, "the request head did not come in time")
        self._end(CloseReason.HELLO_TIMEOUT)

    def expired(self) -> None:
        """HTTP has no word for it."""

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        self._ending = (reason, detail)
        self._backlog.clear()
        self._backlog_size = 0
        self._drop_exchange()

    # ------------------------------------------------------------------ requests in

    def _pump(self) -> None:
        """Carry events to the handler until there are none, or the rest waits for an answer."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._ending is None and (events := self._next_events()):
                for event in events:
                    if isinstance(event, RequestReceived):
                        self._start(event)
                    elif self._upload is not None:
                        if isinstance(event, DataReceived):
                            self._upload.data(event.data)
                        elif isinstance(event, MessageComplete):
                            # From here on the handler decides how long it takes.
                            self._connection.set_idle(0)
                            self._upload.finished()
        except Exception:
            self._excuse()
            raise
        finally:
            self._pumping = False
        self._settle()

    def _next_events(self) -> list[HttpEvent]:
        try:
            return self._http.events()
        except RemoteError as error:
            self._refuse(error)
            return []

    def _start(self, head: RequestReceived) -> None:
        self._in_head = False
        info = self._connection.info
        endpoint = self._websockets.get(head.target.partition("?")[0]) if head.method == "GET" else None
        too_early = info.early and (self._replayed or endpoint is not None)
        if endpoint is not None and not too_early:
            self._upgrade(head, endpoint)
            return
        self._connection.set_idle(self._limits.http_idle_timeout)
        request = HttpRequest(head.method, head.target, head.headers, info, head.version, info.early)
        self._exchange = exchange = Exchange(self, request)
        if too_early:
            body = error_body(425, "try again after the TLS hand-shake")
            exchange.respond(425, [("content-type", "application/json")], body)
            return
        upload = self._handler(exchange)
        if self._exchange is exchange:
            self._upload = upload
            if head.expect_continue and self._http.answerable:
                self._write(self._http.continue_100())

    def _upgrade(self, head: RequestReceived, endpoint: WebSocketEndpoint) -> None:
        """Hand the connection to a WebSocket, or answer why not and close."""
        try:
            origins = [value for name, value in head.headers if name == "origin"]
            if origins and self._origins and (len(origins) > 1 or origins[0] not in self._origins):
                raise RemoteError(403, f"Origin {origins[0][:200]} may not open a WebSocket here")
            headers, _ = answer_upgrade(head, endpoint.subprotocols, required=endpoint.required)
            if not self._http.upgradable:
                raise RemoteError(400, "expected an upgrade request of HTTP/1.1 without a body")
        except RemoteError as error:
            self._answer_error(error.code, str(error), expectation(error.code))
            reason = CloseReason.FORBIDDEN if error.code == 403 else CloseReason.PROTOCOL_ERROR
            self._end(reason, f"{error.code}: {error}")
            return
        answer, rest = self._http.upgrade(headers)
        connection = self._connection
        self._ending = (CloseReason.FINISHED, "upgraded")
        while self._backlog:
            connection.write(bytes(self._backlog.popleft()))
        self._backlog_size = 0
        connection.write(answer)
        connection.resume()
        WebSocketConnection(connection, endpoint.max_message).open(endpoint.factory, rest)

    def _excuse(self) -> None:
        """A handler raised: answer 500 if that is still possible; the connection closes with INTERNAL."""
        self._drop_exchange()
        if self._http.answerable:
            self._answer_error(500, "a defect of the gateway")
        self._ending = (CloseReason.INTERNAL, "a handler raised")

    def _refuse(self, error: RemoteError) -> None:
        """The peer broke HTTP: say so if the answer has not begun, and close."""
        self._drop_exchange()
        if self._http.answerable:
            self._answer_error(error.code, str(error))
            self._end(CloseReason.PROTOCOL_ERROR, f"{error.code}: {error}")
        else:
            self._connection.abort(CloseReason.PROTOCOL_ERROR, f"{error.code}: {error}")

    def _answer_error(self, status: int, message: str, headers: Headers | None = None) -> None:
        self._http.stop_keep_alive()
        fields = [("content-type", "application/json"), *(headers or [])]
        self._write(self._http.send_response(status, fields, error_body(status, message)))

    def _drop_exchange(self) -> None:
        exchange, upload = self._exchange, self._upload
        self._exchange = self._upload = None
        if exchange is not None:
            exchange.detach()
            if upload is not None:
                upload.aborted()

    # ------------------------------------------------------------------ answers out, called by Exchange

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        self._write(self._http.send_response(status, headers, body))
        self._answered()

    def start(self, status: int, headers: Headers) -> None:
        self._write(self._http.start_response(status, headers))

    def write(self, data: bytes) -> None:
        if self.buffered > self._limits.write_buffer:
            self._connection.abort(CloseReason.SLOW_READER, f"{self.buffered} bytes wait for the peer")
            return
        wire = self._http.send_data(data)
        if wire:
            self._write(wire)

    def finish(self) -> None:
        end = self._http.finish()
        if end:
            self._write(end)
        self._answered()

    def abort(self) -> None:
        self._exchange = self._upload = None
        self._connection.abort(CloseReason.FINISHED, "the answer was given up")

    def hold(self, paused: bool) -> None:
        """Whether the handler wants no more of the body for now."""
        self._paused = paused
        self._throttle()

    @property
    def buffered(self) -> int:
        return self._connection.buffered + self._backlog_size

    def _answered(self) -> None:
        exchange = self._exchange
        self._exchange = self._upload = None
        self._paused = False
        if exchange is not None:
            exchange.detach()
        if not self._http.keep_alive:
            self._end(CloseReason.FINISHED)
            return
        self._pump()

    def _end(self, reason: CloseReason, detail: str = "") -> None:
        self._ending = (reason, detail)
        if not self._backlog:
            self._connection.close(reason, detail)

    def _write(self, data: bytes) -> None:
        if not self._backlog and len(data) <= PIECE:
            self._connection.write(data)
            return
        self._backlog.append(memoryview(data))
        self._backlog_size += len(data)
        self._feed()

    def _feed(self) -> None:
        backlog = self._backlog
        while backlog and not self._connection.buffered:
            first = backlog[0]
            if len(first) > PIECE:
                backlog[0] = first[PIECE:]
                first = first[:PIECE]
            else:
                backlog.popleft()
            self._backlog_size -= len(first)
            self._connection.write(bytes(first))
        if not backlog and self._ending is not None:
            self._connection.close(*self._ending)

    # ------------------------------------------------------------------ time-outs and flow

    def _settle(self) -> None:
        """After something happened: which time-out rules now, and whether to read on."""
        if self._ending is not None:
            return
        if self._exchange is None:
            if self._http.idle:
                self._in_head = False
                # While an answer still drains, the kernel's TCP_USER_TIMEOUT watches the peer.
                waiting = self._connection.buffered or self._backlog
                self._connection.set_idle(0 if waiting else self._limits.http_idle_timeout)
            elif not self._in_head:
                self._in_head = True
                self._connection.await_hello()
        self._throttle()

    def _throttle(self) -> None:
        if self._paused or self._http.blocked:
            self._connection.pause()
        else:
            self._connection.resume()


def error_body(status: int, message: str) -> bytes:
    """JSON of an error that the gateway itself answers."""
    code = HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")
    return json.dumps({"error": {"code": code, "message": message}}).encode()


class Exchange:
    """One request, and the handler's way to answer it. After the end its methods do nothing."""

    __slots__ = ("_binding", "request")

    def __init__(self, binding: HttpBinding, request: HttpRequest) -> None:
        self.request = request
        self._binding: HttpBinding | None = binding

    @property
    def buffered(self) -> int:
        return 0 if self._binding is None else self._binding.buffered

    def detach(self) -> None:
        """The exchange is over."""
        self._binding = None

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        if self._binding is not None:
            self._binding.respond(status, headers, body)

    def start(self, status: int, headers: Headers) -> None:
        if self._binding is not None:
            self._binding.start(status, headers)

    def write(self, data: bytes) -> None:
        if self._binding is not None:
            self._binding.write(data)

    def finish(self) -> None:
        if self._binding is not None:
            self._binding.finish()

    def abort(self) -> None:
        binding, self._binding = self._binding, None
        if binding is not None:
            binding.abort()

    def pause(self) -> None:
        if self._binding is not None:
            self._binding.hold(True)

    def resume(self) -> None:
        if self._binding is not None:
            self._binding.hold(False)
