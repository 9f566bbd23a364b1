"""Streams as a worker sees them: where each stands, who is on it, and its most recent pushes.

A stream is here while a connected session has a place in it. The store has the truth; this is a view
that may lag behind it and never runs ahead of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from accessgw.core.interfaces.pushes import OutgoingPush
from accessgw.core.stream_aliases import AliasTable
from accessgw.core.visibility import Visibility
from accessgw.model.pushes import Scope, StreamKey, StreamState

if TYPE_CHECKING:
    from accessgw.core.delivery import Place

RING_PUSHES = 128
RING_BYTES = 1 << 20
ALL_RINGS_BYTES = 64 << 20
ENTRY_OVERHEAD = 512
"""Bytes that an entry is taken to weigh beside its body (twice: raw and encoded)."""
TTL_REFRESH = 1.0
"""Seconds that the remaining ttl of a push may be wrong before it is encoded again."""


class Entry:
    """One push in memory, shared by all who get it."""

    __slots__ = ("expires_at", "made_at", "push", "seq", "visibility")

    def __init__(self, push: OutgoingPush, expires_at: float | None, visibility: Visibility | None, now: float) -> None:
        self.seq = push.seq
        self.push = push
        self.expires_at = expires_at
        """Wall-clock second."""
        self.visibility = visibility
        self.made_at = now
        """Wall-clock second at which push.ttl was true."""

    @property
    def plain(self) -> bool:
        """It goes to everyone, at once, whenever."""
        return not (self.push.priority or self.visibility is not None or self.expires_at is not None)

    @property
    def size(self) -> int:
        return ENTRY_OVERHEAD + 2 * len(self.push.body)

    def outgoing(self, now: float) -> OutgoingPush:
        """The push with a ttl that is true at wall-clock `now`, within TTL_REFRESH."""
        if self.expires_at is not None and now - self.made_at > TTL_REFRESH:
            self.push = replace(self.push, ttl=self.expires_at - now, encodings={})
            self.made_at = now
        return self.push


class Segment:
    """All pushes of a stream with after < seq <= end that are still of use; what lies between them is gaps."""

    __slots__ = ("after", "end", "entries")

    def __init__(self, after: int, end: int, entries: list[Entry]) -> None:
        self.after = after
        self.end = end
        self.entries = entries

    def covers(self, position: int) -> bool:
        """It knows what comes next after `position`."""
        return self.after <= position < self.end

    def find(self, position: int) -> int:
        """Index of the first entry past `position`."""
        return bisect_right(self.entries, position, key=_seq)


def _seq(entry: Entry) -> int:
    return entry.seq


class Ring(Segment):
    """The newest segment of a stream, bounded: whoever is only slightly behind needs no store."""

    __slots__ = ("size",)

    def __init__(self, after: int) -> None:
        super().__init__(after, after, [])
        self.size = 0

    def extend(self, entry: Entry) -> int:
        """Add the push `end` + 1; how many older ones its collapse key made superfluous."""
        superseded = 0
        if key := entry.push.collapse:
            kept = [one for one in self.entries if one.push.collapse != key]
            superseded = len(self.entries) - len(kept)
            self.entries = kept
            self.size = sum(one.size for one in kept)
        self.entries.append(entry)
        self.end = entry.seq
        self.size += entry.size
        self._trim()
        return superseded

    def absorb(self, segment: Segment) -> None:
        """Take over what a read of the store showed next to it, older only as far as there is room."""
        if segment.after <= self.end < segment.end:
            newer = segment.entries[segment.find(self.end) :]
            self.entries.extend(newer)
            self.size += sum(entry.size for entry in newer)
            self.end = segment.end
            self._trim()
        if segment.after < self.after <= segment.end:
            older = segment.entries[: segment.find(self.after)]
            size = sum(entry.size for entry in older)
            if len(older) + len(self.entries) <= RING_PUSHES and size + self.size <= RING_BYTES:
                self.entries[:0] = older
                self.size += size
                self.after = segment.after

    def _trim(self) -> None:
        while len(self.entries) > 1 and (len(self.entries) > RING_PUSHES or self.size > RING_BYTES):
            oldest = self.entries.pop(0)
            self.size -= oldest.size
            self.after = oldest.seq


class Stream:
    """One stream with the places of the sessions connected here."""

    __slots__ = (
        "alias", "checked_at", "dirty", "epoch", "floor", "head", "joining", "key", "members", "passing", "ring",
        "urgent",
    )  # fmt: skip

    def __init__(self, key: StreamKey, alias: int, epoch: int, head: int, floor: int) -> None:
        self.key = key
        self.alias = alias
        self.epoch = epoch
        self.head = head
        self.floor = floor
        self.urgent = 0
        """Newest push of priority 0 that we know of: what lies before it in the stream must not wait."""
        self.members: list[Place] = []
        self.ring: Ring | None = None
        self.joining = 0
        """Jobs that are still adding members; it stays open meanwhile."""
        self.passing = False
        """A fan-out is visiting the members."""
        self.dirty = False
        """Something new came since that fan-out began."""
        self.checked_at = 0.0
        """Second of the worker's clock at which the head was last known from the store."""

    @property
    def shared(self) -> bool:
        """It may have many members."""
        return self.key.scope in (Scope.TOPIC, Scope.BROADCAST)

    def add(self, place: Place) -> None:
        place.index = len(self.members)
        self.members.append(place)

    def remove(self, place: Place) -> None:
        """The last member takes the place's index: a fan-out walks the indexes downwards, so it meets each
        member that stays at least once, and what joins meanwhile lies behind it."""
        last = self.members.pop()
        if last is not place:
            self.members[place.index] = last
            last.index = place.index
        place.index = -1


class StreamTable:
    """The open streams of a worker, and the memory that their rings take together."""

    def __init__(self, ring_bytes: int = ALL_RINGS_BYTES) -> None:
        self.aliases = AliasTable()
        self._streams: dict[StreamKey, Stream] = {}
        self._rings: OrderedDict[Stream, int] = OrderedDict()
        self._limit = ring_bytes
        self._size = 0

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._streams.values())

    @property
    def ring_bytes(self) -> int:
        """Bytes that all rings are taken to weigh."""
        return self._size

    def get(self, key: StreamKey) -> Stream | None:
        return self._streams.get(key)

    def open(self, state: StreamState) -> Stream:
        """A stream that was not here; close it when nobody is left on it."""
        stream = Stream(state.key, self.aliases.take(state.key), state.epoch, state.head, state.floor)
        self._streams[state.key] = stream
        return stream

    def close_if_unused(self, stream: Stream) -> None:
        """Forget a stream without members."""
        if not stream.members and not stream.joining and self._streams.get(stream.key) is stream:
            self.forget_ring(stream)
            del self._streams[stream.key]
            self.aliases.release(stream.key)

    def extend(self, stream: Stream, entry: Entry) -> int:
        """A live push; returns how many older ones it made superfluous. After a hole the ring begins anew."""
        ring = stream.ring
        if ring is None or ring.end != entry.seq - 1:
            if ring is not None and entry.seq <= ring.end:
                return 0
            ring = stream.ring = Ring(entry.seq - 1)
        superseded = ring.extend(entry)
        self._weigh(stream, ring)
        return superseded

    def absorb(self, stream: Stream, segment: Segment) -> None:
        """What was read for one member of a shared stream will be wanted by others."""
        ring = stream.ring
        if ring is None:
            if not segment.entries:
                return
            ring = stream.ring = Ring(segment.after)
        ring.absorb(segment)
        self._weigh(stream, ring)

    def forget_ring(self, stream: Stream) -> None:
        """Its memory is free; who is behind reads the store."""
        stream.ring = None
        self._size -= self._rings.pop(stream, 0)

    def _weigh(self, stream: Stream, ring: Ring) -> None:
        self._size += ring.size - self._rings.pop(stream, 0)
        self._rings[stream] = ring.size
        while self._size > self._limit and len(self._rings) > 1:
            self.forget_ring(next(iter(self._rings)))
