"""Push streams: what was delivered, what was processed, what is stored, and when each may be acknowledged."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable

from accessgw.client.cursors import MAX_CURSORS
from accessgw.client.model import Note, Push
from protocols.mmtp.handshake import StreamCursor

StreamName = tuple[str, str, str]


class Arrival:
    """One push as it came on one connection, which must acknowledge it there."""

    __slots__ = ("index", "link", "stored")

    def __init__(self, link: int, index: int) -> None:
        self.link = link
        self.index = index
        self.stored = False


class _Record:
    """One push that was delivered to the application and is not stored as processed yet."""

    __slots__ = ("arrivals", "processed", "seq")

    def __init__(self, seq: int, arrivals: list[Arrival]) -> None:
        self.seq = seq
        self.arrivals = arrivals
        self.processed = False


class _Stream:
    """One stream in its present epoch."""

    __slots__ = ("cursor", "delivered", "epoch", "records")

    def __init__(self, epoch: int, cursor: int) -> None:
        self.epoch = epoch
        self.cursor = cursor
        """Every push up to here was processed."""
        self.delivered = cursor
        """Every push up to here was handed to the application, or left out by the gateway."""
        self.records: deque[_Record] = deque()
        """Delivered and above the cursor, in order."""


class Streams:
    """Deduplicates by (stream, epoch, seq), keeps cursors, and says which arrivals may be acknowledged.

    A push is acknowledged when the application has processed it and everything before it in its stream,
    and when the cursor that says so is stored. `take_unstored()` hands over what waits for storing;
    `stored()` of the same list, afterwards, yields the arrivals to acknowledge.
    """

    def __init__(self, cursors: Iterable[StreamCursor] = ()) -> None:
        self._streams: OrderedDict[StreamName, _Stream] = OrderedDict()
        self._unstored: list[Arrival] = []
        self.changed = False
        """Cursors moved since the last take_unstored()."""
        for cursor in cursors:
            self._streams[(cursor.scope, cursor.id, cursor.biz)] = _Stream(cursor.epoch, cursor.seq)

    def cursors(self) -> list[StreamCursor]:
        """Where each stream stands, least recently moved first."""
        return [StreamCursor(*name, stream.epoch, stream.cursor) for name, stream in self._streams.items()]

    def undelivered(self, push: Push, arrival: Arrival | None) -> tuple[bool, list[Note]]:
        """A push came. Whether the application must get it (it is new), and what to tell about its stream."""
        name = push.stream
        stream = self._streams.get(name)
        notes: list[Note] = []
        if stream is None or stream.epoch != push.epoch:
            if stream is not None:
                notes.append(Note("history_lost", "the stream began anew", *name))
            stream = self._begin(name, push.epoch, push.seq - 1)
        if push.seq <= stream.delivered:
            self._repeated(stream, push.seq, arrival)
            return False, notes
        if push.seq > stream.delivered + 1:
            left_out = push.seq - stream.delivered - 1
            notes.append(Note("gap", "numbers left out: collapsed, expired or not visible", *name, count=left_out))
        stream.delivered = push.seq
        stream.records.append(_Record(push.seq, [] if arrival is None else [arrival]))
        return True, notes

    def noted(self, name: StreamName, note: str, epoch: int, floor: int) -> Note:
        """The gateway said `truncated` or `history_lost`."""
        stream = self._streams.get(name)
        if note == "history_lost" or stream is None or stream.epoch != epoch:
            self._begin(name, epoch, floor)
            return Note(note, "the stream began anew: what was before is unknown", *name)
        lost = max(0, floor - stream.delivered)
        stream.delivered = max(stream.delivered, floor)
        if not stream.records:
            stream.cursor = max(stream.cursor, floor)
            self.changed = True
        return Note(note, "older pushes are gone: resynchronise by a call", *name, count=lost)

    def processed(self, push: Push) -> None:
        """The application is done with it."""
        stream = self._streams.get(push.stream)
        if stream is None or stream.epoch != push.epoch:
            return
        for record in stream.records:
            if record.seq == push.seq:
                record.processed = True
                break
        moved = False
        while stream.records and stream.records[0].processed:
            record = stream.records.popleft()
            stream.cursor = record.seq
            self._unstored.extend(record.arrivals)
            moved = True
        if moved:
            if not stream.records:
                stream.cursor = stream.delivered
            self.changed = True
            self._streams.move_to_end(push.stream)
            self._bound()

    def take_unstored(self) -> list[Arrival]:
        """Arrivals that may be acknowledged once the present cursors() are stored."""
        taken, self._unstored = self._unstored, []
        self.changed = False
        return taken

    def put_back(self, arrivals: list[Arrival]) -> None:
        """Storing failed: they wait for the next attempt."""
        self._unstored = arrivals + self._unstored
        self.changed = True

    @property
    def waiting(self) -> bool:
        """There is something to store or to acknowledge."""
        return self.changed or bool(self._unstored)

    def _begin(self, name: StreamName, epoch: int, cursor: int) -> _Stream:
        stream = self._streams[name] = _Stream(epoch, cursor)
        self._streams.move_to_end(name)
        self._bound()
        return stream

    def _repeated(self, stream: _Stream, seq: int, arrival: Arrival | None) -> None:
        """A push that the application already has: acknowledge it here too, as soon as the first may be."""
        if arrival is None:
            return
        for record in stream.records:
            if record.seq == seq:
                record.arrivals.append(arrival)
                return
        self._unstored.append(arrival)

    def _bound(self) -> None:
        """Forget the streams that have not moved for longest; the gateway keeps cursors of its own."""
        excess = len(self._streams) - MAX_CURSORS
        if excess > 0:
            idle = [name for name, stream in self._streams.items() if not stream.records]
            for name in idle[:excess]:
                del self._streams[name]
