"""What every OutboxStore does: the same tests over SQLite and memory."""

from __future__ import annotations

from typing import Any

from accessgw.model.presence import PresenceEvent


def put(stores: Any, device: str, event: str = "connect") -> PresenceEvent:
    seq = stores.outbox.next_seq(device)
    made = PresenceEvent(f"{device}-{seq}", seq, device, "u", event, 1_700_000_000.25, "idle")
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
