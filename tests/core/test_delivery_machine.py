"""A machine that tries everything at once: random lives of devices, which get all that they are owed."""

from __future__ import annotations

from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from accessgw.model.pushes import Cursor, Priority, PushRequest, Scope, StreamKey
from accessgw.model.settings import PushSettings
from tests.core.push_world import FakeLink, World

DEVICES = {"d1": "u1", "d2": "u1", "d3": ""}
TOPICS = ("t1", "t2")
STREAMS = [
    StreamKey(Scope.DEVICE, "d1", "a"),
    StreamKey(Scope.DEVICE, "d2", "a"),
    StreamKey(Scope.USER, "u1", "a"),
    StreamKey(Scope.USER, "u1", "b"),
    StreamKey(Scope.TOPIC, "t1", "a"),
    StreamKey(Scope.TOPIC, "t1", "b"),
    StreamKey(Scope.TOPIC, "t2", "a"),
    StreamKey(Scope.BROADCAST, "", "a"),
    StreamKey(Scope.BROADCAST, "", "b"),
]


class Phone:
    """A device as an SDK author would write it: keeps its cursors, drops what it has seen."""

    def __init__(self, name: str, os: str) -> None:
        self.name = name
        self.os = os
        self.link: FakeLink | None = None
        self.cursors: dict[StreamKey, int] = {}
        self.got: dict[StreamKey, list[int]] = {}
        self.topics: dict[StreamKey, int] = {}
        """Topic stream -> its head when the subscription was asked for; pushes past it are owed."""

    def process(self, count: int) -> list[tuple[int, int]]:
        """Process the oldest pushes on the connection; their (alias, seq)."""
        link = self.link
        assert link is not None
        done, link.unacked = link.unacked[:count], link.unacked[count:]
        for alias, seq in done:
            stream = link.next[alias][0]
            if seq > self.cursors.get(stream, 0):
                self.cursors[stream] = seq
                self.got.setdefault(stream, []).append(seq)
        return done


class DeliveryMachine(RuleBasedStateMachine):
    """Random life of three devices, in small steps and any order; then all is let run to its end and
    each device must have had all that it was owed, once and in order."""

    @initialize(seed=st.integers(0, 2**32), ring=st.sampled_from([600, 2000, 1 << 20]), lossless=st.booleans())
    def begin(self, seed: int, ring: int, lossless: bool) -> None:
        # Enough tail that nothing which existed before a device is due or not by accident.
        self.world = World(PushSettings(new_device_tail=10**6, new_device_broadcast_tail=10**6, fanout_slice=1e-9))
        self.world.pushes._table._limit = ring
        self.random = Random(seed)
        # Two devices are there from the start, so that short lives see live traffic as well.
        self.phones = {name: Phone(name, os) for name, os in zip(DEVICES, ("ios", "android", "ios"), strict=True)}
        self.world.store.slow = True
        self.world.store.early = self.random
        self.bus: list[bytes] = []
        self.lossless = lossless
        self.world.bus.kept = self.bus
        for name in ("d1", "d2"):
            self.connect(name, 1 + self.random.randrange(8), False)
        self.run(8)

    # --- what happens
    @rule(
        streams=st.lists(st.sampled_from(STREAMS), min_size=1, max_size=3),
        count=st.integers(1, 12),
        plain=st.booleans(),
    )
    def push(self, streams: list[StreamKey], count: int, plain: bool) -> None:
        choice = self.random.choice
        for _ in range(count):
            for stream in streams:
                request = PushRequest(stream, b"x")
                if not plain:
                    request = PushRequest(
                        stream,
                        b"x",
                        ttl=choice([None, None, 5.0, 500.0]),
                        collapse=choice(["", "", "k"]),
                        priority=choice(list(Priority)),
                        where=choice([{}, {}, {"os": "ios"}]),
                    )
                self.world.pushes.append([request])

    @rule(rounds=st.integers(1, 8), processed=st.integers(0, 8))
    def live(self, rounds: int, processed: int) -> None:
        """Let things take their course for a while."""
        self.run(rounds)
        for name in DEVICES:
            self.process(name, processed)

    def run(self, rounds: int) -> None:
        for _ in range(rounds):
            self.world.store.release(self.random, 20)
            self.bus_delivers(0, False)
            self.world.clock.turn()

    @rule(name=st.sampled_from(list(DEVICES)), window=st.integers(1, 8), with_cursors=st.booleans())
    def connect(self, name: str, window: int, with_cursors: bool) -> None:
        phone = self.phones[name]
        session = self.world.session(name, DEVICES[name], attributes={"os": phone.os})
        self.check_connection(phone)
        session.link = phone.link = FakeLink(window)
        cursors = [Cursor(stream, 7, seq) for stream, seq in phone.cursors.items()] if with_cursors else []
        self.world.pushes.attach(session, cursors)

    @rule(name=st.sampled_from(list(DEVICES)))
    def disconnect(self, name: str) -> None:
        phone = self.phones[name]
        if phone.link is not None:
            self.check_connection(phone)
            phone.link = None
            self.world.sessions[name].link = None
            self.world.pushes.detach(self.world.sessions[name])

    @rule(name=st.sampled_from(list(DEVICES)), streams=st.lists(st.sampled_from(STREAMS), min_size=1, max_size=3))
    def connect_amid_pushes(self, name: str, streams: list[StreamKey]) -> None:
        """The look-up of the places and what comes meanwhile pass each other, one answer of the store in a turn."""
        self.connect(name, 8, True)
        self.push(streams, 1, True)
        for _ in range(12):
            self.world.store.release(self.random)
            self.bus_delivers(0, False)
            self.world.clock.turn()
        self.rest()

    @rule(name=st.sampled_from(list(DEVICES)), topic=st.sampled_from(TOPICS))
    def subscribe(self, name: str, topic: str) -> None:
        if name not in self.world.sessions:
            return
        owed = {stream: self.world.store.heads.get(stream, 0) for stream in STREAMS if stream.id == topic}
        store = self.world.store
        before = topic in store.topics[name]

        def subscribed(_: None) -> None:
            # Owed from now on: what is past the heads at this moment.
            for stream in owed:
                if not before:
                    self.phones[name].topics.setdefault(stream, store.heads.get(stream, 0))

        self.world.pushes.subscribe(self.world.sessions[name], [topic]).addCallback(subscribed)

    @rule(name=st.sampled_from(list(DEVICES)), count=st.integers(1, 8))
    def process(self, name: str, count: int) -> None:
        phone = self.phones[name]
        if phone.link is not None and phone.link.unacked:
            self.world.pushes.acked(self.world.sessions[name], phone.process(count))

    @rule(name=st.sampled_from(list(DEVICES)), buffered=st.sampled_from([None, 0, 10, 10**6]))
    def act(self, name: str, buffered: int | None) -> None:
        """The device calls something, or its buffer fills or empties."""
        link = self.phones[name].link
        if link is None:
            return
        if buffered is None:
            self.world.pushes.activity(self.world.sessions[name])
            return
        link.buffered = buffered
        if not buffered:
            self.world.pushes.writable(self.world.sessions[name])

    @rule(count=st.integers(1, 5))
    def store_answers(self, count: int) -> None:
        self.world.store.release(self.random, count)

    @rule(lose=st.integers(0, 3), swap=st.booleans())
    def bus_delivers(self, lose: int, swap: bool) -> None:
        messages, self.bus[:] = list(self.bus), []
        if swap:
            self.random.shuffle(messages)
        for message in messages[0 if self.lossless else lose :]:
            for receive in self.world.bus.receivers:
                receive(message)

    @rule(seconds=st.sampled_from([0.0, 0.0, 1.0, 4.0]))
    def wait(self, seconds: float) -> None:
        self.world.clock.advance(seconds)

    # --- what must hold
    @invariant()
    def connections_are_in_order(self) -> None:
        for phone in getattr(self, "phones", {}).values():
            self.check_connection(phone)

    def check_connection(self, phone: Phone) -> None:
        if phone.link is not None:
            for stream in STREAMS:
                seqs = phone.link.seqs(stream)
                assert seqs == sorted(set(seqs)), f"{phone.name} {stream}: {seqs}"

    def rest(self) -> None:
        """All that is under way comes to its end. Without a lost notice nothing has been forgotten."""
        self.run_to_the_end()
        if self.lossless:
            for name, phone in self.phones.items():
                if phone.link is not None:
                    self.check_complete(name, phone)

    def run_to_the_end(self) -> None:
        world = self.world
        for _ in range(5000):
            busy = bool(world.store.waiting or self.bus or world.clock.getDelayedCalls())
            world.store.release(self.random, 50)
            messages, self.bus[:] = list(self.bus), []
            for message in messages:
                world.bus.receivers[0](message)
            for name, phone in self.phones.items():
                if phone.link is not None:
                    phone.link.buffered = 0
                    world.pushes.writable(world.sessions[name])
                    world.pushes.activity(world.sessions[name])
                    if phone.link.unacked:
                        world.pushes.acked(world.sessions[name], phone.process(3))
                        busy = True
            world.clock.turn()
            if not busy:
                return
            if all(call.getTime() > world.clock.seconds() for call in world.clock.getDelayedCalls()):
                world.clock.advance(0.5)
        raise AssertionError("it did not come to rest")

    def teardown(self) -> None:
        if not hasattr(self, "phones"):
            return
        self.rest()
        # A connection at the end repairs whatever notice was lost last.
        for name in DEVICES:
            self.connect(name, 8, bool(self.random.getrandbits(1)))
        self.run_to_the_end()
        for name, phone in self.phones.items():
            self.check_complete(name, phone)

    def check_complete(self, name: str, phone: Phone) -> None:
        world = self.world
        self.check_connection(phone)
        assert phone.link is not None
        assert phone.link.closed is None
        reach = {(Scope.DEVICE, name), (Scope.USER, DEVICES[name]), (Scope.BROADCAST, "")}
        for stream in STREAMS:
            got = phone.got.get(stream, [])
            assert got == sorted(set(got))
            due = [
                push.seq
                for push in world.store.logs.get(stream, ())
                if (push.expires_at is None or push.expires_at > world.wall())
                and (not push.where or push.where["os"] == phone.os)
            ]
            if stream.scope is Scope.TOPIC:
                due = [seq for seq in due if stream in phone.topics and seq > phone.topics[stream]]
            elif (stream.scope, stream.id) not in reach:
                due = []
                assert not got
            assert set(due) <= set(got), f"{name} {stream}: due {due}, got {got}"
            hidden = {p.seq for p in world.store.logs.get(stream, ()) if p.where and p.where["os"] != phone.os}
            assert not hidden & set(got)
            for place in world.sessions[name].delivery.places.values():
                assert place.sent >= place.stream.head, f"{name} {place.stream.key} stopped at {place.sent}"
                assert not place.inflight


TestDeliveryMachine = DeliveryMachine.TestCase
TestDeliveryMachine.settings = settings(
    max_examples=80, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
