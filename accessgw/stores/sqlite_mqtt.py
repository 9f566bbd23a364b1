"""Sessions, queues, wills and retained messages of MQTT in SQLite: the MqttStore of a single machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.interfaces.mqtt_state import (
    Enqueue,
    Message,
    MqttState,
    QueuedMessage,
    StoredSession,
    StoredSubscription,
    StoredWill,
)
from accessgw.core.interfaces.stores import StoreUnavailable
from accessgw.model.counters import MqttCounters
from accessgw.model.mqtt_settings import MqttSettings
from accessgw.stores import sqlite_mqtt_commands as commands
from accessgw.stores import sqlite_mqtt_rows as mqtt_rows
from accessgw.stores import sqlite_rows as rows
from accessgw.stores.mqtt_rules import bad_packet_id, count_dropped, size_of
from accessgw.stores.sqlite_database import SqliteDatabase
from accessgw.stores.sqlite_mqtt_writer import MqttTable
from protocols.errors import ProtocolError


class SqliteMqttStore:
    """The MqttStore on a SqliteDatabase; see core.interfaces. Runs on the reactor's thread.

    Must be built before the database starts. Times are kept to the microsecond. What concerns a session that
    is not stored is ignored. `read` sees what has become durable: not what was submitted and has not fired
    yet. `inflight` sees all that was submitted before it. Counts `dropped_messages["queue_full"]` and `expired`.
    """

    def __init__(
        self,
        database: SqliteDatabase,
        settings: MqttSettings,
        wall: Callable[[], float],
        counters: MqttCounters | None = None,
    ) -> None:
        self._database = database
        self._wall = wall
        self._counters = counters or MqttCounters()
        self._table = MqttTable(settings)
        self._loaded = MqttState()
        self._log = Logger()
        database.on_start(self._load)

    @property
    def loaded(self) -> MqttState:
        return self._loaded

    def _load(self, connection: sqlite3.Connection) -> None:
        self._loaded, highest = mqtt_rows.load(connection, rows.micros(self._wall()))
        waiting = {each.client_id: each.queued for each in self._loaded.sessions if each.queued}
        self._table.start(connection, highest, waiting)

    def bound(self, client_id: str, max_queued: int, max_queued_bytes: int) -> None:
        self._table.bound(client_id, max_queued, max_queued_bytes)

    def waiting(self, client_id: str) -> int:
        return self._table.waiting(client_id)

    # ------------------------------------------------------------ sessions

    def save_session(self, session: StoredSession) -> Deferred[None]:
        return self._submit(commands.SaveSession(session.client_id, mqtt_rows.session_row(session)))

    def end_session(self, client_id: str) -> Deferred[None]:
        return self._submit(commands.EndSession(client_id))

    def subscribe(self, client_id: str, subscriptions: Sequence[StoredSubscription]) -> Deferred[None]:
        return self._submit(commands.Subscribe(client_id, tuple(map(mqtt_rows.subscription_row, subscriptions))))

    def unsubscribe(self, client_id: str, filters: Sequence[str]) -> Deferred[None]:
        return self._submit(commands.Unsubscribe(client_id, tuple(filters)))

    def save_will(self, client_id: str, will: StoredWill) -> Deferred[None]:
        try:
            row = mqtt_rows.will_row(will)
        except ProtocolError as error:
            return fail(StoreUnavailable(f"the will's properties cannot be written: {error}"))
        return self._submit(commands.SaveWill(client_id, row))

    def forget_will(self, client_id: str) -> None:
        self._submit_lazily(commands.SaveWill(client_id, None), "a forgotten will")

    # ------------------------------------------------------------ messages

    def publish(
        self,
        message: Message,
        receivers: Sequence[Enqueue],
        *,
        retained: bool = False,
        received: tuple[str, int] | None = None,
        will_of: str = "",
    ) -> Deferred[list[int]]:
        try:
            row = mqtt_rows.message_row(message)
        except ProtocolError as error:
            return fail(StoreUnavailable(f"the message's properties cannot be written: {error}"))
        places = tuple(
            commands.Receiver(
                each.client_id, each.qos, each.packet_id, each.retain, mqtt_rows.identifiers_text(each.identifiers)
            )
            for each in receivers
        )
        command = commands.Publish(row, size_of(message), row[6], places, retained, received, will_of)
        return self._submit(command, weight=len(places) or 1).addCallback(self._published)

    def _published(self, result: tuple[list[int], int]) -> list[int]:
        numbers, dropped = result
        if dropped:
            count_dropped(self._counters, dropped)
        return numbers

    def retain(self, message: Message) -> None:
        try:
            row = mqtt_rows.message_row(message)
        except ProtocolError as error:
            self._lost(Failure(error), "a retained message")
        else:
            self._submit_lazily(commands.Retain(row), "a retained message")

    def read(self, client_id: str, after: int, limit: int, max_bytes: int) -> Deferred[list[QueuedMessage]]:
        now = rows.micros(self._wall())
        found = self._database.read(
            lambda connection: mqtt_rows.read_waiting(connection, client_id, after, limit, max_bytes=max_bytes, now=now)
        )
        return found.addCallback(self._found, client_id)

    def _found(self, result: tuple[list[QueuedMessage], tuple[int, ...]], client_id: str) -> list[QueuedMessage]:
        messages, expired = result
        if expired:
            gone = self._database.submit(self._table, commands.Expire(client_id, expired), lazy=True)
            gone.addCallbacks(self._count_expired, self._lost, errbackArgs=("an expired message",))
        return messages

    def _count_expired(self, gone: int) -> None:
        self._counters.expired += gone

    def inflight(self, client_id: str) -> Deferred[list[QueuedMessage]]:
        # behind what is written behind: what was acknowledged just now is not sent again
        return self._submit(commands.Barrier()).addCallback(
            lambda _: self._database.read(lambda connection: mqtt_rows.read_inflight(connection, client_id))
        )

    def assign(self, client_id: str, packet_ids: Sequence[tuple[int, int]]) -> Deferred[None]:
        bad = bad_packet_id(packet_id for _, packet_id in packet_ids)
        if bad is not None:
            return fail(bad)
        return self._submit(commands.Assign(client_id, tuple(packet_ids)))

    def acknowledged(self, client_id: str, number: int) -> None:
        self._submit_lazily(commands.Remove(client_id, number), "an acknowledgement")

    def pubrec(self, client_id: str, number: int) -> Deferred[None]:
        return self._submit(commands.Pubrec(client_id, number))

    def released(self, client_id: str, packet_id: int) -> Deferred[None]:
        return self._submit(commands.Released(client_id, packet_id))

    def sweep(self, now: float) -> Deferred[int]:
        return self._submit(commands.Sweep(rows.micros(now))).addCallback(self._swept)

    def _swept(self, result: tuple[int, int]) -> int:
        queued, retained = result
        self._counters.expired += queued
        return queued + retained

    # ------------------------------------------------------------ the writer's queue

    def _submit(self, command: commands.Command, weight: int = 1) -> Deferred[Any]:
        return self._database.submit(self._table, command, weight=weight)

    def _submit_lazily(self, command: commands.Command, what: str) -> None:
        self._database.submit(self._table, command, lazy=True).addErrback(self._lost, what)

    def _lost(self, failure: Failure, what: str) -> None:
        # safe: what was to go stays, and is sent once more at worst; a retained message of QoS 0 may be lost
        self._log.error("{what} was not stored: {reason}", what=what, reason=failure.getErrorMessage())
