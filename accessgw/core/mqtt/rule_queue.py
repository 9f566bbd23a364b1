"""Messages that wait for a service: bounded, numbered, and in order for each publisher."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred

from accessgw.core.interfaces.mqtt_state import Message

MAX_LANES = 100_000
"""Publishers whose numbering is remembered while they have nothing in the queue."""


class Lane:
    """The messages of one publisher. Those of a busy lane wait until the ones that were taken out are done."""

    __slots__ = ("busy", "epoch", "seq", "waiting")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.seq = 0
        self.busy = False
        self.waiting: deque[Taken] | None = None


class Taken:
    """One message that a rule has taken."""

    __slots__ = ("answered", "epoch", "lane", "message", "seq", "size")

    def __init__(self, message: Message, lane: Lane, size: int) -> None:
        self.message = message
        self.lane = lane
        self.size = size
        self.epoch = lane.epoch
        self.seq = lane.seq
        self.answered: Deferred[int] | None = None
        """Fires with a reason code, where somebody waits for what the service says."""


class RuleQueue:
    """A queue with one lane per publisher, served in turns.

    Each lane numbers its messages from 1. Its `epoch` (milliseconds of the wall clock, never twice the same) tells
    one numbering from the next: a service knows a message by (client, epoch, seq), and a gap by a missing seq.
    """

    def __init__(
        self, max_messages: int, max_bytes: int, wall: Callable[[], float], max_lanes: int = MAX_LANES
    ) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.bytes = 0
        self.available = 0
        """Messages in lanes that are not busy: what `take` can give."""
        self._wall = wall
        self._max_lanes = max_lanes
        self._waiting = 0
        self._epoch = 0
        self._lanes: OrderedDict[str, Lane] = OrderedDict()
        self._ready: deque[Lane] = deque()
        """Lanes that are not busy and have messages, in turn."""

    def __len__(self) -> int:
        return self._waiting

    def has_room(self, size: int) -> bool:
        """Whether one more of so many bytes may wait; an empty queue takes a message of any size."""
        return not self._waiting or (self._waiting < self.max_messages and self.bytes + size <= self.max_bytes)

    def put(self, message: Message, size: int) -> Taken:
        """Number it and let it wait; the caller has seen to it that there is room."""
        lane = self._lane(message.publisher)
        lane.seq += 1
        taken = Taken(message, lane, size)
        if lane.waiting is None:
            lane.waiting = deque()
        if not lane.busy:
            if not lane.waiting:
                self._ready.append(lane)
            self.available += 1
        lane.waiting.append(taken)
        self._waiting += 1
        self.bytes += size
        return taken

    def take(self, limit: int, max_bytes: int) -> list[Taken]:
        """Up to so many messages and bytes (at least one message, if one is available). Their lanes are busy until
        `done`."""
        found: list[Taken] = []
        size = 0
        while self._ready and len(found) < limit:
            lane = self._ready[0]
            waiting = lane.waiting
            assert waiting is not None
            if found and size + waiting[0].size > max_bytes:
                break
            self._ready.popleft()
            lane.busy = True
            self.available -= len(waiting)
            while waiting and len(found) < limit and (not found or size + waiting[0].size <= max_bytes):
                taken = waiting.popleft()
                size += taken.size
                found.append(taken)
            if not waiting:
                lane.waiting = None
        self._waiting -= len(found)
        self.bytes -= size
        return found

    def done(self, batch: Iterable[Taken]) -> None:
        """What `take` gave is over: the next messages of its publishers may go."""
        for taken in batch:
            lane = taken.lane
            if lane.busy:
                lane.busy = False
                if lane.waiting:
                    self._ready.append(lane)
                    self.available += len(lane.waiting)

    def clear(self) -> list[Taken]:
        """Give up everything that waits."""
        found: list[Taken] = []
        for lane in self._lanes.values():
            found += lane.waiting or ()
            lane.waiting = None
        self._ready.clear()
        self._waiting = self.bytes = self.available = 0
        return found

    def forget(self, publisher: str) -> None:
        """Its session has ended: what it publishes from now on is numbered anew. What waits still goes in order."""
        lane = self._lanes.get(publisher)
        if lane is not None:
            if lane.busy or lane.waiting:
                lane.epoch, lane.seq = self._next_epoch(), 0
            else:
                del self._lanes[publisher]

    def _lane(self, publisher: str) -> Lane:
        lane = self._lanes.get(publisher)
        if lane is None:
            self._make_room()
            lane = self._lanes[publisher] = Lane(self._next_epoch())
        else:
            self._lanes.move_to_end(publisher)
        return lane

    def _make_room(self) -> None:
        # Lanes in use stay, and are no more than the messages that wait or are on their way; a few looks are enough.
        for _ in range(min(8, len(self._lanes) - self._max_lanes + 1)):
            publisher, lane = next(iter(self._lanes.items()))
            if lane.busy or lane.waiting:
                self._lanes.move_to_end(publisher)
            else:
                del self._lanes[publisher]

    def _next_epoch(self) -> int:
        self._epoch = max(self._epoch + 1, int(self._wall() * 1000))
        return self._epoch
