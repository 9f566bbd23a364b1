"""One SQLite file and its two threads, as the stores on it see them from the reactor's thread."""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from twisted.internet.defer import Deferred, DeferredList, fail, succeed
from twisted.logger import Logger

from accessgw.core.interfaces.clock import Clock
from accessgw.core.interfaces.stores import StoreUnavailable
from accessgw.model.counters import StoreCounters
from accessgw.model.settings import StoreSettings
from accessgw.stores.sqlite_reader import Read, Reader
from accessgw.stores.sqlite_schema import FileLock, StoreError, open_reader, open_writer
from accessgw.stores.sqlite_writer import Batch, Work, Writer, WriterPart

WRITE_BEHIND = 0.1
"""Seconds that a write nobody waits for may wait for company."""

SLICE = 0.002
"""Seconds of the reactor that results take at a time."""


class ThreadedClock(Clock, Protocol):
    """What is used of IReactorFromThreads beside the time."""

    def callFromThread(self, callable: Callable[..., Any], /, *args: Any) -> None: ...


class SqliteDatabase:
    """Owns the file, a writer thread and a reader thread.

    All public methods run on the reactor's thread and never wait for the disk, but for `start`. Stores
    are built on it before it is started, and registered by `on_start` and `on_stop` as they need.
    """

    writer_class: type[Writer] = Writer

    def __init__(
        self, path: str | Path, reactor: ThreadedClock, settings: StoreSettings, counters: StoreCounters
    ) -> None:
        self.path = Path(path)
        self.reactor = reactor
        self._max_pending = settings.max_pending
        self._counters = counters
        self._lock = FileLock(self.path)
        self._writes: SimpleQueue[Work | None] = SimpleQueue()
        self._reads: SimpleQueue[Read | None] = SimpleQueue()
        self._reading = 0
        self._asked: list[Read] = []
        """What this turn of the reactor wants to read: it wakes the reader once, at its end."""
        self._at_turn_end: Callable[[Callable[[], None]], object] = getattr(reactor, "at_turn_end", _at_once)
        self._held: list[Work] = []
        self._held_timer: Any = None
        self._results: deque[Work | Read] = deque()
        self._delivering = False
        self._starters: list[Callable[[sqlite3.Connection], None]] = []
        self._flushers: list[Callable[[], Deferred[None]]] = []
        self._state = "new"
        self._stopped: list[Deferred[None]] = []
        self._log = Logger()

    @property
    def running(self) -> bool:
        """Whether requests are taken."""
        return self._state in ("running", "stopping")

    def on_start(self, load: Callable[[sqlite3.Connection], None]) -> None:
        """`load(connection)` runs inside `start`, before the threads exist."""
        if self._state != "new":
            raise RuntimeError("stores are built before their database starts")
        self._starters.append(load)

    def on_stop(self, flush: Callable[[], Deferred[None]]) -> None:
        """`flush()` submits what a store still holds back; the database goes on until it fires."""
        self._flushers.append(flush)

    def start(self) -> None:
        """Open the file and start the threads. Raises StoreError, its message beginning with the path."""
        self._lock.acquire()
        try:
            connection = open_writer(self.path)
            try:
                for load in self._starters:
                    load(connection)
                reader = open_reader(self.path)
            except sqlite3.Error as error:
                connection.close()
                raise StoreError(f"{self.path}: not a usable store: {error}") from None
        except BaseException:
            self._lock.release()
            raise
        self._state = "running"
        reading = threading.Thread(target=self._read_loop, args=(reader,), name="store-reader", daemon=True)
        writing = threading.Thread(
            target=self._write_loop, args=(connection, reading), name="store-writer", daemon=True
        )
        reading.start()
        writing.start()

    def stop(self) -> Deferred[None]:
        """Write all that was queued or held back, close the file; later requests fail with StoreUnavailable."""
        if self._state in ("new", "stopped"):
            self._state = "stopped"
            return succeed(None)
        stopped: Deferred[None] = Deferred()
        self._stopped.append(stopped)
        if self._state == "running":
            self._state = "stopping"
            DeferredList([flush() for flush in self._flushers], consumeErrors=True).addBoth(self._close)
        return stopped

    def submit(self, part: WriterPart, command: Any, *, weight: int = 1, lazy: bool = False) -> Deferred[Any]:
        """Queue a command for the writer; fires with its result when it is durable. Commands take effect in
        the order of submission; a lazy one waits for the next that is not, or for WRITE_BEHIND seconds.
        Fails with StoreUnavailable at once when max_pending (in weight) wait already."""
        if not self.running:
            return fail(StoreUnavailable(f"{self.path}: the store is not running"))
        counters = self._counters
        if counters.pending >= self._max_pending:
            counters.errors += 1
            return fail(StoreUnavailable(f"{self.path}: {counters.pending} writes wait already"))
        counters.pending += weight
        work = Work(part, command, weight)
        if lazy:
            self._held.append(work)
            if self._held_timer is None:
                self._held_timer = self.reactor.callLater(WRITE_BEHIND, self._write_behind)
        else:
            if self._held:
                self._release_held()
            self._writes.put(work)
        return work.deferred

    def read(self, ask: Callable[[sqlite3.Connection], Any]) -> Deferred[Any]:
        """Fires with `ask(connection)`, run on the reader thread: it sees all that has become durable."""
        if not self.running:
            return fail(StoreUnavailable(f"{self.path}: the store is not running"))
        if self._reading >= self._max_pending:
            self._counters.errors += 1
            return fail(StoreUnavailable(f"{self.path}: {self._reading} reads wait already"))
        self._reading += 1
        read = Read(ask)
        self._asked.append(read)
        if len(self._asked) == 1:
            self._at_turn_end(self._ask)
        return read.deferred

    def _ask(self) -> None:
        asked, self._asked = self._asked, []
        for read in asked:
            self._reads.put(read)

    def _write_behind(self) -> None:
        self._held_timer = None
        self._release_held()

    def _release_held(self) -> None:
        # the timer goes on: to release what comes next early costs less than a timer for each that was overtaken
        for work in self._held:
            self._writes.put(work)
        self._held.clear()

    def _close(self, _: object) -> None:
        self._state = "closing"
        if self._held_timer is not None:
            self._held_timer.cancel()
            self._held_timer = None
        self._release_held()
        self._ask()
        self._reads.put(None)
        self._writes.put(None)

    def _closed(self, trouble: str) -> None:
        if trouble:
            self._log.error("closing {path}: {trouble}", path=self.path, trouble=trouble)
        if self._results:  # they were reported before; their slices come first
            self.reactor.callLater(0, self._closed, "")
            return
        self._state = "stopped"
        self._lock.release()
        waiting, self._stopped = self._stopped, []
        for stopped in waiting:
            stopped.callback(None)

    # ------------------------------------------------------------ results, back on the reactor's thread

    def _written(self, batch: Batch) -> None:
        counters = self._counters
        counters.commits += batch.commits
        counters.commit_seconds += batch.seconds
        for work in batch.works:
            counters.pending -= work.weight
            if isinstance(work.result, StoreUnavailable):
                counters.errors += 1
            else:
                counters.writes += work.weight
        self._results.extend(batch.works)
        self._deliver_more()

    def _have_read(self, reads: list[Read]) -> None:
        self._reading -= len(reads)
        self._results.extend(reads)
        self._deliver_more()

    def _deliver_more(self) -> None:
        if not self._delivering:
            self._delivering = True
            self._deliver()

    def _deliver(self) -> None:
        seconds = self.reactor.seconds
        until = seconds() + SLICE
        results = self._results
        while results:
            item = results.popleft()
            if isinstance(item.result, Exception):
                item.deferred.errback(item.result)
            else:
                item.deferred.callback(item.result)
            if results and seconds() >= until:
                self.reactor.callLater(0, self._deliver)
                return
        self._delivering = False

    # ------------------------------------------------------------ the two threads

    def _write_loop(self, connection: sqlite3.Connection, reading: threading.Thread) -> None:
        def report(batch: Batch) -> None:
            self.reactor.callFromThread(self._written, batch)

        self.writer_class(connection, self._writes, report, str(self.path)).run()
        # the last connection to close moves the log into the file, and only this one may write
        reading.join()
        trouble = ""
        try:
            connection.close()
        except sqlite3.Error as error:
            trouble = str(error)
        self.reactor.callFromThread(self._closed, trouble)

    def _read_loop(self, connection: sqlite3.Connection) -> None:
        def report(reads: list[Read]) -> None:
            self.reactor.callFromThread(self._have_read, reads)

        Reader(connection, self._reads, report, str(self.path)).run()


def _at_once(call: Callable[[], None]) -> None:
    """Of a reactor that knows nothing of its turns."""
    call()
