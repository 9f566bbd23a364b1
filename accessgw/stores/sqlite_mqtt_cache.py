"""What the writer remembers of MQTT sessions and looks up before it plans a batch."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterable, Sequence

from accessgw.model.mqtt_settings import MqttSettings
from accessgw.stores import sqlite_mqtt_commands as commands
from accessgw.stores import sqlite_rows as rows

MAX_CACHED_SESSIONS = 200_000
WINDOW = 32
"""Oldest waiting rows of a full queue that are looked up together."""

OF_A_SESSION = (
    commands.SaveSession,
    commands.EndSession,
    commands.Subscribe,
    commands.Unsubscribe,
    commands.Assign,
    commands.Remove,
    commands.Expire,
    commands.Pubrec,
    commands.Released,
)
"""Commands that need to know whether their session is stored."""

Place = tuple[int, int]
"""Session and number of a row in mqtt_queue."""


class Session:
    """What is remembered of a row of mqtt_session."""

    __slots__ = ("client", "number", "oldest", "waiting", "waiting_bytes")

    def __init__(self, client: str, number: int, waiting: int = 0, waiting_bytes: int = 0) -> None:
        self.client = client
        self.number = number
        self.waiting = waiting
        self.waiting_bytes = waiting_bytes
        self.oldest: deque[Entry] = deque()
        """The first of the waiting rows, as far as they were looked up."""

    def left(self, entry: Entry) -> None:
        """It waits no more."""
        self.waiting -= 1
        self.waiting_bytes -= entry.size
        oldest = self.oldest
        if oldest and entry.number <= oldest[-1].number:
            if entry.number == oldest[0].number:
                oldest.popleft()
            else:
                oldest.clear()


class Entry:
    """A row of mqtt_queue that a batch touches."""

    __slots__ = ("message", "number", "packet_id", "shared", "size")

    def __init__(self, number: int, message: int | None, shared: int, packet_id: int, size: int) -> None:
        self.number = number
        self.message = message
        self.shared = shared
        self.packet_id = packet_id
        self.size = size


class SessionCache:
    """Sessions by client id and by number, and the rows of queues that the batch at hand names."""

    def __init__(self, settings: MqttSettings) -> None:
        self._bounds = (settings.max_queued, settings.max_queued_bytes)
        self.own_bounds: dict[str, tuple[int, int]] = {}
        """Of sessions with bounds of their own, by client id. Written on the reactor's thread, whole entries."""
        self._drop_old = settings.queue_overflow == "drop_old"
        self.unremembered: dict[str, int] = {}
        """How many messages wait for stored sessions that are not in `sessions`, by client id; only where some do."""
        self._by_number: dict[int, Session] = {}
        self.sessions: dict[str, Session] = {}
        """By client id."""
        self.entries: dict[Place, Entry | None] = {}
        """None: it is gone."""
        self.get = self.sessions.get

    def bounds(self, client: str) -> tuple[int, int]:
        """Messages and bytes that may wait for it."""
        return self.own_bounds.get(client, self._bounds)

    def waiting(self, client: str) -> int:
        """About how many messages wait for it. Runs on the reactor's thread."""
        # asked first, since `add` writes it last: a session that comes in meanwhile is found in one of them
        unremembered = self.unremembered.get(client, 0)
        session = self.get(client)
        return unremembered if session is None else session.waiting

    def clear(self) -> None:
        """Forget everything but what reports ask for."""
        self.unremembered.update((each.client, each.waiting) for each in self.sessions.values() if each.waiting)
        self.sessions.clear()
        self._by_number.clear()
        self.entries.clear()

    def load(self, connection: sqlite3.Connection, batch: Sequence[commands.Command]) -> None:
        """Look up what the batch will ask for, before anything of it is written."""
        if len(self.sessions) > MAX_CACHED_SESSIONS:
            self.clear()
        self._load_sessions(connection, batch)
        self._load_entries(connection, batch)
        if self._drop_old:
            self._foresee_drops(connection, batch)

    def add(self, session: Session) -> Session:
        """Remember it."""
        self.sessions[session.client] = self._by_number[session.number] = session
        self.unremembered.pop(session.client, None)
        return session

    def remove(self, client: str) -> Session | None:
        """Forget it, as it ends."""
        session = self.sessions.pop(client, None)
        if session is not None:
            del self._by_number[session.number]
        return session

    def expired(self, number: int, client: str, entry: Entry) -> None:
        """A waiting row of any session, remembered or not, was swept away."""
        session = self._by_number.get(number)
        if session is not None:
            session.left(entry)
        elif self.unremembered.get(client, 0) > 1:
            self.unremembered[client] -= 1
        else:
            self.unremembered.pop(client, None)

    def find(self, client: str, number: int) -> tuple[Session, Entry] | None:
        """A row that the batch named, while it exists."""
        session = self.sessions.get(client)
        entry = None if session is None else self.entries.get((session.number, number))
        return None if session is None or entry is None else (session, entry)

    def _load_sessions(self, connection: sqlite3.Connection, batch: Sequence[commands.Command]) -> None:
        known = self.sessions
        missing: dict[str, None] = {}
        for command in batch:
            if isinstance(command, commands.Publish):
                for receiver in command.receivers:
                    if receiver.client not in known:
                        missing[receiver.client] = None
                if command.received is not None and command.received[0] not in known:
                    missing[command.received[0]] = None
            elif isinstance(command, OF_A_SESSION) and command.client not in known:
                missing[command.client] = None
        clients = list(missing)
        found = rows.select(
            connection,
            "position, client",
            list(enumerate(clients)),
            "position, found, waiting, bytes",
            "(SELECT position, mqtt_session.number AS found, count(mqtt_queue.number) AS waiting, "
            "coalesce(sum(size), 0) AS bytes FROM wanted CROSS JOIN mqtt_session USING (client) "
            "LEFT JOIN mqtt_queue ON mqtt_queue.session = mqtt_session.number AND mqtt_queue.packet_id = 0 "
            "GROUP BY position)",
        )
        for position, number, waiting, waiting_bytes in found:
            self.add(Session(clients[position], number, waiting, waiting_bytes))

    def _load_entries(self, connection: sqlite3.Connection, batch: Sequence[commands.Command]) -> None:
        places: dict[Place, None] = {}
        for command in batch:
            numbers: Iterable[int]
            if isinstance(command, commands.Remove | commands.Pubrec):
                numbers = (command.number,)
            elif isinstance(command, commands.Assign):
                numbers = [number for number, _ in command.packet_ids]
            elif isinstance(command, commands.Expire):
                numbers = command.numbers
            else:
                continue
            session = self.sessions.get(command.client)
            if session is not None:
                for number in numbers:
                    places[session.number, number] = None
        found = rows.select(
            connection,
            "session, number",
            list(places),
            "session, number, message, shared, packet_id, size",
            "wanted CROSS JOIN mqtt_queue USING (session, number)",
        )
        for session_number, *row in found:
            self.entries[session_number, row[0]] = Entry(*row)

    def _foresee_drops(self, connection: sqlite3.Connection, batch: Sequence[commands.Command]) -> None:
        """Look up together what will have to make room, as far as that can be told beforehand."""
        asked: dict[str, list[int]] = {}
        for command in batch:
            if isinstance(command, commands.Publish):
                for receiver in command.receivers:
                    if not receiver.packet_id:
                        total = asked.setdefault(receiver.client, [0, 0])
                        total[0] += 1
                        total[1] += command.size
        wanting = []
        for client, (count, size) in asked.items():
            session = self.sessions.get(client)
            if session is None or not session.waiting or session.oldest:
                continue
            most, most_bytes = self.bounds(client)
            if session.waiting + count > most or session.waiting_bytes + size > most_bytes:
                wanting.append(session)
        self.look_up_oldest(connection, wanting)

    def look_up_oldest(self, connection: sqlite3.Connection, sessions: Sequence[Session]) -> None:
        """Fill `oldest` of sessions of which nothing is planned that is not written."""
        found = rows.select(
            connection,
            "session",
            [(session.number,) for session in sessions],
            "session, json((SELECT json_group_array(json_array(number, message, shared, 0, size)) FROM (SELECT * FROM "
            f"mqtt_queue WHERE mqtt_queue.session = wanted.session AND packet_id = 0 ORDER BY number LIMIT {WINDOW})))",
            "wanted",
        )
        for number, oldest in found:
            self._by_number[number].oldest = deque(Entry(*row) for row in sorted(oldest))
