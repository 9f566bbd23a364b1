"""One POST to one URL at a time of need, on the same kept-alive connections as calls (webhooks, authenticators)."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred

from accessgw.core.interfaces.clock import Clock
from accessgw.core.interfaces.upstreams import UpstreamClient, UpstreamExchange, UpstreamFailure, UpstreamRequest
from accessgw.model.calls import Headers
from accessgw.model.route_settings import ClusterSettings, UpstreamTlsSettings
from accessgw.upstreams.address import DEFAULT_PORTS

MAX_ANSWER = 64 * 1024
NO_TLS = UpstreamTlsSettings()


class PostFailed(Exception):
    """There was no complete answer; the message says why."""


def cluster_of(url: str, name: str, tls: UpstreamTlsSettings = NO_TLS) -> ClusterSettings:
    """The cluster that serves an http:// or https:// URL: its host may be an address or a name to look up. Raises
    ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise ValueError(f"expected a URL http://host[:port]/path or https://host[:port]/path, got {url!r}")
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    try:
        ip_address(parts.hostname)
    except ValueError:
        prefix = "https://" if parts.scheme == "https" else ""
        return ClusterSettings(name=name, dns=f"{prefix}{parts.hostname}:{port}", host=parts.netloc, tls=tls)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return ClusterSettings(name=name, endpoints=(f"{parts.scheme}://{host}:{port}",), host=parts.netloc, tls=tls)


class Poster:
    """Callable as core.webhook.Post; sends everything to `cluster`."""

    def __init__(self, upstreams: UpstreamClient, cluster: str, clock: Clock) -> None:
        self._upstreams = upstreams
        self._cluster = cluster
        self._clock = clock

    def __call__(self, url: str, headers: Headers, body: bytes, timeout: float) -> Deferred[int]:
        """HTTP status of the answer; PostFailed when there was none."""
        return self.ask(url, headers, body, timeout).addCallback(lambda answer: answer[0])

    def ask(
        self, url: str, headers: Headers, body: bytes, timeout: float, *, retries: int = 0
    ) -> Deferred[tuple[int, bytes]]:
        """HTTP status and body of the answer; PostFailed when there was none. With `retries` the request may
        reach the server more than once."""
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        request = UpstreamRequest(
            "POST",
            target,
            headers,
            body,
            deadline=self._clock.seconds() + timeout,
            retries=retries,
            idempotent=retries > 0,
            max_response_body=MAX_ANSWER,
        )
        answer = _Answer()
        answer.exchange = self._upstreams.request(self._cluster, request, answer)
        return answer.result


class _Answer:
    """An UpstreamSink that gathers a small answer; whoever cancels `result` takes the request back."""

    def __init__(self) -> None:
        self.result: Deferred[tuple[int, bytes]] = Deferred(self._cancel)
        self.exchange: UpstreamExchange | None = None
        self._status = 0
        self._body = b""

    def started(self, status: int, headers: Headers, endpoint: str, attempts: int) -> None:
        self._status = status

    def data(self, data: bytes) -> None:
        self._body += data

    def finished(self) -> None:
        self.result.callback((self._status, self._body))

    def failed(self, failure: UpstreamFailure) -> None:
        self.result.errback(PostFailed(_what(failure) + failure.message))

    def upload_sent(self, size: int) -> None:
        """The body went in one piece."""

    def _cancel(self, _: Deferred[tuple[int, bytes]]) -> None:
        if self.exchange is not None:
            self.exchange.cancel()


def _what(failure: UpstreamFailure) -> str:
    """What it is that failed, where the message does not say so."""
    if failure.kind == "connect":
        return f"no connection to {failure.endpoint}: " if failure.endpoint else "no connection: "
    return "no proper answer: " if failure.kind == "protocol" else ""
