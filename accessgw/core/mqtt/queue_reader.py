"""Messages come back from the store's queues: what waits, when the window has room; what was in flight, when a client
comes back.

One read at a time per session (`MqttSession.reading`): what is published meanwhile queues behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.interfaces.mqtt import MqttStore
from accessgw.core.interfaces.mqtt_state import QueuedMessage
from accessgw.core.mqtt.publication import Parts, Publication
from accessgw.core.mqtt.session import NUMBER, PUBCOMP, QOS_KINDS, MqttSession, Outlet
from accessgw.model.counters import MqttCounters
from protocols.mmtp.nothing import NOTHING
from protocols.mqtt.reasons import Reason

log = Logger()

READ_BYTES = 256 * 1024
"""Bytes of queued messages asked of the store at a time."""


class Put(Protocol):
    """Sends a message that the store has; False when the client does not take packets of its size."""

    def __call__(
        self, session: MqttSession, outlet: Outlet, parts: Parts, packet_id: int, entry: int, *, dup: bool = False
    ) -> bool: ...


class QueueReader:
    """Reads the queues of sessions that outlive their connections."""

    def __init__(
        self,
        store: MqttStore,
        wall: Callable[[], float],
        counters: MqttCounters,
        *,
        put: Put,
        pull: Callable[[MqttSession], None],
    ) -> None:
        """`pull` is called when a read is over: there may be room for more."""
        self._store = store
        self._wall = wall
        self._counters = counters
        self._put = put
        self._pull = pull

    # ---------------------------------------------------------------- what waits

    def read(self, session: MqttSession, room: int) -> None:
        """Send up to `room` messages that wait, each when its packet id is durable."""
        session.reading = True
        session.behind = False
        self._store.read(session.client_id, session.read_after, room, READ_BYTES).addCallbacks(
            self._have_read, self.failed, (session, session.connection), errbackArgs=(session, session.connection)
        )

    def _have_read(self, rows: list[QueuedMessage], session: MqttSession, connection: int) -> None:
        if session.connection != connection or session.outlet is None:
            return
        if not rows:
            session.reading = False
            if session.uncommitted:
                session.behind = True  # reads see what is durable: these pull when they are
            else:
                self._pull(session)
            return
        session.behind = True
        # Pushes may have taken some of the room meanwhile.
        rows = rows[: max(0, session.window - len(session.inflight))]
        if not rows:
            session.reading = False
            return
        session.read_after = rows[-1].number
        for row in rows:
            row.packet_id = session.allocate(QOS_KINDS[row.qos])
        self._store.assign(session.client_id, [(row.number, row.packet_id) for row in rows]).addCallbacks(
            self._send, self.failed, (session, connection, rows), errbackArgs=(session, connection)
        )

    def _send(self, _: None, session: MqttSession, connection: int, rows: Iterable[QueuedMessage]) -> None:
        """Their packet ids are durable."""
        outlet = session.outlet
        if session.connection != connection or outlet is None:
            return
        now = self._wall()
        for row in rows:
            parts = Publication(row.message, now).parts(session.v5, row.qos, row.retain, row.identifiers)
            if self._put(session, outlet, parts, row.packet_id, row.number << NUMBER | QOS_KINDS[row.qos]):
                self._counters.sent_bytes += len(row.message.payload)
        session.reading = False
        self._pull(session)

    # ---------------------------------------------------------------- what was in flight

    def resume(self, session: MqttSession) -> Deferred[None]:
        """Learn what was in flight on the connection before, for `send_again`; until the Deferred fires, no packet id
        may be given out."""
        session.reading = True
        return self._store.inflight(session.client_id).addCallbacks(
            self._resume, self.failed, (session, session.connection), errbackArgs=(session, session.connection)
        )

    def _resume(self, rows: list[QueuedMessage], session: MqttSession, connection: int) -> None:
        if session.connection != connection or session.outlet is None:
            return
        session.unknown = False
        latest = {row.packet_id: row for row in rows}
        # Ids of what never became durable are free again.
        session.inflight = NOTHING
        resend: deque[QueuedMessage] = deque()
        for row in rows:
            if latest[row.packet_id] is not row:
                # Its id was given to another message: it was acknowledged, and the store could not note that.
                self._store.acknowledged(session.client_id, row.number)
                continue
            session.allocate_as(row.packet_id, PUBCOMP if row.received else QOS_KINDS[row.qos])
            resend.append(row)
        session.resend = resend or None
        session.reading = False
        # Rows may wait beyond those in flight: the store knows.
        session.behind = True
        self._pull(session)

    def send_again(self, session: MqttSession, outlet: Outlet, max_buffer: int) -> None:
        """Under the same packet ids (section 4.4), as far as the window has room and `outlet` holds no more than
        `max_buffer` unsent bytes; `session.resend` is what is left."""
        resend = session.resend
        now = self._wall()
        sent = len(session.pushes) + sum(1 for entry in session.inflight.values() if entry >> NUMBER)
        while resend and sent < session.window and outlet.buffered <= max_buffer:
            row = resend.popleft()
            if row.received:
                sent += 1
                session.inflight[row.packet_id] = row.number << NUMBER | PUBCOMP
                outlet.pubrel(row.packet_id)
                continue
            parts = Publication(row.message, now).parts(session.v5, row.qos, row.retain, row.identifiers)
            entry = row.number << NUMBER | QOS_KINDS[row.qos]
            if self._put(session, outlet, parts, row.packet_id, entry, dup=True):
                sent += 1
                self._counters.sent_bytes += len(row.message.payload)
        if not resend:
            session.resend = None

    # ---------------------------------------------------------------- a store that fails

    def failed(self, failure: Failure, session: MqttSession, connection: int) -> None:
        """The queue cannot be used: the client comes back, and finds all that was stored."""
        log.error("the queue of {client} cannot be read: {error}", client=session.client_id, error=failure.value)
        if session.connection == connection and session.outlet is not None:
            session.outlet.displace(Reason.SERVER_UNAVAILABLE)
