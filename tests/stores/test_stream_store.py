"""What every StreamStore does: the same tests over SQLite and memory."""

from __future__ import annotations

from typing import Any

import pytest

from accessgw.core.interfaces.stores import AppendOutcome, IdempotencyConflict
from accessgw.model.pushes import Cursor, Priority, PushRequest, Scope, StreamKey, StreamState

ORDERS = StreamKey(Scope.DEVICE, "d1", "orders")
CHAT = StreamKey(Scope.DEVICE, "d1", "chat")
NEWS = StreamKey(Scope.TOPIC, "news/sport", "news")
ALL = StreamKey(Scope.BROADCAST, "", "notice")
NOW = 1_700_000_000.123456


def append(stores: Any, *requests: PushRequest, now: float = NOW, **arguments: Any) -> AppendOutcome:
    return stores.wait(stores.streams.append(requests, now=now, **arguments))


def push(body: bytes = b"x", stream: StreamKey = ORDERS, **arguments: Any) -> PushRequest:
    return PushRequest(stream, body, **arguments)


def read(stores: Any, key: StreamKey = ORDERS, after: int = 0, limit: int = 100, max_bytes: int = 1 << 20) -> Any:
    return stores.wait(stores.streams.read(key, after, limit, max_bytes))


def seqs(stores: Any, key: StreamKey = ORDERS) -> list[int]:
    return [stored.seq for stored in read(stores, key)]


def state(stores: Any, key: StreamKey = ORDERS) -> StreamState:
    return stores.wait(stores.streams.states([key]))[key]


def test_sequence_numbers_begin_at_one_and_are_per_stream(stores: Any) -> None:
    outcome = append(stores, push(), push(stream=CHAT), push())
    assert [seq for _, seq in outcome.places] == [1, 1, 2]
    assert not outcome.repeated
    assert [seq for _, seq in append(stores, push(), push(stream=CHAT)).places] == [3, 2]
    assert seqs(stores) == [1, 2, 3]


def test_an_epoch_is_fixed_and_fits_32_bits(stores: Any) -> None:
    epochs = {epoch for epoch, _ in append(stores, push(), push()).places + append(stores, push()).places}
    assert len(epochs) == 1
    assert 0 < epochs.pop() < 1 << 32


def test_what_is_read_is_what_was_appended(stores: Any) -> None:
    where = {"os": ["ios"], "app_version": ">=2.1", "app": "钱包"}
    append(stores, push(bytes(range(256)), ttl=2.5, collapse="k\x00é", priority=Priority.BULK, where=where), push(b""))
    first, second = read(stores)
    assert (first.seq, first.body, first.appended_at) == (1, bytes(range(256)), NOW)
    assert first.expires_at == pytest.approx(NOW + 2.5, abs=1e-6)
    assert (first.collapse, first.priority, first.where) == ("k\x00é", Priority.BULK, where)
    assert (second.body, second.expires_at, second.collapse, second.where) == (b"", None, "", {})
    assert second.priority is Priority.NOW


@pytest.mark.parametrize("id", ["", "d\x001", "d'1", '"', "设备", "d" * 3000, "%_"])
def test_any_name_of_a_stream_keeps_apart_from_others(stores: Any, id: str) -> None:
    strange = StreamKey(Scope.USER, id, "b\x00")
    append(stores, push(b"theirs", StreamKey(Scope.USER, "d", "b")), push(b"ours", strange))
    assert [stored.body for stored in read(stores, strange)] == [b"ours"]
    assert state(stores, strange).head == 1
    assert [found.key for found in stores.wait(stores.streams.streams_of("user", id))] == [strange]


def test_states_are_of_streams_that_exist(stores: Any) -> None:
    append(stores, push(), push())
    states = stores.wait(stores.streams.states([ORDERS, CHAT]))
    assert list(states) == [ORDERS]
    assert (states[ORDERS].head, states[ORDERS].floor, states[ORDERS].key) == (2, 0, ORDERS)
    assert read(stores, CHAT) == []


def test_streams_of_lists_every_biz_of_one_name(stores: Any) -> None:
    append(stores, push(), push(stream=CHAT), push(stream=NEWS), push(stream=ALL))
    found = stores.wait(stores.streams.streams_of(Scope.DEVICE, "d1"))
    assert sorted(stream.key.biz for stream in found) == ["chat", "orders"]
    assert [stream.key for stream in stores.wait(stores.streams.streams_of("broadcast", ""))] == [ALL]
    assert stores.wait(stores.streams.streams_of("device", "d2")) == []


def test_reading_is_bounded_by_number_and_bytes_and_gives_at_least_one(stores: Any) -> None:
    append(stores, push(b"a" * 10), push(b"b" * 10), push(b"c" * 10))
    assert [p.seq for p in read(stores, after=1)] == [2, 3]
    assert [p.seq for p in read(stores, limit=2)] == [1, 2]
    assert [p.seq for p in read(stores, max_bytes=20)] == [1, 2]
    assert [p.seq for p in read(stores, max_bytes=19)] == [1]
    assert [p.seq for p in read(stores, max_bytes=0)] == [1]
    assert read(stores, after=3) == []


# ------------------------------------------------------------ collapse, retention, ttl


def test_collapse_removes_the_older_push_and_leaves_a_gap(stores: Any) -> None:
    append(stores, push(collapse="k"), push(), push(collapse="other"), push(b"new", collapse="k"))
    assert seqs(stores) == [2, 3, 4]
    append(stores, push(b"newest", collapse="k"))
    assert seqs(stores) == [2, 3, 5]
    assert (state(stores).head, state(stores).floor) == (5, 0)


def test_collapse_is_per_stream(stores: Any) -> None:
    append(stores, push(collapse="k"), push(collapse="k", stream=CHAT))
    assert (seqs(stores), seqs(stores, CHAT)) == ([1], [1])


def test_too_many_pushes_move_the_floor(stores: Any) -> None:
    append(stores, *[push() for _ in range(8)])
    assert (seqs(stores)[0], state(stores).floor) == (1, 0)
    append(stores, push(), push())
    assert seqs(stores) == list(range(3, 11))
    assert (state(stores).floor, state(stores).head) == (2, 10)


@pytest.mark.parametrize(("key", "kept"), [(ORDERS, 8), (StreamKey(Scope.USER, "u", "b"), 8), (NEWS, 12), (ALL, 12)])
def test_the_bound_depends_on_the_scope(stores: Any, key: StreamKey, kept: int) -> None:
    append(stores, *[push(stream=key) for _ in range(30)])
    assert len(seqs(stores, key)) == kept
    assert state(stores, key).floor == 30 - kept


def test_only_kept_pushes_count(stores: Any) -> None:
    append(stores, push(b"first"), *[push(collapse="k") for _ in range(50)])
    assert seqs(stores) == [1, 51]
    assert state(stores).floor == 0
    append(stores, *[push() for _ in range(7)])
    assert (seqs(stores), state(stores).floor) == ([51, *range(52, 59)], 1)


def test_age_moves_the_floor_and_ttl_leaves_gaps(stores: Any) -> None:
    append(stores, push(ttl=10), push(), push(ttl=10), now=NOW)
    append(stores, push(), push(ttl=5000), now=NOW + 500)
    assert stores.wait(stores.streams.sweep(NOW + 9)) == 0
    assert stores.wait(stores.streams.sweep(NOW + 10)) == 2
    assert (seqs(stores), state(stores).floor) == ([2, 4, 5], 0)
    assert stores.wait(stores.streams.sweep(NOW + 999)) == 0
    assert stores.wait(stores.streams.sweep(NOW + 1000)) == 1
    assert (seqs(stores), state(stores).floor, state(stores).head) == ([4, 5], 2, 5)
    assert stores.wait(stores.streams.sweep(NOW + 10_000)) == 2
    assert stores.wait(stores.streams.sweep(NOW + 10_000)) == 0
    assert (seqs(stores), state(stores).floor, state(stores).head) == ([], 5, 5)
    assert append(stores, push()).places[0][1] == 6


def test_swept_pushes_no_longer_count(stores: Any) -> None:
    append(stores, *[push(ttl=1) for _ in range(8)])
    stores.wait(stores.streams.sweep(NOW + 1))
    append(stores, *[push() for _ in range(8)])
    assert (seqs(stores), state(stores).floor) == (list(range(9, 17)), 0)


def test_the_floor_takes_younger_pushes_before_an_old_one_along(stores: Any) -> None:
    """The clock may step back; the floor is contiguous all the same."""
    append(stores, push(), now=NOW + 100)
    append(stores, push(), now=NOW)
    append(stores, push(), now=NOW + 100)
    stores.wait(stores.streams.sweep(NOW + 1000))
    assert (seqs(stores), state(stores).floor) == ([3], 2)


# ------------------------------------------------------------ idempotency keys


def test_a_repetition_gets_the_first_places_and_appends_nothing(stores: Any) -> None:
    first = append(stores, push(), push(stream=CHAT), idempotency_key="k", digest=b"1")
    again = append(stores, push(), push(stream=CHAT), idempotency_key="k", digest=b"1", now=NOW + 86399)
    assert again.places == first.places
    assert again.repeated
    assert (seqs(stores), seqs(stores, CHAT)) == ([1], [1])


def test_another_request_with_the_key_is_a_conflict(stores: Any) -> None:
    append(stores, push(), idempotency_key="k", digest=b"1")
    with pytest.raises(IdempotencyConflict, match="'k'"):
        append(stores, push(), idempotency_key="k", digest=b"2")
    assert seqs(stores) == [1]


def test_a_key_is_forgotten_after_a_day_swept_or_not(stores: Any) -> None:
    append(stores, push(), idempotency_key="k", digest=b"1")
    assert not append(stores, push(), idempotency_key="k", digest=b"2", now=NOW + 86400).repeated
    assert append(stores, push(), idempotency_key="k", digest=b"2", now=NOW + 86401).repeated
    while stores.wait(stores.streams.sweep(NOW + 3 * 86400)):
        pass
    assert not append(stores, push(), idempotency_key="k", digest=b"3", now=NOW + 86401).repeated


def test_racing_appends_with_one_key_append_once(stores: Any) -> None:
    racing = [stores.streams.append([push()], now=NOW, idempotency_key="k", digest=b"1") for _ in range(5)]
    conflicting = stores.streams.append([push()], now=NOW, idempotency_key="k", digest=b"2")
    outcomes = [stores.wait(deferred) for deferred in racing]
    assert [outcome.repeated for outcome in outcomes] == [False, True, True, True, True]
    assert len({tuple(outcome.places) for outcome in outcomes}) == 1
    with pytest.raises(IdempotencyConflict):
        stores.wait(conflicting)
    assert seqs(stores) == [1]


def test_appends_take_their_places_in_the_order_of_calls(stores: Any) -> None:
    waiting = [stores.streams.append([push(b"%d" % n, NEWS)], now=NOW) for n in range(10)]
    assert [stores.wait(deferred).places[0][1] for deferred in waiting] == list(range(1, 11))
    assert [stored.body for stored in read(stores, NEWS)] == [b"%d" % n for n in range(10)]


# ------------------------------------------------------------ cursors and subscriptions


def save(stores: Any, *cursors: Cursor, device: str = "d1") -> None:
    stores.streams.save_cursors(device, cursors)


def cursors(stores: Any, device: str = "d1") -> dict[StreamKey, tuple[int, int]]:
    found = stores.wait(stores.streams.cursors(device))
    assert all(key == cursor.stream for key, cursor in found.items())
    return {key: (cursor.epoch, cursor.seq) for key, cursor in found.items()}


def test_cursors_are_seen_at_once_and_after_they_are_written(stores: Any) -> None:
    save(stores, Cursor(ORDERS, 7, 3), Cursor(NEWS, 8, 1))
    assert cursors(stores) == {ORDERS: (7, 3), NEWS: (8, 1)}
    stores.clock.advance(1)
    assert cursors(stores) == {ORDERS: (7, 3), NEWS: (8, 1)}
    assert cursors(stores, "d2") == {}


@pytest.mark.parametrize("pause", [0.0, 1.0], ids=["coalesced", "written"])
def test_a_cursor_never_moves_backwards_within_an_epoch(stores: Any, pause: float) -> None:
    save(stores, Cursor(ORDERS, 7, 3))
    stores.clock.advance(pause)
    save(stores, Cursor(ORDERS, 7, 2))
    stores.clock.advance(pause)
    assert cursors(stores) == {ORDERS: (7, 3)}
    save(stores, Cursor(ORDERS, 7, 5))
    stores.clock.advance(pause)
    assert cursors(stores) == {ORDERS: (7, 5)}
    save(stores, Cursor(ORDERS, 9, 1))
    stores.clock.advance(pause)
    assert cursors(stores) == {ORDERS: (9, 1)}


def test_impossible_cursors_are_ignored(stores: Any) -> None:
    save(stores, Cursor(ORDERS, 7, 1 << 63), Cursor(CHAT, -1, 1), Cursor(NEWS, 1, 1))
    stores.clock.advance(1)
    assert cursors(stores) == {NEWS: (1, 1)}


def test_subscriptions(stores: Any) -> None:
    stores.wait(stores.streams.subscribe("d1", ["a", "b", "a"]))
    stores.wait(stores.streams.subscribe("d1", ["b", "c\x00"]))
    stores.wait(stores.streams.unsubscribe("d1", ["a", "never"]))
    assert stores.wait(stores.streams.subscriptions("d1")) == {"b", "c\x00"}
    assert stores.wait(stores.streams.subscriptions("d2")) == set()


def test_subscribe_and_unsubscribe_in_one_batch_keep_their_order(stores: Any) -> None:
    calls = [
        stores.streams.subscribe("d1", ["a"]),
        stores.streams.unsubscribe("d1", ["a"]),
        stores.streams.unsubscribe("d1", ["b"]),
        stores.streams.subscribe("d1", ["b"]),
    ]
    for call in calls:
        stores.wait(call)
    assert stores.wait(stores.streams.subscriptions("d1")) == {"b"}


def test_a_subscription_stores_where_its_topics_begin(stores: Any) -> None:
    key = StreamKey(Scope.TOPIC, "a", "news")
    stores.wait(stores.streams.subscribe("d1", ["a"], [Cursor(key, 7, 5)]))
    assert stores.wait(stores.streams.cursors("d1"))[key] == Cursor(key, 7, 5)
    stores.wait(stores.streams.subscribe("d1", ["a"], [Cursor(key, 7, 3)]))
    assert stores.wait(stores.streams.cursors("d1"))[key].seq == 5, "never backwards within an epoch"


def test_nothing_is_known_of_who_was_never_told_anything(stores: Any) -> None:
    knows_nothing_of = stores.streams.knows_nothing_of
    assert knows_nothing_of("d1", "u1")
    append(stores, push(stream=StreamKey(Scope.USER, "u1", "b")))
    assert not knows_nothing_of("d1", "u1")
    assert knows_nothing_of("d1", "")
    stores.wait(stores.streams.subscribe("d1", ["news"]))
    assert not knows_nothing_of("d1", "")
    stores.streams.save_cursors("d2", [Cursor(ORDERS, 1, 1)])
    assert not knows_nothing_of("d2", "")
    assert knows_nothing_of("d3", "u3")
    append(stores, push(stream=ALL))
    assert not knows_nothing_of("d3", "u3")
