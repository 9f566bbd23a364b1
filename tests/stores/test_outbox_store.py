"""What every OutboxStore does: the same tests over SQLite and memory."""

from __future__ import annotations

from typing import Any

from accessgw.model.presence import PresenceEvent
from accessgw.model.settings import WebhookSettings

NOW = 1_800_000_000.5
"""The stores' wall clock, as conftest sets it."""


def put(stores: Any, device: str, event: str = "connect", user: str = "u") -> PresenceEvent:
    seq = stores.outbox.next_seq(device)
    made = PresenceEvent(f"{device}-{seq}", seq, device, user, event, 1_700_000_000.25, "idle")
    stores.wait(stores.outbox.put(made))
    return made


def pending(stores: Any, limit: int = 100) -> list[PresenceEvent]:
    return stores.wait(stores.outbox.pending(limit))


def test_an_event_comes_back_as_it_was_until_it_is_done(stores: Any) -> None:
    event = put(stores, "d\x00é")
    assert pending(stores) == [event]
    stores.wait(stores.outbox.done(event))
    assert pending(stores) == []
    stores.wait(stores.outbox.done(event))


def test_the_oldest_of_each_device_oldest_first(stores: Any) -> None:
    b1, a1, b2, c1 = (put(stores, device) for device in ("b", "a", "b", "c"))
    assert pending(stores) == [b1, a1, c1]
    assert pending(stores, 2) == [b1, a1]
    stores.wait(stores.outbox.done(b1))
    assert pending(stores) == [a1, b2, c1]


def test_numbers_of_a_device_grow(stores: Any) -> None:
    numbers = [stores.outbox.next_seq("d") for _ in range(3)]
    assert numbers == sorted(set(numbers))


def test_past_the_bound_the_oldest_device_without_a_later_event_loses_it(stores: Any) -> None:
    events = [put(stores, device) for device in ("a", "b", "a", "c", "b", "d")]
    assert stores.webhook.dropped == 0
    last = put(stores, "e")
    # a's first has a later one, as has b's first; the oldest that is its device's last is a's second
    events.remove(events[2])
    assert stores.webhook.dropped == 1
    seen = []
    while found := pending(stores):
        seen += found
        for event in found:
            stores.wait(stores.outbox.done(event))
    assert sorted(seen, key=lambda event: event.seq) == [*events, last]


def test_one_device_alone_is_bounded_too(stores: Any) -> None:
    for _ in range(20):
        put(stores, "d")
    assert stores.webhook.dropped == 14
    left = 0
    while found := pending(stores):
        stores.wait(stores.outbox.done(found[0]))
        left += 1
    assert left == 6


def test_done_right_after_put(stores: Any) -> None:
    event = PresenceEvent("x", stores.outbox.next_seq("d"), "d", "", "connect", 1.0)
    both = [stores.outbox.put(event), stores.outbox.done(event)]
    for deferred in both:
        stores.wait(deferred)
    assert pending(stores) == []


def test_what_was_dropped_is_pending_no_more(stores: Any) -> None:
    for number in range(8):
        stores.webhook.pending += 1  # as Presence counts it
        put(stores, f"d{number}")
    assert (stores.webhook.dropped, stores.webhook.pending) == (2, 6)


def deliver_all(stores: Any) -> list[PresenceEvent]:
    seen = []
    while found := pending(stores):
        for event in found:
            stores.wait(stores.outbox.done(event))
        seen += found
    return seen


def test_devices_that_a_process_left_connected_are_disconnected_by_the_next(open_store: Any) -> None:
    made = open_store()
    put(made, "a", user="alice")
    put(made, "b")
    put(made, "c")
    last = put(made, "b", "disconnect")
    assert len(deliver_all(made)) == 4
    made.stop()  # for the outbox no other end than kill -9

    made = open_store()
    assert made.webhook.pending == 2
    found = pending(made)
    assert [(e.device, e.user, e.event, e.reason, e.at) for e in found] == [
        ("a", "alice", "disconnect", "restart", NOW),
        ("c", "u", "disconnect", "restart", NOW),
    ]
    assert last.seq < found[0].seq < found[1].seq < made.outbox.next_seq("a")
    assert len({event.id for event in found}) == 2
    assert all(len(event.id) == 32 for event in found)
    made.stop()

    made = open_store()
    assert pending(made) == found, "told once, kept until it is delivered"


def test_an_undelivered_connect_comes_before_the_disconnect_of_a_restart(open_store: Any) -> None:
    made = open_store()
    connect = put(made, "a")
    made.stop()
    made = open_store()
    assert [(e.event, e.reason) for e in deliver_all(made)] == [("connect", connect.reason), ("disconnect", "restart")]


def test_who_is_connected_is_right_after_many_events_at_once(open_store: Any) -> None:
    made = open_store(webhook=WebhookSettings())
    rows = [("a", "connect", "u"), ("b", "connect", "u"), ("a", "disconnect", "u"), ("a", "connect", "v"),
            ("b", "disconnect", "u"), ("c", "disconnect", "u")]  # fmt: skip
    waiting = []
    for device, event, user in rows:
        seq = made.outbox.next_seq(device)
        waiting.append(made.outbox.put(PresenceEvent(f"{seq}", seq, device, user, event, 1.0)))
    for deferred in waiting:
        made.wait(deferred)
    deliver_all(made)
    made.stop()
    assert [(e.device, e.user) for e in pending(open_store())] == [("a", "v")]


def test_past_the_bound_a_restart_drops_as_ever(open_store: Any) -> None:
    made = open_store()
    for number in range(6):
        put(made, f"d{number}")
    made.stop()
    made = open_store()
    put(made, "later")
    assert made.webhook.dropped == 7
    assert len(deliver_all(made)) == 6
