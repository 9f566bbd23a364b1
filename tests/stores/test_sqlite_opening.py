"""Opening a store: new, reopened, locked, foreign, newer, damaged, older."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from accessgw.core.interfaces.stores import StoreUnavailable
from accessgw.model.pushes import Cursor, PushRequest, Scope, StreamKey
from accessgw.stores.sqlite_schema import APPLICATION_ID, MIGRATIONS, StoreError, migrate, open_writer

KEY = StreamKey(Scope.DEVICE, "d", "b")


def test_a_store_is_private_and_made_with_its_folder(tmp_path: Path, make_sqlite: Any) -> None:
    path = tmp_path / "deep" / "er" / "store ?#%.sqlite"
    made = make_sqlite(path)
    made.wait(made.streams.append([PushRequest(KEY, b"x")], now=1.0))
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    made.stop()
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, f"{path.name}.lock"]


def test_everything_is_there_after_reopening(open_store: Any) -> None:
    made = open_store()
    first = made.wait(made.streams.append([PushRequest(KEY, b"x")], now=1.0, idempotency_key="k", digest=b"1"))
    made.streams.save_cursors("d", [Cursor(KEY, 1, 1)])
    made.wait(made.streams.subscribe("d", ["t"]))
    made.wait(made.answers.claim("d", "u", 1, b"1", 1.0))
    made.answers.settle("d", "u", 1)
    made.stop()

    made = open_store()
    again = made.wait(made.streams.append([PushRequest(KEY, b"x")], now=2.0, idempotency_key="k", digest=b"1"))
    assert (again.places, again.repeated) == (first.places, True)
    assert made.wait(made.streams.append([PushRequest(KEY, b"y")], now=2.0)).places == [(first.places[0][0], 2)]
    assert made.wait(made.streams.cursors("d")) == {KEY: Cursor(KEY, 1, 1)}
    assert made.wait(made.streams.subscriptions("d")) == {"t"}
    assert made.wait(made.answers.claim("d", "u", 1, b"1", 2.0)) == "answered"


def test_event_numbers_grow_across_restarts(open_store: Any) -> None:
    made = open_store()
    last = max(made.outbox.next_seq("d") for _ in range(3))
    made.stop()
    made = open_store()
    assert made.outbox.next_seq("d") > last


def test_a_second_owner_is_refused_with_the_first_ones_pid(tmp_path: Path, open_store: Any) -> None:
    first = open_store()
    with pytest.raises(StoreError, match=rf"store\.sqlite: in use by process {os.getpid()};"):
        open_store()
    first.stop()
    open_store()


def test_a_newer_schema_is_refused(tmp_path: Path, open_store: Any) -> None:
    open_store().stop()
    with sqlite3.connect(tmp_path / "store.sqlite") as connection:
        connection.execute("PRAGMA user_version = 9999")
    connection.close()
    with pytest.raises(StoreError, match=rf"store\.sqlite: its schema has version 9999, .* up to {len(MIGRATIONS)};"):
        open_store()
    with sqlite3.connect(tmp_path / "store.sqlite") as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.close()
    open_store()  # the refusal left the lock free


def test_a_foreign_database_is_refused_untouched(tmp_path: Path, open_store: Any) -> None:
    path = tmp_path / "store.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"store\.sqlite: a SQLite database of another program"):
        open_store()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"this is no database at all" * 400,
        lambda data: b"\x00" * len(data),
        lambda data: data[: len(data) // 2],
        lambda data: data[:4096],
        lambda data: data[:100] + os.urandom(4096) + data[4196:],
    ],
    ids=["text", "zeros", "half", "first page", "schema"],
)
def test_a_damaged_file_is_refused_with_its_path(tmp_path: Path, open_store: Any, damage: Any) -> None:
    made = open_store()
    made.wait(made.streams.append([PushRequest(KEY, b"x" * 3000)] * 8, now=1.0))
    made.stop()
    path = tmp_path / "store.sqlite"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreError, match=r"store\.sqlite: "):
        open_store()


def test_a_path_that_cannot_be_is_refused(tmp_path: Path, make_sqlite: Any) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file/store"):
        make_sqlite(tmp_path / "file" / "store")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="folder: cannot be opened: Is a directory"):
        make_sqlite(tmp_path / "folder")


def test_an_older_schema_is_brought_up_step_by_step(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    steps = (*MIGRATIONS, ("ALTER TABLE push ADD COLUMN origin TEXT", "CREATE TABLE later (x)"))
    old = open_writer(path)
    old.execute("INSERT INTO subscription VALUES ('d', 't')")
    old.close()
    new = open_writer(path, steps)
    assert new.execute("PRAGMA user_version").fetchone() == (len(steps),)
    assert new.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert new.execute("SELECT * FROM subscription").fetchall() == [("d", "t")]
    new.execute("SELECT origin FROM push")
    new.close()


def test_a_failing_step_leaves_the_older_schema(tmp_path: Path) -> None:
    connection = open_writer(tmp_path / "store.sqlite")
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, (*MIGRATIONS, ("CREATE TABLE later (x)", "CREATE nonsense")))
    assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    assert connection.execute("SELECT * FROM sqlite_schema WHERE name = 'later'").fetchall() == []
    connection.close()


def test_stores_are_built_before_the_database_starts(open_store: Any) -> None:
    with pytest.raises(RuntimeError, match="before"):
        open_store().database.on_start(lambda connection: None)


def test_after_stop_everything_is_refused(open_store: Any) -> None:
    made = open_store()
    made.stop()
    made.stop()
    for deferred in (
        made.streams.append([PushRequest(KEY, b"x")], now=1.0),
        made.streams.states([KEY]),
        made.answers.claim("d", "u", 1, b"", 1.0),
    ):
        with pytest.raises(StoreUnavailable, match="not running"):
            made.wait(deferred)
    made.streams.save_cursors("d", [Cursor(KEY, 1, 1)])
    assert not made.clock.getDelayedCalls()
