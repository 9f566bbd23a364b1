"""Threads that make steps of hand-shakes on the native engine, without the interpreter's lock."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from twisted.logger import Logger

from accessgw.core.interfaces.clock import DescriptorReactor
from accessgw.model.counters import TlsCounters
from accessgw.transports.doorbell import Bell
from protocols.tls.crew import Crew, MakeCrew, OffloadedEngine

_log = Logger()

DELIVERED_PER_TURN = 16
"""Steps that are told to their connections in one turn of the reactor: a storm of reconnects leaves time for others."""
MOST_THREADS = 8
"""Threads that begin where nobody says how many: a reactor has no more than that to do for them."""
NICER = 5
"""By how much threads of hand-shakes are nicer (sched(7)): they get a third of what the reactor would, of a processor that
both want."""
LAST_STEP = 5.0
"""Seconds that stop() waits for the steps that run."""


def crew_size(processors: int) -> int:
    """Threads for so many processors, one of which is the reactor's."""
    return min(max(processors - 1, 1), MOST_THREADS)


class Told(Protocol):
    """Who waits for a step."""

    def done(self) -> None:
        """It is made. On the reactor's thread."""


class OffloadedStep(Told, Protocol):
    """What is submitted with an engine."""

    def resume(self, state: int) -> None:
        """The engine may be used again; `state` is for its resume(). On the reactor's thread, before done(). Does not
        raise."""


def tell(step: Told) -> None:
    """Its trouble is nobody else's."""
    try:
        step.done()
    except Exception:
        _log.failure("A step of a TLS hand-shake could not be told")


def give_way() -> None:
    """The calling thread makes hand-shakes: where it shares a processor with the reactor, that goes first. In Linux a thread
    has a priority of its own (sched(7)); elsewhere it stays as it is."""
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICER)


class HandshakeCrew:
    """Serves a Crew with threads, and tells the reactor what they have done. Threads begin with the first step."""

    def __init__(
        self,
        make: MakeCrew,
        counters: TlsCounters,
        reactor: DescriptorReactor,
        *,
        threads: int,
        at_turn_end: Callable[[Callable[[], None]], object],
    ) -> None:
        """`at_turn_end` is the reactor's: what one turn has for the threads wakes them once."""
        self._counters = counters
        self._size = threads
        self._at_turn_end = at_turn_end
        self._bell = Bell(reactor, self._deliver)
        self._crew: Crew = make(self._bell.fileno())
        self._threads: list[threading.Thread] = []
        self._waking = False
        self._stopped = False

    def start(self) -> None:
        """Listen to the threads."""
        self._bell.start()

    def submit(self, engine: OffloadedEngine, data: bytes, step: OffloadedStep, begun: bool) -> None:
        """Have a thread feed `data` to the engine; `begun`: it is not the first step of its hand-shake. After stop()
        nothing happens any more."""
        if self._stopped:
            return
        if not self._threads:
            self._start_threads()
        engine.offload(self._crew, data, step, begun)
        self._counters.pool_waiting += 1
        if not self._waking:
            self._waking = True
            self._at_turn_end(self._wake)

    def stop(self) -> None:
        """Drop what waits, and end when what runs is over."""
        self._stopped = True
        self._counters.pool_waiting -= self._crew.stop()
        for thread in self._threads:
            thread.join(LAST_STEP)
        while told := self._crew.finished(DELIVERED_PER_TURN):
            self._counters.pool_waiting -= len(told)
        if not any(thread.is_alive() for thread in self._threads):
            # One that hangs would ring a file that has its number by then.
            self._bell.stop()
        self._threads.clear()

    def _start_threads(self) -> None:
        for number in range(self._size):
            thread = threading.Thread(target=self._serve, name=f"accessgw-native-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _serve(self) -> None:
        give_way()
        self._crew.serve()

    def _wake(self) -> None:
        self._waking = False
        self._crew.wake()

    def _deliver(self) -> None:
        for step, state in self._crew.finished(DELIVERED_PER_TURN):
            self._counters.pool_waiting -= 1
            step.resume(state)
            tell(step)
