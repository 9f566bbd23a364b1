"""What the MQTT commands of one transaction come to, and how that is written: each table in few statements."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from accessgw.stores import sqlite_rows as rows
from accessgw.stores.sqlite_mqtt_cache import Place
from accessgw.stores.sqlite_mqtt_rows import MESSAGE, SESSION, SUBSCRIPTION, WILL

MESSAGE_COLUMNS = MESSAGE.split(", ")


def _updates(columns: Sequence[str]) -> str:
    return ", ".join(f"{column} = excluded.{column}" for column in columns)


SAVE_SESSION = f"ON CONFLICT (number) DO UPDATE SET {_updates(SESSION.split(', '))}"
SAVE_SUBSCRIPTION = f"ON CONFLICT (session, filter) DO UPDATE SET {_updates(SUBSCRIPTION.split(', ')[1:])}"
SAVE_WILL = f"ON CONFLICT (client) DO UPDATE SET {_updates(WILL.split(', '))}"
SAVE_RETAINED = f"ON CONFLICT (topic) DO UPDATE SET {_updates(MESSAGE_COLUMNS[1:])}"


class Plan:
    """Filled in the order of the commands; `write` carries it out, once.

    A session that ends and begins anew has another number, and numbers of rows are never used twice, so
    the steps of `write` may go table by table: inserts first, then changes, then what goes.
    """

    __slots__ = (
        "assigned", "bodies", "ended", "gone", "loose", "queued", "received", "recs", "retained", "sessions",
        "shared", "subscriptions", "wills",
    )  # fmt: skip

    def __init__(self) -> None:
        self.sessions: dict[int, rows.Row] = {}
        """By number: rows of mqtt_session."""
        self.ended: list[int] = []
        self.subscriptions: dict[tuple[int, str], rows.Row | None] = {}
        """By (session, filter); None: it goes."""
        self.received: dict[tuple[int, int], bool] = {}
        """By (session, packet id): whether it stays."""
        self.wills: dict[str, rows.Row | None] = {}
        self.retained: dict[str, rows.Row | None] = {}
        self.bodies: list[rows.Row] = []
        self.queued: list[rows.Row] = []
        self.assigned: dict[Place, int] = {}
        """Packet ids."""
        self.recs: list[Place] = []
        """Rows that forget their message."""
        self.gone: list[Place] = []
        self.loose: list[int] = []
        """Messages whose only row went."""
        self.shared: list[int] = []
        """Messages of which one row of several went."""

    def write(self, connection: sqlite3.Connection) -> None:
        """Inside the open transaction."""
        self._write_sessions(connection)
        self._write_settled(connection)
        self._write_queues(connection)
        if self.ended:
            self._end(connection)

    def _write_sessions(self, connection: sqlite3.Connection) -> None:
        rows.execute(
            connection,
            "number",
            [(number,) for number in self.ended],
            "DELETE FROM mqtt_session WHERE number IN (SELECT number FROM wanted)",
        )
        rows.insert(connection, f"mqtt_session (number, client, {SESSION})", list(self.sessions.values()), SAVE_SESSION)
        rows.insert(
            connection,
            f"mqtt_subscription (session, {SUBSCRIPTION})",
            [row for row in self.subscriptions.values() if row is not None],
            SAVE_SUBSCRIPTION,
        )
        rows.execute(
            connection,
            "session, filter",
            [key for key, row in self.subscriptions.items() if row is None],
            "DELETE FROM mqtt_subscription WHERE (session, filter) IN (SELECT session, filter FROM wanted)",
        )
        rows.insert(
            connection,
            "mqtt_received (session, packet_id)",
            [key for key, stays in self.received.items() if stays],
            "ON CONFLICT DO NOTHING",
        )
        rows.execute(
            connection,
            "session, packet_id",
            [key for key, stays in self.received.items() if not stays],
            "DELETE FROM mqtt_received WHERE (session, packet_id) IN (SELECT session, packet_id FROM wanted)",
        )

    def _write_settled(self, connection: sqlite3.Connection) -> None:
        rows.insert(
            connection,
            f"mqtt_will (client, {WILL})",
            [(client, *row) for client, row in self.wills.items() if row is not None],
            SAVE_WILL,
        )
        rows.execute(
            connection,
            "client",
            [(client,) for client, row in self.wills.items() if row is None],
            "DELETE FROM mqtt_will WHERE client IN (SELECT client FROM wanted)",
        )
        rows.insert(
            connection,
            f"mqtt_retained ({MESSAGE})",
            [row for row in self.retained.values() if row is not None],
            SAVE_RETAINED,
        )
        rows.execute(
            connection,
            "topic",
            [(topic,) for topic, row in self.retained.items() if row is None],
            "DELETE FROM mqtt_retained WHERE topic IN (SELECT topic FROM wanted)",
        )

    def _write_queues(self, connection: sqlite3.Connection) -> None:
        rows.insert(connection, f"mqtt_message (number, {MESSAGE})", self.bodies)
        rows.insert(
            connection,
            "mqtt_queue (session, number, message, shared, qos, packet_id, retain, identifiers, size, expires_at)",
            self.queued,
        )
        rows.execute(
            connection,
            "session, number, packet_id",
            [(*place, packet_id) for place, packet_id in self.assigned.items()],
            "UPDATE mqtt_queue SET packet_id = wanted.packet_id FROM wanted "
            "WHERE mqtt_queue.session = wanted.session AND mqtt_queue.number = wanted.number",
        )
        rows.execute(
            connection,
            "session, number",
            self.recs,
            "UPDATE mqtt_queue SET message = NULL, shared = 0 "
            "WHERE (session, number) IN (SELECT session, number FROM wanted)",
        )
        rows.execute(
            connection,
            "session, number",
            self.gone,
            "DELETE FROM mqtt_queue WHERE (session, number) IN (SELECT session, number FROM wanted)",
        )
        if self.loose:
            connection.execute(
                "DELETE FROM mqtt_message WHERE number IN (SELECT value FROM json_each(?))", (json.dumps(self.loose),)
            )
        _remove_unshared(connection, self.shared)

    def _end(self, connection: sqlite3.Connection) -> None:
        ended = [(number,) for number in self.ended]
        for table in ("mqtt_subscription", "mqtt_received"):
            rows.execute(
                connection, "session", ended, f"DELETE FROM {table} WHERE session IN (SELECT session FROM wanted)"
            )
        rows.execute(
            connection,
            "session",
            ended,
            "DELETE FROM mqtt_message WHERE number IN "
            "(SELECT message FROM wanted CROSS JOIN mqtt_queue USING (session) WHERE shared = 0)",
        )
        shared = rows.select(
            connection, "session", ended, "message", "wanted CROSS JOIN mqtt_queue USING (session) WHERE shared = 1"
        )
        rows.execute(
            connection, "session", ended, "DELETE FROM mqtt_queue WHERE session IN (SELECT session FROM wanted)"
        )
        _remove_unshared(connection, [number for (number,) in shared])


def _remove_unshared(connection: sqlite3.Connection, messages: Sequence[int]) -> None:
    if messages:
        connection.execute(
            "DELETE FROM mqtt_message WHERE number IN (SELECT value FROM json_each(?)) AND NOT EXISTS "
            "(SELECT 1 FROM mqtt_queue WHERE mqtt_queue.message = mqtt_message.number AND mqtt_queue.shared = 1)",
            (json.dumps(messages),),
        )
