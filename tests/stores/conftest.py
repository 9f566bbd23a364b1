"""Fixtures: each store in both kinds, behind one face."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred, succeed

from accessgw.core.interfaces.stores import AnswerStore, HeaderStateStore, OutboxStore, StreamStore
from accessgw.model.counters import StoreCounters, WebhookCounters
from accessgw.model.settings import PushSettings, StoreSettings, WebhookSettings
from accessgw.stores.memory import MemoryAnswerStore, MemoryOutboxStore, MemoryStreamStore
from accessgw.stores.memory_header_states import MemoryHeaderStateStore
from accessgw.stores.sqlite_answers import SqliteAnswerStore
from accessgw.stores.sqlite_database import SqliteDatabase
from accessgw.stores.sqlite_header_states import SqliteHeaderStateStore
from accessgw.stores.sqlite_outbox import SqliteOutboxStore
from accessgw.stores.sqlite_streams import SqliteStreamStore
from tests.stores.mqtt_stores import SETTINGS as MQTT
from tests.stores.mqtt_stores import MqttStores


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ThreadedClock = _load("threaded_clock").ThreadedClock

PUSHES = PushSettings(max_stream_messages=8, max_topic_messages=12, retention=1000.0)
WEBHOOK = WebhookSettings(max_pending=6)
MAX_CLAIMS = 10
MAX_STATES = 20
NOW = 1_800_000_000.5
"""The wall clock of the stores under test."""


@dataclass
class Stores:
    """Everything a test needs of one kind of store."""

    streams: StreamStore
    answers: AnswerStore
    outbox: OutboxStore
    header_states: HeaderStateStore
    clock: Any
    database: SqliteDatabase | None = None
    counters: StoreCounters = field(default_factory=StoreCounters)
    webhook: WebhookCounters = field(default_factory=WebhookCounters)

    def wait(self, deferred: Deferred[Any]) -> Any:
        return self.clock.wait(deferred)

    def stop(self) -> None:
        self.wait(self.database.stop() if self.database else succeed(None))


def memory(pushes: PushSettings = PUSHES, webhook: WebhookSettings = WEBHOOK) -> Stores:
    counters = WebhookCounters()
    return Stores(
        MemoryStreamStore(pushes),
        MemoryAnswerStore(MAX_CLAIMS),
        MemoryOutboxStore(webhook, counters),
        MemoryHeaderStateStore(MAX_STATES),
        ThreadedClock(),
        webhook=counters,
    )


def sqlite(
    path: Path,
    pushes: PushSettings = PUSHES,
    webhook: WebhookSettings = WEBHOOK,
    settings: StoreSettings | None = None,
    database_class: type[SqliteDatabase] = SqliteDatabase,
) -> Stores:
    clock = ThreadedClock()
    counters, webhook_counters = StoreCounters(), WebhookCounters()
    database = database_class(path, clock, settings or StoreSettings(), counters)
    stores = Stores(
        SqliteStreamStore(database, pushes),
        SqliteAnswerStore(database, MAX_CLAIMS),
        SqliteOutboxStore(database, webhook, webhook_counters, lambda: NOW),
        SqliteHeaderStateStore(database, MAX_STATES),
        clock,
        database,
        counters,
        webhook_counters,
    )
    database.start()
    return stores


@pytest.fixture(params=["memory", "sqlite"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made = memory() if request.param == "memory" else sqlite(tmp_path / "store.sqlite")
    yield made
    made.stop()


@pytest.fixture
def open_store(tmp_path: Path) -> Any:
    """Opens the store of this test as often as it asks; all are closed at the end."""
    opened = []

    def open_(**arguments: Any) -> Stores:
        made = sqlite(tmp_path / "store.sqlite", **arguments)
        opened.append(made)
        return made

    yield open_
    for made in opened:
        made.stop()


@pytest.fixture
def make_memory() -> Any:
    return memory


@pytest.fixture
def make_sqlite() -> Any:
    return sqlite


@pytest.fixture(params=["memory", "sqlite"])
def open_mqtt(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Opens an MqttStore of either kind with the settings that the test likes."""
    opened = []

    def open_(**settings: Any) -> MqttStores:
        path = None if request.param == "memory" else tmp_path / f"mqtt{len(opened)}.sqlite"
        made = MqttStores(path, msgspec.structs.replace(MQTT, **settings))
        opened.append(made)
        return made

    yield open_
    for made in opened:
        made.stop()


@pytest.fixture
def mqtt(open_mqtt: Any) -> Any:
    return open_mqtt()
