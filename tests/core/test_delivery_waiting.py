"""What waits for one session: for a window, a slow reader, activity; and what expires or collapses meanwhile."""

from __future__ import annotations

from accessgw.model.pushes import Priority
from accessgw.model.reasons import CloseReason
from accessgw.model.settings import PushSettings
from tests.core.push_world import BROADCAST, DEVICE, TOPIC, USER, World

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
