"""Pushes: their frames, the window on them, and the streams that a device knows (specification, section 10)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.attributes import attributes_end
from protocols.mmtp.bodies import EXPLICIT, HISTORY, MINI, RAW, Declined, compress
from protocols.mmtp.dictionaries import PUSH_KIND, Dictionary
from protocols.mmtp.events import PushReceived, StreamNoted
from protocols.mmtp.fields import (
    field,
    milliseconds_field,
    read_fields,
    read_milliseconds,
    read_string,
    read_varint,
    sized,
    string_field,
    varint_field,
)
from protocols.mmtp.frames import ATTRIBUTES, CODING_SHIFT, FrameType, encode_frame
from protocols.mmtp.handshake import StreamCursor, decode_cursor, encode_cursor
from protocols.mmtp.history import MAX_HISTORY, History
from protocols.mmtp.nothing import NOTHING
from protocols.mmtp.settings import Limits
from protocols.mmtp.shared_bodies import SharedBody
from protocols.mmtp.statuses import Status
from protocols.mmtp.uses import Uses, unpack_push
from protocols.mmtp.varint import MAX_VARINT, decode_varint, encode_varint

STREAM = 1
TTL = 2
NOTE = 3
PRIORITY = 4
GAP = 5
COLLAPSE = 6
HISTORY_SIZE = 7
_KEYS = (STREAM, TTL, NOTE, PRIORITY, GAP, COLLAPSE, HISTORY_SIZE)
_OF_ANNOUNCEMENTS = {STREAM, NOTE, HISTORY_SIZE}

NOTES = {1: "truncated", 2: "history_lost"}
_NOTE_NUMBERS = {name: number for number, name in NOTES.items()}
MAX_ALIASES = 1024
MAX_RANGES = 64
MAX_HISTORIES = 64
"""Streams of a connection whose bodies we remember; further ones are announced without history."""


def encode_push(
    alias: int,
    body: bytes,
    *,
    coding: int = RAW,
    ttl: float | None = None,
    priority: int = 0,
    collapse: str = "",
    gap: int = 0,
    dictionary: Dictionary | None = None,
) -> bytes:
    """The frame of one push, the same for every connection that has got the pushes before it.

    `body` is the expanded body; `dictionary` (Connection.push_dictionary) makes a mini of it, `coding` EXPLICIT asks
    for zstd, each used if it saves something. `ttl` is in seconds. Raises LocalError for another coding.
    """
    if coding not in (RAW, EXPLICIT):
        raise LocalError(f"coding: expected {RAW} or {EXPLICIT}, got {coding}")
    packed = None
    used = MINI
    if dictionary is not None:
        packed = dictionary.compress(body)
        dictionary.count(len(body), len(body) if packed is None else len(packed))
    if packed is None and coding == EXPLICIT:
        packed = compress(body)
        used = EXPLICIT
    if packed is None:
        packed, used = body, RAW
    return push_frame(alias, used, packed, ttl=ttl, priority=priority, collapse=collapse, gap=gap)


def push_frame(
    alias: int,
    coding: int,
    body: bytes,
    *,
    ttl: float | None = None,
    priority: int = 0,
    collapse: str = "",
    gap: int = 0,
) -> bytes:
    """The frame of a push whose body is coded already."""
    flags = coding << CODING_SHIFT
    attributes = b"".join((
        milliseconds_field(TTL, max(0.0, ttl)) if ttl is not None else b"",
        varint_field(PRIORITY, priority) if priority else b"",
        varint_field(GAP, gap) if gap else b"",
        string_field(COLLAPSE, collapse),
    ))  # fmt: skip
    if attributes:
        return encode_frame(FrameType.PUSH, flags | ATTRIBUTES, encode_varint(alias) + sized(attributes) + body)
    return encode_frame(FrameType.PUSH, flags, encode_varint(alias) + body)


def encode_announcement(alias: int, cursor: StreamCursor, note: str = "", history: int = 0) -> bytes:
    """The PUSH frame that says what `alias` stands for; its next push has number cursor.seq + 1, and coding 3 goes
    back `history` bytes of the bodies before (0: not used).

    Raises LocalError for an unknown note or scope.
    """
    if note and note not in _NOTE_NUMBERS:
        raise LocalError(f"note: expected one of {', '.join(_NOTE_NUMBERS)}, got {note!r}")
    following = StreamCursor(cursor.scope, cursor.id, cursor.biz, cursor.epoch, cursor.seq + 1)
    attributes = field(STREAM, encode_cursor(following))
    if note:
        attributes += varint_field(NOTE, _NOTE_NUMBERS[note])
    if history:
        attributes += varint_field(HISTORY_SIZE, history)
    return encode_frame(FrameType.PUSH, ATTRIBUTES, encode_varint(alias) + sized(attributes))


class PushFrame:
    """A push with its frame, made once and offered to every connection that gets the same bytes."""

    __slots__ = ("alias", "entry", "frame", "seq")

    def __init__(self, alias: int, seq: int, frame: bytes, size: int, token: Any) -> None:
        """`frame` is made by encode_push, `size` what it takes of the push window; `token` comes back in PushesAcked."""
        self.alias = alias
        self.seq = seq
        self.frame = frame
        self.entry = (size, token)


class Unacknowledged:
    """Pushes of one connection that were sent and not acknowledged, in order; either side's view."""

    __slots__ = ("_entries", "_holes", "_size")

    def __init__(self) -> None:
        self._entries: list[tuple[int, Any]] = []
        """(size, token), from the oldest unacknowledged one on."""
        self._holes: set[int] | None = None
        """Places in _entries that were acknowledged out of order."""
        self._size = 0

    def __len__(self) -> int:
        return len(self._entries) - (len(self._holes) if self._holes else 0)

    def fits(self, size: int, count_window: int, bytes_window: int) -> bool:
        """One more of `size` bytes is within the window (one is, whatever its size)."""
        waiting = len(self._entries) - (len(self._holes) if self._holes else 0)
        return waiting == 0 or (waiting < count_window and self._size + size <= bytes_window)

    def add(self, entry: tuple[int, Any]) -> None:
        """One of (size, token) was sent."""
        self._entries.append(entry)
        self._size += entry[0]

    def oldest(self, count: int) -> list[Any]:
        """Acknowledge the `count` oldest ones; their tokens. Raises ValueError when there are not so many."""
        if count == 1 and self._entries and not self._holes:
            size, token = self._entries.pop(0)
            self._size -= size
            return [token]
        if not 1 <= count <= len(self):
            raise ValueError(f"ACK: expected 1..{len(self)} pushes, got {count}")
        if not self._holes:
            taken = self._entries[:count]
            del self._entries[:count]
            for size, _ in taken:
                self._size -= size
            return [token for _, token in taken]
        places: list[int] = []
        place = 0
        while len(places) < count:
            if place not in self._holes:
                places.append(place)
            place += 1
        return self._take(places)

    def ranges(self, pairs: Iterable[tuple[int, int]]) -> list[Any]:
        """Acknowledge by (skip, count); their tokens. Raises ValueError, with nothing acknowledged."""
        places: list[int] = []
        place = 0
        for skip, count in pairs:
            place += skip
            if count < 1 or place + count > len(self._entries):
                raise ValueError(f"ACK: range {place}+{count} outside of {len(self._entries)} pushes")
            places.extend(range(place, place + count))
            place += count
        if self._holes and not self._holes.isdisjoint(places):
            raise ValueError("ACK: acknowledges a push twice")
        return self._take(places)

    def places(self, tokens: Sequence[Any]) -> list[int]:
        """Where unacknowledged pushes with these tokens are. Raises LocalError for one that is not there."""
        where = {token: place for place, (_, token) in enumerate(self._entries) if token is not None}
        missing = [token for token in tokens if token not in where]
        if missing:
            raise LocalError(f"ACK: push {missing[0]} is not unacknowledged")
        return [where[token] for token in tokens]

    def _take(self, places: Sequence[int]) -> list[Any]:
        tokens = []
        for place in places:
            size, token = self._entries[place]
            tokens.append(token)
            self._size -= size
            self._entries[place] = (0, None)
        holes = self._holes or set()
        holes.update(places)
        done = 0
        while done in holes:
            done += 1
        del self._entries[:done]
        self._holes = {place - done for place in holes if place >= done} or None
        return tokens


class PushSender:
    """The gateway's side: announcements, window, acknowledgements."""

    __slots__ = ("_histories", "_next", "_unacknowledged", "extra_bytes")

    def __init__(self) -> None:
        self._next: dict[int, int] = NOTHING
        self._histories: dict[int, tuple[History, str]] = NOTHING
        """By alias: what its pushes go back to, and its biz."""
        self._unacknowledged: Unacknowledged | None = None
        """Made with the first announcement: many devices are connected and get nothing."""
        self.extra_bytes = 0
        """What WINDOW added to the window."""

    def _window(self) -> Unacknowledged:
        if self._unacknowledged is None:
            self._unacknowledged = Unacknowledged()
        return self._unacknowledged

    def room(self, size: int, peer: Limits) -> bool:
        """A push of `size` body bytes may be sent."""
        return self._window().fits(size, peer.push_window, peer.push_window_bytes + self.extra_bytes)

    def announce(self, alias: int, cursor: StreamCursor, note: str = "", history: int = 0) -> bytes:
        """The frame of an announcement. Raises LocalError above MAX_ALIASES streams."""
        if alias not in self._next and len(self._next) >= MAX_ALIASES:
            raise LocalError(f"streams: a connection has at most {MAX_ALIASES}")
        if alias not in self._histories and len(self._histories) >= MAX_HISTORIES:
            history = 0
        made = History(history) if history else None
        frame = encode_announcement(alias, cursor, note, history)
        if made is not None:
            if not self._histories:
                self._histories = {}
            self._histories[alias] = (made, cursor.biz)
        elif self._histories:
            self._histories.pop(alias, None)
        if not self._next:
            self._next = {}
        self._next[alias] = cursor.seq + 1
        return frame

    def offer(self, push: PushFrame, peer: Limits) -> bool:
        """The push leaves, unless the window is full. Raises LocalError for a stream that was not introduced."""
        if not self.room(push.entry[0], peer):
            return False
        if push.alias in self._histories:
            raise LocalError(f"push: the bodies of alias {push.alias} have a history, see offer_body")
        self._sent(push.alias, push.seq, push.entry)
        return True

    def offer_body(
        self,
        alias: int,
        seq: int,
        shared: SharedBody,
        peer: Limits,
        uses: Uses | None,
        *,
        zstd: bool,
        token: Any,
        ttl: float | None,
        priority: int,
        collapse: str,
        gap: int,
        secret: bool,
    ) -> bytes | None:
        """The frame of a push of a stream with history, which leaves; None when the window is full. The body of a `secret`
        one travels raw."""
        body = shared.body
        if not self.room(len(body), peer):
            return None
        found = self._histories.get(alias)
        if found is None:
            raise LocalError(f"push: alias {alias} was announced without history, see encode_push")
        history, biz = found
        packed, coding = None, HISTORY
        if not secret:
            dictionary = uses.down.for_class(PUSH_KIND, biz) if uses is not None else None
            packed = shared.after(dictionary, history.tail)
            if packed is None and zstd:
                packed, coding = shared.explicit(), EXPLICIT
        if packed is None:
            packed, coding = body, RAW
        frame = push_frame(alias, coding, packed, ttl=ttl, priority=priority, collapse=collapse, gap=gap)
        self._sent(alias, seq, (len(packed), token))
        history.append(body)
        return frame

    def has_history(self, alias: int) -> bool:
        """The alias was announced with history."""
        return alias in self._histories

    def _sent(self, alias: int, seq: int, entry: tuple[int, Any]) -> None:
        following = self._next.get(alias)
        if following is None or seq < following:
            raise LocalError(f"push: expected a stream that was introduced, next {following}, got {alias} seq {seq}")
        self._next[alias] = seq + 1
        self._window().add(entry)

    def acked_now(self, count: int) -> list[Any] | None:
        """Tokens of the `count` oldest; None, with nothing acknowledged, when `count` is wrong."""
        unacknowledged = self._unacknowledged
        if unacknowledged is not None and 1 <= count <= min(len(unacknowledged), 127):
            return unacknowledged.oldest(count)
        return None

    def acked(self, count: int) -> list[Any]:
        """Tokens of the `count` oldest. Raises RemoteError(PROTOCOL)."""
        try:
            return self._window().oldest(count)
        except ValueError as error:
            raise RemoteError(Status.PROTOCOL, str(error)) from None

    def acked_ranges(self, data: bytes, pos: int, end: int) -> list[Any]:
        """Tokens of an ACK with ranges. Raises RemoteError(PROTOCOL)."""
        pairs: list[tuple[int, int]] = []
        while pos < end:
            skip, pos = decode_varint(data, pos, end)
            count, pos = decode_varint(data, pos, end)
            pairs.append((skip, count))
        if not 1 <= len(pairs) <= MAX_RANGES:
            raise RemoteError(Status.PROTOCOL, f"ACK: expected 1..{MAX_RANGES} ranges, got {len(pairs)}")
        try:
            return self._window().ranges(pairs)
        except ValueError as error:
            raise RemoteError(Status.PROTOCOL, str(error)) from None


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
