"""The writer thread: takes everything queued, writes it in one transaction, reports the batch.

Group commit: while one transaction waits for the disk the next batch gathers, so the cost of a durable
commit is shared by all that arrived meanwhile.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred

from accessgw.core.interfaces.stores import StoreUnavailable

MAX_BATCH = 1000
"""Weight of one transaction: bounds how long the first of a batch waits for the last."""

WHOLE_BATCH = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    }
)
"""Primary result codes that no single command is to blame for: trying the others one by one is vain."""


class WriterPart(Protocol):
    """Applies the commands of one kind. Every method runs on the writer thread."""

    def apply(self, connection: sqlite3.Connection, commands: Sequence[Any]) -> list[Any]:
        """Carry out the commands in order, inside the open transaction; a result for each. A result that
        is an exception refuses that command alone; raising one undoes them all."""

    def forget(self) -> None:
        """The transaction was undone: whatever was remembered of the rows may be wrong."""


class Work:
    """One command on its way to the writer and back."""

    __slots__ = ("command", "deferred", "part", "result", "weight")

    def __init__(self, part: WriterPart, command: Any, weight: int) -> None:
        self.part = part
        self.command = command
        self.weight = weight
        self.deferred: Deferred[Any] = Deferred()
        self.result: Any = None
        """An exception fails the Deferred."""


class Weighed(Protocol):
    """What `take` gathers."""

    weight: int


WeighedT = TypeVar("WeighedT", bound=Weighed)


def take(queue: SimpleQueue[WeighedT | None], limit: int) -> tuple[list[WeighedT], bool]:
    """Wait for the queue, then all that is in it up to a weight; True when None came, which ends it."""
    taken: list[WeighedT] = []
    weight = 0
    item = queue.get()
    while item is not None:
        taken.append(item)
        weight += item.weight
        if weight >= limit:
            return taken, False
        try:
            item = queue.get_nowait()
        except Empty:
            return taken, False
    return taken, True


class Batch:
    """What came of one transaction."""

    __slots__ = ("commits", "seconds", "works")

    def __init__(self, works: list[Work]) -> None:
        self.works = works
        self.commits = 0
        self.seconds = 0.0
        """Spent in COMMIT."""


class Writer:
    """Everything here runs on the writer thread, but for the constructor."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        queue: SimpleQueue[Work | None],
        report: Callable[[Batch], None],
        path: str,
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._report = report
        self._path = path

    def run(self) -> None:
        """Serve the queue until None comes out of it; all that was queued before is written."""
        stopping = False
        while not stopping:
            works, stopping = take(self._queue, MAX_BATCH)
            if works:
                self._report(self.process(works))

    def process(self, works: list[Work]) -> Batch:
        """Write them in one transaction. When a command spoils it, each gets a savepoint of its own in
        a second transaction; when the store as a whole cannot, all are refused. Never raises."""
        batch = Batch(works)
        try:
            try:
                self._together(batch)
            except Exception as error:
                self._undo(works)
                if len(works) == 1 or _blames_store(error):
                    raise
                self._one_by_one(batch)
        except Exception as error:
            self._undo(works)
            for work in works:
                work.result = StoreUnavailable(f"{self._path}: nothing was stored: {_say(error)}")
        return batch

    def _together(self, batch: Batch) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        before = self._connection.total_changes
        by_part: dict[WriterPart, list[Work]] = {}
        for work in batch.works:
            by_part.setdefault(work.part, []).append(work)
        for part, works in by_part.items():
            results = part.apply(self._connection, [work.command for work in works])
            for work, result in zip(works, results, strict=True):
                work.result = result
        self._finish(batch, before)

    def _one_by_one(self, batch: Batch) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        before = self._connection.total_changes
        for work in batch.works:
            self._connection.execute("SAVEPOINT one")
            try:
                (work.result,) = work.part.apply(self._connection, [work.command])
            except Exception as error:
                if _blames_store(error):
                    raise
                self._connection.execute("ROLLBACK TO one")
                work.part.forget()
                work.result = StoreUnavailable(f"{self._path}: could not be stored: {_say(error)}")
            self._connection.execute("RELEASE one")
        self._finish(batch, before)

    def _finish(self, batch: Batch, changes_before: int) -> None:
        wrote = self._connection.total_changes != changes_before
        started = time.perf_counter()
        self.commit(self._connection)
        batch.seconds = time.perf_counter() - started
        batch.commits = int(wrote)

    def commit(self, connection: sqlite3.Connection) -> None:
        """Durable when it returns (synchronous = FULL)."""
        connection.execute("COMMIT")

    def _undo(self, works: list[Work]) -> None:
        # SQLite ends the transaction by itself after some errors, a full disk among them
        with suppress(sqlite3.Error):  # then the next BEGIN fails, and says why
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        for part in {work.part for work in works}:
            part.forget()


def _blames_store(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF) in WHOLE_BATCH


def _say(error: Exception) -> str:
    return str(error) or type(error).__name__
