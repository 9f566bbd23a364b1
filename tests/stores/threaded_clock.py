"""A reactor for tests of stores: Twisted's Clock for the time, real threads that call back into it."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, Queue
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

PATIENCE = 60.0


class ThreadedClock(Clock):
    """`wait` runs what threads hand over until a Deferred has fired; time moves only by `advance`."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: Queue[tuple[Any, tuple[Any, ...]]] = Queue()
        self.crossings = 0

    def callFromThread(self, call: Any, *args: Any) -> None:
        self._calls.put((call, args))

    def wait(self, deferred: Deferred[Any]) -> Any:
        """Its result; raises its failure, or AssertionError when it does not come."""
        outcome: list[Any] = []
        deferred.addBoth(outcome.append)
        self.until(lambda: bool(outcome))
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        return outcome[0]

    def until(self, condition: Callable[[], bool]) -> None:
        """Run what threads hand over until the condition holds."""
        while not condition():
            try:
                call, args = self._calls.get(timeout=PATIENCE)
            except Empty:
                raise AssertionError("nothing came back from the store's threads") from None
            self.crossings += 1
            call(*args)
            self.advance(0)
