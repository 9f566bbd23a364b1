"""Presence events waiting for the webhook, in SQLite: the OutboxStore of a single machine."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import NamedTuple

from twisted.internet.defer import Deferred

from accessgw.model.counters import WebhookCounters
from accessgw.model.presence import PresenceEvent
from accessgw.model.reasons import CloseReason
from accessgw.model.settings import WebhookSettings
from accessgw.stores import sqlite_rows as rows
from accessgw.stores.rules import DROP_WINDOW
from accessgw.stores.sqlite_database import SqliteDatabase

RESERVE = 10_000
"""Numbers set aside durably at a time: after a crash the next ones lie beyond all that were given out."""


class SqliteOutboxStore:
    """The OutboxStore on a SqliteDatabase; see core.interfaces. Runs on the reactor's thread.

    The numbers of all devices come from one sequence, so those of one device grow but leave gaps.
    Must be built before the database starts. Counts `dropped`, and begins with what is `pending`.
    When it starts, devices that an earlier process left connected get their disconnect.
    """

    def __init__(
        self,
        database: SqliteDatabase,
        settings: WebhookSettings,
        counters: WebhookCounters,
        wall: Callable[[], float],
    ) -> None:
        self._database = database
        self._wall = wall
        self._table = EventTable(settings.max_pending)
        self._counters = counters
        self._last_seq = 0
        database.on_start(self._load)

    def put(self, event: PresenceEvent) -> Deferred[None]:
        return self._database.submit(self._table, Put(event)).addCallback(self._count)

    def next_seq(self, device: str) -> int:
        self._last_seq += 1
        return self._last_seq

    def pending(self, limit: int) -> Deferred[list[PresenceEvent]]:
        return self._database.read(lambda connection: read_pending(connection, limit))

    def done(self, event: PresenceEvent) -> Deferred[None]:
        return self._database.submit(self._table, Done(event))

    def _count(self, dropped: int) -> None:
        self._counters.dropped += dropped
        self._counters.pending = max(0, self._counters.pending - dropped)

    def _load(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            mark = read_mark(connection)
            self._last_seq = mark + end_connected(connection, mark, self._wall())
            write_mark(connection, self._last_seq + RESERVE)
            self._counters.pending = connection.execute("SELECT count(*) FROM event").fetchone()[0]
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


class Put(NamedTuple):
    """Keep it; the result is how many events were dropped for want of room."""

    event: PresenceEvent


class Done(NamedTuple):
    """It was delivered."""

    event: PresenceEvent


class EventTable:
    """Commands Put and Done. Runs on the writer thread."""

    def __init__(self, max_pending: int) -> None:
        self._max_pending = max_pending
        self._count = -1
        self._mark = -1

    def forget(self) -> None:
        self._count = -1

    def apply(self, connection: sqlite3.Connection, commands: Sequence[Put | Done]) -> list[int | None]:
        if self._count < 0:
            self._count = connection.execute("SELECT count(*) FROM event").fetchone()[0]
            self._mark = read_mark(connection)
        events = [command.event for command in commands if isinstance(command, Put)]
        rows.insert(
            connection,
            "event (device, seq, id, user, event, at, reason)",
            [(e.device, e.seq, e.id, e.user, e.event, rows.micros(e.at), e.reason) for e in events],
        )
        self._count += len(events)
        note_connected(connection, events)
        before = connection.total_changes
        rows.execute(
            connection,
            "device, seq, id",
            [(c.event.device, c.event.seq, c.event.id) for c in commands if isinstance(c, Done)],
            "DELETE FROM event WHERE number IN (SELECT event.number FROM wanted CROSS JOIN event USING (device) "
            "WHERE event.seq = wanted.seq AND event.id = wanted.id)",
        )
        self._count -= connection.total_changes - before
        if events:
            self._reserve(connection, max(event.seq for event in events))
        dropped = self._drop(connection) if self._count > self._max_pending else 0
        results: list[int | None] = [None if isinstance(command, Done) else 0 for command in commands]
        if events:
            results[results.index(0)] = dropped
        return results

    def _reserve(self, connection: sqlite3.Connection, seq: int) -> None:
        if seq + RESERVE // 2 > self._mark:
            self._mark = seq + RESERVE
            write_mark(connection, self._mark)

    def _drop(self, connection: sqlite3.Connection) -> int:
        """Make room: the oldest events that are their device's last, so that no device's row gets a
        hole; when there are too few among the oldest, the oldest of all."""
        excess = self._count - self._max_pending
        last = rows.query(
            connection,
            "number",
            "(SELECT number FROM (SELECT number, device FROM event ORDER BY number LIMIT ?) AS old WHERE NOT EXISTS "
            "(SELECT 1 FROM event WHERE event.device = old.device AND event.number > old.number) "
            "ORDER BY number LIMIT ?)",
            (DROP_WINDOW + excess, excess),
        )
        gone = [number for (number,) in last]
        if len(gone) < excess:
            oldest = rows.query(
                connection,
                "number",
                "(SELECT number FROM event WHERE number NOT IN (SELECT value FROM json_each(?)) ORDER BY number LIMIT ?)",
                (json.dumps(gone), excess - len(gone)),
            )
            gone += [number for (number,) in oldest]
        connection.execute("DELETE FROM event WHERE number IN (SELECT value FROM json_each(?))", (json.dumps(gone),))
        self._count -= len(gone)
        return len(gone)


def read_mark(connection: sqlite3.Connection) -> int:
    """The largest number that may have been given out."""
    row = connection.execute("SELECT value FROM mark WHERE name = 'event_seq'").fetchone()
    return 0 if row is None else int(row[0])


def write_mark(connection: sqlite3.Connection, value: int) -> None:
    """Set it."""
    connection.execute(
        "INSERT INTO mark (name, value) VALUES ('event_seq', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (value,),
    )


def note_connected(connection: sqlite3.Connection, events: Sequence[PresenceEvent]) -> None:
    """Keep who is connected after these events."""
    last = {event.device: event for event in events}
    rows.insert(
        connection,
        "connected (device, user)",
        [(event.device, event.user) for event in last.values() if event.event == "connect"],
        "ON CONFLICT (device) DO UPDATE SET user = excluded.user",
    )
    rows.execute(
        connection,
        "device",
        [(event.device,) for event in last.values() if event.event != "connect"],
        "DELETE FROM connected WHERE device IN (SELECT device FROM wanted)",
    )


def end_connected(connection: sqlite3.Connection, seq: int, now: float) -> int:
    """A disconnect, with numbers after `seq`, for each device that is noted as connected; how many."""
    ended = connection.execute(
        "INSERT INTO event (device, seq, id, user, event, at, reason) SELECT device, ? + row_number() OVER "
        "(ORDER BY rowid), lower(hex(randomblob(16))), user, 'disconnect', ?, ? FROM connected ORDER BY rowid",
        (seq, rows.micros(now), CloseReason.RESTART.value),
    ).rowcount
    connection.execute("DELETE FROM connected")
    return ended


def read_pending(connection: sqlite3.Connection, limit: int) -> list[PresenceEvent]:
    """The oldest event of each device, oldest first. Runs on the reader thread."""
    found = rows.query(
        connection,
        "id, seq, device, user, event, at, reason",
        "(SELECT * FROM event AS old WHERE NOT EXISTS "
        "(SELECT 1 FROM event WHERE event.device = old.device AND event.number < old.number) "
        "ORDER BY number LIMIT ?)",
        (limit,),
    )
    return [
        PresenceEvent(id, seq, device, user, event, rows.seconds(at), reason)
        for id, seq, device, user, event, at, reason in found
    ]
