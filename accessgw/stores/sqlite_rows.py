"""Many rows in one SQLite statement, so that a thread changes hands once and not once per row.

Python's sqlite3 gives the interpreter lock up around each step of a statement. A thread that wants it
back from a busy reactor waits for up to the switch interval (5 ms), so a row per step starves: inserting
beside a reactor that never sleeps made 1,000 rows/s with executemany and 14,900 with 128 rows per
statement (90,700 and 160,000 at half load, 203,000 and 276,000 when idle). Hence rows go in as multi-row
VALUES, keys are looked up through a `wanted` table of VALUES, and results come back as one JSON array.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

Row = tuple[Any, ...]

SIZES = (64, 32, 16, 8, 4, 2, 1)
"""Rows per statement: any number takes few statements, and the connection's cache holds all these texts."""


@lru_cache(maxsize=128)
def _values(columns: int, rows: int) -> str:
    row = "(" + ",".join("?" * columns) + ")"
    return ",".join([row] * rows)


def _chunks(rows: Sequence[Row]) -> Iterator[tuple[str, list[Any]]]:
    """(VALUES list, its parameters) until all rows are served."""
    columns = len(rows[0]) if rows else 0
    done = 0
    for size in SIZES:
        while len(rows) - done >= size:
            yield _values(columns, size), [value for row in rows[done : done + size] for value in row]
            done += size


def insert(connection: sqlite3.Connection, into: str, rows: Sequence[Row], tail: str = "") -> None:
    """`INSERT INTO {into} VALUES rows {tail}`; `into` names table and columns, `tail` may be ON CONFLICT."""
    for values, parameters in _chunks(rows):
        connection.execute(f"INSERT INTO {into} VALUES {values} {tail}", parameters)


def execute(connection: sqlite3.Connection, names: str, rows: Sequence[Row], statement: str) -> int:
    """Run `statement` with the rows as table `wanted` (columns `names`); how many rows it changed."""
    changed = 0
    for values, parameters in _chunks(rows):
        sql = f"WITH wanted({names}) AS (VALUES {values}) {statement}"
        changed += connection.execute(sql, parameters).rowcount
    return changed


def select(
    connection: sqlite3.Connection, names: str, rows: Sequence[Row], columns: str, source: str
) -> list[list[Any]]:
    """`SELECT columns FROM source` with the rows as table `wanted` (columns `names`).

    The columns must be integers, text or NULL: JSON holds no blobs and rounds reals.
    """
    found: list[list[Any]] = []
    for values, parameters in _chunks(rows):
        sql = f"WITH wanted({names}) AS (VALUES {values}) SELECT json_group_array(json_array({columns})) FROM {source}"
        found += json.loads(connection.execute(sql, parameters).fetchone()[0])
    return found


def query(connection: sqlite3.Connection, columns: str, source: str, parameters: Row) -> list[list[Any]]:
    """`SELECT columns FROM source` as one JSON array; types as in `select`."""
    sql = f"SELECT json_group_array(json_array({columns})) FROM {source}"
    rows: list[list[Any]] = json.loads(connection.execute(sql, parameters).fetchone()[0])
    return rows


def micros(seconds: float) -> int:
    """Wall-clock seconds as a row holds them: whole microseconds."""
    return round(seconds * 1_000_000)


def seconds(micros: int) -> float:
    """The reverse of `micros`."""
    return micros / 1_000_000
