"""The MQTT store's commands on the writer thread: who gets a place, what makes room, in the order of the calls.

A batch is planned in Python (sqlite_mqtt_plan) from what sqlite_mqtt_cache knows, and written in bulk for the
reason in docs/adr/0050-rows-of-the-store-travel-in-bulk.md.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from accessgw.model.mqtt_settings import MqttSettings
from accessgw.stores import sqlite_mqtt_commands as commands
from accessgw.stores import sqlite_rows as rows
from accessgw.stores.mqtt_rules import SWEEP
from accessgw.stores.sqlite_mqtt_cache import Entry, Session, SessionCache
from accessgw.stores.sqlite_mqtt_plan import Plan


class MqttTable:
    """Carries out sqlite_mqtt_commands. Runs on the writer thread, but for `start`."""

    def __init__(self, settings: MqttSettings) -> None:
        self._drop_old = settings.queue_overflow == "drop_old"
        self._cache = SessionCache(settings)
        # what was given out is never given again, whatever comes of the transaction
        self._last_session = self._last_message = self._last_number = 0
        self._plan = Plan()
        self._carry_out: dict[type, Callable[[sqlite3.Connection, Any], Any]] = {
            commands.SaveSession: self._save_session,
            commands.EndSession: self._end_session,
            commands.Subscribe: self._subscribe,
            commands.Unsubscribe: self._unsubscribe,
            commands.SaveWill: self._save_will,
            commands.Publish: self._publish,
            commands.Retain: self._retain,
            commands.Assign: self._assign,
            commands.Remove: self._remove,
            commands.Expire: self._expire,
            commands.Pubrec: self._pubrec,
            commands.Released: self._released,
            commands.Barrier: self._nothing,
            commands.Sweep: self._nothing,
        }

    def start(self, connection: sqlite3.Connection, highest: int, waiting: dict[str, int]) -> None:
        """Numbers go on from what is stored; `highest` is that of the queues, `waiting` how many wait, by client id."""
        self._cache.unremembered = waiting
        self._last_number = highest
        newest = "SELECT coalesce(max(number), 0) FROM"
        self._last_session = connection.execute(f"{newest} mqtt_session").fetchone()[0]
        self._last_message = connection.execute(f"{newest} mqtt_message").fetchone()[0]

    def bound(self, client: str, max_queued: int, max_bytes: int) -> None:
        """Runs on the reactor's thread."""
        self._cache.own_bounds[client] = (max_queued, max_bytes)

    def waiting(self, client: str) -> int:
        """Runs on the reactor's thread, for reports."""
        return self._cache.waiting(client)

    def forget(self) -> None:
        self._cache.clear()
        self._plan = Plan()

    def apply(self, connection: sqlite3.Connection, batch: Sequence[commands.Command]) -> list[Any]:
        self._cache.load(connection, batch)
        carry_out = self._carry_out
        results = [carry_out[type(command)](connection, command) for command in batch]
        self._write_plan(connection)
        self._cache.entries.clear()
        # a sweep commutes with all that is not about what it removes
        for index, command in enumerate(batch):
            if isinstance(command, commands.Sweep):
                results[index] = self._sweep(connection, command.now)
        return results

    def _write_plan(self, connection: sqlite3.Connection) -> None:
        plan, self._plan = self._plan, Plan()
        plan.write(connection)

    # ------------------------------------------------------------ sessions

    def _save_session(self, connection: sqlite3.Connection, command: commands.SaveSession) -> None:
        session = self._cache.get(command.client)
        if session is None:
            self._last_session += 1
            session = self._cache.add(Session(command.client, self._last_session))
        self._plan.sessions[session.number] = (session.number, command.client, *command.row)

    def _end_session(self, connection: sqlite3.Connection, command: commands.EndSession) -> None:
        session = self._cache.remove(command.client)
        if session is not None:
            self._plan.sessions.pop(session.number, None)
            self._plan.ended.append(session.number)

    def _subscribe(self, connection: sqlite3.Connection, command: commands.Subscribe) -> None:
        session = self._cache.get(command.client)
        if session is not None:
            for row in command.rows:
                self._plan.subscriptions[session.number, row[0]] = (session.number, *row)

    def _unsubscribe(self, connection: sqlite3.Connection, command: commands.Unsubscribe) -> None:
        session = self._cache.get(command.client)
        if session is not None:
            for filter in command.filters:
                self._plan.subscriptions[session.number, filter] = None

    def _save_will(self, connection: sqlite3.Connection, command: commands.SaveWill) -> None:
        self._plan.wills[command.client] = command.row

    def _released(self, connection: sqlite3.Connection, command: commands.Released) -> None:
        session = self._cache.get(command.client)
        if session is not None:
            self._plan.received[session.number, command.packet_id] = False

    def _nothing(self, connection: sqlite3.Connection, command: commands.Command) -> None: ...

    # ------------------------------------------------------------ messages

    def _publish(self, connection: sqlite3.Connection, command: commands.Publish) -> tuple[list[int], int]:
        size = command.size
        dropped = 0
        numbers: list[int] = []
        self._last_message += 1
        for receiver in command.receivers:
            session = self._cache.get(receiver.client)
            if session is None:
                numbers.append(0)
                continue
            if not receiver.packet_id:
                most, most_bytes = self._cache.bounds(receiver.client)
                if session.waiting >= most or session.waiting_bytes + size > most_bytes:
                    made, enough = self._make_room(connection, session, size)
                    dropped += made
                    if not enough:
                        dropped += 1
                        numbers.append(0)
                        continue
                session.waiting += 1
                session.waiting_bytes += size
            numbers.append(self._place(command, session, receiver))
        # only now: where the same queue is named twice, making room may have written and removed rows of it already
        if any(numbers):
            self._plan.bodies.append((self._last_message, *command.row))
        if command.retained:
            self._retain(connection, command)
        if command.received is not None:
            session = self._cache.get(command.received[0])
            if session is not None:
                self._plan.received[session.number, command.received[1]] = True
        if command.will_of:
            self._plan.wills[command.will_of] = None
        return numbers, dropped

    def _place(self, command: commands.Publish, session: Session, receiver: commands.Receiver) -> int:
        """The number of the receiver's row, of the message that is being published."""
        self._last_number = number = self._last_number + 1
        message, packet_id, shared = self._last_message, receiver.packet_id, int(len(command.receivers) > 1)
        self._plan.queued.append(
            (
                session.number, number, message, shared, receiver.qos, packet_id, int(receiver.retain),
                receiver.identifiers, command.size, command.expires_at,
            )
        )  # fmt: skip
        self._cache.entries[session.number, number] = Entry(number, message, shared, packet_id, command.size)
        return number

    def _make_room(self, connection: sqlite3.Connection, session: Session, size: int) -> tuple[int, bool]:
        """(How many of the oldest went, whether there is room)."""
        most, most_bytes = self._cache.bounds(session.client)
        if size > most_bytes or not self._drop_old:
            return 0, False
        dropped = 0
        while session.waiting >= most or session.waiting_bytes + size > most_bytes:
            if not session.oldest:
                self._write_plan(connection)
                self._cache.look_up_oldest(connection, (session,))
            oldest = session.oldest[0]
            self._take_out(session, self._cache.entries.get((session.number, oldest.number)) or oldest)
            dropped += 1
        return dropped, True

    def _retain(self, connection: sqlite3.Connection, command: commands.Publish | commands.Retain) -> None:
        topic, payload = command.row[:2]
        self._plan.retained[topic] = command.row if payload else None

    def _assign(self, connection: sqlite3.Connection, command: commands.Assign) -> None:
        for number, packet_id in command.packet_ids:
            found = self._cache.find(command.client, number)
            if found is not None:
                session, entry = found
                if not entry.packet_id:
                    session.left(entry)
                entry.packet_id = packet_id
                self._plan.assigned[session.number, number] = packet_id

    def _remove(self, connection: sqlite3.Connection, command: commands.Remove) -> None:
        found = self._cache.find(command.client, command.number)
        if found is not None:
            self._take_out(*found)

    def _expire(self, connection: sqlite3.Connection, command: commands.Expire) -> int:
        gone = 0
        for number in command.numbers:
            found = self._cache.find(command.client, number)
            if found is not None and not found[1].packet_id:
                self._take_out(*found)
                gone += 1
        return gone

    def _pubrec(self, connection: sqlite3.Connection, command: commands.Pubrec) -> None:
        found = self._cache.find(command.client, command.number)
        if found is not None and found[1].packet_id:
            session, entry = found
            self._plan.recs.append((session.number, entry.number))
            self._let_go(entry)
            entry.message = None

    def _take_out(self, session: Session, entry: Entry) -> None:
        place = (session.number, entry.number)
        self._cache.entries[place] = None
        self._plan.gone.append(place)
        self._let_go(entry)
        if not entry.packet_id:
            session.left(entry)

    def _let_go(self, entry: Entry) -> None:
        if entry.message is not None:
            (self._plan.shared if entry.shared else self._plan.loose).append(entry.message)

    # ------------------------------------------------------------ sweep

    def _sweep(self, connection: sqlite3.Connection, now: int) -> tuple[int, int]:
        found = rows.query(
            connection,
            "session, (SELECT client FROM mqtt_session WHERE mqtt_session.number = session), "
            "number, message, shared, packet_id, size",
            "(SELECT * FROM mqtt_queue WHERE expires_at IS NOT NULL AND packet_id = 0 AND expires_at <= ? "
            "ORDER BY expires_at LIMIT ?)",
            (now, SWEEP),
        )
        for number, client, *row in found:
            entry = Entry(*row)
            self._plan.gone.append((number, entry.number))
            self._let_go(entry)
            self._cache.expired(number, client, entry)
        self._write_plan(connection)
        retained = connection.execute(
            "DELETE FROM mqtt_retained WHERE number IN (SELECT number FROM mqtt_retained WHERE expires_at IS NOT NULL "
            "AND expires_at <= ? ORDER BY expires_at LIMIT ?)",
            (now, SWEEP),
        ).rowcount
        return len(found), retained
