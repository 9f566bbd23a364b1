"""Streams, cursors and subscriptions in SQLite: the StreamStore of a single machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from twisted.internet.defer import Deferred, fail

from accessgw.core.interfaces.stores import AppendOutcome, StoreUnavailable
from accessgw.model.pushes import Cursor, Priority, PushRequest, Scope, StoredPush, StreamKey, StreamState
from accessgw.model.settings import PushSettings
from accessgw.stores import sqlite_rows as rows
from accessgw.stores.bloom import BloomFilter
from accessgw.stores.rules import EpochSource, new_epoch
from accessgw.stores.sqlite_cursors import CursorBuffer, write_cursors
from accessgw.stores.sqlite_database import SqliteDatabase
from accessgw.stores.sqlite_log import Append, StreamLog, Sweep


class SqliteStreamStore:
    """The StreamStore on a SqliteDatabase; see core.interfaces. Runs on the reactor's thread.

    Times are kept to the microsecond. A stream keeps its row when its last push has gone: its head and
    epoch are what a returning device compares its cursor with.
    """

    def __init__(
        self, database: SqliteDatabase, settings: PushSettings, *, epoch_source: EpochSource = new_epoch
    ) -> None:
        self._database = database
        self._stream_log = StreamLog(settings, epoch_source)
        self._subscriptions = SubscriptionTable()
        self._cursors = CursorBuffer(database, settings.cursor_flush)
        self._known = BloomFilter()
        """(`device`, id) of cursors and subscriptions, (scope, id) of streams;
        plain text, since an Enum hashes otherwise."""
        self._broadcast = False
        """Something was sent to everybody: asked for every device, so that it is not worth a look into the filter."""
        database.on_start(self._load)

    def append(
        self, requests: Sequence[PushRequest], *, now: float, idempotency_key: str = "", digest: bytes = b""
    ) -> Deferred[AppendOutcome]:
        try:
            visibility = [
                msgspec.json.encode(request.where).decode() if request.where else None for request in requests
            ]
        except (TypeError, ValueError) as error:
            return fail(StoreUnavailable(f"visibility cannot be written as JSON: {error}"))
        for request in requests:
            self._know(str(request.stream.scope), request.stream.id)
        command = Append(requests, visibility, rows.micros(now), idempotency_key, digest)
        return self._database.submit(self._stream_log, command, weight=max(1, len(requests)))

    def states(self, keys: Sequence[StreamKey]) -> Deferred[dict[StreamKey, StreamState]]:
        wanted = list(keys)
        return self._database.read(lambda connection: read_states(connection, wanted))

    def streams_of(self, scope: str, id: str) -> Deferred[list[StreamState]]:
        return self._database.read(lambda connection: read_streams_of(connection, scope, id))

    def read(self, key: StreamKey, after: int, limit: int, max_bytes: int) -> Deferred[list[StoredPush]]:
        return self._database.read(lambda connection: read_pushes(connection, key, after, limit, max_bytes))

    def cursors(self, device: str) -> Deferred[dict[StreamKey, Cursor]]:
        return self._cursors.cursors(device)

    def knows_nothing_of(self, device: str, user: str) -> bool:
        known = self._known
        return not (self._broadcast or known.may_have(("device", device)) or (user and known.may_have(("user", user))))

    def _know(self, scope: str, id: str) -> None:
        self._known.add((scope, id))
        if scope == "broadcast":
            self._broadcast = True

    def _load(self, connection: sqlite3.Connection) -> None:
        for scope, id in connection.execute("SELECT DISTINCT scope, id FROM stream"):
            self._know(scope, id)
        for table in ("cursor", "subscription"):
            for (device,) in connection.execute(f"SELECT DISTINCT device FROM {table}"):
                self._known.add(("device", device))

    def save_cursors(self, device: str, cursors: Sequence[Cursor]) -> None:
        self._known.add(("device", device))
        self._cursors.save(device, cursors)

    def subscriptions(self, device: str) -> Deferred[set[str]]:
        return self._database.read(lambda connection: read_subscriptions(connection, device))

    def subscribe(self, device: str, topics: Sequence[str], cursors: Sequence[Cursor] = ()) -> Deferred[None]:
        self._known.add(("device", device))
        return self._database.submit(self._subscriptions, Subscribe(device, tuple(topics), True, tuple(cursors)))

    def unsubscribe(self, device: str, topics: Sequence[str]) -> Deferred[None]:
        return self._database.submit(self._subscriptions, Subscribe(device, tuple(topics), False))

    def sweep(self, now: float) -> Deferred[int]:
        return self._database.submit(self._stream_log, Sweep(rows.micros(now)))


class Subscribe(NamedTuple):
    """Topics that a device subscribes to, or leaves."""

    device: str
    topics: tuple[str, ...]
    wanted: bool
    cursors: tuple[Cursor, ...] = ()
    """Where the topics begin."""


class SubscriptionTable:
    """Command Subscribe. Runs on the writer thread."""

    def forget(self) -> None:
        """Nothing is remembered between commands."""

    def apply(self, connection: sqlite3.Connection, commands: Sequence[Subscribe]) -> list[None]:
        final = {(command.device, topic): command.wanted for command in commands for topic in command.topics}
        rows.insert(
            connection,
            "subscription (device, topic)",
            [pair for pair, wanted in final.items() if wanted],
            "ON CONFLICT DO NOTHING",
        )
        write_cursors(connection, [(command.device, cursor) for command in commands for cursor in command.cursors])
        rows.execute(
            connection,
            "device, topic",
            [pair for pair, wanted in final.items() if not wanted],
            "DELETE FROM subscription WHERE rowid IN "
            "(SELECT subscription.rowid FROM wanted CROSS JOIN subscription USING (device, topic))",
        )
        return [None] * len(commands)


# ------------------------------------------------------------ questions, on the reader thread


def read_states(connection: sqlite3.Connection, keys: list[StreamKey]) -> dict[StreamKey, StreamState]:
    """States of those that exist."""
    found = rows.select(
        connection,
        "position, scope, id, biz",
        [(position, str(key.scope), key.id, key.biz) for position, key in enumerate(keys)],
        "wanted.position, epoch, head, floor",
        "wanted CROSS JOIN stream USING (scope, id, biz)",
    )
    return {keys[position]: StreamState(keys[position], epoch, head, floor) for position, epoch, head, floor in found}


def read_streams_of(connection: sqlite3.Connection, scope: str, id: str) -> list[StreamState]:
    """Every biz of one device, user or topic."""
    found = rows.query(
        connection, "biz, epoch, head, floor", "stream WHERE scope = ? AND id = ? ORDER BY biz", (str(scope), id)
    )
    return [StreamState(StreamKey(Scope(scope), id, biz), epoch, head, floor) for biz, epoch, head, floor in found]


def read_pushes(
    connection: sqlite3.Connection, key: StreamKey, after: int, limit: int, max_bytes: int
) -> list[StoredPush]:
    """Pushes with seq > after. Bodies travel in hex, since JSON holds no bytes."""
    found = rows.query(
        connection,
        "seq, hex(body), appended_at, expires_at, collapse, priority, visibility",
        # the bodies of those that do not fit are not read: length() looks at the row's header only
        "(SELECT *, sum(length(body)) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) AS total, "
        "row_number() OVER (ORDER BY seq) AS place FROM (SELECT * FROM push WHERE stream = "
        "(SELECT number FROM stream WHERE scope = ? AND id = ? AND biz = ?) AND seq > ? ORDER BY seq LIMIT ?)) "
        "WHERE total <= ? OR place = 1",
        (str(key.scope), key.id, key.biz, after, limit, max_bytes),
    )
    pushes = [_stored(row) for row in found]
    pushes.sort(key=lambda push: push.seq)
    return pushes


def _stored(row: list[Any]) -> StoredPush:
    seq, body, appended_at, expires_at, collapse, priority, where = row
    visibility: dict[str, Any] = msgspec.json.decode(where) if where else {}
    return StoredPush(
        seq,
        bytes.fromhex(body),
        rows.seconds(appended_at),
        None if expires_at is None else rows.seconds(expires_at),
        collapse or "",
        Priority(priority),
        visibility,
    )


def read_subscriptions(connection: sqlite3.Connection, device: str) -> set[str]:
    """Topics of a device."""
    return {topic for (topic,) in rows.query(connection, "topic", "subscription WHERE device = ?", (device,))}
