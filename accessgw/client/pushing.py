"""From a received push to its acknowledgement: deliver, wait for the application, store the cursor, acknowledge."""

from __future__ import annotations

from collections.abc import Callable

from accessgw.client.commands import Command, Deliver, Save, Tell
from accessgw.client.cursors import Memory
from accessgw.client.model import Note, Push
from accessgw.client.streams import Arrival, StreamName, Streams
from protocols.mmtp.handshake import StreamCursor

MAX_HELLO_CURSORS = 64
HELLO_CURSOR_BYTES = 4096
"""What fits beside the rest in the 8 KiB that a HELLO may have."""
SAVE_RETRY = 1.0


class PushDesk:
    """The way of pushes through the client.

    With `persistent`, an arrival is acknowledged after the Save of its cursor has succeeded, and only
    stored cursors are told to the gateway. One Save is under way at a time; what is processed meanwhile
    goes into the next one, so a slow disk makes the saves larger, not more.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        persistent: bool,
        emit: Callable[[Command], None],
        acknowledge: Callable[[set[int]], None],
    ) -> None:
        self.memory = memory
        """What a Save stores; whoever owns other parts of it keeps them up to date."""
        self.held = 0
        """Pushes that the application has not taken."""
        self._persistent = persistent
        self._emit = emit
        self._acknowledge_links = acknowledge
        self._streams = Streams(memory.cursors)
        self._stored = list(memory.cursors)
        self._saving: list[Arrival] | None = None
        self._retry_at: float | None = None

    def received(self, push: Push, arrival: Arrival | None) -> None:
        """A push came, on a long connection with its arrival there."""
        new, notes = self._streams.undelivered(push, arrival)
        for note in notes:
            self._emit(Tell(note))
        if new:
            self.held += 1
            self._emit(Deliver(push))

    def noted(self, name: StreamName, note: str, epoch: int, floor: int) -> None:
        """The gateway said something about a stream."""
        self._emit(Tell(self._streams.noted(name, note, epoch, floor)))

    def processed(self, push: Push) -> None:
        """The application is done with it."""
        self._streams.processed(push)

    def settle(self) -> None:
        """Acknowledge what may be: at once, or after its cursors are on disk."""
        if not self._streams.waiting:
            return
        if self._persistent and (self._streams.changed or self._saving is not None):
            self.save()
        else:
            self._acknowledge(self._streams.take_unstored())

    def save(self) -> None:
        """Store the present state, unless a Save is under way or has just failed."""
        if self._saving is None and self._retry_at is None:
            self._saving = self._streams.take_unstored()
            memory = self.memory
            memory.cursors = self._streams.cursors()
            self._emit(Save(Memory(memory.boot, list(memory.cursors), dict(memory.heartbeats))))

    def saved(self) -> None:
        """It is on disk."""
        arrivals, self._saving = self._saving or [], None
        self._stored = self.memory.cursors
        self._acknowledge(arrivals)
        self.settle()

    def save_failed(self, reason: str, now: float) -> None:
        """It is not: nothing is acknowledged, and it is tried again."""
        arrivals, self._saving = self._saving or [], None
        self._streams.put_back(arrivals)
        self._retry_at = now + SAVE_RETRY
        self._emit(Tell(Note("save_failed", reason)))

    def next_timer(self) -> float | None:
        """When handle_timer is due."""
        return self._retry_at

    def handle_timer(self, now: float) -> None:
        """Try to store again."""
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            self.save()

    def hello_cursors(self) -> list[StreamCursor]:
        """Where the streams stand that moved last, as many as fit in a HELLO."""
        cursors = self._stored if self._persistent else self._streams.cursors()
        chosen: list[StreamCursor] = []
        size = 0
        for cursor in reversed(cursors[-MAX_HELLO_CURSORS:]):
            size += len(cursor.id.encode()) + len(cursor.biz.encode()) + 24
            if size > HELLO_CURSOR_BYTES:
                break
            chosen.append(cursor)
        return chosen

    def _acknowledge(self, arrivals: list[Arrival]) -> None:
        for arrival in arrivals:
            arrival.stored = True
        self._acknowledge_links({arrival.link for arrival in arrivals})
