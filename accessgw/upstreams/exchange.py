"""One request to a cluster from its first attempt to the end of its response."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accessgw.core.interfaces.upstreams import UpstreamFailure, UpstreamRequest, UpstreamSink
from accessgw.model.calls import Headers
from accessgw.policy.backoff import full_jitter
from protocols.errors import LocalError
from protocols.http.events import DataReceived, HttpEvent, MessageComplete, ResponseReceived

if TYPE_CHECKING:
    from accessgw.upstreams.cluster import Cluster
    from accessgw.upstreams.connection import UpstreamConnection
    from accessgw.upstreams.http_pool import Endpoint

FREE_ATTEMPTS = 3
"""Attempts that a request which never left may make at different endpoints, whatever `retries` says."""
_BACKOFF = 0.05
"""First back-off before the same endpoint is tried again, in seconds."""
_BACKOFF_MAX = 1.0

_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)
"""Fields that concern one connection only (RFC 9110 7.6.1)."""


class Exchange:
    """An UpstreamExchange; also the user of a connection and what a deadline ends."""

    __slots__ = ("_body", "_cluster", "_connection", "_early_failure", "_early_sent", "_executed", "_new", "_paused",
                 "_received", "_request", "_responded", "_sent_at", "_sink", "_streaming", "_unsent",
                 "_uploading", "attempts", "deadline_slot", "endpoint", "tried")  # fmt: skip

    def __init__(self, cluster: Cluster, request: UpstreamRequest, sink: UpstreamSink) -> None:
        self._cluster = cluster
        self._request = request
        self._sink: UpstreamSink | None = sink
        """None once it has ended."""
        self._connection: UpstreamConnection | None = None
        self.endpoint: Endpoint | None = None
        """Where the present attempt goes."""
        self.tried: list[Endpoint] = []
        """Where earlier ones failed."""
        self.attempts = 0
        self.deadline_slot = 0
        self._body = request.body
        """All of the body that a next attempt would begin with."""
        self._streaming = request.more
        self._uploading = request.more
        """The caller's body is not complete yet."""
        self._unsent = 0
        """Streaming body bytes given to the connection of which the kernel has not taken all."""
        self._executed = False
        self._responded = False
        self._received = 0
        self._paused = False
        self._sent_at = 0.0
        self._new = True
        """request() has not returned yet: the sink must not be called."""
        self._early_failure: UpstreamFailure | None = None
        self._early_sent = 0

    @property
    def over(self) -> bool:
        """It has ended; whatever still comes is not for it."""
        return self._sink is None

    # ------------------------------------------------------------------ UpstreamExchange

    def data(self, data: bytes, more: bool) -> None:
        if self._sink is None or not self._uploading:
            return
        self._uploading = more
        connection = self._connection
        if connection is None:
            self._body += data
            return
        try:
            whole = connection.send_data(data, more)
        except LocalError:
            return  # the connection has ended, or the response was complete before our body was
        if not connection.left:
            self._body += data
        self._sent(len(data), whole)

    def cancel(self) -> None:
        if self._sink is not None:
            self._end()

    def pause(self) -> None:
        self._paused = True
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        self._paused = False
        if self._connection is not None:
            self._connection.resume()

    # ------------------------------------------------------------------ for the client and the cluster

    def returned(self) -> None:
        """request() is about to return: the sink may be called from the next turn on."""
        if self._early_failure is not None or self._early_sent:
            self._cluster.later(0.0, self._deliver_early)
        else:
            self._new = False

    def fail(self, kind: str, message: str) -> None:
        """End it without a (complete) response."""
        sink, endpoint = self._sink, self.endpoint
        if sink is None:
            return
        if self._connection is not None and self._connection.left:
            self._executed = True
        failure = UpstreamFailure(
            kind, message, self._executed, endpoint.name if endpoint is not None else "", self.attempts
        )
        self._cluster.counters.failures += 1
        self._end()
        if self._new:
            self._sink, self._early_failure = sink, failure
        else:
            sink.failed(failure)

    def expired(self) -> None:
        """The deadline has passed."""
        if self._sink is None:
            return
        self._cluster.counters.timeouts += 1
        connection = self._connection
        if connection is None:
            message = "no connection to it within the deadline" if self.endpoint else "no endpoint was free in time"
        elif self._responded:
            message = "the response was not complete at the deadline"
        else:
            message = "no response within the deadline"
            if not self._uploading and self._unsent == 0 and self.endpoint is not None:
                self._cluster.attempt_failed(self.endpoint, self._elapsed())
        self.fail("timeout", message)

    # ------------------------------------------------------------------ PoolUser

    def run(self, connection: UpstreamConnection) -> None:
        """Send the request on this connection."""
        request = self._request
        endpoint = self.endpoint
        assert endpoint is not None
        headers = [("host", self._cluster.host_of(endpoint)), *request.headers]
        body = self._body
        try:
            whole = connection.begin(self, request.method, request.target, headers, body=body, more=self._uploading)
        except LocalError as error:
            self.fail("protocol", f"the request cannot be sent: {error}")
            endpoint.release(connection)
            return
        self._connection = connection
        self._sent_at = self._cluster.now()
        if self._paused:
            connection.pause()
        if self._streaming:
            if connection.left:
                self._body = b""
            self._sent(len(body), whole)

    def not_connected(self, message: str) -> None:
        """No connection could be established."""
        self._attempt_failed("connect", message, left=False, stale=False)

    # ------------------------------------------------------------------ ConnectionUser

    def received(self, events: list[HttpEvent]) -> None:
        for event in events:
            sink = self._sink
            if sink is None:
                return
            if type(event) is DataReceived:
                self._received += len(event.data)
                if self._received > self._request.max_response_body:
                    self._too_large()
                    return
                sink.data(event.data)
            elif type(event) is ResponseReceived:
                if event.status == 503 and self._retry_elsewhere():
                    return
                self._take_head(event, sink)
            elif type(event) is MessageComplete:
                self._end(keep=True)
                sink.finished()

    def drained(self) -> None:
        size, self._unsent = self._unsent, 0
        if size and self._sink is not None:
            self._tell_sent(size)

    def broken(self, kind: str, message: str) -> None:
        connection = self._connection
        self._connection = None
        if connection is None or self._sink is None:
            return
        if kind == "connect" and self.endpoint is not None:
            self.endpoint.refused(message)
            if self._streaming:
                # What has left of its body is not kept.
                self.fail(kind, message)
                return
        self._attempt_failed(kind, message, left=connection.left, stale=kind == "reset" and connection.requests > 1)

    # ------------------------------------------------------------------

    def _take_head(self, event: ResponseReceived, sink: UpstreamSink) -> None:
        endpoint = self.endpoint
        assert endpoint is not None
        self._cluster.answered(endpoint, event.status, self._elapsed())
        if endpoint.unproven and self._connection is not None and self._connection.requests == 1:
            endpoint.proven()
        if event.length is not None and event.length > self._request.max_response_body:
            self._too_large()
            return
        self._responded = True
        sink.started(event.status, _end_to_end(event.headers), endpoint.name, self.attempts)

    def _too_large(self) -> None:
        self.fail("too_large", f"response body of more than {self._request.max_response_body} bytes")

    def _retry_elsewhere(self) -> bool:
        """A 503 was refused work, so another endpoint may be asked. True when it is."""
        endpoint, cluster = self.endpoint, self._cluster
        assert endpoint is not None
        if (
            not self._request.idempotent
            or self._streaming
            or self.attempts > self._request.retries
            or not cluster.has_other(self.tried, endpoint)
            or not cluster.try_retry()
        ):
            return False
        cluster.answered(endpoint, 503, self._elapsed())
        self._executed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self._again()
        return True

    def _attempt_failed(self, kind: str, message: str, *, left: bool, stale: bool) -> None:
        endpoint, cluster, request = self.endpoint, self._cluster, self._request
        if self._sink is None or endpoint is None:
            return
        if left:
            self._executed = True
        if not self._responded and stale:
            if not left:
                self.attempts -= 1  # a kept-alive connection had ended: that was no attempt
                self._again(penalty=False)
                return
        elif kind != "connect":
            endpoint.last_error = message
            cluster.attempt_failed(endpoint, self._elapsed())
        if self._responded:
            may = False
        elif not left:
            may = self.attempts <= request.retries or (
                self.attempts < FREE_ATTEMPTS and cluster.has_other(self.tried, endpoint)
            )
            if may:
                cluster.counters.retries += 1
        else:
            may = (
                request.idempotent and not self._streaming and self.attempts <= request.retries and cluster.try_retry()
            )
        if may:
            self._again()
        else:
            self.fail(kind, message)

    def _again(self, penalty: bool = True) -> None:
        endpoint, cluster = self.endpoint, self._cluster
        assert endpoint is not None
        self._leave_endpoint()
        self._unsent = 0
        if not penalty:
            cluster.dispatch(self)
            return
        same = not cluster.has_other(self.tried, endpoint)
        self.tried.append(endpoint)
        if same:
            cluster.later(full_jitter(self.attempts - 1, _BACKOFF, _BACKOFF_MAX, cluster.random), self._dispatch)
        else:
            cluster.dispatch(self)

    def _dispatch(self) -> None:
        if self._sink is not None:
            self._cluster.dispatch(self)

    def _sent(self, size: int, whole: bool) -> None:
        if whole and self._unsent == 0:
            if size:
                self._tell_sent(size)
        else:
            self._unsent += size

    def _tell_sent(self, size: int) -> None:
        if self._new:
            self._early_sent += size
        elif self._sink is not None:
            self._sink.upload_sent(size)

    def _deliver_early(self) -> None:
        self._new = False
        sink = self._sink
        if sink is None:
            return
        if self._early_sent:
            sink.upload_sent(self._early_sent)
        if self._early_failure is not None and self._sink is not None:
            self._sink = None
            sink.failed(self._early_failure)

    def _elapsed(self) -> float:
        return self._cluster.now() - self._sent_at

    def _leave_endpoint(self) -> None:
        endpoint, self.endpoint = self.endpoint, None
        if endpoint is not None:
            endpoint.load.outstanding -= 1
            endpoint.forget(self)

    def _end(self, keep: bool = False) -> None:
        """Nothing more comes; give everything back. `keep`: the connection did its work."""
        self._sink = None
        endpoint, connection = self.endpoint, self._connection
        self._connection = None
        self._body = b""
        self._leave_endpoint()
        self._cluster.left(self)
        if connection is not None and endpoint is not None:
            if keep:
                endpoint.release(connection)
            else:
                connection.abort()


def _end_to_end(headers: Headers) -> Headers:
    kept = [field for field in headers if field[0] not in _HOP_BY_HOP]
    if len(kept) == len(headers):
        return kept
    named = {token.strip().lower() for name, value in headers if name == "connection" for token in value.split(",")}
    return [field for field in kept if field[0] not in named]
