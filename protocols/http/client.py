"""The client's side of one HTTP/1.1 connection (RFC 9112), without I/O."""

from __future__ import annotations

from protocols.errors import LocalError, RemoteError
from protocols.http.backends import get_backend
from protocols.http.bodies import BodyReader, ChunkedReader, CloseReader, LengthReader
from protocols.http.events import DataReceived, Headers, HttpEvent, MessageComplete
from protocols.http.heads import BAD_GATEWAY, CHUNKED, UNTIL_CLOSE, read_response
from protocols.http.limits import DEFAULT_LIMITS, HttpLimits
from protocols.http.writing import BodyWriter, HeadWriter, request_line

_WITH_BODY = frozenset(("POST", "PUT", "PATCH"))
"""Methods whose empty body is stated (RFC 9110 8.6)."""
_MAX_INTERIM = 16
"""1xx responses before a final one."""


class ClientConnection:
    """Requests out, responses in, one at a time.

    A RemoteError (its code is always 502, what a gateway tells for it) ends the connection; events
    from before it are still in `events`. Interim responses are skipped.
    """

    __slots__ = (
        "_backend",
        "_body",
        "_broken",
        "_buffer",
        "_events",
        "_interim",
        "_keep_alive",
        "_limits",
        "_method",
        "_receiving",
        "_scanned",
        "_writer",
        "backend",
    )  # fmt: skip

    def __init__(self, parser: str = "auto", limits: HttpLimits = DEFAULT_LIMITS) -> None:
        self._backend = get_backend(parser)
        self.backend = self._backend.name
        self._limits = limits
        self._events: list[HttpEvent] = []
        self._buffer = b""
        """Of an incomplete head; bounded by max_head."""
        self._scanned = 0
        self._body: BodyReader | None = None
        self._writer: BodyWriter | None = None
        """While our request's body goes on."""
        self._receiving = False
        """A response is awaited or under way."""
        self._interim = 0
        self._keep_alive = True
        self._broken = False
        self._method = ""

    @property
    def reusable(self) -> bool:
        """The last exchange is complete on both sides and another may begin."""
        return self._keep_alive and not self._receiving and not self._broken and self._writer is None

    @property
    def sending(self) -> bool:
        """The body of our request is not complete yet."""
        return self._writer is not None

    # ------------------------------------------------------------------ sending

    def send_request(self, method: str, target: str, headers: Headers, body: bytes = b"", more: bool = False) -> bytes:
        """The bytes of a request; `headers` has to have a host. With `more` the body goes on through `send_data`,
        chunked unless a content-length is among the headers."""
        if not self.reusable:
            raise LocalError("the connection cannot take another request")
        head = HeadWriter(request_line(method, target), headers)
        stated = head.length
        writer: BodyWriter | None = None
        first = body
        if more:
            if stated is None:
                head.lines.append("transfer-encoding: chunked\r\n")
            writer = BodyWriter(stated)
            first = writer.data(body)
        elif stated is None:
            if body or method in _WITH_BODY:
                head.lines.append(f"content-length: {len(body)}\r\n")
        elif stated != len(body):
            raise LocalError(f"content-length {stated} with a body of {len(body)} bytes")
        data = head.encode()
        self._writer = writer
        self._method = method
        self._receiving = True
        self._interim = 0
        return data + first

    def send_data(self, data: bytes, more: bool) -> bytes:
        """The next part of the request's body."""
        if self._writer is None:
            raise LocalError("there is no request whose body goes on")
        sent = self._writer.data(data)
        if not more:
            sent += self._writer.finish()
            self._writer = None
        return sent

    # ------------------------------------------------------------------ receiving

    def events(self) -> list[HttpEvent]:
        """What was received since the last call, in order."""
        events = self._events
        if events:
            self._events = []
        return events

    def receive(self, data: bytes) -> None:
        """Bytes of the server; RemoteError(502) when they are no response to what was asked."""
        if self._broken or not data:
            return
        try:
            self._read(data)
        except RemoteError:
            self._break()
            raise

    def receive_eof(self) -> None:
        """The server ended its side; RemoteError(502) when a response is missing or incomplete."""
        if self._broken:
            return
        body, receiving = self._body, self._receiving
        self._break()
        if receiving:
            if body is None:
                raise RemoteError(BAD_GATEWAY, "the connection ended before the response")
            if not body.eof():
                raise RemoteError(BAD_GATEWAY, "the connection ended in the middle of the response")
            self._events.append(MessageComplete())

    def _break(self) -> None:
        self._broken = True
        self._receiving = False
        self._body = None
        self._buffer = b""

    def _read(self, data: bytes) -> None:
        while data:
            if not self._receiving:
                if self._events:  # it came with the end of a response, which stands
                    self._keep_alive = False
                    return
                raise RemoteError(BAD_GATEWAY, "bytes that no request asked for")
            if self._body is None:
                data = self._read_head(data)
            else:
                part, rest = self._body.feed(data)
                if part:
                    self._events.append(DataReceived(part))
                if rest is None:
                    return
                self._complete()
                data = rest

    def _read_head(self, data: bytes) -> bytes:
        if self._buffer:
            data = self._buffer + data
        end = data.find(b"\r\n\r\n", max(0, self._scanned - 3))
        size = end + 4 if end >= 0 else len(data)
        if size > self._limits.max_head:
            raise RemoteError(BAD_GATEWAY, f"response head of more than {self._limits.max_head} bytes")
        if not data.startswith(b"HTTP/1."[: len(data)]):
            raise RemoteError(BAD_GATEWAY, f"status line: expected HTTP/1.1 and a status, got {data[:40]!r}")
        if end < 0:
            self._buffer = data
            self._scanned = len(data)
            return b""
        self._buffer = b""
        self._scanned = 0
        head = data[:size]
        response, length = read_response(head, self._method, self._backend, self._limits)
        if response.status < 200:
            self._interim += 1
            if response.status == 101 or self._interim > _MAX_INTERIM:
                raise RemoteError(BAD_GATEWAY, f"unexpected interim response {response.status}")
            return data[size:]
        self._keep_alive = response.keep_alive
        self._events.append(response)
        if length == 0:
            self._complete()
        elif length == CHUNKED:
            self._body = ChunkedReader(BAD_GATEWAY, self._limits.max_body, BAD_GATEWAY)
        elif length == UNTIL_CLOSE:
            self._body = CloseReader()
        else:
            self._body = LengthReader(length)
        return data[size:]

    def _complete(self) -> None:
        self._body = None
        self._receiving = False
        self._events.append(MessageComplete())
