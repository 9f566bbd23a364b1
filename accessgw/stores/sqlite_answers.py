"""Durable claims on calls in SQLite: the AnswerStore of a single machine."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.interfaces.stores import ClaimState
from accessgw.stores import sqlite_rows as rows
from accessgw.stores.sqlite_database import SqliteDatabase

SWEEP = 1000
"""Claims that one sweep removes."""
FORGOTTEN = "claims_forgotten"
"""The mark that says when the youngest claim was made that was forgotten for want of room."""

ClaimKey = tuple[str, str, int]
"""Device, user, and the call id as a signed number."""


class SqliteAnswerStore:
    """The AnswerStore on a SqliteDatabase; see core.interfaces. Runs on the reactor's thread.

    Everything, questions included, goes through the writer's queue: what is asked sees what was said before.
    """

    def __init__(self, database: SqliteDatabase, max_claims: int) -> None:
        self._database = database
        self._table = ClaimTable(max_claims)
        self._log = Logger()

    def claim(
        self, device: str, user: str, call_id: int, digest: bytes, now: float, *, first: float | None = None
    ) -> Deferred[str]:
        since = None if first is None else rows.micros(first)
        return self._submit(Claim, device, user, call_id, digest, rows.micros(now), since)

    def settle(self, device: str, user: str, call_id: int) -> None:
        self._submit(Settle, device, user, call_id, lazy=True).addErrback(self._lost, "an answered")

    def release(self, device: str, user: str, call_id: int) -> None:
        self._submit(Release, device, user, call_id, lazy=True).addErrback(self._lost, "a released")

    def sweep(self, before: float) -> Deferred[int]:
        return self._database.submit(self._table, Sweep(rows.micros(before)))

    def _submit(
        self, command: Any, device: str, user: str, call_id: int, *arguments: Any, lazy: bool = False
    ) -> Deferred[Any]:
        if not 0 <= call_id < 1 << 64:
            return fail(ValueError(f"call id: expected 64 bits without sign, got {call_id}"))
        key = (device, user, call_id - (1 << 64) if call_id >> 63 else call_id)
        return self._database.submit(self._table, command(key, *arguments), lazy=lazy)

    def _lost(self, failure: Failure, what: str) -> None:
        # safe: the claim stays open, so a repetition is told "outcome unknown" and never executed.
        # It is not tried again, for by then the id may have been claimed anew.
        self._log.error("{what} claim stays open: {reason}", what=what, reason=failure.getErrorMessage())


class Claim(NamedTuple):
    """Claim it."""

    key: ClaimKey
    digest: bytes
    now: int
    first: int | None
    """A repetition: its first attempt came no earlier."""


class Settle(NamedTuple):
    """It was answered."""

    key: ClaimKey


class Release(NamedTuple):
    """It was not executed."""

    key: ClaimKey


class Sweep(NamedTuple):
    """Forget the claims before."""

    before: int


class _Row:
    """One claim during a transaction; `number` is None until it is written."""

    __slots__ = ("answered", "claimed_at", "digest", "number")

    def __init__(self, number: int | None, digest: bytes, answered: bool, claimed_at: int) -> None:
        self.number = number
        self.digest = digest
        self.answered = answered
        self.claimed_at = claimed_at

    def state(self, digest: bytes) -> str:
        if digest != self.digest:
            return ClaimState.MISMATCH
        return ClaimState.ANSWERED if self.answered else ClaimState.OPEN


Command = Claim | Settle | Release | Sweep


class ClaimTable:
    """The commands above. Runs on the writer thread."""

    def __init__(self, max_claims: int) -> None:
        self._max_claims = max_claims

    def forget(self) -> None:
        """Nothing is remembered between transactions."""

    def apply(self, connection: sqlite3.Connection, commands: Sequence[Command]) -> list[Any]:
        claims = self._load(connection, commands)
        forgotten = self._forgotten_until(connection, commands)
        before = dict(claims)
        settled: set[int] = set()
        results: list[Any] = []
        for command in commands:
            results.append(None)
            if isinstance(command, Sweep):
                continue
            known = claims.get(command.key)
            if isinstance(command, Claim) and known is None:
                if command.first is not None and command.first <= forgotten:
                    results[-1] = ClaimState.OPEN
                    continue
                claims[command.key] = _Row(None, command.digest, False, command.now)
                results[-1] = ClaimState.NEW
            elif known is None:
                continue
            elif isinstance(command, Claim):
                results[-1] = known.state(command.digest)
            elif isinstance(command, Settle):
                known.answered = True
                if known.number is not None:
                    settled.add(known.number)
            elif not known.answered:
                del claims[command.key]
        self._write(connection, before, claims, settled)
        if ClaimState.NEW in results:
            self._make_room(connection, results.count(ClaimState.NEW))
        for index, command in enumerate(commands):
            if isinstance(command, Sweep):
                results[index] = connection.execute(
                    "DELETE FROM claim WHERE number IN "
                    "(SELECT number FROM claim WHERE claimed_at < ? ORDER BY claimed_at LIMIT ?)",
                    (command.before, SWEEP),
                ).rowcount
        return results

    def _load(self, connection: sqlite3.Connection, commands: Sequence[Command]) -> dict[ClaimKey, _Row]:
        keys = list({command.key for command in commands if not isinstance(command, Sweep)})
        found = rows.select(
            connection,
            "position, device, user, call_id",
            [(position, *key) for position, key in enumerate(keys)],
            "wanted.position, number, hex(digest), answered, claimed_at",
            "wanted CROSS JOIN claim USING (device, user, call_id)",
        )
        return {
            keys[position]: _Row(number, bytes.fromhex(digest), bool(answered), claimed_at)
            for position, number, digest, answered, claimed_at in found
        }

    def _forgotten_until(self, connection: sqlite3.Connection, commands: Sequence[Command]) -> float:
        if not any(isinstance(command, Claim) and command.first is not None for command in commands):
            return -inf
        found = connection.execute("SELECT value FROM mark WHERE name = ?", (FORGOTTEN,)).fetchone()
        return -inf if found is None else int(found[0])

    def _make_room(self, connection: sqlite3.Connection, new: int) -> None:
        """Forget the oldest claims past the bound, at most a batch (more than `new`, so that it is reached).

        Rows are numbered as they come, so the span of the numbers bounds their count without counting; where
        claims were released it is larger than the count, and some claims go a little early.
        """
        newest = connection.execute("SELECT max(number) FROM claim").fetchone()[0]
        if newest is None:
            return
        last, claimed_at = connection.execute(
            "SELECT max(place), max(at) FROM "
            "(SELECT number AS place, claimed_at AS at FROM claim WHERE number <= ? ORDER BY number LIMIT ?)",
            (newest - self._max_claims, SWEEP + new),
        ).fetchone()
        if last is None:
            return
        connection.execute("DELETE FROM claim WHERE number <= ?", (last,))
        connection.execute(
            "INSERT INTO mark (name, value) VALUES (?, ?) "
            "ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
            (FORGOTTEN, claimed_at),
        )

    def _write(
        self,
        connection: sqlite3.Connection,
        before: dict[ClaimKey, _Row],
        after: dict[ClaimKey, _Row],
        settled: set[int],
    ) -> None:
        released = [row.number for key, row in before.items() if after.get(key) is not row]
        if released:
            connection.execute(
                "DELETE FROM claim WHERE number IN (SELECT value FROM json_each(?))", (json.dumps(released),)
            )
        if settled:
            connection.execute(
                "UPDATE claim SET answered = 1 WHERE number IN (SELECT value FROM json_each(?))",
                (json.dumps(sorted(settled)),),
            )
        rows.insert(
            connection,
            "claim (device, user, call_id, digest, answered, claimed_at)",
            [(*key, row.digest, int(row.answered), row.claimed_at) for key, row in after.items() if row.number is None],
        )
