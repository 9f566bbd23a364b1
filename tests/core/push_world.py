"""A push service with everything around it faked and in the test's hand: store, bus, links and time."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from accessgw.core.interfaces.stores import AppendOutcome, IdempotencyConflict
from accessgw.core.pushes import Pushes
from accessgw.model.counters import PushCounters
from accessgw.model.identity import ConnectionInfo, Identity
from accessgw.model.pushes import Cursor, PushRequest, Scope, StoredPush, StreamKey, StreamState
from accessgw.model.settings import PushSettings

WALL = 1_700_000_000.0


class Stopwatch(Clock):
    """A Clock whose `advance` runs the turns of the reactor one after the other."""

    def turn(self) -> None:
        """One turn: what is due now, but not what that makes due."""
        due = [call for call in self.getDelayedCalls() if call.getTime() <= self.seconds()]
        for call in due:
            if call.active():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)

    def settle(self) -> None:
        while any(call.getTime() <= self.seconds() for call in self.getDelayedCalls()):
            self.turn()


class FakeTimer:
    def __init__(self, timers: FakeTimers, delay: float, callback: Any) -> None:
        self.timers, self.callback = timers, callback
        self.call = timers.clock.callLater(delay, self.fire)

    def fire(self) -> None:
        self.timers.active.discard(self)
        self.callback()

    def touch(self, delay: float) -> None:
        self.call.reset(delay)

    def bound(self, at: float) -> None: ...

    def cancel(self) -> None:
        self.timers.active.discard(self)
        if self.call.active():
            self.call.cancel()


class FakeTimers:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.active: set[FakeTimer] = set()

    def schedule(self, delay: float, callback: Any) -> FakeTimer:
        timer = FakeTimer(self, delay, callback)
        self.active.add(timer)
        return timer


class FakeStore:
    """Logs in dicts. With `slow`, results wait until `release` lets them go, in any order; what they
    say is what was true at some moment between question and answer."""

    def __init__(self, wall: Any) -> None:
        self.wall = wall
        self.slow = False
        self.early: Random | None = None
        """Of the questions asked while slow it chooses those that are answered at once, though that is heard later."""
        self.broken: Exception | None = None
        self.waiting: list[tuple[Deferred[Any], Any]] = []
        self.logs: dict[StreamKey, list[StoredPush]] = {}
        self.heads: dict[StreamKey, int] = {}
        self.floors: dict[StreamKey, int] = {}
        self.epochs: dict[StreamKey, int] = {}
        self.saved: dict[str, dict[StreamKey, Cursor]] = defaultdict(dict)
        self.topics: dict[str, set[str]] = defaultdict(set)
        self.keys: dict[str, tuple[bytes, AppendOutcome]] = {}
        self.calls: list[str] = []
        self.epoch = 7

    # --- time
    def _answer(self, name: str, question: Any) -> Deferred[Any]:
        self.calls.append(name)
        if self.broken is not None:
            return fail(self.broken)
        if not self.slow:
            return succeed(question())
        if self.early is not None and self.early.getrandbits(1):
            answer = question()
            question = lambda: answer  # noqa: E731  # it stands for the question
        result: Deferred[Any] = Deferred()
        self.waiting.append((result, question))
        return result

    def release(self, random: Random | None = None, count: int = 1) -> None:
        for _ in range(min(count, len(self.waiting))):
            index = random.randrange(len(self.waiting)) if random else 0
            result, question = self.waiting.pop(index)
            result.callback(question())

    # --- StreamStore
    def append(
        self, requests: list[PushRequest], *, now: float, idempotency_key: str = "", digest: bytes = b""
    ) -> Deferred[AppendOutcome]:
        def write() -> AppendOutcome:
            if idempotency_key in self.keys:
                known, outcome = self.keys[idempotency_key]
                if known != digest:
                    raise IdempotencyConflict("other request")
                return AppendOutcome(outcome.places, repeated=True)
            places = []
            for request in requests:
                key = request.stream
                seq = self.heads[key] = self.heads.get(key, 0) + 1
                log = self.logs.setdefault(key, [])
                if request.collapse:
                    log[:] = [push for push in log if push.collapse != request.collapse]
                log.append(
                    StoredPush(
                        seq,
                        request.body,
                        now,
                        None if request.ttl is None else now + request.ttl,
                        request.collapse,
                        request.priority,
                        request.where,
                    )
                )
                places.append((self.epochs.setdefault(key, self.epoch), seq))
            outcome = AppendOutcome(places)
            if idempotency_key:
                self.keys[idempotency_key] = (digest, outcome)
            return outcome

        return self._answer("append", write)

    def state(self, key: StreamKey) -> StreamState:
        return StreamState(key, self.epochs[key], self.heads[key], self.floors.get(key, 0))

    def states(self, keys: list[StreamKey]) -> Deferred[dict[StreamKey, StreamState]]:
        return self._answer("states", lambda: {key: self.state(key) for key in keys if key in self.heads})

    def streams_of(self, scope: str, id: str) -> Deferred[list[StreamState]]:
        return self._answer(
            f"streams_of {scope}", lambda: [self.state(key) for key in self.heads if key[:2] == (scope, id)]
        )

    def read(self, key: StreamKey, after: int, limit: int, max_bytes: int) -> Deferred[list[StoredPush]]:
        def found() -> list[StoredPush]:
            pushes: list[StoredPush] = []
            size = 0
            for push in self.logs.get(key, ()):
                if push.seq <= max(after, self.floors.get(key, 0)):
                    continue
                if push.expires_at is not None and push.expires_at <= self.wall():
                    continue
                size += len(push.body)
                if len(pushes) == limit or (pushes and size > max_bytes):
                    break
                pushes.append(push)
            return pushes

        return self._answer(f"read {key.biz} {after}", found)

    def cursors(self, device: str) -> Deferred[dict[StreamKey, Cursor]]:
        return self._answer("cursors", lambda: dict(self.saved[device]))

    def save_cursors(self, device: str, cursors: list[Cursor]) -> None:
        for cursor in cursors:
            known = self.saved[device].get(cursor.stream)
            if known is None or known.epoch != cursor.epoch or known.seq < cursor.seq:
                self.saved[device][cursor.stream] = cursor

    def subscriptions(self, device: str) -> Deferred[set[str]]:
        return self._answer("subscriptions", lambda: set(self.topics[device]))

    def subscribe(self, device: str, topics: list[str], cursors: list[Cursor] = ()) -> Deferred[None]:  # type: ignore[assignment]
        def write() -> None:
            self.topics[device] |= set(topics)
            self.save_cursors(device, cursors)

        return self._answer("subscribe", write)

    def unsubscribe(self, device: str, topics: list[str]) -> Deferred[None]:
        return self._answer("unsubscribe", lambda: self.topics[device].difference_update(topics))

    # --- what happens to a store
    def truncate(self, key: StreamKey, floor: int) -> None:
        self.floors[key] = floor
        self.logs[key] = [push for push in self.logs[key] if push.seq > floor]

    def lose_history(self, key: StreamKey) -> None:
        self.epochs[key] += 1
        self.heads[key] = 0
        self.floors.pop(key, None)
        self.logs[key] = []


class FakeBus:
    """Delivers at once, unless it loses a message."""

    def __init__(self) -> None:
        self.receivers: list[Any] = []
        self.lose = False
        self.kept: list[bytes] | None = None

    def publish(self, topic: str, message: bytes) -> None:
        if self.kept is not None:
            self.kept.append(message)
        elif not self.lose:
            for receive in list(self.receivers):
                receive(message)

    def subscribe(self, topic: str, receive: Any) -> Any:
        self.receivers.append(receive)
        return lambda: self.receivers.remove(receive)


@dataclass
class Sent:
    stream: StreamKey
    epoch: int
    seq: int
    body: bytes
    gap: int
    ttl: float | None
    priority: int


class FakeLink:
    """Keeps the push window as the wire does, and works out sequence numbers as a device does."""

    def __init__(self, window: int = 64) -> None:
        self.info = ConnectionInfo(0, "test", "tcp", "127.0.0.1")
        self.window = window
        self.buffered = 0
        self.sent: list[Sent] = []
        self.unacked: list[tuple[int, int]] = []
        self.next: dict[int, tuple[StreamKey, int, int]] = {}
        self.introduced: list[tuple[int, StreamKey, int, int]] = []
        self.notes: list[tuple[StreamKey, str, int, int]] = []
        self.closed: tuple[Any, int] | None = None
        self.away: list[int] = []
        self.push_objects: list[Any] = []

    def introduce(self, alias: int, stream: StreamKey, epoch: int, after: int) -> None:
        self.introduced.append((alias, stream, epoch, after))
        self.next[alias] = (stream, epoch, after + 1)

    def send_push(self, push: Any, gap: int) -> bool:
        assert gap >= 0
        if len(self.unacked) >= self.window:
            return False
        stream, epoch, seq = self.next[push.alias]
        assert (stream, epoch, seq + gap) == (push.stream, push.epoch, push.seq)
        self.next[push.alias] = (stream, epoch, seq + gap + 1)
        self.sent.append(Sent(stream, epoch, push.seq, push.body, gap, push.ttl, push.priority))
        self.unacked.append((push.alias, push.seq))
        self.push_objects.append(push)
        return True

    def stream_note(self, alias: int, stream: StreamKey, note: str, epoch: int, floor: int) -> None:
        self.notes.append((stream, note, epoch, floor))
        self.next[alias] = (stream, epoch, floor + 1)

    def close(self, reason: Any, status: int) -> None:
        self.closed = (reason, status)

    def go_away(self, status: int, address: str, delay: float) -> None:
        self.away.append(status)

    def seqs(self, stream: StreamKey) -> list[int]:
        return [one.seq for one in self.sent if one.stream == stream]


@dataclass(eq=False)
class FakeSession:
    identity: Identity
    id: str = "s"
    link: Any = None
    delivery: Any = None


class PassAll:
    def push(self, push: PushRequest) -> PushRequest:
        return push


@dataclass
class World:
    settings: PushSettings = field(default_factory=PushSettings)
    filters: Any = field(default_factory=PassAll)
    head_check: float = 30.0

    def __post_init__(self) -> None:
        self.clock = Stopwatch()
        self.timers = FakeTimers(self.clock)
        self.store = FakeStore(self.wall)
        self.bus = FakeBus()
        self.sessions: dict[str, FakeSession] = {}
        self.counters = PushCounters()
        self.pushes = Pushes(
            self.clock,
            self.wall,
            self.store,
            self.bus,
            self,
            settings=self.settings,
            counters=self.counters,
            filters=self.filters,
            timers=self.timers,
            head_check=self.head_check,
        )

    def wall(self) -> float:
        return WALL + self.clock.seconds()

    def by_device(self, device: str) -> FakeSession | None:
        return self.sessions.get(device)

    def of_user(self, user: str) -> list[FakeSession]:
        return [session for session in self.sessions.values() if session.identity.user == user]

    # --- what tests say
    def session(self, device: str, user: str = "", **facts: Any) -> FakeSession:
        if device not in self.sessions:
            self.sessions[device] = FakeSession(Identity(device, user, **facts))
        return self.sessions[device]

    def connect(
        self,
        device: str,
        user: str = "",
        cursors: list[Cursor] = (),
        window: int = 64,
        **facts: Any,  # type: ignore[assignment]
    ) -> FakeLink:
        session = self.session(device, user, **facts)
        session.link = FakeLink(window)
        self.pushes.attach(session, list(cursors))
        self.clock.settle()
        return session.link

    def disconnect(self, device: str) -> None:
        session = self.sessions[device]
        session.link = None
        self.pushes.detach(session)
        self.clock.settle()

    def push(self, stream: StreamKey, *bodies: bytes, **options: Any) -> list[Any]:
        """Append, one request per body, and let everything settle; their results."""
        results: list[Any] = []
        for body in bodies or (b"x",):
            self.pushes.append([PushRequest(stream, body, **options)]).addCallback(results.extend)
        self.clock.settle()
        return results

    def ack(self, device: str, count: int | None = None) -> None:
        session = self.sessions[device]
        link = session.link
        count = len(link.unacked) if count is None else count
        acked, link.unacked = link.unacked[:count], link.unacked[count:]
        self.pushes.acked(session, acked)
        self.clock.settle()

    def subscribe(self, device: str, *topics: str) -> None:
        done: list[Any] = []
        self.pushes.subscribe(self.sessions[device], list(topics)).addBoth(done.append)
        self.clock.settle()
        assert done == [None], done


DEVICE = StreamKey(Scope.DEVICE, "d1", "orders")
USER = StreamKey(Scope.USER, "u1", "feed")
TOPIC = StreamKey(Scope.TOPIC, "news/sport", "news")
BROADCAST = StreamKey(Scope.BROADCAST, "", "system")
