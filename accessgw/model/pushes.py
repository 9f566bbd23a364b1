"""Pushes and the streams they live in."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple


class Scope(StrEnum):
    """Whom a stream reaches."""

    DEVICE = "device"
    USER = "user"
    TOPIC = "topic"
    BROADCAST = "broadcast"


class StreamKey(NamedTuple):
    """Names one stream. `id` is empty for broadcasts."""

    scope: Scope
    id: str
    biz: str


class Priority(IntEnum):
    """When a push may leave (MMTP specification, pushes)."""

    NOW = 0
    NEXT_ACTIVITY = 1
    BULK = 2


@dataclass(slots=True, frozen=True)
class PushRequest:
    """One push as a service asked for it, before it has a place in its stream."""

    stream: StreamKey
    body: bytes
    ttl: float | None = None
    """Seconds from the append after which nobody needs it any more."""
    collapse: str = ""
    """A later push of the stream with the same key makes this one superfluous."""
    priority: Priority = Priority.NOW
    where: dict[str, Any] = field(default_factory=dict)
    """Visibility: `{"app": "...", "os": ["ios", "android"], "region": "...", "app_version": ">=2.1"}`."""


@dataclass(slots=True)
class StoredPush:
    """One push with its place in its stream."""

    seq: int
    body: bytes
    appended_at: float
    """Wall-clock second."""
    expires_at: float | None = None
    """Wall-clock second."""
    collapse: str = ""
    priority: Priority = Priority.NOW
    where: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class StreamState:
    """Where a stream stands. Readable are floor < seq <= head; sequence numbers begin at 1."""

    key: StreamKey
    epoch: int
    """Changes when the history was lost; cursors of another epoch mean nothing."""
    head: int
    """Sequence number of the newest push, 0 when there was none."""
    floor: int
    """Pushes up to and including this number are gone (retention)."""


@dataclass(slots=True, frozen=True)
class PushResult:
    """The answer to one PushRequest after its append is durable."""

    stream: StreamKey
    epoch: int
    seq: int
    live: int = 0
    """Sessions connected here that the push is on its way to."""
    error: str = ""
    """Set instead of a place when this item was refused."""


@dataclass(slots=True, frozen=True)
class Cursor:
    """How far a device has acknowledged a stream."""

    stream: StreamKey
    epoch: int
    seq: int
