"""HTTP served by us: exchanges, which the transport makes, and who answers them."""

from __future__ import annotations

from typing import Protocol

from accessgw.model.calls import Headers
from accessgw.model.http import HttpRequest


class HttpExchange(Protocol):
    """One HTTP request and the way to answer it. Calls after the end do nothing."""

    request: HttpRequest

    @property
    def buffered(self) -> int:
        """Bytes of the answer that the kernel has not taken yet."""

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer, with Content-Length."""

    def start(self, status: int, headers: Headers) -> None:
        """Begin an answer whose body follows (chunked unless a content-length header is given)."""

    def write(self, data: bytes) -> None: ...

    def finish(self) -> None: ...

    def abort(self) -> None:
        """End the connection without finishing the answer."""

    def pause(self) -> None:
        """Stop reading the request's body."""

    def resume(self) -> None: ...


class HttpUpload(Protocol):
    """Gets the body of a request, and news of its exchange. See model.http.BodyCollector."""

    def data(self, data: bytes) -> None: ...

    def finished(self) -> None: ...

    def aborted(self) -> None:
        """The client went away before the answer was complete."""

    def drained(self) -> None:
        """The answer's buffer is empty again."""


class HttpHandler(Protocol):
    """Serves requests; called with the head, before the body."""

    def __call__(self, exchange: HttpExchange) -> HttpUpload: ...
