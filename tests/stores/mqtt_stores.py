"""MQTT stores for tests: both kinds behind one face, with a wall clock that the test sets, and reopening."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from accessgw.core.interfaces.mqtt_state import Enqueue, Message, QueuedMessage, StoredSession
from accessgw.model.counters import MqttCounters, StoreCounters
from accessgw.model.mqtt_settings import MqttSettings
from accessgw.model.settings import StoreSettings
from accessgw.stores.memory_mqtt import MemoryMqttStore
from accessgw.stores.sqlite_database import SqliteDatabase
from accessgw.stores.sqlite_mqtt import SqliteMqttStore
from tests.stores.threaded_clock import ThreadedClock

NOW = 1_800_000_000.25
SETTINGS = MqttSettings(max_queued=6, max_queued_bytes=100)


class MqttStores:
    """One store; `path` is None in memory."""

    def __init__(
        self,
        path: Path | None,
        settings: MqttSettings = SETTINGS,
        *,
        database_class: type[SqliteDatabase] = SqliteDatabase,
    ) -> None:
        self.path = path
        self.settings = settings
        self.now = NOW
        self.mqtt_counters = MqttCounters()
        self.clock = ThreadedClock()
        self._database_class = database_class
        self.database: SqliteDatabase | None = None
        self.store: Any = None
        self.open()

    def open(self) -> None:
        if self.path is None:
            self.store = self.store or MemoryMqttStore(self.settings, lambda: self.now, self.mqtt_counters)
            return
        self.counters = StoreCounters()
        self.database = self._database_class(self.path, self.clock, StoreSettings(), self.counters)
        self.store = SqliteMqttStore(self.database, self.settings, lambda: self.now, self.mqtt_counters)
        self.database.start()

    def stop(self) -> None:
        if self.database is not None:
            self.wait(self.database.stop())

    def reopened(self) -> Any:
        """What a new process finds."""
        self.stop()
        self.open()
        return self.store.loaded

    def wait(self, deferred: Any) -> Any:
        return self.clock.wait(deferred)

    # ------------------------------------------------------------ short forms

    def session(self, client_id: str, **fields: Any) -> None:
        self.wait(self.store.save_session(StoredSession(client_id, **fields)))

    def publish(self, *clients: str, body: bytes = b"x", topic: str = "t", **fields: Any) -> list[int]:
        """To these, as waiting messages of QoS 1."""
        return self.wait(
            self.store.publish(Message(topic, body, qos=1, **fields), [Enqueue(client, 1) for client in clients])
        )

    def read(self, client: str, after: int = 0, limit: int = 1000, max_bytes: int = 1 << 20) -> list[QueuedMessage]:
        return self.wait(self.store.read(client, after, limit, max_bytes))

    def inflight(self, client: str) -> list[QueuedMessage]:
        return self.wait(self.store.inflight(client))

    def bodies(self, client: str) -> list[bytes]:
        return [queued.message.payload for queued in self.read(client)]

    def dropped(self) -> int:
        return self.mqtt_counters.dropped_messages.get("queue_full", 0)

    def rows(self, table: str) -> int:
        """How many rows a table has, all that was written behind included; in memory None is asked."""
        assert self.path is not None
        self.wait(self.store.sweep(0.0))
        connection = sqlite3.connect(self.path)
        try:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
        finally:
            connection.close()
