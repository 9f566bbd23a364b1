"""Presence events: stored in order, delivered at least once, in order per device, with back-off, across restarts."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher

from accessgw.core.interfaces.stores import StoreUnavailable
from accessgw.core.presence import Presence
from accessgw.core.webhook import Webhook
from accessgw.model.counters import WebhookCounters
from accessgw.model.identity import Identity
from accessgw.model.presence import PresenceEvent
from accessgw.model.reasons import CloseReason
from accessgw.model.settings import WebhookSettings
from accessgw.upstreams.post import PostFailed


class Outbox:
    def __init__(self) -> None:
        self.events: list[PresenceEvent] = []
        self.fail: Exception | None = None
        self._seq = 0

    def put(self, event: PresenceEvent) -> Deferred[None]:
        if self.fail is not None:
            return fail(self.fail)
        self.events.append(event)
        return succeed(None)

    def next_seq(self, device: str) -> int:
        self._seq += 1
        return self._seq

    def pending(self, limit: int) -> Deferred[list[PresenceEvent]]:
        if self.fail is not None:
            return fail(self.fail)
        first: dict[str, PresenceEvent] = {}
        for event in self.events:
            first.setdefault(event.device, event)
        return succeed(list(first.values())[:limit])

    def done(self, event: PresenceEvent) -> Deferred[None]:
        self.events.remove(event)
        return succeed(None)


class Session:
    def __init__(self, device: str) -> None:
        self.identity = Identity(device=device, user="alice")


class House:
    """Outbox, presence and webhook, with a receiver that the test plays."""

    def __init__(self, outbox: Outbox | None = None, **settings: Any) -> None:
        self.clock = Clock()
        self.outbox = outbox or Outbox()
        self.counters = WebhookCounters()
        self.posts: list[tuple[dict[str, Any], dict[str, str], bytes, Deferred[int]]] = []
        self.webhook = Webhook(
            WebhookSettings(url="http://hook/", **settings),
            self.outbox,
            self.post,
            clock=self.clock,
            random=lambda: 0.5,
            counters=self.counters,
        )
        self.presence = Presence(
            self.outbox,
            wall=lambda: 1.7e9,
            random_bytes=bytes,
            counters=self.counters,
            stored=self.webhook.wake,
        )
        self.webhook.start()

    def post(self, url: str, headers: Any, body: bytes, timeout: float) -> Deferred[int]:
        assert (url, timeout) == ("http://hook/", 5.0)
        result: Deferred[int] = Deferred()
        self.posts.append((json.loads(body), dict(headers), body, result))
        return result

    def seen(self) -> list[tuple[str, str]]:
        return [(event["device"], event["event"]) for event, _, _, _ in self.posts]


def test_events_are_signed_and_delivered() -> None:
    house = House(secret="s3cret")
    house.presence.connected(Session("d1"))
    event, headers, body, result = house.posts[0]
    assert event == {
        "id": "00" * 16, "seq": 1, "device": "d1", "user": "alice", "event": "connect", "at": 1.7e9, "reason": "",
    }  # fmt: skip
    assert headers["x-signature"] == "sha256=" + hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
    result.callback(204)
    assert house.outbox.events == []
    assert (house.counters.delivered, house.counters.pending, house.counters.failures) == (1, 0, 0)


def test_the_events_of_one_device_go_one_after_the_other() -> None:
    house = House()
    device = Session("d1")
    house.presence.connected(device)
    house.presence.disconnected(device, CloseReason.IDLE)
    house.presence.connected(Session("d2"))
    assert house.seen() == [("d1", "connect"), ("d2", "connect")]
    house.posts[0][3].callback(200)
    assert house.seen()[2:] == [("d1", "disconnect")]
    assert house.posts[2][0]["reason"] == "idle"


def test_a_failed_event_is_tried_again_before_the_next_of_its_device() -> None:
    house = House()
    device = Session("d1")
    house.presence.connected(device)
    house.presence.disconnected(device, CloseReason.IDLE)
    for attempt, result in enumerate((500, ConnectionError("refused"), 404)):
        answer = house.posts[-1][3]
        answer.callback(result) if isinstance(result, int) else answer.errback(result)
        delay = 0.5 * 0.5 * 2**attempt  # half of the full jitter
        house.clock.advance(delay - 0.01)
        assert len(house.posts) == attempt + 1
        house.clock.advance(0.02)
        assert house.seen() == [("d1", "connect")] * (attempt + 2)
    house.posts[-1][3].callback(200)
    assert house.seen()[-1] == ("d1", "disconnect")
    assert house.counters.failures == 3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PostFailed("no connection: TLS: it is refused."), "no connection: TLS: it is refused"),
        (StoreUnavailable("disk full"), "disk full"),
        (KeyError("url"), "KeyError: 'url'"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_a_failure_is_logged_as_a_sentence(error: Exception, said: str) -> None:
    lines: list[str] = []

    def observe(event: Any) -> None:
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    try:
        house = House()
        house.presence.connected(Session("d1"))
        house.posts[0][3].errback(error)
        house.outbox.fail = error
        house.presence.connected(Session("d2"))
        house.webhook.wake()
    finally:
        globalLogPublisher.removeObserver(observe)
    assert lines == [
        f"webhook http://hook/ fails: {said}; events wait and are tried again",
        f"a presence event was lost: {said}",
        f"the outbox cannot be read: {said}",
    ]


def test_one_failing_device_does_not_hold_the_others_up() -> None:
    house = House(concurrency=1)
    house.presence.connected(Session("d1"))
    house.presence.connected(Session("d2"))
    assert house.seen() == [("d1", "connect")]
    house.posts[0][3].callback(500)
    house.presence.connected(Session("d3"))
    assert house.seen() == [("d1", "connect"), ("d2", "connect")]
    house.posts[1][3].callback(200)
    assert house.seen()[2] == ("d3", "connect")


class SlowOutbox(Outbox):
    """What it found is told late, as by a thread that reads beside the one that writes."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[tuple[Deferred[list[PresenceEvent]], list[PresenceEvent]]] = []

    def pending(self, limit: int) -> Deferred[list[PresenceEvent]]:
        told: Deferred[list[PresenceEvent]] = Deferred()
        super().pending(limit).addCallback(lambda found: self.looks.append((told, found)))
        return told

    def tell(self) -> None:
        told, found = self.looks.pop(0)
        told.callback(found)


def test_an_event_delivered_while_the_outbox_is_read_is_not_sent_again() -> None:
    outbox = SlowOutbox()
    house = House(outbox)
    outbox.tell()
    one, other = Session("d1"), Session("d2")
    house.presence.connected(one)
    outbox.tell()
    house.presence.connected(other)  # a look begins that finds the event of d1 still
    house.posts[0][3].callback(200)
    house.presence.disconnected(one, CloseReason.IDLE)
    while outbox.looks:
        outbox.tell()
    assert house.seen() == [("d1", "connect"), ("d2", "connect"), ("d1", "disconnect")]
    for _, _, _, answer in house.posts[1:]:
        answer.callback(200)
    while outbox.looks:
        outbox.tell()
    assert len(house.posts) == 3
    assert (house.counters.delivered, house.counters.pending, outbox.events) == (3, 0, [])


def test_concurrency_is_bounded() -> None:
    house = House(concurrency=3)
    for number in range(10):
        house.presence.connected(Session(f"d{number}"))
    assert len(house.posts) == 3
    for number in range(10):
        house.posts[number][3].callback(200)
    assert len(house.posts) == 10
    assert len({device for device, _ in house.seen()}) == 10


def test_what_was_not_delivered_is_delivered_by_the_next_process() -> None:
    first = House()
    first.presence.connected(Session("d1"))
    first.posts[0][3].callback(503)
    first.webhook.stop()
    first.clock.advance(1000.0)
    assert len(first.posts) == 1
    second = House(outbox=first.outbox)
    assert second.seen() == [("d1", "connect")]
    assert second.posts[0][0]["id"] == first.posts[0][0]["id"]


def test_a_store_that_fails_costs_events_and_says_so() -> None:
    house = House()
    house.outbox.fail = StoreUnavailable("disk full")
    house.presence.connected(Session("d1"))
    assert (house.counters.dropped, house.counters.pending) == (1, 0)
    house.webhook.wake()  # cannot be read either
    house.outbox.fail = None
    house.presence.connected(Session("d2"))
    assert house.posts == []
    house.clock.advance(60.0)
    assert house.seen() == [("d2", "connect")]
