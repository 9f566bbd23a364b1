"""Group commit, bounds, full disks, failing commands, and what is written behind."""

from __future__ import annotations

import sqlite3
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import gatherResults

from accessgw.core.interfaces.stores import ClaimState, StoreUnavailable
from accessgw.model.counters import StoreCounters
from accessgw.model.pushes import Cursor, PushRequest, Scope, StreamKey
from accessgw.model.settings import PushSettings, StoreSettings
from accessgw.stores.sqlite_database import SqliteDatabase
from accessgw.stores.sqlite_writer import MAX_BATCH, Writer
from tests.stores.threaded_clock import ThreadedClock

NOW = 1_700_000_000.0
MAX_CLAIMS = 10


def key(name: str = "d") -> StreamKey:
    return StreamKey(Scope.DEVICE, name, "b")


class GatedWriter(Writer):
    """Each commit waits until the gate is open; runs and fails as the test says."""

    def commit(self, connection: sqlite3.Connection) -> None:
        gate.wait(20)
        if disk_is_full.is_set():
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        super().commit(connection)


class GatedDatabase(SqliteDatabase):
    writer_class = GatedWriter


gate = threading.Event()
disk_is_full = threading.Event()


@pytest.fixture(autouse=True)
def open_gate() -> Any:
    gate.set()
    disk_is_full.clear()
    yield
    disk_is_full.clear()
    gate.set()


def append(made: Any, name: str = "d", body: bytes = b"x", **arguments: Any) -> Any:
    return made.streams.append([PushRequest(key(name), body)], now=NOW, **arguments)


def bodies(made: Any, name: str = "d") -> list[bytes]:
    return [push.body for push in made.wait(made.streams.read(key(name), 0, 100_000, 1 << 30))]


# ------------------------------------------------------------ group commit


def test_what_waits_shares_one_commit_and_one_crossing(open_store: Any) -> None:
    made = open_store(database_class=GatedDatabase)
    gate.clear()
    first = append(made, "first")
    everything = gatherResults([first, *[append(made, f"d{n}") for n in range(300)]])
    assert made.counters.pending == 301
    gate.set()
    before = made.clock.crossings
    made.wait(everything)
    assert made.counters.writes == 301
    assert made.counters.commits <= 3
    assert made.clock.crossings - before == made.counters.commits
    assert made.counters.pending == 0
    assert made.counters.commit_seconds > 0


def test_a_transaction_is_bounded(open_store: Any) -> None:
    made = open_store(database_class=GatedDatabase)
    gate.clear()
    everything = gatherResults([append(made) for _ in range(3 * MAX_BATCH)])
    gate.set()
    made.wait(everything)
    assert made.counters.commits >= 3


def test_nothing_is_told_before_it_is_durable(open_store: Any, tmp_path: Path) -> None:
    made = open_store(database_class=GatedDatabase)
    gate.clear()
    told: list[Any] = []
    deferred = append(made).addCallback(lambda outcome: told.append(outcome) or outcome)
    look = sqlite3.connect(tmp_path / "store.sqlite")
    assert look.execute("SELECT count(*) FROM push").fetchone() == (0,)
    assert told == []
    gate.set()
    made.wait(deferred)
    assert look.execute("SELECT count(*) FROM push").fetchone() == (1,)
    look.close()


def test_questions_do_not_wait_for_a_commit(open_store: Any) -> None:
    made = open_store(database_class=GatedDatabase)
    made.wait(append(made))
    gate.clear()
    waiting = append(made)
    assert bodies(made) == [b"x"]
    gate.set()
    made.wait(waiting)


def test_a_batch_that_changes_nothing_is_not_counted_as_a_commit(open_store: Any) -> None:
    made = open_store()
    made.wait(made.answers.sweep(NOW))
    assert made.counters.commits == 0


def test_the_queue_is_bounded(open_store: Any) -> None:
    made = open_store(database_class=GatedDatabase, settings=StoreSettings(max_pending=10))
    gate.clear()
    taken = [append(made) for _ in range(10)]
    with pytest.raises(StoreUnavailable, match=r"store\.sqlite: 10 writes wait already"):
        made.wait(append(made))
    assert made.counters.errors == 1
    gate.set()
    made.wait(gatherResults(taken))
    made.wait(append(made))
    assert len(bodies(made)) == 8  # what the stream keeps of eleven


def test_results_leave_the_reactor_in_slices(open_store: Any) -> None:
    made = open_store(database_class=GatedDatabase)
    gate.clear()

    def slow(outcome: Any) -> Any:
        made.clock.rightNow += 0.0015
        return outcome

    head = append(made)
    waiting = [append(made).addCallback(slow) for _ in range(6)]
    slices: list[int] = []
    later = made.clock.callLater

    def counted(delay: float, call: Any, *args: Any) -> Any:
        slices.append(sum(deferred.called for deferred in waiting))
        return later(delay, call, *args)

    made.clock.callLater = counted
    gate.set()
    made.wait(gatherResults([head, *waiting]))
    assert slices and max(b - a for a, b in zip([0, *slices], slices, strict=False)) <= 2


# ------------------------------------------------------------ trouble


def test_a_full_disk_refuses_everything_and_recovers(open_store: Any, tmp_path: Path) -> None:
    made = open_store(pushes=PushSettings())
    made.wait(append(made, "before"))
    made.wait(made.database.submit(Pragma(), "PRAGMA max_page_count = 60"))
    refused = 0
    for number in range(40):
        try:
            made.wait(append(made, f"d{number}", b"x" * 20_000, idempotency_key=f"k{number}"))
        except StoreUnavailable as error:
            assert "store.sqlite: nothing was stored: database or disk is full" in str(error)
            assert bodies(made, f"d{number}") == []
            refused += 1
        else:
            assert bodies(made, f"d{number}") == [b"x" * 20_000]
    assert refused > 10
    assert made.counters.errors == refused
    assert bodies(made, "before") == [b"x"]
    made.wait(made.database.submit(Pragma(), "PRAGMA max_page_count = 1000000"))
    outcome = made.wait(append(made, "d39", b"now", idempotency_key="k39"))
    assert not outcome.repeated
    assert [seq for _, seq in outcome.places] == [1]
    assert bodies(made, "d39") == [b"now"]


class Pragma:
    """Runs its command outside of the transaction that it came in."""

    def apply(self, connection: sqlite3.Connection, commands: list[str]) -> list[Any]:
        connection.execute("COMMIT")
        for command in commands:
            connection.execute(command)
        connection.execute("BEGIN")
        return [None] * len(commands)

    def forget(self) -> None: ...


def test_a_failing_commit_stores_nothing(open_store: Any) -> None:
    made = open_store(database_class=GatedDatabase)
    made.wait(append(made))
    gate.clear()
    head = append(made, "head")
    waiting = [append(made), made.answers.claim("d", "u", 1, b"", NOW)]
    disk_is_full.set()
    gate.set()
    for deferred in [head, *waiting]:
        with pytest.raises(StoreUnavailable, match="disk is full"):
            made.wait(deferred)
    disk_is_full.clear()
    assert bodies(made) == [b"x"]
    assert made.wait(append(made)).places[0][1] == 2
    assert made.wait(made.answers.claim("d", "u", 1, b"", NOW)) == ClaimState.NEW


def test_one_bad_command_fails_alone(open_store: Any) -> None:
    made = open_store(database_class=GatedDatabase)
    gate.clear()
    head = append(made, "head")
    good = [append(made, "good"), append(made, "good"), made.answers.claim("d", "u", 1, b"", NOW)]
    unstorable = PushRequest(key("\ud800"), b"x")
    bad = made.streams.append([PushRequest(key("good"), b"with it"), unstorable], now=NOW, idempotency_key="k")
    after = append(made, "good")
    gate.set()
    with pytest.raises(StoreUnavailable, match=r"could not be stored: .*surrogates"):
        made.wait(bad)
    assert [made.wait(deferred) for deferred in good][2] == ClaimState.NEW
    made.wait(head)
    assert made.wait(after).places[0][1] == 3
    assert bodies(made, "good") == [b"x"] * 3
    assert not made.wait(append(made, "good", idempotency_key="k")).repeated


def test_a_question_that_fails_is_told(open_store: Any) -> None:
    made = open_store()
    with pytest.raises(StoreUnavailable, match=r"store\.sqlite: could not be read: .*surrogates"):
        made.wait(made.streams.subscriptions("\ud800"))
    with pytest.raises(StoreUnavailable, match="JSON"):
        made.wait(made.streams.append([PushRequest(key(), b"x", where={"os": object()})], now=NOW))


def test_a_cancelled_append_harms_nobody(open_store: Any) -> None:
    made = open_store(database_class=GatedDatabase)
    gate.clear()
    cancelled, kept = append(made), append(made)
    cancelled.addErrback(lambda _: None)
    cancelled.cancel()
    gate.set()
    assert made.wait(kept).places[0][1] == 2


# ------------------------------------------------------------ written behind


def saved(path: Path) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT device, seq FROM cursor ORDER BY device").fetchall()
    finally:
        connection.close()


def test_cursors_are_written_together_after_the_interval(open_store: Any, tmp_path: Path) -> None:
    made = open_store(pushes=PushSettings(cursor_flush=0.5))
    for seq in range(1, 50):
        made.streams.save_cursors("d1", [Cursor(key(), 1, seq)])
        made.streams.save_cursors("d2", [Cursor(key(), 1, seq)])
    made.clock.advance(0.4)
    made.wait(append(made))
    assert saved(tmp_path / "store.sqlite") == []
    before = made.counters.writes
    made.clock.advance(0.2)
    made.wait(append(made))
    assert saved(tmp_path / "store.sqlite") == [("d1", 49), ("d2", 49)]
    assert made.counters.writes - before == 3


def test_stop_writes_what_was_held_back(open_store: Any, tmp_path: Path) -> None:
    made = open_store()
    for number in range(1200):
        made.streams.save_cursors(f"d{number:04}", [Cursor(key(), 1, number)])
    claim = made.answers.claim("d", "u", 1, b"", NOW)
    made.answers.settle("d", "u", 1)
    waiting = append(made)
    made.stop()
    assert made.wait(claim) == ClaimState.NEW
    made.wait(waiting)
    assert saved(tmp_path / "store.sqlite") == [(f"d{number:04}", number) for number in range(1200)]
    made = open_store()
    assert made.wait(made.answers.claim("d", "u", 1, b"", NOW)) == ClaimState.ANSWERED


def test_stopping_during_a_flush_writes_what_came_after_it_too(open_store: Any, tmp_path: Path) -> None:
    made = open_store(database_class=GatedDatabase)
    gate.clear()
    made.streams.save_cursors("d1", [Cursor(key(), 1, 1)])
    made.clock.advance(1)
    made.streams.save_cursors("d1", [Cursor(key(), 1, 2)])
    made.streams.save_cursors("d2", [Cursor(key(), 1, 1)])
    stopped = made.database.stop()
    gate.set()
    made.wait(stopped)
    assert saved(tmp_path / "store.sqlite") == [("d1", 2), ("d2", 1)]


def test_cursors_survive_a_full_disk_and_are_written_later(open_store: Any, tmp_path: Path) -> None:
    made = open_store(database_class=GatedDatabase)
    disk_is_full.set()
    made.streams.save_cursors("d1", [Cursor(key(), 1, 1)])
    made.clock.advance(0.5)
    made.clock.until(lambda: made.counters.errors == 1)
    disk_is_full.clear()
    assert saved(tmp_path / "store.sqlite") == []
    made.streams.save_cursors("d1", [Cursor(key(), 1, 3)])
    assert made.wait(made.streams.cursors("d1")) == {key(): Cursor(key(), 1, 3)}
    made.clock.advance(0.5)
    made.wait(append(made))
    assert saved(tmp_path / "store.sqlite") == [("d1", 3)]


def test_cursors_are_seen_while_they_are_being_written(open_store: Any) -> None:
    made = open_store(database_class=GatedDatabase)
    gate.clear()
    made.streams.save_cursors("d1", [Cursor(key(), 1, 1)])
    made.clock.advance(0.5)
    assert made.wait(made.streams.cursors("d1")) == {key(): Cursor(key(), 1, 1)}
    gate.set()


def test_settling_alone_is_written_after_a_moment(open_store: Any, tmp_path: Path) -> None:
    made = open_store()
    made.wait(made.answers.claim("d", "u", 1, b"", NOW))
    commits = made.counters.commits
    made.answers.settle("d", "u", 1)
    made.clock.advance(1)
    made.clock.until(lambda: made.counters.commits == commits + 1)
    with sqlite3.connect(tmp_path / "store.sqlite") as look:
        assert look.execute("SELECT answered FROM claim").fetchall() == [(1,)]
    look.close()


def test_a_lost_release_leaves_the_claim_open(open_store: Any) -> None:
    made = open_store(database_class=GatedDatabase)
    made.wait(made.answers.claim("d", "u", 1, b"", NOW))
    disk_is_full.set()
    made.answers.release("d", "u", 1)
    made.clock.advance(1)
    made.clock.until(lambda: made.counters.errors == 1)
    disk_is_full.clear()
    assert made.wait(made.answers.claim("d", "u", 1, b"", NOW)) == ClaimState.OPEN


# ------------------------------------------------------------ cost


def test_no_statement_scans_a_table(open_store: Any, tmp_path: Path) -> None:
    made = open_store()
    statements: set[str] = set()

    class Trace(Pragma):
        def apply(self, connection: sqlite3.Connection, commands: list[str]) -> list[Any]:
            connection.set_trace_callback(statements.add)
            return [None]

    made.wait(made.database.submit(Trace(), ""))
    made.wait(made.database.read(lambda connection: connection.set_trace_callback(statements.add)))
    requests = [PushRequest(key(), b"x", ttl=1.0, collapse="k") for _ in range(20)]
    made.wait(made.streams.append(requests + [PushRequest(key(), b"x")] * 9, now=NOW, idempotency_key="k"))
    made.wait(made.streams.append(requests, now=NOW))
    made.wait(made.streams.sweep(NOW + 1e7))
    made.streams.save_cursors("d", [Cursor(key(), 1, 1)])
    made.clock.advance(1)
    made.wait(made.streams.subscribe("d", ["a"]))
    made.wait(made.streams.unsubscribe("d", ["a"]))
    for number in range(1, MAX_CLAIMS + 3):
        made.wait(made.answers.claim("d", "u", number, b"", NOW, first=NOW))
    made.answers.settle("d", "u", MAX_CLAIMS)
    made.answers.release("d", "u", MAX_CLAIMS)
    made.wait(made.answers.sweep(NOW))
    for ask in (
        made.streams.states([key()]),
        made.streams.streams_of("device", "d"),
        made.streams.read(key(), 0, 10, 1000),
        made.streams.cursors("d"),
        made.streams.subscriptions("d"),
    ):
        made.wait(ask)
    made.stop()

    connection = sqlite3.connect(tmp_path / "store.sqlite")
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    explained = 0
    for statement in statements:
        if statement.startswith(("WITH", "SELECT", "INSERT", "DELETE", "UPDATE")) and "max(number)" not in statement:
            for *_, detail in connection.execute(f"EXPLAIN QUERY PLAN {statement}"):
                words = detail.split()
                assert not (words[0] == "SCAN" and words[1] in tables), (detail, statement)
            explained += 1
    connection.close()
    assert explained > 20


def test_what_was_forgotten_is_remembered_and_many_new_claims_do_not_outrun_it(open_store: Any, tmp_path: Path) -> None:
    made = open_store(database_class=GatedDatabase)
    gate.clear()
    claims = [made.answers.claim("d", "u", number, b"", NOW + number) for number in range(3000)]
    gate.set()
    for claim in claims:
        assert made.wait(claim) == ClaimState.NEW
    made.wait(made.answers.claim("d", "u", 3000, b"", NOW + 3000))
    made.stop()
    with sqlite3.connect(tmp_path / "store.sqlite") as look:
        assert look.execute("SELECT count(*), min(call_id) FROM claim").fetchone() == (MAX_CLAIMS, 3001 - MAX_CLAIMS)
    look.close()
    made = open_store()
    last = NOW + 3000 - MAX_CLAIMS
    assert made.wait(made.answers.claim("d", "u", 5, b"", NOW + 4000, first=last)) == ClaimState.OPEN
    assert made.wait(made.answers.claim("d", "u", 5, b"", NOW + 4000, first=last + 1)) == ClaimState.NEW


def _given(number: int, connection: sqlite3.Connection) -> int:
    return number


def test_what_a_turn_wants_to_read_wakes_the_reader_once_at_its_end(tmp_path: Path) -> None:
    clock = ThreadedClock()
    ends: list[Any] = []
    clock.at_turn_end = ends.append  # type: ignore[attr-defined]  # as of a reactor that knows its turns
    database = SqliteDatabase(tmp_path / "store.sqlite", clock, StoreSettings(), StoreCounters())
    database.start()
    first = [database.read(partial(_given, number)) for number in range(5)]
    assert len(ends) == 1 and database._reads.empty()
    ends.pop()()
    assert clock.wait(gatherResults(first)) == [0, 1, 2, 3, 4]
    last = database.read(lambda connection: "last")
    stopped = database.stop()
    assert clock.wait(last) == "last"
    clock.wait(stopped)
    ends.pop()()
