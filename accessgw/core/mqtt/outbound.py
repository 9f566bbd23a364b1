"""Messages on their way to clients: the window of each, what waits for it, and acknowledgements.

A session that ends with its connection keeps what waits in memory. One that outlives it has a queue in
the store: every message of QoS 1 and 2 is a row there before it is sent, with its packet id when there
was room in the window. Rows without one are read again when there is (queue_reader); nothing but packet
ids is held in memory, for connected and absent clients alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from twisted.internet.defer import Deferred

from accessgw.core.interfaces.clock import Clock
from accessgw.core.interfaces.mqtt import MqttStore
from accessgw.core.interfaces.mqtt_state import Enqueue
from accessgw.core.mqtt.publication import PACKET_IDS, Parts, Publication
from accessgw.core.mqtt.queue_reader import QueueReader
from accessgw.core.mqtt.session import (
    KIND,
    NUMBER,
    PUBACK,
    PUBCOMP,
    PUBREC,
    QOS_KINDS,
    MqttSession,
    Outlet,
    Waiting,
)
from accessgw.model.counters import MqttCounters
from accessgw.model.mqtt_settings import MqttSettings
from protocols.mqtt.encoding import mark_dup
from protocols.mqtt.reasons import FAILURE, Reason


class Outbound:
    """Sends messages to sessions, and takes their acknowledgements."""

    def __init__(
        self,
        settings: MqttSettings,
        store: MqttStore,
        clock: Clock,
        wall: Callable[[], float],
        counters: MqttCounters,
    ) -> None:
        self.settings = settings
        self._store = store
        self._clock = clock
        self._wall = wall
        self._counters = counters
        self._reader = QueueReader(store, wall, counters, put=self._put_stored, pull=self.pull)
        self.max_buffer = 256 * 1024
        """Unsent bytes of a connection past which its window counts as full."""
        self.feed: Callable[[MqttSession], None] = lambda session: None
        """Called when a session with retained messages to come has room; set by whoever feeds them."""

    # ---------------------------------------------------------------- one receiver

    def send(
        self, pub: Publication, session: MqttSession, qos: int, retain: bool, identifiers: tuple[int, ...]
    ) -> None:
        """Send it now, or see to it that it is sent when there is room. `qos` is what this receiver gets."""
        if not qos:
            self._send_at_most_once(pub, session, retain, identifiers)
        elif session.durable:
            self._enqueue(pub, session, qos, retain, identifiers)
        elif session.outlet is not None:
            if (
                session.parked is None
                and len(session.inflight) < session.window
                and session.outlet.buffered <= self.max_buffer
            ):
                pub.reached += 1
                parts = pub.parts_for(session, qos, retain, identifiers)
                if self._put(session, session.outlet, parts, QOS_KINDS[qos]):
                    self._counters.sent_bytes += len(pub.message.payload)
            else:
                self._park(pub, session, Waiting(pub.message, qos, retain, identifiers))

    def _send_at_most_once(
        self, pub: Publication, session: MqttSession, retain: bool, identifiers: tuple[int, ...]
    ) -> None:
        outlet = session.outlet
        if outlet is None or not session.window:
            return
        if outlet.buffered > self.settings.max_qos0_buffer:
            self._counters.drop("slow_reader")
            return
        frame = pub.parts_for(session, 0, retain, identifiers)[0]
        if session.max_packet and len(frame) > session.max_packet:
            self._too_large(session)
            return
        pub.reached += 1
        self._counters.sent_qos0 += 1
        self._counters.sent_bytes += len(pub.message.payload)
        outlet.put(frame)

    def _put(self, session: MqttSession, outlet: Outlet, parts: Parts, entry: int) -> bool:
        """Send under a new packet id. False when the client does not take packets of this size."""
        head, tail = parts
        if session.max_packet and len(head) + 2 + len(tail) > session.max_packet:
            self._too_large(session)
            return False
        if entry & KIND == PUBACK:
            self._counters.sent_qos1 += 1
        else:
            self._counters.sent_qos2 += 1
        outlet.put(head + PACKET_IDS[session.allocate(entry)] + tail)
        return True

    def _too_large(self, session: MqttSession) -> None:
        """As if it had been sent (section 3.1.2.11.4). An alias that would have come with it is not known there."""
        self._counters.drop("too_large")
        if session.aliases:
            session.aliases.clear()

    def _park(self, pub: Publication, session: MqttSession, waiting: Waiting) -> None:
        """Keep it until the window has room, within bounds."""
        settings = self.settings
        parked = session.parked
        if parked is None:
            parked = session.parked = deque()
        size = waiting.message.size
        if size > settings.max_queued_bytes:
            # It would drive out all others, and still not fit.
            self._counters.drop("queue_full")
            session.parked = parked or None
            return
        while parked and (
            len(parked) >= settings.max_queued or session.parked_bytes + size > settings.max_queued_bytes
        ):
            if settings.queue_overflow == "disconnect":
                self._counters.drop("queue_full")
                self._overflown(session)
                return
            self._counters.drop("queue_full")
            if settings.queue_overflow == "drop_new":
                return
            session.parked_bytes -= parked.popleft().message.size
        parked.append(waiting)
        session.parked_bytes += size
        pub.reached += 1

    def _overflown(self, session: MqttSession) -> None:
        """In a later turn: whoever delivers now is not to lose receivers under its hands."""
        self._clock.callLater(0, self._displace, session, session.connection)

    def _displace(self, session: MqttSession, connection: int) -> None:
        if session.connection == connection and session.outlet is not None:
            session.outlet.displace(Reason.QUOTA_EXCEEDED)

    def _enqueue(
        self, pub: Publication, session: MqttSession, qos: int, retain: bool, identifiers: tuple[int, ...]
    ) -> None:
        """A row in the store, with a packet id when it can be sent as soon as it is durable."""
        pub.reached += 1
        packet_id = 0
        parts: Parts | None = None
        if (
            session.outlet is not None
            and not (session.behind or session.reading)
            and len(session.inflight) < session.window
            and session.outlet.buffered <= self.max_buffer
        ):
            packet_id = session.allocate(QOS_KINDS[qos])
            parts = pub.parts(session.v5, qos, retain, identifiers)
        else:
            session.behind = True
            session.uncommitted += 1
        if pub.enqueues is None:
            pub.enqueues = []
        pub.enqueues.append(Enqueue(session.client_id, qos, packet_id, retain, identifiers))
        pub.targets.append((session, parts, session.connection))

    def refresh(self, pub: Publication, sessions: Mapping[str, object]) -> None:
        """Turns have passed since the receivers were found, and only now the message goes to the store: sessions that
        have ended meanwhile are left out, and where another connection has begun it waits."""
        targets, pub.targets = pub.targets, []
        enqueues, pub.enqueues = pub.enqueues, None
        for (session, parts, connection), enqueue in zip(targets, enqueues or (), strict=True):
            if sessions.get(session.client_id) is not session:
                continue
            stale = enqueue.packet_id and session.connection != connection
            if stale:
                enqueue.packet_id = 0
                session.behind = True
                session.uncommitted += 1
            pub.targets.append((session, None if stale else parts, connection))
            if pub.enqueues is None:
                pub.enqueues = []
            pub.enqueues.append(enqueue)

    # ---------------------------------------------------------------- what the store says

    def stored(self, pub: Publication, numbers: Sequence[int]) -> None:
        """The message is durable under these numbers: send it to those who have room."""
        assert pub.enqueues is not None
        for (session, parts, connection), enqueue, number in zip(pub.targets, pub.enqueues, numbers, strict=True):
            packet_id = enqueue.packet_id
            if not packet_id:
                session.uncommitted -= 1
                if number:
                    session.behind = True
                    self.pull(session)
                elif self.settings.queue_overflow == "disconnect":
                    self._overflown(session)
                continue
            outlet = session.outlet
            if session.connection != connection or outlet is None or parts is None:
                continue  # the store is asked what was in flight when the client comes back: see resume
            entry = session.inflight[packet_id]
            if not number:
                del session.inflight[packet_id]
                self.pull(session)
            elif self._put_stored(session, outlet, parts, packet_id, number << NUMBER | entry):
                self._counters.sent_bytes += len(pub.message.payload)
            else:
                self.pull(session)

    def not_stored(self, pub: Publication) -> None:
        """The store refused: nobody has it in its queue."""
        sessions: list[MqttSession] = []
        for (session, _, connection), enqueue in zip(pub.targets, pub.enqueues or (), strict=True):
            if not enqueue.packet_id:
                session.uncommitted -= 1
            elif session.connection == connection:
                session.inflight.pop(enqueue.packet_id, None)
            sessions.append(session)
        if sessions:
            # In a later turn: what waits next may be refused as well.
            self._clock.callLater(0, self._pull_all, sessions)

    def _pull_all(self, sessions: list[MqttSession]) -> None:
        for session in sessions:
            self.pull(session)

    def _put_stored(
        self, session: MqttSession, outlet: Outlet, parts: Parts, packet_id: int, entry: int, *, dup: bool = False
    ) -> bool:
        """False when the client does not take packets of this size: it needs the message no more."""
        head, tail = parts
        if session.max_packet and len(head) + 2 + len(tail) > session.max_packet:
            self._too_large(session)
            session.inflight.pop(packet_id, None)
            self._store.acknowledged(session.client_id, entry >> NUMBER)
            return False
        session.inflight[packet_id] = entry
        frame = head + PACKET_IDS[packet_id] + tail
        if entry & KIND == PUBACK:
            self._counters.sent_qos1 += 1
        else:
            self._counters.sent_qos2 += 1
        self._counters.redelivered += dup
        outlet.put(mark_dup(frame) if dup else frame)
        return True

    # ---------------------------------------------------------------- room in the window

    def pull(self, session: MqttSession) -> None:
        """There may be room: send what waits."""
        outlet = session.outlet
        if outlet is None or session.reading:
            return
        if session.resend:
            self._reader.send_again(session, outlet, self.max_buffer)
            if session.resend:
                return
        if session.parked:
            self._unpark(session, outlet)
        if outlet.buffered > self.max_buffer:
            return
        room = session.window - len(session.inflight)
        # Not for every acknowledgement: reading costs more than a row.
        if session.behind and room > 0 and (room * 2 >= session.window or not session.inflight):
            self._reader.read(session, room)
        elif session.feed is not None and room > 0:
            self.feed(session)

    def _unpark(self, session: MqttSession, outlet: Outlet) -> None:
        parked = session.parked
        now = self._wall()
        while parked and len(session.inflight) < session.window and outlet.buffered <= self.max_buffer:
            message, qos, retain, identifiers = parked.popleft()
            session.parked_bytes -= message.size
            if message.expires_at is not None and message.expires_at <= now:
                self._counters.expired += 1
                continue
            parts = Publication(message, now).parts_for(session, qos, retain, identifiers)
            if self._put(session, outlet, parts, QOS_KINDS[qos]):
                self._counters.sent_bytes += len(message.payload)
        if not parked:
            session.parked = None

    # ---------------------------------------------------------------- a client that comes back

    def resume(self, session: MqttSession) -> Deferred[None] | None:
        """Its session goes on: first what was in flight, under the same packet ids (section 4.4).

        A Deferred when they are not known yet: until it fires, no packet id may be given out.
        """
        if not session.durable:
            return None
        if not session.inflight and not session.unknown:
            self.pull(session)
            return None
        return self._reader.resume(session)

    # ---------------------------------------------------------------- acknowledgements

    def puback(self, session: MqttSession, packet_id: int) -> None:
        """QoS 1 has arrived (or was refused: it is not sent again either way, section 4.4)."""
        entry = session.inflight.get(packet_id, 0)
        if entry & KIND != PUBACK:
            return
        self._finish(session, packet_id, entry)

    def pubrec(self, session: MqttSession, packet_id: int, reason: int) -> None:
        """QoS 2 has arrived, or was refused (section 4.3.3)."""
        entry = session.inflight.get(packet_id, 0)
        kind = entry & KIND
        outlet = session.outlet
        if kind not in (PUBREC, PUBCOMP) or (session.durable and not entry >> NUMBER):
            if outlet is not None and reason < FAILURE:
                outlet.pubrel(packet_id, Reason.PACKET_ID_NOT_FOUND)
            return
        if reason >= FAILURE:
            self._finish(session, packet_id, entry)
            return
        if kind == PUBCOMP:
            if outlet is not None:
                outlet.pubrel(packet_id)
            return
        session.inflight[packet_id] = entry >> NUMBER << NUMBER | PUBCOMP
        if not session.durable:
            if outlet is not None:
                outlet.pubrel(packet_id)
            return
        # The client may forget the message at PUBREL: it must not be sent again after that.
        noted: Deferred[None] = self._store.pubrec(session.client_id, entry >> NUMBER)
        noted.addCallbacks(
            self._pubrec_noted,
            self._reader.failed,
            (session, session.connection, packet_id),
            errbackArgs=(session, session.connection),
        )

    def _pubrec_noted(self, _: None, session: MqttSession, connection: int, packet_id: int) -> None:
        if session.connection == connection and session.outlet is not None:
            session.outlet.pubrel(packet_id)

    def pubcomp(self, session: MqttSession, packet_id: int) -> None:
        """QoS 2 is complete."""
        entry = session.inflight.get(packet_id, 0)
        if entry & KIND == PUBCOMP:
            self._finish(session, packet_id, entry)

    def _finish(self, session: MqttSession, packet_id: int, entry: int) -> None:
        if session.durable:
            if not entry >> NUMBER:
                return  # it was not sent on this connection: the client makes it up
            self._store.acknowledged(session.client_id, entry >> NUMBER)
        self._counters.acknowledged += 1
        del session.inflight[packet_id]
        if session.behind or session.parked or session.resend or session.feed is not None:
            self.pull(session)
