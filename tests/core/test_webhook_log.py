"""What the log says of a webhook that fails: few lines, however many devices wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher

from accessgw.core.webhook import Webhook
from accessgw.core.webhook_log import TELL_EVERY, WebhookLog, without_credentials
from accessgw.model.counters import WebhookCounters
from accessgw.model.presence import PresenceEvent
from accessgw.model.settings import WebhookSettings
from accessgw.policy.reasons_told import MAX_TOLD
from accessgw.upstreams.post import PostFailed

WHERE = "https://hook.example:8443/presence"


@pytest.fixture
def said() -> Iterator[list[str]]:
    lines: list[str] = []

    def observe(event: Any) -> None:
        if (line := formatEvent(event)).startswith("webhook "):
            lines.append(line)

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


class Outbox:
    """One event of each of many devices."""

    def __init__(self, devices: int) -> None:
        self.events = {
            f"d{n}": PresenceEvent(id=f"{n}", seq=n, device=f"d{n}", user="", event="connect", at=0.0)
            for n in range(devices)
        }

    def pending(self, limit: int) -> Deferred[list[PresenceEvent]]:
        return succeed(list(self.events.values())[:limit])

    def done(self, event: PresenceEvent) -> Deferred[None]:
        del self.events[event.device]
        return succeed(None)


def test_a_webhook_that_is_down_is_a_line_a_minute_and_one_when_it_works_again(said: list[str]) -> None:
    clock, outbox, counters = Clock(), Outbox(490), WebhookCounters()
    down, sick = [True], ["d7"]

    def post(url: str, headers: Any, body: bytes, timeout: float) -> Deferred[int]:
        if down[0]:
            return fail(PostFailed("no connection to 127.0.0.1:9: Connection was refused."))
        return succeed(500 if sick and f'"{sick[0]}"'.encode() in body else 204)

    settings = WebhookSettings(url=f"https://me:secret@{WHERE[8:]}?token=secret", retry_max=5.0)
    webhook = Webhook(
        settings,
        outbox,  # type: ignore[arg-type]  # what a webhook uses of it
        post,
        clock=clock,
        random=lambda: 0.9,
        counters=counters,
    )
    webhook.start()
    why = "no connection to 127.0.0.1:9: Connection was refused"
    assert said == [f"webhook {WHERE} fails: {why}; events wait and are tried again"]
    for _ in range(300):
        clock.advance(0.5)
    first, second = said[1:]
    assert first.startswith(f"webhook {WHERE} fails still: {why}; ") and second.startswith(first[:60])
    told = sum(int(line.split("; ")[1].split()[0]) for line in (first, second))
    assert 1000 < told < counters.failures
    down[0] = False
    for _ in range(60):
        clock.advance(0.5)
    assert list(outbox.events) == ["d7"]
    assert len(said) <= 5 and not any("works again" in line for line in said), "one device fails still"
    sick.clear()
    for _ in range(60):
        clock.advance(0.5)
    assert said[-1] == f"webhook {WHERE} works again; {counters.failures} deliveries had failed"
    assert len([line for line in said if "works again" in line]) == 1 and not outbox.events


def test_events_that_were_dropped_do_not_keep_it_from_working_again(said: list[str]) -> None:
    clock, outbox = Clock(), Outbox(2)
    answer = [500]
    webhook = Webhook(
        WebhookSettings(url=WHERE),
        outbox,  # type: ignore[arg-type]  # what a webhook uses of it
        lambda *_: succeed(answer[0]),
        clock=clock,
        random=lambda: 0.9,
        counters=WebhookCounters(),
    )
    webhook.start()
    del outbox.events["d0"]
    answer[0] = 200
    for _ in range(10):
        clock.advance(0.5)
    assert not outbox.events
    assert said[1:] == [f"webhook {WHERE} works again; 2 deliveries had failed"]


def test_a_new_reason_is_told_at_once_and_not_many_of_them(said: list[str]) -> None:
    clock = Clock()
    told = WebhookLog(WHERE, clock.seconds)
    told.failed("refused")
    told.failed("refused")
    told.failed("HTTP status 500")
    assert said[1:] == [f"webhook {WHERE} fails still: HTTP status 500; 2 deliveries failed since the last line"]
    for number in range(1000):
        told.failed(f"status {number}")
    assert len(said) == MAX_TOLD
    clock.advance(TELL_EVERY)
    told.failed("status 999")
    told.failed("status 999")
    assert len(said) == MAX_TOLD + 1


def test_a_webhook_that_comes_and_goes_is_not_told_each_time(said: list[str]) -> None:
    clock = Clock()
    told = WebhookLog(WHERE, clock.seconds)
    for _ in range(590):
        told.failed("refused")
        told.caught_up()
        clock.advance(0.1)
    assert [line.split(WHERE)[1].split(";")[0] for line in said] == [" fails: refused", " works again"]
    clock.advance(1.0)
    told.failed("refused")
    assert len(said) == 3


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://hook/", "http://hook/"),
        ("https://a:b@hook:8443/x?key=1#y", "https://hook:8443/x"),
        ("http://a:b@[::1]:80", "http://[::1]:80"),
    ],
)
def test_a_url_is_shown_without_secrets(url: str, shown: str) -> None:
    assert without_credentials(url) == shown
