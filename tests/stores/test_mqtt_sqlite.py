"""MQTT's tables in SQLite: shared bodies, full disks, failing commands, the cost of statements and of the start."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import gatherResults

from accessgw.core.interfaces.mqtt_state import Enqueue, Message, StoredSession, StoredSubscription, StoredWill
from accessgw.core.interfaces.stores import StoreUnavailable
from accessgw.model.mqtt_settings import MqttSettings
from accessgw.stores.sqlite_database import SqliteDatabase
from accessgw.stores.sqlite_writer import Writer
from protocols.mqtt.packets import Property, SubscriptionRequest, Will
from tests.stores.mqtt_stores import NOW, SETTINGS, MqttStores

TABLES = ("session", "subscription", "received", "message", "queue", "will", "retained")

gate = threading.Event()
disk_is_full = threading.Event()


class GatedWriter(Writer):
    """Each commit waits until the gate is open, and fails as the test says."""

    def commit(self, connection: sqlite3.Connection) -> None:
        gate.wait(20)
        if disk_is_full.is_set():
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        super().commit(connection)


class GatedDatabase(SqliteDatabase):
    writer_class = GatedWriter


class Pragma:
    """Runs its command outside of the transaction that it came in."""

    def apply(self, connection: sqlite3.Connection, commands: list[Any]) -> list[Any]:
        connection.execute("COMMIT")
        for command in commands:
            command(connection)
        connection.execute("BEGIN")
        return [None] * len(commands)

    def forget(self) -> None: ...


@pytest.fixture
def made(tmp_path: Path) -> Any:
    gate.set()
    disk_is_full.clear()
    stores = MqttStores(tmp_path / "store.sqlite", SETTINGS, database_class=GatedDatabase)
    yield stores
    disk_is_full.clear()
    gate.set()
    stores.stop()


def on_writer(made: MqttStores, call: Callable[[sqlite3.Connection], Any]) -> None:
    assert made.database is not None
    made.wait(made.database.submit(Pragma(), call))


def counts(made: MqttStores) -> dict[str, int]:
    return {table: found for table in TABLES if (found := made.rows(f"mqtt_{table}"))}


# ------------------------------------------------------------ bodies


def test_a_body_is_stored_once_and_goes_with_its_last_row(made: MqttStores) -> None:
    for client in "abcde":
        made.session(client)
    numbers = dict(zip("abcde", made.publish(*"abcde", expires_at=NOW + 10), strict=True))
    assert counts(made) == {"session": 5, "message": 1, "queue": 5}
    made.store.acknowledged("a", numbers["a"])
    made.wait(made.store.assign("b", [(numbers["b"], 1)]))
    made.wait(made.store.pubrec("b", numbers["b"]))
    made.wait(made.store.end_session("c"))
    assert counts(made) == {"session": 4, "message": 1, "queue": 3}
    made.now = NOW + 10
    assert made.read("d") == []
    assert counts(made) == {"session": 4, "message": 1, "queue": 2}
    made.wait(made.store.sweep(NOW + 10))
    assert counts(made) == {"session": 4, "queue": 1}
    made.store.acknowledged("b", numbers["b"])
    assert counts(made) == {"session": 4}


@pytest.mark.parametrize("receivers", ["a", "aa", "ab"])
def test_whatever_removes_the_last_row_takes_the_body_along(made: MqttStores, receivers: str) -> None:
    ways: list[Callable[[str, int], Any]] = [
        made.store.acknowledged,
        lambda client, _: made.store.end_session(client),
        lambda client, _: [made.publish(client, body=b"x" * 99), made.store.end_session(client)],
        lambda client, number: [made.store.assign(client, [(number, 3)]), made.store.pubrec(client, number)],
    ]
    for way in ways:
        for client in set(receivers):
            made.session(client)
        numbers = made.publish(*receivers)
        for client, number in zip(receivers, numbers, strict=True):
            way(client, number)
        assert made.rows("mqtt_message") == 0
        for client in set(receivers):
            made.wait(made.store.end_session(client))
    assert counts(made) == {}


def test_a_message_that_nobody_gets_leaves_no_body(made: MqttStores) -> None:
    made.session("a")
    assert made.publish("a", body=b"x" * 200) == [0]
    assert made.publish("nobody") == [0]
    assert made.publish() == []
    assert counts(made) == {"session": 1}


# ------------------------------------------------------------ order


def test_what_is_written_behind_keeps_its_place_among_the_rest(made: MqttStores) -> None:
    store = made.store
    made.session("a")
    numbers = [made.publish("a", body=b"%d" % n)[0] for n in range(6)]
    gate.clear()
    head = store.save_session(StoredSession("b"))
    store.acknowledged("a", numbers[3])
    after = store.publish(Message("t", b"6", 1), [Enqueue("a", 1)])
    store.retain(Message("t", b"old"))
    last = store.publish(Message("t", b"7", 1), [Enqueue("a", 1)], retained=True)
    gate.set()
    made.wait(gatherResults([head, after, last]))
    assert made.bodies("a") == [b"1", b"2", b"4", b"5", b"6", b"7"]
    assert made.dropped() == 1
    assert [message.payload for message in made.reopened().retained] == [b"7"]


def test_written_behind_means_within_a_tenth_of_a_second(made: MqttStores) -> None:
    made.store.retain(Message("t", b"1"))
    made.clock.advance(0.09)
    made.store.retain(Message("u", b"2"))
    assert made.counters.commits == 0
    made.clock.advance(0.011)
    made.clock.until(lambda: made.counters.pending == 0)
    assert made.counters.writes == 2


def test_what_was_acknowledged_just_now_is_not_in_flight(made: MqttStores) -> None:
    made.session("a")
    (number,) = made.publish("a")
    made.wait(made.store.assign("a", [(number, 1)]))
    gate.clear()
    made.store.acknowledged("a", number)
    asked = made.store.inflight("a")
    gate.set()
    assert made.wait(asked) == []


# ------------------------------------------------------------ trouble


def test_a_failing_commit_stores_nothing_and_the_counts_are_right_after_it(made: MqttStores) -> None:
    made.session("a")
    (kept,) = made.publish("a")
    gate.clear()
    head = made.store.save_session(StoredSession("head"))
    waiting = [
        made.store.publish(Message("t", b"lost", 1), [Enqueue("a", 1)] * 6, retained=True, received=("a", 1)),
        made.store.save_will("a", StoredWill(Will("w", b""))),
        made.store.end_session("a"),
    ]
    disk_is_full.set()
    gate.set()
    for deferred in [head, *waiting]:
        with pytest.raises(StoreUnavailable, match="nothing was stored: database or disk is full"):
            made.wait(deferred)
    disk_is_full.clear()
    assert counts(made) == {"session": 1, "message": 1, "queue": 1}
    numbers = [made.publish("a", body=b"%d" % n)[0] for n in range(6)]
    assert min(numbers) > kept
    assert made.bodies("a") == [b"%d" % n for n in range(6)]
    assert made.dropped() == 1


def test_how_many_wait_is_still_known_after_a_failing_commit(made: MqttStores) -> None:
    for client in "abc":
        made.session(client)
    made.publish("a", "b")
    made.reopened()
    made.publish("b")
    disk_is_full.set()
    with pytest.raises(StoreUnavailable):
        made.session("d")
    disk_is_full.clear()
    assert [made.store.waiting(client) for client in "abc"] == [1, 2, 0]
    made.publish("b", "c")
    assert [made.store.waiting(client) for client in "abc"] == [1, 3, 1]


def test_a_full_disk_refuses_and_recovers(made: MqttStores, tmp_path: Path) -> None:
    made.settings = MqttSettings()
    made.reopened()
    made.session("a")
    made.publish("a", body=b"before")
    on_writer(made, lambda connection: connection.execute("PRAGMA max_page_count = 90"))
    stored, refused = [b"before"], 0
    for number in range(30):
        body = b"%d " % number + bytes(20_000)
        try:
            made.wait(made.store.publish(Message("t", body, 1), [Enqueue("a", 1)], retained=True))
        except StoreUnavailable as error:
            assert "store.sqlite: nothing was stored: database or disk is full" in str(error)
            refused += 1
        else:
            stored.append(body)
        assert made.bodies("a") == stored
    assert refused > 10
    on_writer(made, lambda connection: connection.execute("PRAGMA max_page_count = 1000000"))
    made.publish("a", body=b"now")
    assert made.bodies("a") == [*stored, b"now"]
    assert made.reopened().sessions[0].queued == len(stored) + 1
    assert counts(made)["message"] == len(stored) + 1


def test_one_bad_command_fails_alone(made: MqttStores) -> None:
    made.session("a")
    gate.clear()
    head = made.store.save_session(StoredSession("head"))
    good = [made.store.publish(Message("t", b"1", 1), [Enqueue("a", 1)]), made.store.save_session(StoredSession("b"))]
    bad = made.store.publish(Message("\ud800", b"bad", 1), [Enqueue("a", 1), Enqueue("b", 1)], retained=True)
    made.store.acknowledged("b", 10**9)
    after = made.store.publish(Message("t", b"2", 1), [Enqueue("a", 1), Enqueue("b", 1)])
    gate.set()
    with pytest.raises(StoreUnavailable, match=r"could not be stored: .*surrogates"):
        made.wait(bad)
    made.wait(gatherResults([head, *good, after]))
    assert (made.bodies("a"), made.bodies("b")) == ([b"1", b"2"], [b"2"])
    assert counts(made) == {"session": 3, "message": 2, "queue": 3}


def test_properties_that_cannot_be_written_fail_the_call(made: MqttStores) -> None:
    wrong = {Property.CONTENT_TYPE: "\ud800"}
    with pytest.raises(StoreUnavailable, match="the message's properties cannot be written"):
        made.wait(made.store.publish(Message("t", b"", properties=wrong), []))
    with pytest.raises(StoreUnavailable, match="the will's properties cannot be written"):
        made.wait(made.store.save_will("a", StoredWill(Will("t", b"", properties=wrong))))
    made.store.retain(Message("t", b"x", properties=wrong))
    assert counts(made) == {}


def test_a_store_that_is_not_running_says_so(made: MqttStores) -> None:
    made.stop()
    made.store.acknowledged("a", 1)
    for ask in (made.store.end_session("a"), made.store.read("a", 0, 1, 1), made.store.inflight("a")):
        with pytest.raises(StoreUnavailable, match="not running"):
            made.wait(ask)
    made.open()


# ------------------------------------------------------------ cost


def test_a_fan_out_writes_its_body_once_and_takes_few_statements(made: MqttStores) -> None:
    made.wait(gatherResults([made.store.save_session(StoredSession(f"d{number}")) for number in range(2000)]))
    statements: list[str] = []
    on_writer(made, lambda connection: connection.set_trace_callback(statements.append))
    made.publish(*[f"d{number}" for number in range(2000)], body=b"y" * 60)
    on_writer(made, lambda connection: connection.set_trace_callback(None))
    assert len(statements) < 60
    assert counts(made) == {"session": 2000, "message": 1, "queue": 2000}


def test_many_sessions_are_loaded_with_few_queries(made: MqttStores) -> None:
    made.stop()
    connection = sqlite3.connect(made.path or "")
    connection.executemany(
        "INSERT INTO mqtt_session (client, user, version, expiry) VALUES (?, '', 5, 1000000)",
        [(f"d{number}",) for number in range(20_000)],
    )
    connection.execute("INSERT INTO mqtt_subscription SELECT number, 'x/' || number, 1, 0, 0, 0, 0 FROM mqtt_session")
    connection.execute("INSERT INTO mqtt_message VALUES (1, 't', x'41', 1, 0, NULL, 0, NULL, 'p')")
    connection.execute(
        "INSERT INTO mqtt_queue SELECT number, number + 7, 1, 1, 1, 0, 0, NULL, 2, NULL FROM mqtt_session"
    )
    connection.commit()
    connection.close()
    statements: list[str] = []

    class Traced(SqliteDatabase):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.on_start(lambda connection: connection.set_trace_callback(statements.append))

    made._database_class = Traced
    made.open()
    state = made.store.loaded
    assert len(state.sessions) == 20_000
    assert {(len(session.subscriptions), session.queued) for session in state.sessions} == {(1, 1)}
    assert len(statements) < 20
    made.session("new")
    assert made.publish("new", "d5", topic="u") == [20_008, 20_009]
    assert [queued.message.topic for queued in made.read("d5")] == ["t", "u"]


def test_no_statement_scans_a_table(made: MqttStores) -> None:
    store = made.store
    statements: set[str] = set()
    on_writer(made, lambda connection: connection.set_trace_callback(statements.add))
    made.wait(made.database.read(lambda connection: connection.set_trace_callback(statements.add)))  # type: ignore[union-attr]
    for client in "ab":
        made.session(client)
    made.wait(store.subscribe("a", [StoredSubscription(SubscriptionRequest("x"))]))
    made.wait(store.unsubscribe("a", ["x"]))
    made.wait(store.save_will("a", StoredWill(Will("w", b""))))
    store.forget_will("a")
    for _ in range(10):
        made.publish("a", "b", expires_at=NOW + 5)
        numbers = made.publish("a")
    made.wait(store.publish(Message("t", b"x"), [], retained=True, received=("a", 1)))
    made.wait(store.publish(Message("t", b""), [], retained=True))
    made.wait(store.released("a", 1))
    made.wait(store.assign("a", [(numbers[0], 1)]))
    made.wait(store.pubrec("a", numbers[0]))
    made.inflight("a")
    made.now += 5
    made.read("a")
    made.wait(store.sweep(made.now))
    store.acknowledged("a", numbers[0])
    made.wait(store.end_session("a"))
    made.wait(store.end_session("b"))
    made.stop()

    connection = sqlite3.connect(made.path or "")
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    explained = 0
    for statement in statements:
        if statement.startswith(("WITH", "SELECT", "INSERT", "DELETE", "UPDATE")):
            for *_, detail in connection.execute(f"EXPLAIN QUERY PLAN {statement}"):
                words = detail.split()
                assert not (words[0] == "SCAN" and words[1] in tables), (detail, statement)
            explained += 1
    connection.close()
    made.open()
    assert explained > 25
