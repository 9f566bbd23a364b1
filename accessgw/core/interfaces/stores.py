"""Stores of streams, claims, header states and presence events. Deferreds fire on the reactor's thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred

from accessgw.model.header_states import HeaderState, StateKey
from accessgw.model.presence import PresenceEvent
from accessgw.model.pushes import Cursor, PushRequest, StoredPush, StreamKey, StreamState


class StoreUnavailable(Exception):
    """The store could not do it (disk full, too much pending); nothing was stored."""


@dataclass(slots=True)
class AppendOutcome:
    """Places of the pushes of one append call, in order."""

    places: list[tuple[int, int]]
    """(epoch, seq) each."""
    repeated: bool = False
    """The idempotency key was known: these are the places of the first time."""


class IdempotencyConflict(Exception):
    """The idempotency key was used before for another request."""


class StreamStore(Protocol):
    """Append-only logs of pushes, and cursors on them."""

    def append(
        self, requests: Sequence[PushRequest], *, now: float, idempotency_key: str = "", digest: bytes = b""
    ) -> Deferred[AppendOutcome]:
        """Durable when it fires, all or nothing. `now` is wall-clock. Fails with StoreUnavailable or
        IdempotencyConflict (same key, other digest). A collapse key removes older pushes of the stream with it;
        retention moves floors."""

    def states(self, keys: Sequence[StreamKey]) -> Deferred[dict[StreamKey, StreamState]]:
        """Of streams that exist."""

    def streams_of(self, scope: str, id: str) -> Deferred[list[StreamState]]:
        """Every stream (all biz) of one device, user or topic, or all broadcasts (id "")."""

    def read(self, key: StreamKey, after: int, limit: int, max_bytes: int) -> Deferred[list[StoredPush]]:
        """Pushes with seq > after in order; at least one if there is one. Gaps are collapsed or expired pushes."""

    def knows_nothing_of(self, device: str, user: str) -> bool:
        """True only when there is certainly no cursor or subscription of the device, and no stream of it, of the user
        or of everybody: then there is nothing to read. Answered at once."""

    def cursors(self, device: str) -> Deferred[dict[StreamKey, Cursor]]: ...

    def save_cursors(self, device: str, cursors: Sequence[Cursor]) -> None:
        """Written behind, coalesced; never moves backwards within an epoch."""

    def subscriptions(self, device: str) -> Deferred[set[str]]:
        """Topics of a device."""

    def subscribe(self, device: str, topics: Sequence[str], cursors: Sequence[Cursor] = ()) -> Deferred[None]:
        """Durable when it fires. `cursors` say where the topics begin for this device and are stored in the
        same transaction, under the rule of save_cursors; they may name streams that do not exist (biz "")."""

    def unsubscribe(self, device: str, topics: Sequence[str]) -> Deferred[None]: ...

    def sweep(self, now: float) -> Deferred[int]:
        """Remove what retention and ttl allow, a bounded batch; how many rows went (0: done)."""


class ClaimState:
    """Outcomes of AnswerStore.claim."""

    NEW = "new"
    OPEN = "open"
    """Claimed before, by this or another process; what became of it is unknown to the store."""
    ANSWERED = "answered"
    """Claimed and finished; the answer may or may not be kept."""
    MISMATCH = "mismatch"
    """The id was claimed with another digest."""


class AnswerStore(Protocol):
    """Durable claims on calls: what makes a call at most once. Answers themselves are kept in memory by core."""

    def claim(
        self, device: str, user: str, call_id: int, digest: bytes, now: float, *, first: float | None = None
    ) -> Deferred[str]:
        """Atomically claim; a ClaimState. Durable when it fires. `now` is wall-clock.

        `first`: of a repetition, the earliest wall-clock time of its first attempt. When the store has forgotten
        claims from then or later for want of room, a call that it does not know is OPEN, and nothing is claimed.
        """

    def settle(self, device: str, user: str, call_id: int) -> None:
        """Written behind: the call was answered."""

    def release(self, device: str, user: str, call_id: int) -> None:
        """Written behind: certainly not executed, the id may be claimed again."""

    def sweep(self, before: float) -> Deferred[int]:
        """Forget claims older than wall-clock `before`, a bounded batch; how many."""


class HeaderStateStore(Protocol):
    """States of header codecs, for the next connection of a device; losing one costs it bytes and nothing else."""

    def save(self, key: StateKey, state: HeaderState, generation: tuple[int, int], now: float) -> None:
        """Written behind. Of a direction the KEPT_CHECKPOINTS newest stay; what a connection of a higher generation
        (boot, counter) has written is neither replaced nor removed. `now` is wall-clock."""

    def load(self, key: StateKey) -> Deferred[list[HeaderState]]:
        """All that is kept of the key."""

    def sweep(self, before: float) -> Deferred[int]:
        """Forget states written before wall-clock `before`, and the oldest past the bound, one batch; how many."""


class OutboxStore(Protocol):
    """Presence events waiting to be delivered, in order per device."""

    def put(self, event: PresenceEvent) -> Deferred[None]: ...

    def next_seq(self, device: str) -> int:
        """The next number of the device's events; grows across restarts."""

    def pending(self, limit: int) -> Deferred[list[PresenceEvent]]:
        """Oldest undelivered events, at most one per device."""

    def done(self, event: PresenceEvent) -> Deferred[None]: ...
