"""MQTT's messages, sessions and wills as rows and back, and the questions that are asked of the tables."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Sequence
from typing import Any

from accessgw.core.interfaces.mqtt_state import (
    NEVER,
    Message,
    MqttState,
    QueuedMessage,
    StoredSession,
    StoredSubscription,
    StoredWill,
)
from accessgw.stores import sqlite_rows as rows
from accessgw.stores.mqtt_rules import SWEEP
from accessgw.stores.rules import LARGEST
from protocols.mqtt.packets import NO_PROPERTIES, Properties, SubscriptionRequest, Will
from protocols.mqtt.properties import decode_properties, encode_properties

MESSAGE = "topic, payload, qos, retain, properties, at, expires_at, publisher"
"""Columns of a message, in mqtt_message and in mqtt_retained."""
WILL = "topic, payload, qos, retain, properties, delay, due_at"
SUBSCRIPTION = "filter, qos, no_local, as_published, handling, identifier"
SESSION = "user, version, expiry, disconnected_at"

QUEUED = (
    "queued.number, queued.qos, queued.packet_id, queued.retain, queued.identifiers, mqtt_message.topic, "
    "hex(mqtt_message.payload), mqtt_message.qos, mqtt_message.retain, hex(mqtt_message.properties), mqtt_message.at, "
    "mqtt_message.expires_at, mqtt_message.publisher"
)
"""What `_queued` reads. Blobs travel in hex, since JSON holds no bytes; of a NULL that is an empty string."""


def message_row(message: Message) -> rows.Row:
    """Columns MESSAGE."""
    return (
        message.topic, message.payload, message.qos, int(message.retain), _blob(message.properties),
        rows.micros(message.at), _micros(message.expires_at), message.publisher,
    )  # fmt: skip


def session_row(session: StoredSession) -> rows.Row:
    """Columns SESSION."""
    expiry = None if math.isinf(session.expiry) else rows.micros(session.expiry)
    return (session.user, session.version, expiry, _micros(session.disconnected_at))


def subscription_row(subscription: StoredSubscription) -> rows.Row:
    """Columns SUBSCRIPTION."""
    request = subscription.request
    return (
        request.filter, request.qos, int(request.no_local), int(request.retain_as_published), request.retain_handling,
        subscription.identifier,
    )  # fmt: skip


def will_row(stored: StoredWill) -> rows.Row:
    """Columns WILL."""
    will = stored.will
    return (
        will.topic, will.payload, will.qos, int(will.retain), _blob(will.properties), rows.micros(stored.delay),
        _micros(stored.due_at),
    )  # fmt: skip


def identifiers_text(identifiers: Sequence[int]) -> str | None:
    """Subscription identifiers as a queue's row holds them."""
    return json.dumps(identifiers) if identifiers else None


def _micros(seconds: float | None) -> int | None:
    return None if seconds is None else rows.micros(seconds)


def _seconds(micros: int | None) -> float | None:
    return None if micros is None else rows.seconds(micros)


def _blob(properties: Properties) -> bytes | None:
    return encode_properties(properties) if properties else None


def _properties(blob: bytes | None) -> Properties:
    return decode_properties(blob) if blob else NO_PROPERTIES


def _message(row: Sequence[Any]) -> Message:
    topic, payload, qos, retain, properties, at, expires_at, publisher = row
    return Message(
        topic, payload, qos, bool(retain), _properties(properties), rows.seconds(at), _seconds(expires_at), publisher
    )


def _queued(row: list[Any]) -> QueuedMessage:
    number, qos, packet_id, retain, identifiers, topic, payload, *rest = row
    received = topic is None
    if received:
        message = Message("", b"")
    else:
        rest[2] = bytes.fromhex(rest[2])
        message = _message((topic, bytes.fromhex(payload), *rest))
    numbers = tuple(json.loads(identifiers)) if identifiers else ()
    return QueuedMessage(number, message, qos, packet_id, bool(retain), numbers, received)


# ------------------------------------------------------------ at the start


def load(connection: sqlite3.Connection, now: int) -> tuple[MqttState, int]:
    """All that is stored, and the highest number of any queue. A query for each table, none for each session."""
    by_number: dict[int, StoredSession] = {}
    for number, client, user, version, expiry, disconnected_at in connection.execute(
        f"SELECT number, client, {SESSION} FROM mqtt_session ORDER BY number"
    ):
        lasts = NEVER if expiry is None else rows.seconds(expiry)
        by_number[number] = StoredSession(client, user, version, lasts, _seconds(disconnected_at))
    for number, filter, qos, no_local, as_published, handling, identifier in connection.execute(
        f"SELECT session, {SUBSCRIPTION} FROM mqtt_subscription ORDER BY session, filter"
    ):
        request = SubscriptionRequest(filter, qos, bool(no_local), bool(as_published), handling)
        by_number[number].subscriptions.append(StoredSubscription(request, identifier))
    for number, packet_id in connection.execute(
        "SELECT session, packet_id FROM mqtt_received ORDER BY session, packet_id"
    ):
        by_number[number].received.append(packet_id)
    highest = 0
    for number, waiting, last in connection.execute(
        "SELECT session, sum(packet_id = 0), max(number) FROM mqtt_queue GROUP BY session"
    ):
        by_number[number].queued = waiting
        highest = max(highest, last)
    wills = {
        client: StoredWill(
            Will(topic, payload, qos, bool(retain), _properties(properties)), rows.seconds(delay), _seconds(due_at)
        )
        for client, topic, payload, qos, retain, properties, delay, due_at in connection.execute(
            f"SELECT client, {WILL} FROM mqtt_will ORDER BY number"
        )
    }
    retained = connection.execute(
        f"SELECT {MESSAGE} FROM mqtt_retained WHERE expires_at IS NULL OR expires_at > ? ORDER BY number", (now,)
    )
    return MqttState(list(by_number.values()), wills, [_message(row) for row in retained]), highest


# ------------------------------------------------------------ on the reader thread

SESSION_OF = "(SELECT number FROM mqtt_session WHERE client = ?)"


def read_waiting(
    connection: sqlite3.Connection, client: str, after: int, limit: int, *, max_bytes: int, now: int
) -> tuple[list[QueuedMessage], tuple[int, ...]]:
    """Messages without a packet id and with a number > after, and the numbers of expired ones among them."""
    found = rows.query(
        connection,
        f"queued.reached, {QUEUED}",
        # the bodies of those that do not fit are not looked up
        "(SELECT * FROM (SELECT *, sum(size) OVER (ORDER BY number ROWS UNBOUNDED PRECEDING) AS total, "
        "row_number() OVER (ORDER BY number) AS place, count(*) OVER () AS reached FROM (SELECT * FROM mqtt_queue WHERE session = "
        f"{SESSION_OF} AND number > ? AND packet_id = 0 AND (expires_at IS NULL OR expires_at > ?) "
        "ORDER BY number LIMIT ?)) WHERE total <= ? OR place = 1) AS queued "
        "CROSS JOIN mqtt_message ON mqtt_message.number = queued.message",
        (client, after, now, limit, max_bytes),
    )
    messages = [_queued(row) for _, *row in found]
    messages.sort(key=_place)
    at_end = not found or (len(found) == found[0][0] and len(found) < limit)
    last = LARGEST if at_end else messages[-1].number
    expired = rows.query(
        connection,
        "number",
        f"(SELECT number FROM mqtt_queue WHERE session = {SESSION_OF} AND number > ? AND number < ? "
        "AND packet_id = 0 AND expires_at <= ? LIMIT ?)",
        (client, after, last, now, SWEEP),
    )
    return messages, tuple(number for (number,) in expired)


def read_inflight(connection: sqlite3.Connection, client: str) -> list[QueuedMessage]:
    """Messages with a packet id, in order."""
    found = rows.query(
        connection,
        QUEUED,
        f"(SELECT * FROM mqtt_queue WHERE session = {SESSION_OF} AND packet_id > 0) AS queued "
        "LEFT JOIN mqtt_message ON mqtt_message.number = queued.message",
        (client,),
    )
    return sorted(map(_queued, found), key=_place)


def _place(queued: QueuedMessage) -> int:
    return queued.number
