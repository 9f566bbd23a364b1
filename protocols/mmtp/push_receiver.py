"""Pushes as the device gets them: which alias is which stream, and which number a push has (specification, 10.2)."""

from __future__ import annotations

from protocols.errors import RemoteError
from protocols.mmtp.attributes import attributes_end
from protocols.mmtp.bodies import Declined
from protocols.mmtp.events import PushReceived, StreamNoted
from protocols.mmtp.fields import read_fields, read_milliseconds, read_string, read_varint
from protocols.mmtp.frames import ATTRIBUTES, CODING_SHIFT
from protocols.mmtp.handshake import StreamCursor, decode_cursor
from protocols.mmtp.history import MAX_HISTORY, History
from protocols.mmtp.pushes import COLLAPSE, GAP, HISTORY_SIZE, MAX_ALIASES, NOTE, NOTES, PRIORITY, STREAM, TTL
from protocols.mmtp.settings import Limits
from protocols.mmtp.statuses import Status
from protocols.mmtp.uses import Uses, unpack_push
from protocols.mmtp.varint import MAX_VARINT, decode_varint

_KEYS = (STREAM, TTL, NOTE, PRIORITY, GAP, COLLAPSE, HISTORY_SIZE)
_OF_ANNOUNCEMENTS = {STREAM, NOTE, HISTORY_SIZE}


class _Stream:
    __slots__ = ("biz", "epoch", "following", "history", "id", "scope")

    def __init__(self, cursor: StreamCursor, history: int) -> None:
        self.history = History(history) if history else None
        self.scope = cursor.scope
        self.id = cursor.id
        self.biz = cursor.biz
        self.epoch = cursor.epoch
        self.following = cursor.seq


class PushReceiver:
    """The device's side: which alias is which stream, and which number a push has."""

    __slots__ = ("_limits", "_streams", "count")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._streams: dict[int, _Stream] = {}
        self.count = 0
        """Pushes that came."""

    @property
    def streams(self) -> int:
        """How many aliases were announced."""
        return len(self._streams)

    def came(
        self, flags: int, data: bytes, start: int, stop: int, *, zstd: bool, uses: Uses | None = None
    ) -> tuple[PushReceived | StreamNoted | None, int]:
        """PUSH: its event (None for an announcement without a note) and its body bytes on the wire.

        Raises RemoteError.
        """
        alias, start = decode_varint(data, start, stop)
        ttl: float | None = None
        priority = gap = note = history = 0
        collapse = ""
        announced: StreamCursor | None = None
        if flags & ATTRIBUTES:
            begin_at, after = attributes_end(data, start, stop)
            found = read_fields(data, begin_at, after, _KEYS)
            keys = {key for key, _, _ in found}
            if not keys <= _OF_ANNOUNCEMENTS if STREAM in keys else not keys.isdisjoint(_OF_ANNOUNCEMENTS):
                raise RemoteError(Status.PROTOCOL, "PUSH: attributes of a push and of an announcement together")
            for key, value, end in found:
                if key == STREAM:
                    announced = decode_cursor(data, value, end)
                elif key == TTL:
                    ttl = read_milliseconds(data, value, end)
                elif key == NOTE:
                    note = read_varint(data, value, end)
                elif key == PRIORITY:
                    priority = read_varint(data, value, end)
                elif key == GAP:
                    gap = read_varint(data, value, end)
                elif key == HISTORY_SIZE:
                    history = read_varint(data, value, end)
                    if uses is None or not uses.history or not 1 <= history <= MAX_HISTORY:
                        raise RemoteError(Status.PROTOCOL, f"PUSH: history of {history} bytes was not agreed")
                else:
                    collapse = read_string(data, value, end)
            start = after
        coding = flags >> CODING_SHIFT & 3
        if announced is not None:
            if start != stop or coding:
                raise RemoteError(Status.PROTOCOL, "PUSH: an announcement has no body")
            return self._announced(alias, announced, note, history), 0
        stream = self._streams.get(alias)
        if stream is None:
            raise RemoteError(Status.PROTOCOL, f"PUSH: alias {alias} was not announced")
        body = data[start:stop]
        if coding:
            try:
                body = unpack_push(
                    coding, body, zstd=zstd, limits=self._limits, uses=uses, biz=stream.biz, history=stream.history
                )
            except Declined as error:
                raise RemoteError(Status.DICTIONARY_MISS, f"PUSH: {error}") from None
        seq = stream.following + gap
        if seq > MAX_VARINT:
            raise RemoteError(Status.PROTOCOL, "PUSH: sequence number above 2^64 - 1")
        stream.following = seq + 1
        if stream.history is not None:
            stream.history.append(body)
        index = self.count
        self.count += 1
        return PushReceived(
            alias, stream.scope, stream.id, stream.biz, stream.epoch, seq, body, ttl, collapse, priority, gap, index
        ), stop - start

    def _announced(self, alias: int, cursor: StreamCursor, note: int, history: int) -> StreamNoted | None:
        if alias not in self._streams and len(self._streams) >= MAX_ALIASES:
            raise RemoteError(Status.PROTOCOL, f"PUSH: expected at most {MAX_ALIASES} aliases")
        if note and note not in NOTES:
            raise RemoteError(Status.PROTOCOL, f"PUSH: expected note 1 or 2, got {note}")
        if cursor.seq < 1:
            raise RemoteError(Status.PROTOCOL, "PUSH: expected a next sequence number of at least 1, got 0")
        self._streams[alias] = _Stream(cursor, history)
        if not note:
            return None
        return StreamNoted(cursor.scope, cursor.id, cursor.biz, NOTES[note], cursor.epoch, cursor.seq - 1)
