"""Cursors of devices: written behind, coalesced per device and stream, a bounded number of rows at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import islice
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.model.pushes import Cursor, Scope, StreamKey
from accessgw.stores import sqlite_rows as rows
from accessgw.stores.rules import merge_cursors
from accessgw.stores.sqlite_database import SqliteDatabase

CHUNK = 500
"""Cursors in one command: an append that comes meanwhile waits for one such chunk at most."""

MAX_PENDING = 1_000_000
"""Devices with unwritten cursors; past it further ones are not kept (they repeat pushes, and lose none)."""

Saved = tuple[str, Cursor]


class CursorTable:
    """Command: a list of (device, cursor). Runs on the writer thread."""

    def forget(self) -> None:
        """Nothing is remembered between commands."""

    def apply(self, connection: sqlite3.Connection, commands: Sequence[list[Saved]]) -> list[None]:
        write_cursors(connection, [entry for saved in commands for entry in saved])
        return [None] * len(commands)


def write_cursors(connection: sqlite3.Connection, saved: Sequence[Saved]) -> None:
    """Never backwards within an epoch. Runs on the writer thread."""
    rows.insert(
        connection,
        "cursor (device, scope, id, biz, epoch, seq)",
        [
            (device, str(cursor.stream.scope), cursor.stream.id, cursor.stream.biz, cursor.epoch, cursor.seq)
            for device, cursor in saved
        ],
        "ON CONFLICT (device, scope, id, biz) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq "
        "WHERE cursor.epoch != excluded.epoch OR cursor.seq < excluded.seq",
    )


def read_cursors(connection: sqlite3.Connection, device: str) -> dict[StreamKey, Cursor]:
    """What is written. Runs on the reader thread."""
    found = rows.query(connection, "scope, id, biz, epoch, seq", "cursor WHERE device = ?", (device,))
    cursors = [Cursor(StreamKey(Scope(scope), id, biz), epoch, seq) for scope, id, biz, epoch, seq in found]
    return {cursor.stream: cursor for cursor in cursors}


class CursorBuffer:
    """Holds cursors back and writes them every `interval` seconds. Runs on the reactor's thread."""

    def __init__(self, database: SqliteDatabase, interval: float) -> None:
        self._database = database
        self._interval = interval
        self._table = CursorTable()
        self._waiting: dict[str, dict[StreamKey, Cursor]] = {}
        self._flying: dict[str, dict[StreamKey, Cursor]] = {}
        self._timer: Any = None
        self._flush: Deferred[None] | None = None
        self._log = Logger()
        database.on_stop(self.flush)

    def save(self, device: str, cursors: Sequence[Cursor]) -> None:
        if device not in self._waiting and len(self._waiting) >= MAX_PENDING:
            return
        merge_cursors(self._waiting.setdefault(device, {}), cursors)
        self._arm()

    def cursors(self, device: str) -> Deferred[dict[StreamKey, Cursor]]:
        """Written ones under those that are not yet. The latter are looked at now: what is written by
        the time of the answer may have been read before."""
        unwritten = [*self._flying.get(device, {}).values(), *self._waiting.get(device, {}).values()]

        def overlay(written: dict[StreamKey, Cursor]) -> dict[StreamKey, Cursor]:
            merge_cursors(written, unwritten)
            return written

        return self._database.read(lambda connection: read_cursors(connection, device)).addCallback(overlay)

    def flush(self) -> Deferred[None]:
        """Write all that waits; fires when that is done or has failed, never with a failure."""
        done: Deferred[None] = Deferred()
        if self._flush is not None:  # the flush that is under way, then another
            self._flush.addCallback(lambda _: self.flush().chainDeferred(done))
            return done
        self._flush = done
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self._flying, self._waiting = self._waiting, {}
        everything = ((device, cursor) for device, cursors in self._flying.items() for cursor in cursors.values())
        remaining = iter(list(everything))

        def next_chunk(_: Any) -> None:
            chunk = list(islice(remaining, CHUNK))
            if chunk:
                self._database.submit(self._table, chunk, weight=len(chunk)).addCallbacks(next_chunk, failed)
            else:
                self._flying = {}
                finish()

        def failed(failure: Failure) -> None:
            self._log.error("cursors were not written: {reason}", reason=failure.getErrorMessage())
            newer, self._waiting, self._flying = self._waiting, self._flying, {}
            for device, cursors in newer.items():
                merge_cursors(self._waiting.setdefault(device, {}), cursors.values())
            self._arm()
            finish()

        def finish() -> None:
            self._flush = None
            done.callback(None)

        next_chunk(None)
        return done

    def _arm(self) -> None:
        if self._timer is None and self._waiting and self._database.running:
            self._timer = self._database.reactor.callLater(self._interval, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._flush is None:
            self.flush()
        else:
            self._arm()
