"""States of header codecs in SQLite: written behind, three checkpoints per device, user, table and direction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.model.header_states import KEPT_CHECKPOINTS, HeaderState, StateKey
from accessgw.stores import sqlite_rows as rows
from accessgw.stores.sqlite_database import SqliteDatabase

SWEEP = 1000
"""Rows that one sweep removes."""
LARGEST = (1 << 63) - 1
"""SQLite's integers are signed. A device names what it likes up to 2^64 - 1: a number above would fail the whole
transaction, so it counts as this one."""


class Save(NamedTuple):
    """Keep one."""

    key: StateKey
    state: HeaderState
    boot: int
    counter: int
    at: int


class Sweep(NamedTuple):
    """Forget those written before."""

    before: int


class SqliteHeaderStateStore:
    """The HeaderStateStore on a SqliteDatabase; see core.interfaces. Runs on the reactor's thread.

    A state that waits to be written is not found by load(): the worker that made it has it in memory.
    """

    def __init__(self, database: SqliteDatabase, max_states: int) -> None:
        self._database = database
        self._table = HeaderStateTable(max_states)
        self._log = Logger()

    def save(self, key: StateKey, state: HeaderState, generation: tuple[int, int], now: float) -> None:
        boot, counter = generation
        command = Save(key, state, min(boot, LARGEST), min(counter, LARGEST), rows.micros(now))
        self._database.submit(self._table, command, lazy=True).addErrback(self._lost)

    def load(self, key: StateKey) -> Deferred[list[HeaderState]]:
        return self._database.read(lambda connection: read_states(connection, key))

    def sweep(self, before: float) -> Deferred[int]:
        return self._database.submit(self._table, Sweep(rows.micros(before)))

    def _lost(self, failure: Failure) -> None:
        self._log.error("a state of header codecs was not written: {reason}", reason=failure.getErrorMessage())


def read_states(connection: sqlite3.Connection, key: StateKey) -> list[HeaderState]:
    """What is written. Runs on the reader thread."""
    found = rows.query(
        connection,
        "direction, checkpoint, hex(state)",
        "header_state WHERE device = ? AND user = ? AND app_table = ?",
        key,
    )
    return [HeaderState(direction, checkpoint, bytes.fromhex(state)) for direction, checkpoint, state in found]


class HeaderStateTable:
    """The commands above. Runs on the writer thread."""

    def __init__(self, max_states: int) -> None:
        self._max_states = max_states

    def forget(self) -> None:
        """Nothing is remembered between transactions."""

    def apply(self, connection: sqlite3.Connection, commands: Sequence[Save | Sweep]) -> list[int | None]:
        saved = [command for command in commands if isinstance(command, Save)]
        if saved:
            self._write(connection, saved)
        return [None if isinstance(command, Save) else self._sweep(connection, command) for command in commands]

    def _write(self, connection: sqlite3.Connection, saved: Sequence[Save]) -> None:
        """Checkpoints beside the newest ones go, those of a later connection excepted; then the new ones come."""
        newest: dict[tuple[StateKey, str], Save] = {}
        kept: dict[tuple[StateKey, str], dict[int, Save]] = {}
        for save in saved:
            place = save.key, save.state.direction
            newest[place] = save
            beside = kept.setdefault(place, {})
            last = save.state.checkpoint
            for checkpoint, other in list(beside.items()):
                outlived = checkpoint >= last or checkpoint <= last - KEPT_CHECKPOINTS
                if outlived and (other.boot, other.counter) <= (save.boot, save.counter):
                    del beside[checkpoint]
            beside.setdefault(last, save)
        rows.execute(
            connection,
            "device, user, app_table, direction, checkpoint, boot, counter",
            [
                (*key, direction, save.state.checkpoint, save.boot, save.counter)
                for (key, direction), save in newest.items()
            ],
            "DELETE FROM header_state WHERE number IN (SELECT header_state.number FROM wanted "
            "CROSS JOIN header_state USING (device, user, app_table, direction) "
            "WHERE (header_state.checkpoint > wanted.checkpoint "
            f"OR header_state.checkpoint <= wanted.checkpoint - {KEPT_CHECKPOINTS}) "
            "AND (header_state.boot, header_state.counter) <= (wanted.boot, wanted.counter))",
        )
        rows.insert(
            connection,
            "header_state (device, user, app_table, direction, checkpoint, state, boot, counter, at)",
            [
                (*save.key, save.state.direction, checkpoint, save.state.encoded, save.boot, save.counter, save.at)
                for beside in kept.values()
                for checkpoint, save in beside.items()
            ],
            "ON CONFLICT (device, user, app_table, direction, checkpoint) DO UPDATE SET state = excluded.state, "
            "boot = excluded.boot, counter = excluded.counter, at = excluded.at "
            "WHERE (header_state.boot, header_state.counter) <= (excluded.boot, excluded.counter)",
        )

    def _sweep(self, connection: sqlite3.Connection, command: Sweep) -> int:
        """Rows are numbered as they come, so the span of the numbers bounds their count without counting."""
        return connection.execute(
            "DELETE FROM header_state WHERE number IN (SELECT number FROM header_state WHERE at < ?1 LIMIT ?2) "
            "OR number IN (SELECT number FROM header_state "
            "WHERE number <= (SELECT max(number) FROM header_state) - ?3 ORDER BY number LIMIT ?2)",
            (command.before, SWEEP, self._max_states),
        ).rowcount
