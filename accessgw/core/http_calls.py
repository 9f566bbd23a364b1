"""Ordinary HTTP requests as calls: streaming both ways, status codes passed through."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import json

from accessgw.core.interfaces.calls import CallService, CallUpload
from accessgw.core.interfaces.http import HttpExchange
from accessgw.model.calls import Call, Headers
from protocols.errors import RemoteError
from protocols.mmtp.statuses import Status, http_from_status

if TYPE_CHECKING:
    from accessgw.core.http_dictionaries import BodyCoding

UNCONSUMED = 64 * 1024
"""Request body bytes that the upstream has not taken, above which the client is not read."""
WHOLE = 64 * 1024
"""A request body that says it is at most so long is collected first, so that it may be tried again."""

_NAMES: dict[int, str] = {status: status.name.lower() for status in Status}
_CODES: dict[int, str] = {
    Status.UNKNOWN_OPERATION: "not_found",
    Status.FRAME_SIZE: "too_large",
    Status.AUTH: "unauthorized",
}
_BUSY = frozenset({Status.OVERLOAD, Status.RATE_LIMIT, Status.UPSTREAM_UNAVAILABLE, Status.DRAINING})


def respond_error(
    exchange: HttpExchange, http_status: int, code: str, message: str, headers: Headers | None = None
) -> None:
    """A JSON error of the gateway itself."""
    body = json.encode({"error": {"code": code, "message": message}})
    exchange.respond(http_status, [("content-type", "application/json"), *(headers or ())], body)


class HttpResponder:
    """The way back: a CallResponder on an HTTP exchange."""

    __slots__ = ("_call", "_exchange", "_head", "_parts", "_started", "_stop_waiting", "coding", "over")

    def __init__(self, exchange: HttpExchange, call: HttpCall) -> None:
        self._exchange = exchange
        self._call = call
        self._started = False
        self.coding: BodyCoding | None = None
        """What is done to the answer's body, None: nothing."""
        self._head: tuple[int, Headers] | None = None
        """Of an answer that is held back until this turn's end, with the parts of its body that have come."""
        self._parts: list[bytes] = []
        self._stop_waiting: Callable[[], None] = _nothing
        self.over = False

    def respond(self, status: int, headers: Headers, body: bytes, more: bool) -> None:
        if self.over:
            return
        if headers and headers[0][0] == ":status":
            http_status, headers = int(headers[0][1]), headers[1:]
        else:
            http_status = http_from_status(status)
        if more and self.coding is not None:
            stop = self.coding.wait(http_status, headers, self._let_go)
            if stop is not None:
                self._head, self._stop_waiting = (http_status, headers), stop
                self.data(body, True)
                return
        if more or (self._exchange.request.method == "HEAD" and not body):
            # The content-length of an answer to HEAD is that of the answer to GET: it is not ours to count.
            self._start(http_status, headers)
            self.data(body, more)
        else:
            self._whole(http_status, headers, body)

    def _start(self, http_status: int, headers: Headers) -> None:
        self._started = True
        self._exchange.start(http_status, headers if self.coding is None else self.coding.head(http_status, headers))

    def _whole(self, http_status: int, headers: Headers, body: bytes) -> None:
        self.over = True
        if self.coding is not None:
            headers, body = self.coding.whole(http_status, headers, body)
        self._exchange.respond(http_status, [h for h in headers if h[0] != "content-length"], body)

    def _let_go(self) -> None:
        """Send what was held back, as a stream."""
        self._stop_waiting()
        if self._head is None or self.over:
            return
        head, self._head = self._head, None
        parts, self._parts = self._parts, []
        self._start(*head)
        self.data(b"".join(parts), True)

    def data(self, data: bytes, more: bool) -> None:
        if self.over:
            return
        if self._head is not None:
            self._parts.append(data)
            if not more:
                self._stop_waiting()
                self._whole(*self._head, b"".join(self._parts))
            elif sum(map(len, self._parts)) > WHOLE:
                self._let_go()
            return
        if data:
            self._exchange.write(data)
        if not more:
            self.over = True
            self._exchange.finish()

    def reset(self, status: int) -> None:
        if self.over:
            return
        self.over = True
        self._stop_waiting()
        if self._started:
            # The status line has left; a cut connection is all that can still tell.
            self._exchange.abort()
            return
        http_status = http_from_status(status)
        name = _NAMES.get(status, "error")
        headers: Headers = []
        if status in _BUSY:
            headers.append(("retry-after", "1"))
        if http_status == 401:
            headers.append(("www-authenticate", "Bearer"))
        respond_error(self._exchange, http_status, _CODES.get(status, name), name.replace("_", " "), headers)

    def unsent(self) -> int:
        return 0 if self.over else self._exchange.buffered + sum(map(len, self._parts))

    def upload_consumed(self, size: int) -> None:
        self._call.consumed(size)


class HttpCall:
    """The way in: an HttpUpload that becomes a call once its sender is known."""

    __slots__ = (
        "_complete",
        "_held",
        "_outstanding",
        "_paused",
        "_pending",
        "_unpacks",
        "_upload",
        "exchange",
        "responder",
    )

    def __init__(self, exchange: HttpExchange) -> None:
        self.exchange = exchange
        self.responder = HttpResponder(exchange, self)
        self._held: list[bytes] = []
        self._outstanding = 0
        self._complete = False
        self._paused = False
        self._pending: tuple[CallService, Call] | None = None
        """The call that waits for the whole of its body."""
        self._unpacks: BodyCoding | None = None
        """Expands the body, once it is there."""
        self._upload: CallUpload | None = None

    def start(self, calls: CallService, call: Call, coding: BodyCoding | None = None) -> None:
        """The sender is known: begin the call, at once or when its small body is there. `coding` is what becomes of the
        bodies, None: they pass as they are."""
        if self.responder.over:
            return
        self._pending = (calls, call)
        self.responder.coding = coding
        length = _body_length(call.headers)
        if coding is not None and coding.receives:
            self._unpacks = coding
            if self._within(coding.limit) and self._complete:
                self._begin(False)
            elif self._paused:
                self._paused = False
                self.exchange.resume()
        elif length == 0 or length > WHOLE or self._complete:
            self._begin(length == 0)

    def refuse(self, status: int) -> None:
        """Answer without a call."""
        self._held.clear()
        self.responder.reset(status)

    def _begin(self, empty: bool) -> None:
        assert self._pending is not None
        (calls, call), self._pending = self._pending, None
        call.body = b"".join(self._held)
        self._held.clear()
        if self._unpacks is not None:
            try:
                call.body = self._unpacks.expand(call.body)
            except RemoteError as error:
                self._refuse_body(error.code, str(error))
                return
        call.more = not (empty or self._complete)
        self._upload = calls.start(call, self.responder)

    def _within(self, limit: int) -> bool:
        """Whether the body that is collected may still be expanded; answers when not."""
        if self._outstanding <= limit:
            return True
        self._held.clear()
        self._pending = None
        self._refuse_body(413, f"dcz: expected a body of at most {limit} bytes")
        return False

    def _refuse_body(self, status: int, message: str) -> None:
        self.responder.over = True
        code = {413: "too_large", 415: "unsupported_media_type"}.get(status, "bad_request")
        # What would be understood (RFC 9110 section 15.5.16).
        headers = [("accept-encoding", "identity")] if status == 415 else []
        respond_error(self.exchange, status, code, message, headers)

    # ---------------------------------------------------------------- HttpUpload

    def data(self, data: bytes) -> None:
        if self.responder.over or self._complete:
            return
        self._outstanding += len(data)
        if self._unpacks is not None and not self._within(self._unpacks.limit):
            return
        if self._upload is None:
            self._held.append(data)
        else:
            self._upload.data(data, True)
        if self._outstanding > UNCONSUMED and not self._paused and self._pending is None:
            self._paused = True
            self.exchange.pause()

    def finished(self) -> None:
        if self._complete:
            return
        self._complete = True
        if self._pending is not None:
            self._begin(False)
        elif self._upload is not None:
            self._upload.data(b"", False)

    def aborted(self) -> None:
        self.responder.over = True
        self._held.clear()
        self._pending = None
        if self._upload is not None:
            self._upload.detach()

    def drained(self) -> None:
        if self._upload is not None:
            self._upload.drained()

    def consumed(self, size: int) -> None:
        """The upstream has taken part of the body."""
        self._outstanding = max(0, self._outstanding - size)
        if self._paused and self._outstanding <= UNCONSUMED // 2:
            self._paused = False
            self.exchange.resume()


def _nothing() -> None:
    """Nobody waits."""


def _body_length(headers: Headers) -> int:
    """Bytes of the request's body; a large number when they come in chunks (RFC 9112, section 6.3)."""
    length = 0
    for name, value in headers:
        if name == "transfer-encoding":
            return 1 << 62
        if name == "content-length":
            length = int(value) if value.isascii() and value.isdigit() else 1 << 62
    return length
