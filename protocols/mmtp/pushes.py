"""Pushes as the gateway sends them: their frames, announcements and the window (specification, section 10)."""

from __future__ import annotations

from typing import Any

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.bodies import EXPLICIT, HISTORY, MINI, RAW, compress
from protocols.mmtp.dictionaries import PUSH_KIND, Dictionary
from protocols.mmtp.fields import field, milliseconds_field, sized, string_field, varint_field
from protocols.mmtp.frames import ATTRIBUTES, CODING_SHIFT, FrameType, encode_frame
from protocols.mmtp.handshake import StreamCursor, encode_cursor
from protocols.mmtp.history import History
from protocols.mmtp.nothing import NOTHING
from protocols.mmtp.settings import Limits
from protocols.mmtp.shared_bodies import SharedBody
from protocols.mmtp.statuses import Status
from protocols.mmtp.unacknowledged import MAX_RANGES, Unacknowledged
from protocols.mmtp.uses import Uses
from protocols.mmtp.varint import decode_varint, encode_varint

STREAM = 1
TTL = 2
NOTE = 3
PRIORITY = 4
GAP = 5
COLLAPSE = 6
HISTORY_SIZE = 7

NOTES = {1: "truncated", 2: "history_lost"}
_NOTE_NUMBERS = {name: number for number, name in NOTES.items()}
MAX_ALIASES = 1024
MAX_PASSED = 1024
"""Pushes that a device may have acknowledged out of order, above its window, before the oldest one: they are kept until
then. After that nothing is sent until it has acknowledged that one."""
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
    witness: int = 0,
) -> bytes:
    """The frame of one push, the same for every connection that has got the pushes before it.

    `body` is the expanded body; `dictionary` (Connection.push_dictionary) makes a mini of it, `coding` EXPLICIT asks
    for zstd, each used if it saves something. `ttl` is in seconds; `witness`: see dictionaries.Watcher. Raises
    LocalError for another coding.
    """
    if coding not in (RAW, EXPLICIT):
        raise LocalError(f"coding: expected {RAW} or {EXPLICIT}, got {coding}")
    packed = None
    used = MINI
    if dictionary is not None:
        packed = dictionary.compress(body)
        dictionary.count(len(body), len(body) if packed is None else len(packed), witness)
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
        """`frame` is made by encode_push, `size` what it takes of the push window; `token` comes back in
        PushesAcked."""
        self.alias = alias
        self.seq = seq
        self.frame = frame
        self.entry = (size, token)


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
        window = self._window()
        if window.span >= peer.push_window + MAX_PASSED:
            return False
        return window.fits(size, peer.push_window, peer.push_window_bytes + self.extra_bytes)

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
        """The frame of a push of a stream with history, which leaves; None when the window is full. The body of a
        `secret` one travels raw."""
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
        while pos < end and len(pairs) <= MAX_RANGES:
            skip, pos = decode_varint(data, pos, end)
            count, pos = decode_varint(data, pos, end)
            pairs.append((skip, count))
        if not 1 <= len(pairs) <= MAX_RANGES:
            raise RemoteError(Status.PROTOCOL, f"ACK: expected 1..{MAX_RANGES} ranges, got {len(pairs)} or more")
        try:
            return self._window().ranges(pairs)
        except ValueError as error:
            raise RemoteError(Status.PROTOCOL, str(error)) from None
