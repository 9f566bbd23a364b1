"""The answering half of a call: an upstream's response on its way to the device, throttled, kept for repetitions."""

from __future__ import annotations

from collections.abc import Callable

from accessgw.core.call_headers import content_length, towards_device
from accessgw.core.interfaces.calls import CallResponder
from accessgw.core.interfaces.upstreams import UpstreamExchange, UpstreamFailure
from accessgw.model.calls import Answer, Headers
from protocols.mmtp.statuses import Status, status_from_http

UNSENT = 64 * 1024
"""Answer bytes waiting for the device, above which the upstream is not read."""
WHOLE = 64 * 1024
"""A response that says it is at most so long leaves in one frame."""


class ResponseRelay:
    """An UpstreamSink. `ended` is called once, before the last frame of the answer leaves."""

    __slots__ = (
        "_begun",
        "_ended",
        "_exchange",
        "_http",
        "_keep",
        "_parts",
        "_paused",
        "_responder",
        "_whole",
        "attempts",
        "bytes_out",
        "endpoint",
        "failure",
        "headers",
        "http_status",
        "over",
        "status",
    )

    def __init__(
        self,
        responder: CallResponder | None,
        *,
        http: bool,
        keep: int,
        ended: Callable[[UpstreamFailure | None], int],
    ) -> None:
        self._responder = responder
        self._http = http
        self._keep = keep
        """Answer bytes that may be kept for repetitions; 0: none are."""
        self._ended = ended
        self._exchange: UpstreamExchange | None = None
        self._begun = False
        self._whole = False
        self._paused = False
        self._parts: list[bytes] | None = []
        self.status: int = Status.OK
        self.http_status = 0
        self.headers: Headers = []
        self.endpoint = ""
        self.attempts = 0
        self.failure: UpstreamFailure | None = None
        self.bytes_out = 0
        self.over = False

    def attach(self, exchange: UpstreamExchange) -> None:
        """The exchange that feeds this sink."""
        self._exchange = exchange

    # ---------------------------------------------------------------- UpstreamSink

    def started(self, status: int, headers: Headers, endpoint: str, attempts: int) -> None:
        self.http_status = status
        self.status = status_from_http(status)
        self.headers = towards_device(headers, keep_length=self._http)
        if self._http:
            self.headers.insert(0, (":status", str(status)))
        self.endpoint = endpoint
        self.attempts = attempts
        self._whole = 0 <= content_length(headers) <= WHOLE

    def data(self, data: bytes) -> None:
        if not data:
            return
        self.bytes_out += len(data)
        if self._parts is not None:
            self._parts.append(data)
            if self.bytes_out > self._keep and not self._whole:
                self._parts = None
        if self._responder is None or self._whole:
            return
        if self._begun:
            self._responder.data(data, True)
        else:
            self._begun = True
            self._responder.respond(self.status, self.headers, data, True)
        if not self._paused and self._responder is not None and self._responder.unsent() > UNSENT:
            self._pause()

    def finished(self) -> None:
        if self.over:
            return
        self.over = True
        if self._parts is not None and len(self._parts) > 1:
            self._parts = [b"".join(self._parts)]  # once for all who ask: join() of a single part is that part
        self._ended(None)
        responder, self._responder = self._responder, None
        if responder is None:
            return
        if self._begun:
            responder.data(b"", False)
        else:
            responder.respond(self.status, self.headers, b"".join(self._parts or ()), False)

    def failed(self, failure: UpstreamFailure) -> None:
        if self.over:
            return
        self.over = True
        self.failure = failure
        self.endpoint = failure.endpoint or self.endpoint
        self.attempts = failure.attempts or self.attempts
        status = self._ended(failure)
        responder, self._responder = self._responder, None
        if responder is not None:
            responder.reset(status)

    def upload_sent(self, size: int) -> None:
        if self._responder is not None:
            self._responder.upload_consumed(size)

    # ---------------------------------------------------------------- the device's side

    def answer(self) -> Answer | None:
        """The complete answer, None when it is too large to be kept."""
        if self._parts is None or self.bytes_out > self._keep:
            return None
        return Answer(self.status, self.headers, b"".join(self._parts), self.http_status)

    def body(self) -> bytes:
        """The complete body, empty when it was too large to be kept."""
        return b"".join(self._parts or ())

    def drained(self) -> None:
        """The device has taken what was waiting."""
        if self._paused:
            self._paused = False
            if self._exchange is not None:
                self._exchange.resume()

    def detach(self) -> None:
        """Nobody takes the answer any more; it is still read to its end, and kept."""
        self._responder = None
        self.drained()

    def _pause(self) -> None:
        if self._exchange is not None:
            self._paused = True
            self._exchange.pause()
