"""Fan-out in slices: long work is done in jobs that take turns, a few thousandths of a second at a time.

A stream has at most one pass over its members under way; pushes that come meanwhile join its ring and
are met by the rest of the pass, and by one more pass for the members that it had visited already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.logger import Logger

from accessgw.core.courier import Courier
from accessgw.core.delivery import Delivery, Place
from accessgw.core.interfaces.clock import Clock
from accessgw.core.streams import Segment, Stream, StreamTable
from accessgw.model.counters import PushCounters

log = Logger()

STRIDE = 32
"""Pushes sent before the next job has its turn, and before they are written."""


class Job(Protocol):
    """Work that can be interrupted."""

    def step(self, budget: int) -> bool:
        """Do about `budget` pushes' worth of it; True when there is more."""


class Fanout:
    """Runs jobs round robin, at most `slice_seconds` in one turn of the reactor."""

    def __init__(
        self,
        clock: Clock,
        courier: Courier,
        table: StreamTable,
        counters: PushCounters,
        *,
        slice_seconds: float,
        flush: Callable[[], None],
    ) -> None:
        """`flush` writes what the jobs have sent, so that the slices bound the time for that as well. What a few small
        jobs have sent waits for the end of the turn: they may be streams of the same device."""
        self._clock = clock
        self._flush = flush
        self._courier = courier
        self._table = table
        self._counters = counters
        self._slice = slice_seconds
        self._jobs: deque[Job] = deque()
        self._scheduled = False

    def __len__(self) -> int:
        return len(self._jobs)

    def submit(self, job: Job) -> None:
        """Begin the job in the next turn of the reactor."""
        self._jobs.append(job)
        self._schedule()

    def visit(self, stream: Stream) -> None:
        """The stream has something new: pump its members."""
        if stream.passing:
            stream.dirty = True
        elif stream.members:
            stream.passing = True
            self.submit(_Pass(stream, self._courier, self._table, self._counters))

    def deliver(self, stream: Stream, places: Sequence[Place], segment: Segment, floor: int) -> None:
        """Hand what was read of the store to the places that wait for it."""
        self.submit(_Deliveries(places, segment, floor, self._courier))

    def join(self, stream: Stream, deliveries: Sequence[Delivery], enter: Callable[[Delivery, Stream], None]) -> None:
        """A stream began: `enter` each of the sessions that it reaches."""
        stream.joining += 1
        self.submit(_Join(stream, deliveries, enter, self._table))

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._clock.callLater(0, self._run)

    def _run(self) -> None:
        self._scheduled = False
        jobs = self._jobs
        counters = self._counters
        deadline = self._clock.seconds() + self._slice
        written = counters.sent
        counters.fanout_slices += 1
        while jobs:
            job = jobs.popleft()
            try:
                if job.step(STRIDE):
                    jobs.append(job)
            except Exception:
                log.failure("a fan-out failed")
            if counters.sent - written >= STRIDE:
                self._flush()
                written = counters.sent
            if self._clock.seconds() >= deadline:
                break
        if jobs:
            self._schedule()


class _Pass:
    """Visits the members of one stream from the last index down; see Stream.remove."""

    __slots__ = ("_counters", "_courier", "_index", "_stream", "_table")

    def __init__(self, stream: Stream, courier: Courier, table: StreamTable, counters: PushCounters) -> None:
        self._stream = stream
        self._courier = courier
        self._table = table
        self._counters = counters
        self._index = len(stream.members)

    def step(self, budget: int) -> bool:
        stream = self._stream
        index = min(self._index, len(stream.members))
        self._index = index = max(0, index - self._stride(index, budget))
        if index:
            return True
        if stream.dirty:
            stream.dirty = False
            self._index = len(stream.members)
            return bool(self._index) or self._end()
        return self._end()

    def _end(self) -> bool:
        stream = self._stream
        stream.passing = stream.dirty = False
        ring = stream.ring
        if ring is not None and not stream.shared and all(place.sent >= ring.end for place in stream.members):
            self._table.forget_ring(stream)
        return False

    def _stride(self, index: int, budget: int) -> int:
        """Visit members below `index`; how many are done with. Members in step get the newest push straight away."""
        stream, courier = self._stream, self._courier
        head, epoch = stream.head, stream.epoch
        push, before = None, -2
        if (ring := stream.ring) is not None and ring.entries:
            newest = ring.entries[-1]
            if newest.seq == head == ring.end and newest.plain:
                push, before = newest.push, head - 1
        limit = courier.work + budget
        done = sent = 0
        for place in reversed(stream.members[max(0, index - budget) : index]):
            delivery = place.delivery
            try:
                if (
                    place.wire == before
                    and place.sent == before
                    and push is not None
                    and place.epoch == epoch
                    and delivery.open
                    and not delivery.held
                    and (link := delivery.link) is not None
                ):
                    if link.send_push(push, 0):
                        place.sent = place.wire = head
                        place.inflight.append(head)
                        sent += 1
                    else:
                        courier.window_full(delivery)
                        delivery.later(place)
                elif courier.pump(place, budget):
                    break
            except Exception:
                log.failure("delivery of {stream} failed for one session", stream=stream.key)
            done += 1
            if courier.work >= limit:
                break
        self._counters.sent += sent
        return done


class _Deliveries:
    """Gives a segment to all who waited for it."""

    __slots__ = ("_courier", "_floor", "_places", "_segment")

    def __init__(self, places: Sequence[Place], segment: Segment, floor: int, courier: Courier) -> None:
        self._places = list(places)
        self._segment = segment
        self._floor = floor
        self._courier = courier

    def step(self, budget: int) -> bool:
        courier, places = self._courier, self._places
        limit = courier.work + budget
        while places and courier.work < limit:
            place = places.pop()
            courier.work += 1
            place.reading = False
            try:
                if courier.deliver(place, self._segment, self._floor, budget):
                    places.append(place)
                    place.reading = True
                    break
            except Exception:
                log.failure("delivery of {stream} failed for one session", stream=place.stream.key)
        return bool(places)


class _Join:
    """Puts sessions on a stream that began while they were connected."""

    __slots__ = ("_deliveries", "_enter", "_stream", "_table")

    def __init__(
        self,
        stream: Stream,
        deliveries: Sequence[Delivery],
        enter: Callable[[Delivery, Stream], None],
        table: StreamTable,
    ) -> None:
        self._stream = stream
        self._deliveries = list(deliveries)
        self._enter = enter
        self._table = table

    def step(self, budget: int) -> bool:
        deliveries = self._deliveries
        for delivery in deliveries[-budget:]:
            if delivery.link is None:
                continue
            try:
                self._enter(delivery, self._stream)
            except Exception:
                log.failure("delivery of {stream} failed for one session", stream=self._stream.key)
        del deliveries[-budget:]
        if deliveries:
            return True
        self._stream.joining -= 1
        self._table.close_if_unused(self._stream)
        return False
