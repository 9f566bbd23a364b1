"""The push service as sessions and the control API see it."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from accessgw.core.interfaces import Refused
from accessgw.core.interfaces.control import ControlError
from accessgw.core.interfaces.stores import IdempotencyConflict, StoreUnavailable
from accessgw.model.pushes import Cursor, PushRequest, Scope, StreamKey
from accessgw.model.settings import PushSettings
from tests.core.push_world import BROADCAST, DEVICE, TOPIC, USER, World


def test_a_push_to_a_connected_device_arrives_at_once():
    world = World()
    link = world.connect("d1")
    (result,) = world.push(DEVICE, b"hello")
    assert (result.epoch, result.seq, result.live, result.error) == (7, 1, 1, "")
    assert [(one.body, one.seq, one.gap) for one in link.sent] == [(b"hello", 1, 0)]


def test_a_push_to_an_absent_device_waits_for_it():
    world = World()
    assert world.push(DEVICE, b"1", b"2")[0].live == 0
    assert [one.body for one in world.connect("d1").sent] == [b"1", b"2"]


def test_every_device_of_a_user_gets_the_users_pushes():
    world = World()
    links = [world.connect(device, "u1") for device in ("d1", "d2")]
    other = world.connect("d3", "u2")
    assert world.push(USER, b"hi")[0].live == 2
    assert [link.seqs(USER) for link in links] == [[1], [1]]
    assert not other.sent


def test_a_topic_reaches_its_subscribers_and_no_others():
    world = World()
    reader, other = world.connect("d1"), world.connect("d2")
    world.subscribe("d1", "news/sport")
    assert world.push(TOPIC, b"goal")[0].live == 1
    assert reader.seqs(TOPIC) == [1]
    assert not other.sent


def test_a_broadcast_reaches_everyone_with_one_shared_object():
    world = World()
    links = [world.connect(f"d{n}") for n in range(5)]
    assert world.push(BROADCAST, b"all")[0].live == 5
    assert len({id(link.push_objects[0]) for link in links}) == 1


def test_pushes_after_a_subscription_wait_for_a_device_that_left_before_any_acknowledgement():
    world = World()
    world.push(TOPIC, b"before")
    world.connect("d1")
    world.subscribe("d1", "news/sport")
    world.disconnect("d1")
    new_biz = StreamKey(Scope.TOPIC, "news/sport", "results")
    world.push(TOPIC, b"after")
    world.push(new_biz, b"first of its stream")
    link = world.connect("d1")
    assert [one.body for one in link.sent if one.stream == TOPIC] == [b"after"]
    assert [one.body for one in link.sent if one.stream == new_biz] == [b"first of its stream"]


def test_subscribing_again_skips_nothing():
    world = World()
    world.connect("d1")
    world.subscribe("d1", "news/sport")
    world.disconnect("d1")
    world.push(TOPIC, b"1")
    world.store.slow = True
    world.connect("d1")
    world.pushes.subscribe(world.sessions["d1"], ["news/sport"])
    while world.store.waiting:
        world.store.release()
        world.clock.settle()
    assert world.sessions["d1"].link.seqs(TOPIC) == [1]


def test_a_configured_tail_comes_with_a_subscription():
    world = World(PushSettings(new_subscription_tail=2))
    world.push(TOPIC, b"1", b"2", b"3")
    link = world.connect("d1")
    world.subscribe("d1", "news/sport")
    assert link.seqs(TOPIC) == [2, 3]


def test_unsubscribing_ends_the_pushes_and_is_durable():
    world = World()
    link = world.connect("d1")
    world.subscribe("d1", "news/sport", "weather")
    world.push(TOPIC)
    world.pushes.unsubscribe(world.sessions["d1"], ["news/sport"])
    world.push(TOPIC)
    assert link.seqs(TOPIC) == [1]
    topics: list[list[str]] = []
    world.pushes.subscriptions(world.sessions["d1"]).addCallback(topics.append)
    assert topics == [["weather"]]
    world.ack("d1")
    world.subscribe("d1", "news/sport")
    world.push(TOPIC)
    assert link.seqs(TOPIC) == [1, 3]


def test_resubscribing_before_the_acknowledgement_repeats_nothing():
    world = World(PushSettings(new_subscription_tail=5))
    link = world.connect("d1")
    world.subscribe("d1", "news/sport")
    world.push(TOPIC)
    world.pushes.unsubscribe(world.sessions["d1"], ["news/sport"])
    world.subscribe("d1", "news/sport")
    world.push(TOPIC)
    assert link.seqs(TOPIC) == [1, 2]
    world.ack("d1")
    world.disconnect("d1")
    assert world.store.saved["d1"][TOPIC].seq == 2


def test_too_many_topics_are_refused():
    world = World()
    world.connect("d1")
    failures: list[Failure] = []
    world.pushes.subscribe(world.sessions["d1"], [f"t{n}" for n in range(101)]).addErrback(failures.append)
    assert failures[0].check(Refused)
    assert not world.store.topics["d1"]


def test_each_item_of_a_list_has_its_own_result():
    world = World(PushSettings(max_payload=4))
    results: list[list[object]] = []
    world.pushes.append(
        [
            PushRequest(DEVICE, b"good"),
            PushRequest(DEVICE, b"too long"),
            PushRequest(StreamKey("planet", "x", "b"), b""),  # type: ignore[arg-type]
            PushRequest(StreamKey(Scope.BROADCAST, "x", "b"), b""),
            PushRequest(StreamKey(Scope.USER, "", "b"), b""),
            PushRequest(StreamKey(Scope.USER, "u", ""), b""),
            PushRequest(DEVICE, b"", ttl=0),
            PushRequest(DEVICE, b"", where={"app_version": ">=x"}),
            PushRequest(DEVICE, b"last"),
        ]
    ).addCallback(results.append)
    errors = [result.error.split(":")[0] for result in results[0]]  # type: ignore[attr-defined]
    assert errors == ["", "payload", "to", "to.broadcast", "to.user", "biz", "ttl", "where.app_version", ""]
    assert [result.seq for result in results[0] if not result.error] == [1, 2]  # type: ignore[attr-defined]
    assert world.counters.append_errors == 7


def test_a_batch_that_is_too_large_is_refused_whole():
    world = World(PushSettings(max_batch=2))
    failures: list[Failure] = []
    world.pushes.append([PushRequest(DEVICE, b"")] * 3).addErrback(failures.append)
    assert failures[0].check(ControlError)
    assert failures[0].value.status == 413
    assert not world.store.logs


def test_filters_change_and_refuse_pushes():
    class Censor:
        def push(self, push: PushRequest) -> object:
            if push.body == b"bad":
                raise Refused(23, "not that word")
            if push.body == b"defect":
                raise ZeroDivisionError
            later: Deferred[PushRequest] = Deferred()
            later.callback(PushRequest(push.stream, push.body.upper()))
            return later

    world = World(filters=Censor())
    results: list[list[object]] = []
    world.pushes.append([PushRequest(DEVICE, body) for body in (b"a", b"bad", b"defect", b"b")]).addCallback(
        results.append
    )
    assert [bool(result.error) for result in results[0]] == [False, True, True, False]  # type: ignore[attr-defined]
    assert "not that word" in results[0][1].error  # type: ignore[attr-defined]
    assert [push.body for push in world.store.logs[DEVICE]] == [b"A", b"B"]
    assert world.counters.filter_errors == 1


def test_a_full_disk_is_answered_and_live_traffic_goes_on():
    world = World()
    link = world.connect("d1")
    world.push(DEVICE, b"1")
    world.store.broken = StoreUnavailable("disk full")
    failures: list[Failure] = []
    world.pushes.append([PushRequest(DEVICE, b"lost")]).addErrback(failures.append)
    assert failures[0].check(StoreUnavailable)
    world.ack("d1")
    world.store.broken = None
    world.push(DEVICE, b"2")
    assert [one.body for one in link.sent] == [b"1", b"2"]


def test_a_store_that_cannot_be_read_at_attach_is_asked_again():
    world = World()
    world.push(DEVICE)
    world.store.broken = StoreUnavailable("locked")
    link = world.connect("d1")
    assert not link.sent
    world.store.broken = None
    world.clock.advance(1.0)
    world.clock.settle()
    assert link.seqs(DEVICE) == [1]


def test_an_idempotent_repetition_has_the_places_of_the_first_time_and_arrives_once():
    world = World()
    link = world.connect("d1")
    results: list[object] = []
    for _ in range(2):
        world.pushes.append([PushRequest(DEVICE, b"x")], "key", b"digest").addCallback(results.extend)
        world.clock.settle()
    assert results[0] == results[1]
    assert link.seqs(DEVICE) == [1]
    failures: list[Failure] = []
    world.pushes.append([PushRequest(DEVICE, b"y")], "key", b"other").addErrback(failures.append)
    assert failures[0].check(IdempotencyConflict)


def test_where_chooses_sessions_and_what_they_do_not_see_is_a_gap():
    world = World()
    old = world.connect("d1", app="wallet", app_version="2.0")
    new = world.connect("d2", app="wallet", app_version="2.1.3")
    world.push(BROADCAST, b"1")
    assert world.push(BROADCAST, b"2", where={"app": "wallet", "app_version": ">=2.1"})[0].live == 1
    world.push(BROADCAST, b"3")
    assert [(one.seq, one.gap) for one in old.sent] == [(1, 0), (3, 1)]
    assert [(one.seq, one.gap) for one in new.sent] == [(1, 0), (2, 0), (3, 0)]


def test_the_cursor_moves_past_trailing_pushes_that_nobody_may_see():
    world = World()
    world.connect("d1")
    world.push(DEVICE, b"1")
    world.push(DEVICE, b"2", where={"os": "ios"})
    world.ack("d1")
    world.disconnect("d1")
    assert world.store.saved["d1"][DEVICE] == Cursor(DEVICE, 7, 2)


def test_acknowledged_cursors_are_written_behind():
    world = World()
    world.connect("d1")
    world.push(DEVICE, b"1", b"2", b"3")
    world.ack("d1", 2)
    assert DEVICE not in world.store.saved["d1"]
    world.clock.advance(0.5)
    world.clock.settle()
    assert world.store.saved["d1"][DEVICE].seq == 2


def test_pending_hands_out_each_push_once_until_cursors_come():
    world = World()
    session = world.session("d1", "u1")
    world.push(DEVICE, b"1", b"2", b"3")
    world.push(USER, b"4")

    def pending(cursors: list[Cursor], limit: int = 10, max_bytes: int = 1000) -> list[tuple[str, int]]:
        found: list[list[tuple[StreamKey, int, object]]] = []
        world.pushes.pending(session, cursors, limit, max_bytes).addCallback(found.append)
        return [(stream.biz, push.seq) for stream, _, push in found[0]]  # type: ignore[attr-defined]

    assert pending([], limit=2) == [("orders", 1), ("orders", 2)]
    assert pending([], max_bytes=1) == [("orders", 3)]
    assert pending([]) == [("feed", 1)]
    assert pending([]) == []
    assert pending([Cursor(DEVICE, 7, 2)]) == [("orders", 3)]
    assert pending([Cursor(DEVICE, 7, 0)], limit=1) == [("orders", 1)]


def test_pending_repeats_what_a_silent_long_connection_has_not_acknowledged():
    world = World()
    world.connect("d1")
    world.push(DEVICE, b"1", b"2")
    world.ack("d1", 1)
    found: list[list[tuple[StreamKey, int, object]]] = []
    world.pushes.pending(world.sessions["d1"], [], 10, 1000).addCallback(found.append)
    assert [push.seq for _, _, push in found[0]] == [2]  # type: ignore[attr-defined]


def test_stop_saves_cursors_and_hears_no_more():
    world = World()
    link = world.connect("d1")
    world.push(DEVICE)
    world.ack("d1")
    world.pushes.stop()
    assert world.store.saved["d1"][DEVICE].seq == 1
    world.push(DEVICE)
    assert link.seqs(DEVICE) == [1]
