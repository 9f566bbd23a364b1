"""The reader thread: answers questions from a connection of its own, so that none waits for a commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from twisted.internet.defer import Deferred

from accessgw.core.interfaces.stores import StoreUnavailable
from accessgw.stores.sqlite_writer import take

MAX_READS = 64
"""Answers that cross to the reactor's thread together."""


class Read:
    """One question on its way to the reader and back."""

    __slots__ = ("ask", "deferred", "result", "weight")

    def __init__(self, ask: Callable[[sqlite3.Connection], Any]) -> None:
        self.ask = ask
        self.weight = 1
        self.deferred: Deferred[Any] = Deferred()
        self.result: Any = None
        """An exception fails the Deferred."""


class Reader:
    """Everything here runs on the reader thread, but for the constructor."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        queue: SimpleQueue[Read | None],
        report: Callable[[list[Read]], None],
        path: str,
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._report = report
        self._path = path

    def run(self) -> None:
        """Serve the queue until None comes out of it, then close the connection."""
        stopping = False
        while not stopping:
            reads, stopping = take(self._queue, MAX_READS)
            for read in reads:
                try:
                    read.result = read.ask(self._connection)
                except Exception as error:
                    read.result = StoreUnavailable(f"{self._path}: could not be read: {error or type(error).__name__}")
            if reads:
                self._report(reads)
        self._connection.close()
