"""The server's side of one HTTP connection (RFC 9112; also HTTP/1.0, as health checks speak it), without I/O."""

from __future__ import annotations

from enum import Enum

from protocols.errors import LocalError, RemoteError
from protocols.http.backends import get_backend
from protocols.http.bodies import BodyReader, ChunkedReader, LengthReader
from protocols.http.events import DataReceived, Headers, HttpEvent, MessageComplete
from protocols.http.heads import BAD_REQUEST, CHUNKED, read_request
from protocols.http.limits import DEFAULT_LIMITS, HttpLimits
from protocols.http.writing import BodyWriter, HeadWriter, status_line

_MAX_EMPTY_LINES = 4


class _Reading(Enum):
    HEAD = "head"
    BODY = "body"
    DONE = "done"
    """The request is complete; what follows waits until it is answered."""
    CLOSED = "closed"
    """The peer erred or ended its side."""


class _Writing(Enum):
    IDLE = "idle"
    """No request to answer."""
    WAITED = "waited"
    """A request came, nothing of the answer has been made yet."""
    BODY = "body"
    DONE = "done"
    """Answered; the request is not complete yet."""


class ServerConnection:
    """Requests in, answers out, one exchange at a time.

    `receive` takes bytes, `events` gives what they meant. Pipelined requests are held back: their
    events come from `events` once the answer before them is finished. Both raise RemoteError with
    the HTTP status that the peer should be told; `send_response` still works then unless an answer
    had been started, and the connection has to be closed after it.

    Answers to HTTP/1.0 are never chunked: one without content-length ends with the connection, and
    another request may follow only if the client asked for it and the length is told.

    `parser` is `auto`, `httptools` or `h11`; `backend` says which one runs.
    """

    __slots__ = ("_backend", "_body", "_buffer", "_empty_lines", "_events", "_head_only", "_keep_alive",
                 "_limits", "_old", "_reading", "_scanned", "_writer", "_writing", "backend")  # fmt: skip

    def __init__(self, parser: str = "auto", limits: HttpLimits = DEFAULT_LIMITS) -> None:
        self._backend = get_backend(parser)
        self.backend = self._backend.name
        self._limits = limits
        self._reading = _Reading.HEAD
        self._writing = _Writing.IDLE
        self._buffer = bytearray()
        self._scanned = 0
        """Bytes of the buffer that were searched for the end of a head."""
        self._empty_lines = 0
        self._events: list[HttpEvent] = []
        self._body: BodyReader | None = None
        self._writer: BodyWriter | None = None
        self._keep_alive = True
        self._head_only = False
        self._old = False
        """The request to answer is of HTTP/1.0."""

    # ------------------------------------------------------------------ state

    @property
    def keep_alive(self) -> bool:
        """Another request may follow the current exchange; when False, close once it is answered."""
        return self._keep_alive and self._reading is not _Reading.CLOSED

    @property
    def blocked(self) -> bool:
        """Input is held back until the current answer is finished: stop reading from the transport."""
        return self._reading is _Reading.DONE and bool(self._buffer)

    @property
    def idle(self) -> bool:
        """Between requests, with nothing of a next one."""
        return self._reading is _Reading.HEAD and self._writing is _Writing.IDLE and not self._buffer

    @property
    def answerable(self) -> bool:
        """An answer may be started: a request waits for one, or the peer erred while none was underway."""
        return self._writing is _Writing.WAITED or (self._reading is _Reading.CLOSED and self._writing is _Writing.IDLE)

    @property
    def upgradable(self) -> bool:
        """The request to answer is a complete one of HTTP/1.1 without a body that is still coming."""
        return self._reading is _Reading.DONE and self._writing is _Writing.WAITED and not self._old

    def stop_keep_alive(self) -> None:
        """The answer that is started next says `Connection: close`."""
        self._keep_alive = False

    # ------------------------------------------------------------------ reading

    def receive(self, data: bytes) -> None:
        """Bytes of the peer. RemoteError with 400, 413, 414, 417, 431, 501 or 505; after that it does nothing."""
        if self._reading is _Reading.CLOSED:
            return
        self._buffer += data
        if self._reading is _Reading.DONE:
            if len(self._buffer) > self._limits.max_held:
                self._fail()
                raise RemoteError(BAD_REQUEST, f"more than {self._limits.max_held} pipelined bytes")
            return
        self._guarded_read()

    def receive_eof(self) -> None:
        """The peer ended its side: RemoteError(400) when that cuts a request. A complete one can still be answered;
        requests pipelined behind it are dropped, as `Connection: close` in its answer tells."""
        self._keep_alive = False
        if self._reading is _Reading.DONE or self._reading is _Reading.CLOSED:
            return
        cut = self._reading is _Reading.BODY or bool(self._buffer)
        self._fail()
        if cut:
            raise RemoteError(BAD_REQUEST, "the connection ended in the middle of a request")

    def events(self) -> list[HttpEvent]:
        """What was received since the last call, in order. Raises RemoteError as `receive` does, for bytes that
        had been held back."""
        if not self._events and self._reading is _Reading.HEAD and self._buffer:
            self._guarded_read()
        events = self._events
        if events:
            self._events = []
        return events

    def _guarded_read(self) -> None:
        try:
            self._read()
        except RemoteError:
            self._fail()
            raise

    def _fail(self) -> None:
        self._reading = _Reading.CLOSED
        self._keep_alive = False
        self._buffer.clear()

    def _read(self) -> None:
        buffer = self._buffer
        if self._reading is _Reading.HEAD:
            head = self._take_head()
            if head is None:
                return
            request, length = read_request(head, self._backend, self._limits)
            if not request.keep_alive:
                self._keep_alive = False
            self._head_only = request.method == "HEAD"
            self._old = request.version == "1.0"
            self._writing = _Writing.WAITED
            self._events.append(request)
            if length == 0:
                self._complete()
                return
            self._reading = _Reading.BODY
            if length == CHUNKED:
                self._body = ChunkedReader(BAD_REQUEST, self._limits.max_body)
            else:
                self._body = LengthReader(length)
        if buffer:
            assert self._body is not None
            data, rest = self._body.feed(bytes(buffer))
            buffer.clear()
            if data:
                self._events.append(DataReceived(data))
            if rest is not None:
                buffer += rest
                self._complete()

    def _take_head(self) -> bytes | None:
        buffer = self._buffer
        while buffer.startswith(b"\r\n"):  # RFC 9112 2.2
            self._empty_lines += 1
            if self._empty_lines > _MAX_EMPTY_LINES:
                raise RemoteError(BAD_REQUEST, "empty lines where a request was expected")
            del buffer[:2]
        if buffer and not 0x41 <= buffer[0] <= 0x5A and buffer != b"\r":
            raise RemoteError(BAD_REQUEST, "expected a request line")
        end = buffer.find(b"\r\n\r\n", max(0, self._scanned - 3))
        size = end + 4 if end >= 0 else len(buffer)
        if size > self._limits.max_head:
            line = buffer.find(b"\r\n", 0, self._limits.max_head)
            code = 414 if line < 0 or line > self._limits.max_target + 32 else 431
            raise RemoteError(code, f"request head of more than {self._limits.max_head} bytes")
        if end < 0:
            self._scanned = size
            return None
        head = bytes(buffer[:size])
        del buffer[:size]
        self._scanned = 0
        self._empty_lines = 0
        return head

    def _complete(self) -> None:
        self._body = None
        self._events.append(MessageComplete())
        self._reading = _Reading.DONE
        if self._writing is _Writing.DONE:
            self._next_exchange()

    def _next_exchange(self) -> None:
        self._writing = _Writing.IDLE
        self._writer = None
        if self._reading is _Reading.CLOSED:
            return
        if self._keep_alive:
            self._reading = _Reading.HEAD
        else:
            self._fail()

    # ------------------------------------------------------------------ answering

    def continue_100(self) -> bytes:
        """The interim answer to `expect_continue`."""
        if self._writing is not _Writing.WAITED or self._old:
            raise LocalError("100 Continue: there is no request that waits for an answer")
        return b"HTTP/1.1 100 Continue\r\n\r\n"

    def upgrade(self, headers: Headers) -> tuple[bytes, bytes]:
        """101 Switching Protocols, and the bytes of the next protocol that have come already. HTTP ends here."""
        if not self.upgradable:
            raise LocalError("there is no request that could be upgraded")
        answer = HeadWriter("HTTP/1.1 101 Switching Protocols\r\n", headers).encode()
        rest = bytes(self._buffer)
        self._fail()
        self._writing = _Writing.DONE
        return answer, rest

    def send_response(self, status: int, headers: Headers, body: bytes) -> bytes:
        """A whole answer. Content-Length is added; to HEAD, and with 204 and 304, the body is left out."""
        head = self._head(status, headers, bodiless=True)
        silent = self._head_only or status in {204, 304}
        if head.length is None:
            if status not in {204, 304}:
                head.lines.append(f"content-length: {len(body)}\r\n")
        elif head.length != len(body) and not silent:
            raise LocalError(f"content-length {head.length} with a body of {len(body)} bytes")
        data = self._encode(head)
        self._answered()
        return data if silent else data + body

    def start_response(self, status: int, headers: Headers) -> bytes:
        """Begin an answer whose body follows; chunked (to HTTP/1.0: up to the end of the connection) unless the
        headers have a content-length."""
        bodiless = status in {204, 304}
        head = self._head(status, headers, bodiless=bodiless)
        if head.length is None and not bodiless and not self._old:
            head.lines.append("transfer-encoding: chunked\r\n")
        data = self._encode(head)
        self._writer = BodyWriter(head.length, chunked=not self._old, silent=self._head_only or bodiless)
        self._writing = _Writing.BODY
        return data

    def send_data(self, data: bytes) -> bytes:
        """The next part of the answer's body."""
        if self._writer is None:
            raise LocalError("there is no answer whose body goes on")
        return self._writer.data(data)

    def finish(self) -> bytes:
        """End the answer."""
        if self._writer is None:
            raise LocalError("there is no answer to finish")
        end = self._writer.finish()
        self._answered()
        return end

    def _head(self, status: int, headers: Headers, *, bodiless: bool) -> HeadWriter:
        """`bodiless`: no body follows, or one whose length will be told."""
        if not self.answerable:
            raise LocalError("there is no request that waits for an answer")
        head = HeadWriter(status_line(status), headers, without_length=status == 204)  # RFC 9110 8.6
        if head.connection:
            if head.connection.lower() not in {"close", "close, upgrade"}:
                raise LocalError(f"connection: only close (with upgrade) may be asked for, got {head.connection!r}")
        elif not self._keep_alive or self._reading is not _Reading.DONE:
            head.connection = "close"
            head.lines.append("connection: close\r\n")
        elif self._old:
            if head.length is None and not bodiless:
                head.connection = "close"
            head.lines.append(f"connection: {head.connection or 'keep-alive'}\r\n")
        return head

    def _encode(self, head: HeadWriter) -> bytes:
        data = head.encode()
        if head.connection:
            self._keep_alive = False
        return data

    def _answered(self) -> None:
        self._writer = None
        if self._reading is _Reading.BODY:
            self._writing = _Writing.DONE
        else:
            self._next_exchange()
