"""Pushes on their way to sessions, and the service that brings them there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from accessgw.core.interfaces.sessions import Session
from accessgw.model.pushes import Cursor, PushRequest, PushResult, StoredPush, StreamKey


@dataclass(slots=True)
class OutgoingPush:
    """One push of a stream on its way to many sessions; its encodings are shared."""

    stream: StreamKey
    alias: int
    """Number of the stream in this worker, equal on all its connections."""
    epoch: int
    seq: int
    body: bytes
    ttl: float | None = None
    """Seconds left when it was read."""
    collapse: str = ""
    priority: int = 0
    encodings: dict[Any, Any] = field(default_factory=dict)
    """Filled by links: (coding, form) -> bytes, so that a group is encoded once."""


class PushService(Protocol):
    """Streams, delivery and fan-out, as sessions and the control API use them."""

    def attach(self, session: Session, cursors: Sequence[Cursor], *, passing: bool = False) -> None:
        """The session got a link: deliver its streams from these cursors (authoritative within an
        epoch, capped at the head), from the stored ones where a stream is missing, else from the tail.

        `passing`: a device that may never come back; that it was here is remembered only when it gets something.
        """

    def detach(self, session: Session) -> None:
        """The link is gone."""

    def acked(self, session: Session, places: Sequence[tuple[int, int]]) -> None:
        """The device processed these (alias, seq); the push window has room again."""

    def writable(self, session: Session) -> None:
        """The link's buffer is empty again."""

    def activity(self, session: Session) -> None:
        """The device sent something else than ACK or heartbeat: priority 1 may leave."""

    def subscribe(self, session: Session, topics: Sequence[str]) -> Deferred[None]: ...

    def unsubscribe(self, session: Session, topics: Sequence[str]) -> Deferred[None]: ...

    def subscriptions(self, session: Session) -> Deferred[list[str]]: ...

    def pending(
        self, session: Session, cursors: Sequence[Cursor], limit: int, max_bytes: int
    ) -> Deferred[list[tuple[StreamKey, int, StoredPush]]]:
        """For a short connection: up to `limit` pushes (stream, epoch, push) past the cursors given, the stored or
        sent ones."""

    def append(
        self, requests: Sequence[PushRequest], idempotency_key: str = "", digest: bytes = b""
    ) -> Deferred[list[PushResult]]:
        """Filters, then the durable append, then live delivery. One result per request."""
