"""Dictionaries of bodies in SQLite: few rows, written one by one, all read when the store starts."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace
from twisted.internet.defer import Deferred

from accessgw.model.dictionaries import DictionaryRecord
from accessgw.stores.sqlite_database import SqliteDatabase

LAST_ID = "dictionary_id"
"""The mark that says which id was given out last."""


class Add(NamedTuple):
    """Keep a new one."""

    record: DictionaryRecord


class Put(NamedTuple):
    """Keep them as they are."""

    records: tuple[DictionaryRecord, ...]


class AddBundle(NamedTuple):
    """Keep a set."""

    ids: tuple[int, ...]


class Remove(NamedTuple):
    """Forget dictionaries and sets."""

    ids: tuple[int, ...]
    bundles: tuple[tuple[int, ...], ...]


Command = Add | Put | AddBundle | Remove


class SqliteDictionaryStore:
    """The DictionaryStore on a SqliteDatabase; see core.interfaces.dictionaries. Built before the database starts."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._table = DictionaryTable()
        self._records: list[DictionaryRecord] = []
        self._bundles: list[tuple[int, ...]] = []
        database.on_start(self._load)

    def load(self) -> tuple[list[DictionaryRecord], list[tuple[int, ...]]]:
        return self._records, self._bundles

    def add(self, record: DictionaryRecord) -> Deferred[DictionaryRecord]:
        return self._database.submit(self._table, Add(record))

    def put(self, records: Sequence[DictionaryRecord], *, lazy: bool = False) -> Deferred[None]:
        return self._database.submit(self._table, Put(tuple(records)), lazy=lazy)

    def add_bundle(self, ids: Sequence[int]) -> Deferred[None]:
        return self._database.submit(self._table, AddBundle(tuple(ids)), lazy=True)

    def remove(self, ids: Sequence[int], bundles: Sequence[Sequence[int]]) -> Deferred[None]:
        return self._database.submit(self._table, Remove(tuple(ids), tuple(tuple(ids) for ids in bundles)))

    def _load(self, connection: sqlite3.Connection) -> None:
        found = connection.execute("SELECT facts, content FROM dictionary ORDER BY number").fetchall()
        self._records = [_record(facts, content) for facts, content in found]
        sets = connection.execute("SELECT ids FROM dictionary_bundle ORDER BY number").fetchall()
        self._bundles = [tuple(json.loads(ids)) for (ids,) in sets]


class DictionaryTable:
    """The commands above. Runs on the writer thread."""

    def forget(self) -> None:
        """Nothing is remembered between commands."""

    def apply(self, connection: sqlite3.Connection, commands: Sequence[Command]) -> list[Any]:
        return [self._one(connection, command) for command in commands]

    def _one(self, connection: sqlite3.Connection, command: Command) -> DictionaryRecord | None:
        if isinstance(command, Add):
            return self._add(connection, command.record)
        if isinstance(command, Put):
            for record in command.records:
                connection.execute(
                    "UPDATE dictionary SET facts = ?, content = ? WHERE number = ?", (*_row(record), record.id)
                )
        elif isinstance(command, AddBundle):
            connection.execute("INSERT OR IGNORE INTO dictionary_bundle (ids) VALUES (?)", (json.dumps(command.ids),))
        else:
            for id in command.ids:
                connection.execute("DELETE FROM dictionary WHERE number = ?", (id,))
            for ids in command.bundles:
                connection.execute("DELETE FROM dictionary_bundle WHERE ids = ?", (json.dumps(ids),))
        return None

    def _add(self, connection: sqlite3.Connection, record: DictionaryRecord) -> DictionaryRecord:
        (id,) = connection.execute(
            "INSERT INTO mark (name, value) VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1"
            " RETURNING value",
            (LAST_ID,),
        ).fetchone()
        added = replace(record, id=id)
        connection.execute("INSERT INTO dictionary (number, facts, content) VALUES (?, ?, ?)", (id, *_row(added)))
        return added


def _row(record: DictionaryRecord) -> tuple[str, bytes]:
    return msgspec.json.encode(replace(record, content=b"")).decode(), record.content


def _record(facts: str, content: bytes) -> DictionaryRecord:
    return replace(msgspec.json.decode(facts, type=DictionaryRecord), content=content)
