"""Upstreams: one HTTP request to a business service, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from accessgw.model.calls import Headers


@dataclass(slots=True)
class UpstreamRequest:
    """One HTTP request to a business service."""

    method: str
    target: str
    headers: Headers
    """Without host, transfer-encoding and connection, which the client adds; content-length only with
    `more`, when the length of the whole body is known."""
    body: bytes = b""
    more: bool = False
    """The body goes on through UpstreamExchange.data."""
    deadline: float = 0.0
    """Seconds of the worker's clock; it bounds everything, queueing and retries included."""
    retries: int = 0
    """Further attempts allowed. A request that never left (connect failed, a kept-alive connection
    closed before the first byte of it was written) may always be tried again; others only when
    `idempotent`; a streaming body is never repeated once part of it has left."""
    idempotent: bool = False
    max_response_body: int = 16 * 1024 * 1024


class UpstreamSink(Protocol):
    """Receives one response: started, data..., then finished; or failed at any point, once."""

    def started(self, status: int, headers: Headers, endpoint: str, attempts: int) -> None: ...

    def data(self, data: bytes) -> None: ...

    def finished(self) -> None: ...

    def failed(self, failure: UpstreamFailure) -> None: ...

    def upload_sent(self, size: int) -> None:
        """`size` more bytes of a streaming request body were handed to the kernel."""


@dataclass(slots=True)
class UpstreamFailure:
    """Why there is no (complete) response."""

    kind: str
    """connect | reset | timeout | protocol | overload | no_endpoint | too_large | cancelled."""
    message: str
    executed: bool = False
    """The request may have reached a server: its outcome is unknown."""
    endpoint: str = ""
    attempts: int = 0


class UpstreamExchange(Protocol):
    """One request in progress."""

    def data(self, data: bytes, more: bool) -> None: ...

    def cancel(self) -> None:
        """Drop it; the sink gets nothing more. Its connection is closed when the request had left."""

    def pause(self) -> None:
        """Stop reading the response."""

    def resume(self) -> None: ...


class UpstreamClient(Protocol):
    """All clusters."""

    def request(self, cluster: str, request: UpstreamRequest, sink: UpstreamSink) -> UpstreamExchange:
        """Never raises for the network's sake: an unknown cluster is a failure `no_endpoint`.
        The sink is never called before this has returned."""
