"""What one session gets: where it begins, and backlog and live pushes in their order."""

from __future__ import annotations

from accessgw.core.interfaces.stores import StoreUnavailable
from accessgw.model.pushes import Cursor, Scope, StreamKey
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
