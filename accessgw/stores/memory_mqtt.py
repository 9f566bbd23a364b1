"""The MqttStore in dicts: for tests and trials, with the meaning of the durable one.

All of it runs on the reactor's thread; Deferreds have fired when they are returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from twisted.internet.defer import Deferred, fail, succeed

from accessgw.core.interfaces.mqtt_state import (
    Enqueue,
    Message,
    MqttState,
    QueuedMessage,
    StoredSession,
    StoredSubscription,
    StoredWill,
)
from accessgw.model.counters import MqttCounters
from accessgw.model.mqtt_settings import MqttSettings
from accessgw.stores.mqtt_rules import SWEEP, bad_packet_id, count_dropped, has_expired, size_of


@dataclass(slots=True)
class _Session:
    """One session; `stored` has no subscriptions, received ids and count of its own."""

    stored: StoredSession
    subscriptions: dict[str, StoredSubscription] = field(default_factory=dict)
    received: set[int] = field(default_factory=set)
    queue: dict[int, QueuedMessage] = field(default_factory=dict)
    """By number, which grows."""
    waiting: int = 0
    waiting_bytes: int = 0

    def add(self, entry: QueuedMessage) -> None:
        self.queue[entry.number] = entry
        if not entry.packet_id:
            self._count(entry, 1)

    def remove(self, number: int) -> None:
        entry = self.queue.pop(number, None)
        if entry is not None and not entry.packet_id:
            self._count(entry, -1)

    def assign(self, number: int, packet_id: int) -> None:
        entry = self.queue.get(number)
        if entry is not None:
            if not entry.packet_id:
                self._count(entry, -1)
            entry.packet_id = packet_id

    def in_wait(self) -> Iterator[QueuedMessage]:
        return (entry for entry in self.queue.values() if not entry.packet_id)

    def snapshot(self) -> StoredSession:
        subscriptions = [self.subscriptions[filter] for filter in sorted(self.subscriptions)]
        return replace(self.stored, subscriptions=subscriptions, received=sorted(self.received), queued=self.waiting)

    def _count(self, entry: QueuedMessage, sign: int) -> None:
        self.waiting += sign
        self.waiting_bytes += sign * size_of(entry.message)


class MemoryMqttStore:
    """The MqttStore in memory; see core.interfaces. Counts `dropped_messages["queue_full"]` and `expired`."""

    def __init__(self, settings: MqttSettings, wall: Callable[[], float], counters: MqttCounters | None = None) -> None:
        self._settings = settings
        self._wall = wall
        self._counters = counters or MqttCounters()
        self._sessions: dict[str, _Session] = {}
        self._wills: dict[str, StoredWill] = {}
        self._retained: dict[str, Message] = {}
        self._last_number = 0
        self._bounds: dict[str, tuple[int, int]] = {}

    def bound(self, client_id: str, max_queued: int, max_queued_bytes: int) -> None:
        self._bounds[client_id] = (max_queued, max_queued_bytes)

    def waiting(self, client_id: str) -> int:
        session = self._sessions.get(client_id)
        return 0 if session is None else session.waiting

    @property
    def loaded(self) -> MqttState:
        """What is stored now: a second broker on this store finds what the first one left."""
        now = self._wall()
        return MqttState(
            [session.snapshot() for session in self._sessions.values()],
            {client_id: replace(will) for client_id, will in self._wills.items()},
            [message for message in self._retained.values() if not has_expired(message.expires_at, now)],
        )

    # ------------------------------------------------------------ sessions

    def save_session(self, session: StoredSession) -> Deferred[None]:
        stored = replace(session, subscriptions=[], received=[], queued=0)
        known = self._sessions.get(session.client_id)
        if known is None:
            self._sessions[session.client_id] = _Session(stored)
        else:
            known.stored = stored
        return succeed(None)

    def end_session(self, client_id: str) -> Deferred[None]:
        self._sessions.pop(client_id, None)
        return succeed(None)

    def subscribe(self, client_id: str, subscriptions: Sequence[StoredSubscription]) -> Deferred[None]:
        session = self._sessions.get(client_id)
        if session is not None:
            session.subscriptions.update((each.request.filter, replace(each)) for each in subscriptions)
        return succeed(None)

    def unsubscribe(self, client_id: str, filters: Sequence[str]) -> Deferred[None]:
        session = self._sessions.get(client_id)
        if session is not None:
            for filter in filters:
                session.subscriptions.pop(filter, None)
        return succeed(None)

    def save_will(self, client_id: str, will: StoredWill) -> Deferred[None]:
        self._wills[client_id] = replace(will)
        return succeed(None)

    def forget_will(self, client_id: str) -> None:
        self._wills.pop(client_id, None)

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
        stored = replace(message, identity=None)
        numbers = [self._enqueue(stored, receiver) for receiver in receivers]
        if retained:
            self._retain(stored)
        if received is not None and received[0] in self._sessions:
            self._sessions[received[0]].received.add(received[1])
        if will_of:
            self._wills.pop(will_of, None)
        return succeed(numbers)

    def retain(self, message: Message) -> None:
        self._retain(replace(message, identity=None))

    def _retain(self, message: Message) -> None:
        if message.payload:
            self._retained[message.topic] = message
        else:
            self._retained.pop(message.topic, None)

    def _enqueue(self, message: Message, receiver: Enqueue) -> int:
        session = self._sessions.get(receiver.client_id)
        if session is None:
            return 0
        if not receiver.packet_id and not self._make_room(session, size_of(message)):
            count_dropped(self._counters, 1)
            return 0
        self._last_number += 1
        session.add(
            QueuedMessage(
                self._last_number, message, receiver.qos, receiver.packet_id, receiver.retain, receiver.identifiers
            )
        )
        return self._last_number

    def _make_room(self, session: _Session, size: int) -> bool:
        ours = (self._settings.max_queued, self._settings.max_queued_bytes)
        most, most_bytes = self._bounds.get(session.stored.client_id, ours)
        if size > most_bytes:
            return False
        while session.waiting >= most or session.waiting_bytes + size > most_bytes:
            if self._settings.queue_overflow != "drop_old":
                return False
            session.remove(next(session.in_wait()).number)
            count_dropped(self._counters, 1)
        return True

    def read(self, client_id: str, after: int, limit: int, max_bytes: int) -> Deferred[list[QueuedMessage]]:
        session = self._sessions.get(client_id)
        chosen: list[QueuedMessage] = []
        if session is not None:
            now = self._wall()
            stale: list[int] = []
            for entry in session.in_wait():
                if entry.number <= after:
                    continue
                if has_expired(entry.message.expires_at, now):
                    stale.append(entry.number)
                    continue
                max_bytes -= size_of(entry.message)
                if chosen and max_bytes < 0:
                    # those behind the last that is given are another read's
                    stale = [number for number in stale if number < chosen[-1].number]
                    break
                chosen.append(replace(entry))
                if len(chosen) >= limit:
                    break
            self._expire(session, stale[:SWEEP])
        return succeed(chosen)

    def inflight(self, client_id: str) -> Deferred[list[QueuedMessage]]:
        session = self._sessions.get(client_id)
        queue = session.queue if session is not None else {}
        return succeed([replace(entry) for entry in queue.values() if entry.packet_id])

    def assign(self, client_id: str, packet_ids: Sequence[tuple[int, int]]) -> Deferred[None]:
        bad = bad_packet_id(packet_id for _, packet_id in packet_ids)
        if bad is not None:
            return fail(bad)
        session = self._sessions.get(client_id)
        if session is not None:
            for number, packet_id in packet_ids:
                session.assign(number, packet_id)
        return succeed(None)

    def acknowledged(self, client_id: str, number: int) -> None:
        session = self._sessions.get(client_id)
        if session is not None:
            session.remove(number)

    def pubrec(self, client_id: str, number: int) -> Deferred[None]:
        session = self._sessions.get(client_id)
        entry = session.queue.get(number) if session is not None else None
        if entry is not None and entry.packet_id:
            entry.received = True
            entry.message = Message("", b"")
        return succeed(None)

    def released(self, client_id: str, packet_id: int) -> Deferred[None]:
        session = self._sessions.get(client_id)
        if session is not None:
            session.received.discard(packet_id)
        return succeed(None)

    def sweep(self, now: float) -> Deferred[int]:
        gone = 0
        for session in self._sessions.values():
            gone += self._drop_expired(session, now, SWEEP - gone)
        stale = [topic for topic, message in self._retained.items() if has_expired(message.expires_at, now)][:SWEEP]
        for topic in stale:
            del self._retained[topic]
        return succeed(gone + len(stale))

    def _drop_expired(self, session: _Session, now: float, most: int) -> int:
        stale = [entry.number for entry in session.in_wait() if has_expired(entry.message.expires_at, now)][:most]
        self._expire(session, stale)
        return len(stale)

    def _expire(self, session: _Session, numbers: Sequence[int]) -> None:
        for number in numbers:
            session.remove(number)
        self._counters.expired += len(numbers)
