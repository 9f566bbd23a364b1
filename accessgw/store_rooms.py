"""The composition of stores: in memory, or in one SQLite database; part of the composition root."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from accessgw.core.interfaces.dictionaries import DictionaryStore
from accessgw.core.interfaces.mqtt import MqttStore
from accessgw.core.interfaces.stores import AnswerStore, HeaderStateStore, OutboxStore, StreamStore
from accessgw.model.counters import MqttCounters, StoreCounters, WebhookCounters
from accessgw.model.settings import GatewaySettings
from accessgw.stores.memory import MemoryAnswerStore, MemoryOutboxStore, MemoryStreamStore
from accessgw.stores.memory_dictionaries import MemoryDictionaryStore
from accessgw.stores.memory_header_states import MemoryHeaderStateStore
from accessgw.stores.memory_mqtt import MemoryMqttStore
from accessgw.stores.sqlite_answers import SqliteAnswerStore
from accessgw.stores.sqlite_database import SqliteDatabase
from accessgw.stores.sqlite_dictionaries import SqliteDictionaryStore
from accessgw.stores.sqlite_header_states import SqliteHeaderStateStore
from accessgw.stores.sqlite_mqtt import SqliteMqttStore
from accessgw.stores.sqlite_outbox import SqliteOutboxStore
from accessgw.stores.sqlite_streams import SqliteStreamStore


class StoreRooms:
    """Every store of one worker, built, not started."""

    def __init__(
        self,
        settings: GatewaySettings,
        reactor: Any,
        *,
        counters: StoreCounters,
        outbox: WebhookCounters,
        mqtt: MqttCounters,
    ) -> None:
        self.database: SqliteDatabase | None = None
        """None: everything is in memory."""
        if settings.store.kind == "memory":
            self.streams: StreamStore = MemoryStreamStore(settings.pushes)
            self.answers: AnswerStore = MemoryAnswerStore(settings.calls.max_claims)
            self.outbox: OutboxStore = MemoryOutboxStore(settings.webhook, outbox)
            self.mqtt: MqttStore = MemoryMqttStore(settings.mqtt, time.time, mqtt)
            self.dictionaries: DictionaryStore = MemoryDictionaryStore()
            self.header_states: HeaderStateStore = MemoryHeaderStateStore(settings.header_states.max_states)
            return
        path = settings.store.path or str(Path(settings.state_dir) / "store.sqlite")
        self.database = database = SqliteDatabase(path, reactor, settings.store, counters)
        self.streams = SqliteStreamStore(database, settings.pushes)
        self.answers = SqliteAnswerStore(database, settings.calls.max_claims)
        self.outbox = SqliteOutboxStore(database, settings.webhook, outbox, time.time)
        self.mqtt = SqliteMqttStore(database, settings.mqtt, time.time, mqtt)
        self.dictionaries = SqliteDictionaryStore(database)
        self.header_states = SqliteHeaderStateStore(database, settings.header_states.max_states)
