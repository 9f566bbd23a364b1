"""A few threads that make TLS hand-shakes, so that the reactor never signs; the short last step stays on the reactor."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from accessgw.core.interfaces.tls import Signer
from accessgw.model.counters import TlsCounters
from accessgw.transports.handshake_crew import DELIVERED_PER_TURN, LAST_STEP, HandshakeCrew, give_way, tell
from protocols.tls.engines import leave_thread

TELL_AFTER = 0.002
"""Seconds that a finished step may wait until the reactor is told of it together with the next."""
SLICE = 0.0005
"""Seconds of a turn of the reactor that last steps of hand-shakes may take."""
IN_A_ROW = 8
"""Steps of hand-shakes that have begun, behind which one that has not has its turn. Calls to a service whose hand-shakes
fail begin new ones for as long as they come."""
NO_BOUND = 1 << 62


class Step(Protocol):
    """A piece of work of one hand-shake."""

    def run(self) -> None:
        """On a thread of the pool. Does not raise."""

    def done(self) -> None:
        """On the reactor's thread, after run()."""


class LastSteps:
    """Runs steps on the reactor's thread, in a slice of each turn: the last ones of hand-shakes that have nothing left to
    sign or to verify. To hand such a step to a thread and back costs half of what it takes."""

    def __init__(
        self,
        counters: TlsCounters,
        at_turn_end: Callable[[Callable[[], None]], object],
        seconds: Callable[[], float] = time.monotonic,
        turn_is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """`at_turn_end` and `turn_is_over` are the reactor's; `seconds` measures the slice."""
        self._counters = counters
        self._at_turn_end = at_turn_end
        self._turn_is_over = turn_is_over
        self._seconds = seconds
        self._waiting: deque[Step] = deque()
        self._ordered = False

    def submit(self, step: Step) -> None:
        """Run it at the end of this turn, or of one of the next; at once where the turn has nothing else to do."""
        if not self._waiting and self._turn_is_over():
            step.run()
            tell(step)
            return
        self._counters.pool_waiting += 1
        self._waiting.append(step)
        self._order()

    def stop(self) -> None:
        """Drop what waits."""
        self._counters.pool_waiting -= len(self._waiting)
        self._waiting.clear()

    def _order(self) -> None:
        if not self._ordered:
            self._ordered = True
            self._at_turn_end(self._run)

    def _run(self) -> None:
        self._ordered = False
        waiting = self._waiting
        until = self._seconds() + SLICE
        try:
            while waiting:
                step = waiting.popleft()
                self._counters.pool_waiting -= 1
                step.run()
                tell(step)
                if self._seconds() >= until:
                    break
        finally:
            if waiting:
                self._order()


class HandshakePool:
    """Runs steps of hand-shakes, those first whose hand-shake has begun: it should not have been for nothing. A few at a
    time: others are not kept from beginning.

    Whoever wants to begin one asks `full` before. Threads begin with the first step. With `threads=0` steps run at
    once, on the caller's thread.
    """

    def __init__(
        self,
        counters: TlsCounters,
        *,
        threads: int = 0,
        waiting: int = 0,
        unfinished: int = NO_BOUND,
        call_from_thread: Callable[[Callable[[], None]], object] = lambda function: function(),
        signer: Signer | None = None,
        last_steps: LastSteps | None = None,
        at_turn_end: Callable[[Callable[[], None]], object] = lambda function: function(),
        crew: HandshakeCrew | None = None,
    ) -> None:
        """`waiting`: steps in the queue beyond which it is full; `unfinished`: hand-shakes under way beyond which it is.
        `call_from_thread` is the reactor's. `signer` makes the signatures that engines with their private keys elsewhere
        stop for. Without `last_steps` the threads make them, too. `at_turn_end` is the reactor's: what one turn has for
        the threads wakes them once. With a `crew` steps of OffloadedEngines are submitted there, and counted here."""
        self.signer = signer
        self.crew = crew
        self._counters = counters
        self._size = threads
        self._bound = waiting
        self._unfinished = unfinished
        self._call_from_thread = call_from_thread
        self._last_steps = last_steps
        self._at_turn_end = at_turn_end
        self._threads: list[threading.Thread] = []
        self._begun: deque[Step] = deque()
        self._fresh: deque[Step] = deque()
        self._in_a_row = 0
        """Steps taken from `_begun` since the last from `_fresh`."""
        self._tokens: SimpleQueue[bool] = SimpleQueue()
        """What the threads wait for: one for each that shall look into the two queues, False for each that shall end."""
        self._waking = False
        """They are about to be put there."""
        self._finished: deque[Step] = deque()
        self._woken = False
        """The reactor has been asked to look at `_finished`."""
        self._stopped = False

    def lane(self) -> HandshakePool:
        """Where all steps of a new hand-shake are to run."""
        return self

    @property
    def full(self) -> bool:
        """Too many wait or are under way: do not begin another."""
        counters = self._counters
        return counters.unfinished >= self._unfinished or (self._size > 0 and counters.pool_waiting >= self._bound)

    def begun(self) -> None:
        """A hand-shake is under way, until finished()."""
        self._counters.unfinished += 1

    def finished(self) -> None:
        """It is complete, or will never be."""
        self._counters.unfinished -= 1

    def submit(self, step: Step, begun: bool) -> None:
        """Run `step`; `begun`: it is not the first of its hand-shake. After stop() nothing happens any more."""
        if self._stopped:
            return
        if not self._size:
            step.run()
            step.done()
            return
        if not self._threads:
            self._start()
        self._counters.pool_waiting += 1
        (self._begun if begun else self._fresh).append(step)
        if not self._waking:
            self._waking = True
            self._at_turn_end(self._wake)

    def submit_last(self, step: Step) -> None:
        """Run `step`, which is short: what is left of its hand-shake neither signs nor verifies a certificate."""
        if self._last_steps is None:
            self.submit(step, True)
        elif not self._stopped:
            self._last_steps.submit(step)

    def stop(self) -> None:
        """Drop what waits, and end when what runs is over."""
        self._stopped = True
        if self._last_steps is not None:
            self._last_steps.stop()
        if self.crew is not None:
            self.crew.stop()
        self._counters.pool_waiting -= len(self._begun) + len(self._fresh)
        self._begun.clear()
        self._fresh.clear()
        for _ in self._threads:
            self._tokens.put(False)
        for thread in self._threads:
            thread.join(LAST_STEP)
        self._threads.clear()

    def _start(self) -> None:
        for number in range(self._size):
            thread = threading.Thread(target=self._serve, name=f"accessgw-handshakes-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    # ------------------------------------------------------------------ the threads

    def _serve(self) -> None:
        give_way()
        while self._tokens.get():
            told = time.monotonic()
            while not self._stopped and (step := self._next()) is not None:
                step.run()
                self._finished.append(step)
                # Whoever waits for this processor, the reactor perhaps, need not wait for the end of our slice of 3 ms.
                os.sched_yield()
                now = time.monotonic()
                if now - told >= TELL_AFTER and not self._stopped:
                    told = now
                    self._tell_reactor()
            if self._finished and not self._stopped:
                self._tell_reactor()
        # What stop() has dropped may have stopped on this thread.
        leave_thread()

    def _next(self) -> Step | None:
        begun, fresh = self._begun, self._fresh
        for queue in (begun, fresh) if self._in_a_row < IN_A_ROW else (fresh, begun):
            try:
                step = queue.popleft()
            except IndexError:
                continue
            self._in_a_row = self._in_a_row + 1 if queue is begun else 0
            return step
        return None

    def _tell_reactor(self) -> None:
        # Two that see False wake the reactor twice, and it finds nothing the second time.
        if not self._woken:
            self._woken = True
            self._call_from_thread(self._deliver)

    # ------------------------------------------------------------------ the reactor

    def _wake(self) -> None:
        self._waking = False
        # A thread that is at work finds the steps by itself, and leaves its token.
        for _ in range(min(len(self._begun) + len(self._fresh), self._size) - self._tokens.qsize()):
            self._tokens.put(True)

    def _deliver(self) -> None:
        # Before the look: what is appended after it wakes the reactor again.
        self._woken = False
        finished = self._finished
        for _ in range(min(len(finished), DELIVERED_PER_TURN)):
            step = finished.popleft()
            self._counters.pool_waiting -= 1
            if self._stopped:
                continue
            tell(step)
        if finished and not self._woken:
            self._woken = True
            self._call_from_thread(self._deliver)


class PinnedHandshakes:
    """A HandshakePool whose hand-shakes each stay on one thread, as those have to that stop for a signature: OpenSSL
    goes on with a stopped job on the thread that began it only."""

    def __init__(
        self,
        counters: TlsCounters,
        signer: Signer,
        *,
        threads: int,
        waiting: int,
        unfinished: int = NO_BOUND,
        call_from_thread: Callable[[Callable[[], None]], object],
        last_steps: LastSteps | None = None,
        at_turn_end: Callable[[Callable[[], None]], object] = lambda function: function(),
    ) -> None:
        """See HandshakePool; those that wait for the signer count as waiting, too."""
        self._counters = counters
        self._bound = waiting
        self._pools = [
            HandshakePool(
                counters,
                threads=min(threads, 1),
                waiting=waiting,
                unfinished=unfinished,
                call_from_thread=call_from_thread,
                signer=signer,
                last_steps=last_steps,
                at_turn_end=at_turn_end,
            )
            for _ in range(max(threads, 1))
        ]
        self._turns = itertools.cycle(self._pools)

    def lane(self) -> HandshakePool:
        """Where all steps of a new hand-shake are to run. In turns: without signatures they are all as long."""
        return next(self._turns)

    @property
    def full(self) -> bool:
        """Too many wait or are under way: do not begin another."""
        return self._pools[0].full or self._counters.signer_waiting >= self._bound

    def stop(self) -> None:
        """Drop what waits, and end when what runs is over."""
        for pool in self._pools:
            pool.stop()
