"""One short connection's HTTP exchange, without I/O."""

from __future__ import annotations

from accessgw.client.commands import Post
from protocols.http.client import ClientConnection
from protocols.http.events import DataReceived, MessageComplete, ResponseReceived
from protocols.http.limits import HttpLimits

MAX_RESPONSE = 16 * 1024 * 1024


class PostExchange:
    """`request` goes out; receive() gives the status and body once they are complete."""

    __slots__ = ("_connection", "_parts", "_status", "request")

    def __init__(self, post: Post) -> None:
        self._connection = ClientConnection(limits=HttpLimits(max_body=MAX_RESPONSE))
        self._status = 0
        self._parts: list[bytes] = []
        self.request = self._connection.send_request("POST", post.path, post.headers, post.body)

    def receive(self, data: bytes) -> tuple[int, bytes] | None:
        """Bytes of the server. RemoteError when they are no HTTP response."""
        self._connection.receive(data)
        return self._read()

    def receive_eof(self) -> tuple[int, bytes] | None:
        """The server's end; RemoteError when the response is not complete."""
        self._connection.receive_eof()
        return self._read()

    def _read(self) -> tuple[int, bytes] | None:
        for event in self._connection.events():
            if isinstance(event, ResponseReceived):
                self._status = event.status
            elif isinstance(event, DataReceived):
                self._parts.append(event.data)
            elif isinstance(event, MessageComplete):
                return self._status, b"".join(self._parts)
        return None
