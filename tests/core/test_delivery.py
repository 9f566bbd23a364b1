"""What one session gets: order, windows, waiting, cursors; and a machine that tries everything at once."""

from __future__ import annotations

from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from accessgw.core.interfaces.stores import StoreUnavailable
from accessgw.model.pushes import Cursor, Priority, PushRequest, Scope, StreamKey
from accessgw.model.reasons import CloseReason
from accessgw.model.settings import PushSettings
from tests.core.push_world import BROADCAST, DEVICE, TOPIC, USER, FakeLink, World

# --- where a connection begins


def test_hello_cursors_are_authoritative_and_capped_at_the_head():
    world = World()
    world.push(DEVICE, b"1", b"2", b"3")
    assert world.connect("d1", cursors=[Cursor(DEVICE, 7, 1)]).seqs(DEVICE) == [2, 3]
    world.ack("d1")
    assert world.connect("d1", cursors=[Cursor(DEVICE, 7, 0)]).seqs(DEVICE) == [1, 2, 3]
    link = world.connect("d1", cursors=[Cursor(DEVICE, 7, 99)])
    assert link.seqs(DEVICE) == []
    world.push(DEVICE)
    assert link.seqs(DEVICE) == [4]


def test_without_hello_cursors_the_stored_ones_hold():
    world = World()
    world.connect("d1")
    world.push(DEVICE, b"1", b"2", b"3")
    world.ack("d1", 2)
    world.disconnect("d1")
    assert world.connect("d1").seqs(DEVICE) == [3]


def test_a_cursor_of_another_epoch_is_told_that_the_history_is_lost():
    world = World(PushSettings(new_device_tail=1))
    world.push(USER, b"1", b"2")
    link = world.connect("d1", "u1", cursors=[Cursor(USER, 6, 50)])
    assert link.notes == [(USER, "history_lost", 7, 1)]
    assert link.seqs(USER) == [2]


def test_a_stream_that_begins_again_while_connected_tells_stale_cursors_of_it():
    world = World()
    link = world.connect("d1", cursors=[Cursor(DEVICE, 6, 50)])
    assert not link.notes
    world.push(DEVICE)
    assert link.notes == [(DEVICE, "history_lost", 7, 0)]
    assert link.seqs(DEVICE) == [1]


def test_a_cursor_below_the_floor_is_told_where_the_stream_begins_now():
    world = World()
    world.push(DEVICE, *[b"x"] * 10)
    world.store.truncate(DEVICE, 6)
    link = world.connect("d1", cursors=[Cursor(DEVICE, 7, 2)])
    assert link.notes == [(DEVICE, "truncated", 7, 6)]
    assert [(one.seq, one.gap) for one in link.sent] == [(7, 0), (8, 0), (9, 0), (10, 0)]
    assert world.counters.truncated == 1


def test_a_floor_that_passes_a_slow_session_is_told_as_well():
    world = World()
    link = world.connect("d1", window=2)
    world.push(DEVICE, *[b"x"] * 10)
    assert link.seqs(DEVICE) == [1, 2]
    world.store.truncate(DEVICE, 6)
    stream = next(iter(world.pushes._table))
    world.pushes._table.forget_ring(stream)
    world.ack("d1")
    assert link.notes == [(DEVICE, "truncated", 7, 6)]
    assert link.seqs(DEVICE) == [1, 2, 7, 8]


def test_a_new_device_gets_the_tail_and_a_known_one_everything_since():
    world = World(PushSettings(new_device_tail=2, new_device_broadcast_tail=0))
    world.push(USER, *[b"x"] * 5)
    world.push(BROADCAST)
    link = world.connect("d1", "u1")
    assert link.seqs(USER) == [4, 5]
    assert link.seqs(BROADCAST) == []
    world.disconnect("d1")
    later = StreamKey(Scope.BROADCAST, "", "later")
    world.push(later, *[b"x"] * 3)
    world.push(BROADCAST)
    link = world.connect("d1", "u1")
    assert link.seqs(USER) == [4, 5]
    assert link.seqs(later) == [1, 2, 3]
    assert link.seqs(BROADCAST) == [2]


def test_a_history_lost_under_a_connected_session_starts_over():
    world = World()
    link = world.connect("d1", window=3)
    world.push(DEVICE, b"1", b"2", b"3")
    world.store.lose_history(DEVICE)
    world.push(DEVICE, b"new 1")
    assert link.notes == [(DEVICE, "history_lost", 8, 0)]
    world.ack("d1")
    assert [(one.epoch, one.seq, one.body) for one in link.sent[3:]] == [(8, 1, b"new 1")]
    world.ack("d1")
    world.disconnect("d1")
    assert world.store.saved["d1"][DEVICE] == Cursor(DEVICE, 8, 1)


# --- backlog and live


def test_backlog_and_live_are_merged_in_order():
    world = World()
    world.push(DEVICE, *[b"old"] * 100)
    world.store.slow = True
    link = world.connect("d1", window=1000)
    world.store.slow = False
    world.push(DEVICE, b"new")
    while world.store.waiting:
        world.store.release()
        world.clock.settle()
    assert link.seqs(DEVICE) == list(range(1, 102))


def test_a_stream_that_begins_while_the_places_are_looked_up_is_delivered():
    world = World()
    world.store.slow = True
    link = world.connect("d1")
    while "streams_of broadcast" not in world.store.calls or len(world.store.waiting) > 1:
        world.store.release()
    last = world.store.waiting.pop()
    world.store.slow = False
    world.push(BROADCAST, b"x")
    assert not link.sent
    seen_before = [state for state in last[1]() if state.key != BROADCAST]
    last[0].callback(seen_before)
    world.clock.settle()
    assert link.seqs(BROADCAST) == [1]


def answer_from_before(world, happens):
    """What the store has been asked is answered as it was before `happens()`, and heard after it."""
    asked = [(answer, question()) for answer, question in world.store.waiting]
    world.store.waiting.clear()
    world.store.slow = False
    happens()
    for answer, known in asked:
        answer.callback(known)
    world.clock.settle()


def test_a_push_that_the_look_up_of_the_places_did_not_see_is_delivered():
    world = World()
    world.push(DEVICE, b"1")
    world.store.slow = True
    link = world.connect("d1", cursors=[Cursor(DEVICE, 7, 1)])
    answer_from_before(world, lambda: world.push(DEVICE, b"2"))
    assert link.seqs(DEVICE) == [2]


def test_a_push_that_the_look_up_of_a_new_subscription_did_not_see_is_delivered():
    world = World()
    world.push(TOPIC, b"1")
    link = world.connect("d1")
    world.store.slow = True
    world.pushes.subscribe(world.sessions["d1"], ["news/sport"])
    world.store.release()
    assert world.store.calls[-1] == "streams_of topic"
    answer_from_before(world, lambda: world.push(TOPIC, b"2"))
    assert link.seqs(TOPIC)[-1:] == [2]


def test_a_history_lost_while_the_places_are_looked_up_is_asked_about():
    world = World()
    world.push(DEVICE, b"1", b"2")
    world.store.slow = True
    link = world.connect("d1", cursors=[Cursor(DEVICE, 7, 2)])

    def begin_again() -> None:
        world.store.lose_history(DEVICE)
        world.push(DEVICE, b"new 1")

    answer_from_before(world, begin_again)
    assert link.notes == [(DEVICE, "history_lost", 8, 0)]
    assert [(one.epoch, one.seq) for one in link.sent] == [(8, 1)]


def test_a_lost_notice_is_repaired_by_the_next_one():
    world = World()
    link = world.connect("d1")
    world.push(DEVICE, b"1")
    world.bus.lose = True
    world.push(DEVICE, b"2", b"3")
    assert link.seqs(DEVICE) == [1]
    world.bus.lose = False
    world.push(DEVICE, b"4")
    assert link.seqs(DEVICE) == [1, 2, 3, 4]


def test_a_lost_notice_is_repaired_by_an_acknowledgement():
    world = World()
    link = world.connect("d1")
    world.push(DEVICE, b"1")
    world.bus.lose = True
    world.push(DEVICE, b"2")
    world.clock.advance(31)
    world.ack("d1")
    assert link.seqs(DEVICE) == [1, 2]


def test_a_read_that_fails_is_tried_again():
    world = World()
    world.push(DEVICE, *[b"x"] * 5)
    link = world.connect("d1", window=2)
    world.store.broken = StoreUnavailable("busy")
    world.ack("d1")
    assert link.seqs(DEVICE) == [1, 2]
    world.store.broken = None
    world.clock.advance(1)
    world.clock.settle()
    assert link.seqs(DEVICE) == [1, 2, 3, 4]


def test_devices_at_the_same_position_share_one_read():
    world = World(PushSettings(new_device_broadcast_tail=50))
    world.push(BROADCAST, *[b"x"] * 50)
    world.store.slow = True
    sessions = [world.session(f"d{n}") for n in range(20)]
    for session in sessions:
        session.link = FakeLink()
        world.pushes.attach(session, [])
    while world.store.waiting:
        world.store.release()
        world.clock.settle()
    assert all(session.link.seqs(BROADCAST) == list(range(1, 51)) for session in sessions)
    assert sum(call.startswith("read") for call in world.store.calls) == 1
    # Who asked while the first look-up ran shares a second one.
    assert sum(call == "streams_of broadcast" for call in world.store.calls) == 2


def test_a_small_window_does_not_make_the_store_be_read_for_each_acknowledgement():
    world = World()
    world.push(DEVICE, *[b"x"] * 320)
    link = world.connect("d1", window=32)
    while len(link.unacked):
        world.ack("d1", 4)
    assert link.seqs(DEVICE) == list(range(1, 321))
    assert sum(call.startswith("read") for call in world.store.calls) <= 320 / 16 + 2


def test_a_device_that_reconnects_while_it_subscribes_is_subscribed_on_the_new_connection():
    world = World()
    world.connect("d1")
    world.store.slow = True
    world.pushes.subscribe(world.sessions["d1"], ["news/sport"])
    world.store.release()
    link = world.connect("d1")
    world.store.release(count=2)  # the subscription's look-up, then what the new connection asked first
    while world.store.waiting:
        world.store.waiting.reverse()
        world.store.release()
        world.clock.settle()
    world.store.slow = False
    world.push(TOPIC)
    assert link.seqs(TOPIC) == [1]


def test_a_topic_left_while_the_places_are_looked_up_stays_left():
    world = World()
    world.connect("d1")
    world.subscribe("d1", "news/sport")
    world.store.slow = True
    link = world.connect("d1")
    world.store.slow = False
    world.pushes.unsubscribe(world.sessions["d1"], ["news/sport"])
    world.store.topics["d1"].add("news/sport")  # what the look-up saw before
    world.store.slow = True
    while world.store.waiting:
        world.store.release()
        world.clock.settle()
    world.store.slow = False
    world.push(TOPIC)
    assert not link.sent


# --- the window


def test_a_full_window_stops_and_an_acknowledgement_goes_on():
    world = World()
    link = world.connect("d1", window=3)
    world.push(DEVICE, *[b"x"] * 7)
    assert link.seqs(DEVICE) == [1, 2, 3]
    world.ack("d1", 1)
    assert link.seqs(DEVICE) == [1, 2, 3, 4]
    world.ack("d1")
    world.ack("d1")
    assert link.seqs(DEVICE) == [1, 2, 3, 4, 5, 6, 7]
    assert world.counters.acked == 7 == world.counters.sent


def test_acknowledgements_out_of_order_do_not_move_the_cursor_over_a_hole():
    world = World()
    link = world.connect("d1")
    world.push(DEVICE, b"1", b"2", b"3")
    session = world.sessions["d1"]
    alias = link.unacked[0][0]
    world.pushes.acked(session, [(alias, 3), (alias, 2), (alias, 9), (99, 1)])
    world.disconnect("d1")
    assert DEVICE not in world.store.saved["d1"]
    link = world.connect("d1")
    world.pushes.acked(session, [(link.unacked[0][0], 2), (link.unacked[0][0], 1)])
    world.disconnect("d1")
    assert world.store.saved["d1"][DEVICE].seq == 2


def test_a_full_window_without_acknowledgement_ends_the_connection():
    world = World()
    link = world.connect("d1", window=1)
    world.push(DEVICE, b"1", b"2")
    world.clock.advance(59)
    assert link.closed is None
    world.clock.advance(2)
    assert link.closed == (CloseReason.SLOW_READER, 16)
    assert world.counters.slow_readers == 1


def test_acknowledgements_keep_a_slow_connection_alive():
    world = World()
    link = world.connect("d1", window=1)
    world.push(DEVICE, *[b"x"] * 5)
    for _ in range(3):
        world.clock.advance(50)
        world.ack("d1")
    assert link.closed is None
    world.clock.advance(61)
    assert link.closed is not None


def test_nothing_is_left_behind_by_a_session():
    world = World()
    world.connect("d1", "u1", window=1)
    world.subscribe("d1", "news/sport")
    for stream in (DEVICE, USER, TOPIC, BROADCAST):
        world.push(stream, b"1", b"2")
        world.push(stream, priority=Priority.NEXT_ACTIVITY)
    assert len(world.pushes._table) == 4
    world.disconnect("d1")
    assert not world.timers.active
    assert len(world.pushes._table) == 0
    assert len(world.pushes._table.aliases) == 0
    assert world.pushes._table.ring_bytes == 0
    assert not world.pushes._audiences._topics
    assert not world.pushes._audiences._everyone


# --- ttl, collapse


def test_expired_pushes_are_gaps_and_the_remaining_ttl_goes_along():
    world = World()
    world.push(DEVICE, b"1", ttl=10)
    world.push(DEVICE, b"2", ttl=100)
    world.push(DEVICE, b"3")
    world.clock.advance(20)
    link = world.connect("d1")
    assert [(one.seq, one.ttl) for one in link.sent] == [(2, 80), (3, None)]


def test_a_push_that_expires_while_it_waits_is_not_sent():
    world = World()
    link = world.connect("d1", window=1)
    world.push(DEVICE, b"1")
    world.push(DEVICE, b"2", ttl=10)
    world.push(DEVICE, b"3", ttl=50)
    world.clock.advance(20)
    world.ack("d1")
    assert [(one.seq, one.gap, one.ttl) for one in link.sent] == [(1, 0, None), (3, 1, 30)]
    assert world.counters.expired == 1


def test_a_collapsed_push_is_a_gap():
    world = World()
    link = world.connect("d1", window=1)
    world.push(DEVICE, b"0")
    world.push(DEVICE, b"1", b"2", b"3", collapse="score")
    world.ack("d1")
    assert [(one.seq, one.gap, one.body) for one in link.sent] == [(1, 0, b"0"), (4, 2, b"3")]
    assert world.counters.collapsed == 2


# --- priorities


def test_priority_one_waits_for_activity():
    world = World()
    link = world.connect("d1")
    world.push(DEVICE, priority=Priority.NEXT_ACTIVITY)
    assert not link.sent
    world.pushes.activity(world.sessions["d1"])
    world.clock.settle()
    assert link.seqs(DEVICE) == [1]
    world.push(DEVICE, priority=Priority.NEXT_ACTIVITY)
    assert link.seqs(DEVICE) == [1]


def test_priority_one_leaves_after_its_longest_wait():
    world = World()
    link = world.connect("d1")
    world.push(DEVICE, priority=Priority.NEXT_ACTIVITY)
    world.clock.advance(299)
    assert not link.sent
    world.clock.advance(2)
    world.clock.settle()
    assert link.seqs(DEVICE) == [1]


def test_priority_one_rides_with_a_push_of_any_stream():
    world = World()
    link = world.connect("d1", "u1")
    world.push(USER, priority=Priority.NEXT_ACTIVITY)
    world.push(DEVICE)
    assert link.seqs(DEVICE) == [1]
    assert link.seqs(USER) == [1]


def test_priority_zero_takes_what_is_before_it_in_its_stream_along():
    world = World()
    link = world.connect("d1")
    link.buffered = 10**9
    world.push(DEVICE, priority=Priority.NEXT_ACTIVITY)
    world.push(DEVICE, priority=Priority.BULK)
    assert not link.sent
    world.push(DEVICE)
    assert link.seqs(DEVICE) == [1, 2, 3]


def test_connecting_is_activity():
    world = World()
    world.push(DEVICE, priority=Priority.NEXT_ACTIVITY)
    assert world.connect("d1").seqs(DEVICE) == [1]


def test_bulk_waits_for_an_empty_buffer():
    world = World()
    link = world.connect("d1")
    link.buffered = 1
    world.push(DEVICE, priority=Priority.BULK)
    assert not link.sent
    link.buffered = 0
    world.pushes.writable(world.sessions["d1"])
    world.clock.settle()
    assert link.seqs(DEVICE) == [1]


def test_bulk_leaves_in_slices():
    world = World()
    link = world.connect("d1")
    plain = link.send_push

    def buffering(push, gap):
        link.buffered += len(push.body)
        return plain(push, gap)

    link.send_push = buffering  # type: ignore[method-assign]
    world.push(DEVICE, *[b"x" * 5000] * 10, priority=Priority.BULK)
    assert link.seqs(DEVICE) == [1, 2, 3, 4]
    link.buffered = 0
    world.pushes.writable(world.sessions["d1"])
    world.clock.settle()
    assert link.seqs(DEVICE) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_push_refused_for_a_full_buffer_leaves_when_it_is_empty():
    world = World()
    link = world.connect("d1")
    plain = link.send_push
    link.send_push = lambda push, gap: False  # type: ignore[method-assign]
    world.push(DEVICE)
    world.clock.advance(59)
    world.pushes.writable(world.sessions["d1"])
    link.send_push = plain  # type: ignore[method-assign]
    world.pushes.writable(world.sessions["d1"])
    world.clock.settle()
    assert link.seqs(DEVICE) == [1]
    world.clock.advance(100)
    assert link.closed is None


def test_past_the_slow_reader_bytes_only_priority_zero_leaves():
    world = World(PushSettings(slow_reader_bytes=1000))
    link = world.connect("d1", "u1")
    link.buffered = 1001
    world.push(USER, priority=Priority.NEXT_ACTIVITY)
    world.pushes.activity(world.sessions["d1"])
    world.push(DEVICE)
    assert link.seqs(USER) == []
    assert link.seqs(DEVICE) == [1]
    link.buffered = 0
    world.pushes.activity(world.sessions["d1"])
    world.pushes.writable(world.sessions["d1"])
    world.pushes.activity(world.sessions["d1"])
    assert link.seqs(USER) == [1]


# --- everything at once

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
