"""What operations may do with the gateway."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from accessgw.model.pushes import PushRequest, PushResult, StreamKey


class ControlError(Exception):
    """A refusal with an HTTP status, a code and, for bad input, the path in the request."""

    def __init__(self, status: int, code: str, message: str, path: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.path = path


@dataclass(slots=True)
class MetricFamily:
    """One metric, ready for the Prometheus text format."""

    name: str
    kind: str
    """counter | gauge | histogram."""
    help: str
    samples: list[tuple[str, dict[str, str], float]]
    """(suffix, labels, value)."""


class Control(Protocol):
    """All that ops may do with the gateway. Errors are ControlError."""

    def push(
        self, requests: Sequence[PushRequest], idempotency_key: str, digest: bytes
    ) -> Deferred[list[PushResult]]: ...

    def device(self, device: str) -> Deferred[dict[str, Any]]:
        """404 when unknown."""

    def devices(self, user: str, connected: bool | None, after: str, limit: int) -> list[dict[str, Any]]: ...

    def close_device(self, device: str, revoke: bool = False) -> bool:
        """End its connection; False when it is not connected. With `revoke` also its session and the
        session's key; False when it has none."""

    def stream(self, key: StreamKey) -> Deferred[dict[str, Any]]: ...

    def drain(self, seconds: float) -> dict[str, Any]: ...

    def reload(self) -> Deferred[dict[str, Any]]:
        """422 with the path for a bad file; the old one stays in force."""

    def config(self) -> dict[str, Any]:
        """Effective configuration, secrets masked, and the back ends in use."""

    def workers(self) -> list[dict[str, Any]]: ...

    def status(self) -> dict[str, Any]: ...

    def ready(self) -> tuple[bool, str]: ...

    def metrics(self) -> list[MetricFamily]: ...

    def top(self, limit: int) -> dict[str, Any]: ...

    def trace(self, device: str, emit: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        """Frames and calls of one device as they happen; returns what ends it."""

    def events(self, emit: Callable[[dict[str, Any]], None]) -> Callable[[], None]: ...
