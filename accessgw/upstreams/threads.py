"""Threads of hand-shakes as dialling uses them: counted apart from those of devices, for loading files as well, or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from accessgw.core.interfaces.tls import HandshakeLane, HandshakeStep, HandshakeThreads
from accessgw.model.counters import TlsCounters

T = TypeVar("T")


class AtOnce:
    """The HandshakeThreads of those who have none: steps run on the caller's."""

    def lane(self) -> AtOnce:
        return self

    def submit(self, step: HandshakeStep, begun: bool) -> None:
        step.run()
        step.done()


AT_ONCE = AtOnce()


class CountedThreads:
    """HandshakeThreads that count in `upstream_waiting` what they have not told yet."""

    def __init__(self, threads: HandshakeThreads, counters: TlsCounters) -> None:
        self._threads = threads
        self._counters = counters

    def lane(self) -> _CountedLane:
        return _CountedLane(self._threads.lane(), self._counters)


class _CountedLane:
    __slots__ = ("_counters", "_lane")

    def __init__(self, lane: HandshakeLane, counters: TlsCounters) -> None:
        self._lane = lane
        self._counters = counters

    def submit(self, step: HandshakeStep, begun: bool) -> None:
        self._counters.upstream_waiting += 1
        self._lane.submit(_CountedStep(step, self._counters), begun)


class _CountedStep:
    __slots__ = ("_counters", "_step")

    def __init__(self, step: HandshakeStep, counters: TlsCounters) -> None:
        self._step = step
        self._counters = counters

    def run(self) -> None:
        self._step.run()

    def done(self) -> None:
        self._counters.upstream_waiting -= 1
        self._step.done()


class Loading(Generic[T]):
    """A HandshakeStep that makes something of files: `told` gets it, or what was raised."""

    __slots__ = ("_made", "_make", "_told")

    def __init__(self, make: Callable[[], T], told: Callable[[T | BaseException], None]) -> None:
        self._make = make
        self._told = told
        self._made: T | BaseException = RuntimeError("it has not run")

    def run(self) -> None:
        try:
            self._made = self._make()
        except BaseException as error:  # a panic of cryptography's is no Exception, and would end the thread
            self._made = error

    def done(self) -> None:
        self._told(self._made)
