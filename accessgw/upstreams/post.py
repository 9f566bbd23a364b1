"""One POST to one URL at a time of need, on the same kept-alive connections as calls (for webhooks)."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred

from accessgw.core.interfaces import Clock, UpstreamClient, UpstreamFailure, UpstreamRequest
from accessgw.model.calls import Headers
from accessgw.model.settings import ClusterSettings

MAX_ANSWER = 64 * 1024


class PostFailed(Exception):
    """There was no complete answer."""


def cluster_of(url: str, name: str) -> ClusterSettings:
    """The cluster that serves an http:// URL: its host may be an address or a name to look up. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"expected a URL http://host[:port]/path, got {url!r}")
    port = parts.port or 80
    try:
        ip_address(parts.hostname)
    except ValueError:
        return ClusterSettings(name=name, dns=f"{parts.hostname}:{port}", host=parts.netloc)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return ClusterSettings(name=name, endpoints=(f"http://{host}:{port}",), host=parts.netloc)


class Poster:
    """Callable as core.webhook.Post; sends everything to `cluster`."""

    def __init__(self, upstreams: UpstreamClient, cluster: str, clock: Clock) -> None:
        self._upstreams = upstreams
        self._cluster = cluster
        self._clock = clock

    def __call__(self, url: str, headers: Headers, body: bytes, timeout: float) -> Deferred[int]:
        """HTTP status of the answer; PostFailed when there was none."""
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        request = UpstreamRequest(
            "POST",
            target,
            headers,
            body,
            deadline=self._clock.seconds() + timeout,
            max_response_body=MAX_ANSWER,
        )
        answer = _Answer()
        self._upstreams.request(self._cluster, request, answer)
        return answer.status


class _Answer:
    """An UpstreamSink that is interested in the status alone."""

    def __init__(self) -> None:
        self.status: Deferred[int] = Deferred()
        self._status = 0

    def started(self, status: int, headers: Headers, endpoint: str, attempts: int) -> None:
        self._status = status

    def data(self, data: bytes) -> None:
        """Nobody reads it."""

    def finished(self) -> None:
        self.status.callback(self._status)

    def failed(self, failure: UpstreamFailure) -> None:
        self.status.errback(PostFailed(f"{failure.kind}: {failure.message}"))

    def upload_sent(self, size: int) -> None:
        """The body went in one piece."""
