"""The question whether an MQTT store's file is whole: it sees every kind of stray row, and none where there is none."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stores.mqtt_stores import MqttStores
from tests.stores.mqtt_wholeness import STRAYS, strays


@pytest.fixture
def made(tmp_path: Path) -> Iterator[MqttStores]:
    stores = MqttStores(tmp_path / "store.sqlite")
    yield stores
    stores.stop()


@pytest.mark.parametrize("others", [0, 1])
def test_a_message_that_was_received_is_no_stray_whether_there_are_bodies_or_not(made: MqttStores, others: int) -> None:
    assert made.path is not None
    for client in "ab":
        made.session(client)
    (number,) = made.publish("a")
    made.publish(*"b" * others)
    made.wait(made.store.assign("a", [(number, 1)]))
    made.wait(made.store.pubrec("a", number))
    made.stop()
    assert strays(made.path) == {}
    made.open()
    assert (made.rows("mqtt_queue"), made.rows("mqtt_message")) == (1 + others, others)
    assert [(entry.number, entry.packet_id, entry.received) for entry in made.inflight("a")] == [(number, 1, True)]


SPOILS = {
    "a body that no queue has": "UPDATE mqtt_queue SET message = NULL, packet_id = 1 WHERE message = 1",
    "a row whose body is not there": "DELETE FROM mqtt_message WHERE number = 1",
    "a row without a body that was never sent": "UPDATE mqtt_queue SET message = NULL WHERE session = 1 AND message = 2",
    "a body of several rows that says it has one": "UPDATE mqtt_queue SET shared = 0 WHERE session = 1 AND message = 2",
    "a row of mqtt_queue without its session": "UPDATE mqtt_queue SET session = 9 WHERE message = 1",
    "a row of mqtt_subscription without its session": "INSERT INTO mqtt_subscription VALUES (9, 'x', 0, 0, 0, 0, 0)",
    "a row of mqtt_received without its session": "INSERT INTO mqtt_received VALUES (9, 1)",
}


@pytest.mark.parametrize("kind", STRAYS)
def test_each_kind_of_stray_is_found(made: MqttStores, kind: str) -> None:
    assert made.path is not None
    for client in "ab":
        made.session(client)
    made.publish("a")
    made.publish("a", "b")
    made.stop()
    assert strays(made.path) == {}
    spoiler = sqlite3.connect(made.path)
    spoiler.execute(SPOILS[kind])
    spoiler.commit()
    spoiler.close()
    assert strays(made.path) == {kind: 1}
