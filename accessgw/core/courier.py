"""Moves places forward: the push window, priorities, slow readers, acknowledgements.

Whatever wants something delivered (a live push, a read of the store, an acknowledgement) calls
`Courier.pump`, which goes on from `Place.sent`; calling it once too often does nothing. Nothing is queued
per session: a session that may not have more now is behind, and reads again when it may.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.logger import Logger

from accessgw.core.delivery import NONE, TRUNCATED, Delivery, Place
from accessgw.core.interfaces.clock import Clock, Timers
from accessgw.core.interfaces.pushes import OutgoingPush
from accessgw.core.places import MAX_PLACES, Places
from accessgw.core.streams import Segment
from accessgw.model.counters import PushCounters
from accessgw.model.pushes import Priority
from accessgw.model.reasons import CloseReason
from accessgw.model.settings import PushSettings
from protocols.mmtp.statuses import Status

log = Logger()

READ_PUSHES = 64
"""Pushes asked of the store at a time."""
BULK_SLICE = 16 * 1024
"""Bytes of priority 2 that may wait in a link's buffer, which is otherwise empty."""
FRAME_HEAD = 64
"""Bytes that a frame may have beside the body."""


class Reader(Protocol):
    """Reads the store for places that are behind; `Courier.deliver` gets what it found."""

    def read(self, place: Place, limit: int) -> None: ...


class Courier:
    """Moves places forward."""

    def __init__(
        self,
        clock: Clock,
        wall: Callable[[], float],
        places: Places,
        *,
        timers: Timers,
        settings: PushSettings,
        counters: PushCounters,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._places = places
        self._touch = places.touch  # for every push and acknowledgement
        self._timers = timers
        self._settings = settings
        self._counters = counters
        self.reader: Reader
        """Set once by whoever wires the room."""
        self.work = 0
        """Pushes handled so far; who slices looks at it."""

    def drop(self, delivery: Delivery) -> None:
        """The connection is gone: nothing waits any more, and it leaves every stream."""
        delivery.link = None
        if delivery.timer is not None:
            delivery.timer.cancel()
            delivery.timer = None
        delivery.behind = delivery.held = delivery.noticed = None
        self._places.leave(delivery)

    # --- forward

    def pump(self, place: Place, budget: int = READ_PUSHES) -> bool:
        """Deliver what may go now, `budget` pushes at most; True when it stopped for the budget's sake."""
        delivery, stream = place.delivery, place.stream
        if place.reading or place.index < 0:
            return False
        if place.epoch != stream.epoch:
            self._places.restart(place)
        limit = self.work + budget
        while place.sent < stream.head:
            if not delivery.open:
                delivery.later(place)
                return False
            segment = stream.ring
            if segment is None or not segment.covers(place.sent):
                self._read(place)
                return False
            if not self._advance(place, segment, limit - self.work):
                return False
            if self.work >= limit:
                return place.sent < stream.head
        return False

    def deliver(self, place: Place, segment: Segment, floor: int, budget: int) -> bool:
        """Go on with what was read for the place; True when it stopped for the budget's sake."""
        if place.index < 0:
            return False
        if place.epoch != place.stream.epoch:
            return self.pump(place, budget)
        if place.sent == segment.after < floor:
            self._places.move(place, floor, TRUNCATED)
        limit = self.work + budget
        if segment.covers(place.sent):
            if not place.delivery.open:
                place.delivery.later(place)
                return False
            if not self._advance(place, segment, budget):
                return False
            if self.work >= limit:
                return place.sent < place.stream.head
        return self.pump(place, limit - self.work)

    def _advance(self, place: Place, segment: Segment, budget: int) -> bool:
        """Send from the segment on. False when the place has to wait; it is then where it will be found again."""
        delivery, stream, counters = place.delivery, place.stream, self._counters
        link = delivery.link
        if link is None:
            return False
        first = segment.find(place.sent)
        entries = segment.entries[first : first + budget]
        whole = first + budget >= len(segment.entries)
        for entry in entries:
            self.work += 1
            seq = entry.seq
            push = entry.push
            if entry.visibility is not None and not entry.visibility.admits(delivery.identity):
                place.sent = seq
                continue
            if entry.expires_at is not None:
                now = self._wall()
                if entry.expires_at <= now:
                    counters.expired += 1
                    place.sent = seq
                    continue
                push = entry.outgoing(now)
            if push.priority and seq > stream.urgent and not self._may_leave(place, push):
                self._touch(place)
                return False
            if not place.introduced and not self._introduce(place):
                return False
            if not link.send_push(push, seq - place.wire - 1):
                self.window_full(delivery)
                delivery.later(place)
                self._touch(place)
                return False
            place.sent = place.wire = seq
            place.inflight.append(seq)
            counters.sent += 1
            if delivery.held and not push.priority:
                self._release(delivery)
        if whole and segment.end > place.sent:
            place.sent = segment.end
        self._touch(place)
        return True

    def _introduce(self, place: Place) -> bool:
        delivery, stream = place.delivery, place.stream
        assert delivery.link is not None
        if delivery.introductions >= MAX_PLACES:
            # Aliases of streams that it has left count as well; a new connection begins with none.
            delivery.link.go_away(Status.DRAINING, "", 0.0)
            return False
        delivery.introductions += 1
        place.wire = place.sent
        delivery.link.introduce(stream.alias, stream.key, stream.epoch, place.sent)
        return True

    def _read(self, place: Place) -> None:
        delivery = place.delivery
        limit = READ_PUSHES
        if delivery.window and (inflight := delivery.inflight):
            # Read what can be sent, and not for every acknowledgement: nothing of it is kept.
            if inflight * 2 > delivery.window:
                delivery.later(place)
                return
            limit = max(1, min(limit, delivery.window - inflight))
        place.reading = True
        self.reader.read(place, limit)

    # --- waiting

    def _may_leave(self, place: Place, push: OutgoingPush) -> bool:
        """Priority 1 and 2, with nothing urgent behind them. When not, it is noted what they wait for."""
        delivery = place.delivery
        assert delivery.link is not None
        buffered = delivery.link.buffered
        if push.priority == Priority.BULK:
            if not buffered:
                delivery.bulk = 0
            elif delivery.bulk >= BULK_SLICE or buffered > delivery.bulk:
                delivery.later(place)
                return False
            delivery.bulk += len(push.body) + FRAME_HEAD
            return True
        if buffered > self._settings.slow_reader_bytes:
            delivery.later(place)
            return False
        if push.seq > place.released:
            if not delivery.held:
                delivery.held = {}
                delivery.held_since = self._clock.seconds()
                self._watch(delivery, self._settings.next_activity_max_wait)
            delivery.held[place] = None
            return False
        return True

    def _release(self, delivery: Delivery) -> None:
        """What waits for activity may go; it is pumped when the caller is done with what it does."""
        held, delivery.held = delivery.held, None
        for place in held or ():
            place.released = place.stream.head
            delivery.later(place)
        self.resume_soon(delivery)

    def activity(self, delivery: Delivery) -> None:
        if delivery.held:
            held, delivery.held = delivery.held, None
            for place in held:
                place.released = place.stream.head
                self.pump(place)

    def resume(self, delivery: Delivery) -> None:
        """There may be room: go on with the places that wait for it, in turn."""
        behind = delivery.behind
        if not behind or delivery.link is None:
            return
        delivery.behind = None
        more = False
        for place in behind:
            if not delivery.open:
                delivery.later(place)
            elif self.pump(place):
                delivery.later(place)
                more = True
        if more and delivery.open:
            self.resume_soon(delivery)

    def resume_soon(self, delivery: Delivery) -> None:
        if not delivery.resuming:
            delivery.resuming = True
            self._clock.callLater(0, self._resume_now, delivery)

    def _resume_now(self, delivery: Delivery) -> None:
        delivery.resuming = False
        self.resume(delivery)

    def window_full(self, delivery: Delivery) -> None:
        """The link refused a push: its window is full, or the kernel has yet to take what was sent before."""
        link = delivery.link
        assert link is not None
        delivery.open = False
        if link.buffered <= self._settings.slow_reader_bytes:
            delivery.window = delivery.inflight
        if delivery.stuck_since is None:
            delivery.stuck_since = self._clock.seconds()
            self._watch(delivery, self._settings.slow_reader_timeout)

    def writable(self, delivery: Delivery) -> None:
        """The kernel took all that was sent: whoever reads, however slowly, may have more."""
        delivery.open = True
        sent = self._counters.sent
        self.resume(delivery)
        if delivery.open:
            delivery.stuck_since = None
        elif self._counters.sent != sent:
            delivery.stuck_since = self._clock.seconds()

    def acked(self, delivery: Delivery, places: Sequence[tuple[int, int]]) -> None:
        """See PushService.acked. Acknowledgements out of order move the cursor once its hole is filled."""
        acked = 0
        for alias, seq in places:
            place = delivery.places.get(alias)
            if place is None:
                continue
            inflight = place.inflight
            if place.stale and seq in place.stale:
                place.stale = [one for one in place.stale if one != seq] or NONE
            elif inflight and inflight[0] == seq:
                del inflight[0]
            elif seq in inflight:
                inflight.remove(seq)
            else:
                continue
            acked += 1
            self._touch(place)
            if place.closing and not inflight and not place.stale:
                self._places.vacate(place)
        if acked:
            self._counters.acked += acked
            delivery.open = True
            delivery.stuck_since = None
            if delivery.window and not delivery.inflight:
                delivery.window = 0
            self.resume(delivery)

    def _watch(self, delivery: Delivery, delay: float) -> None:
        """One time-out per session serves both waits; it is set for the earlier and looks again."""
        due = self._clock.seconds() + delay
        if delivery.timer is None:
            delivery.timer = self._timers.schedule(delay, lambda: self._time_out(delivery))
        elif due < delivery.timer_due:
            delivery.timer.touch(delay)
        else:
            return
        delivery.timer_due = due

    def _time_out(self, delivery: Delivery) -> None:
        delivery.timer = None
        if delivery.link is None:
            return
        now = self._clock.seconds()
        if delivery.stuck_since is not None:
            left = delivery.stuck_since + self._settings.slow_reader_timeout - now
            if left <= 0:
                self._counters.slow_readers += 1
                delivery.link.close(CloseReason.SLOW_READER, Status.SLOW_READER)
                return
            self._watch(delivery, left)
        if delivery.held:
            left = delivery.held_since + self._settings.next_activity_max_wait - now
            if left <= 0:
                self.activity(delivery)
            else:
                self._watch(delivery, left)
