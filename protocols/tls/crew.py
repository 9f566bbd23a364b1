"""Threads that make hand-shakes without the interpreter's lock: what they are given, and which engines go there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from protocols.tls.engine import TlsEngine


class Crew(Protocol):
    """A queue that threads serve. What is submitted belongs to them until finished() gives it back.

    `serve` is for the threads, the rest for the one that has the engines.
    """

    def serve(self) -> None:
        """Make steps, until stop(); the whole life of a thread."""

    def wake(self) -> None:
        """What was submitted may begin."""

    def finished(self, most: int, /) -> list[tuple[Any, int]]:
        """At most `most` of those that are done: what was submitted with them, and what OffloadedEngine.resume() is to
        be given. Where more are done the bell rings again."""

    def stop(self) -> int:
        """End the threads, each after the step that it makes, and drop what waits; how many."""


class OffloadedEngine(TlsEngine, Protocol):
    """A TlsEngine on the server's side whose steps a Crew can make."""

    def offload(self, crew: Any, data: bytes, step: object, begun: bool) -> None:
        """Instead of feed(): have the crew make the step, those with `begun` first. The engine may not be used until
        crew.finished() has given `step` back, but for cancel(); then call resume()."""

    def cancel(self) -> None:
        """Nobody waits for it any more. A step that has not begun will do nothing."""

    def resume(self, state: int) -> None:
        """The step is done: raises as feed() does."""


MakeCrew = Callable[[int], Crew]
"""Of an eventfd, to which the threads write when something is done: at once when nothing is left to do, else 2 ms after
they were woken or wrote last."""
