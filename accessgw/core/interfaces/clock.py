"""Time: what is used of the reactor, and the time-outs of the timing wheel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Clock(Protocol):
    """What is used of Twisted's IReactorTime; the reactor and task.Clock are such."""

    def seconds(self) -> float: ...

    def callLater(self, delay: float, callable: Callable[..., object], *args: Any) -> Any: ...


class DescriptorReactor(Clock, Protocol):
    """What is used of IReactorFDSet beside the time."""

    def addReader(self, reader: Any) -> None: ...

    def removeReader(self, reader: Any) -> None: ...

    def addWriter(self, writer: Any) -> None: ...

    def removeWriter(self, writer: Any) -> None: ...


class Timer(Protocol):
    """One pending time-out."""

    def touch(self, delay: float) -> None:
        """Move it to `delay` seconds from now; cheap, meant to be called for every message."""

    def bound(self, at: float) -> None:
        """Fire at this second of the clock at the latest, however it is touched; infinity: no bound."""

    def cancel(self) -> None:
        """Idempotent; after it has fired it does nothing."""


class Timers(Protocol):
    """The timing wheel: coarse (its tick, 0.25 s) and cheap. Never fires early."""

    def schedule(self, delay: float, callback: Callable[[], None]) -> Timer: ...
