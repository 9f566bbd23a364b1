from __future__ import annotations

import random
from typing import Any

import pytest
from twisted.internet.task import Clock

from accessgw.core.interfaces.mqtt_state import Message
from accessgw.core.mqtt import top as top_module
from accessgw.core.mqtt.flapping import Flapping
from accessgw.core.mqtt.rate import rate_of
from accessgw.core.mqtt.sys_topics import SysTopics, totals
from accessgw.core.mqtt.top import MqttTop
from accessgw.core.mqtt.topic_trace import TopicTrace
from accessgw.model.counters import MqttCounters
from accessgw.model.mqtt_settings import MqttSettings

# ------------------------------------------------------------------ topic trace


def message(topic: str, payload: bytes = b"secret", **more: Any) -> Message:
    return Message(topic, payload, publisher=more.pop("publisher", "d1"), **more)


def test_a_watcher_hears_of_messages_that_match_and_never_their_payload() -> None:
    trace = TopicTrace(lambda: 5.0)
    heard: list[Any] = []
    assert not trace.watched
    stop = trace.watch("a/+", heard.append)
    assert trace.watched
    trace.tell(message("a/b", qos=1), "delivered", client="d2")
    trace.tell(message("a/b/c"), "published")
    assert heard == [
        {
            "at": 5.0, "kind": "mqtt", "event": "delivered", "topic": "a/b", "publisher": "d1", "qos": 1,
            "retain": False, "bytes": 6, "client": "d2",
        }
    ]  # fmt: skip
    stop()
    stop()
    assert not trace.watched
    trace.tell(message("a/b"), "published")
    assert len(heard) == 1


def test_wildcards_do_not_show_topics_of_the_broker() -> None:
    trace = TopicTrace(lambda: 0.0)
    heard: list[Any] = []
    trace.watch("#", heard.append)
    trace.watch("$share/g/a", heard.append)
    trace.tell(message("$SYS/broker/uptime"), "published")
    assert heard == []
    trace.tell(message("a"), "published")
    assert len(heard) == 2


def test_a_watcher_that_raises_is_dropped_and_others_go_on() -> None:
    trace = TopicTrace(lambda: 0.0)
    heard: list[Any] = []

    def bad(event: Any) -> None:
        raise RuntimeError("gone")

    trace.watch("#", bad)
    trace.watch("#", heard.append)
    trace.tell(message("a"), "published")
    trace.tell(message("a"), "published")
    assert len(heard) == 2
    assert len(trace._watchers) == 1


def test_watchers_are_bounded() -> None:
    trace = TopicTrace(lambda: 0.0, max_watchers=1)
    stop = trace.watch("a", print)
    with pytest.raises(ValueError, match="at most 1"):
        trace.watch("b", print)
    stop()
    trace.watch("b", print)


# ------------------------------------------------------------------ top talkers


class Publishers:
    """Tells `top` of as many messages as it asks for."""

    def __init__(self, top: MqttTop) -> None:
        self.top = top
        self.left = 0

    def published(self, message: Message) -> None:
        self.left -= 1
        if self.left <= 0:
            self.left = self.top.published(message)


def test_the_busiest_of_the_last_minute() -> None:
    clock = Clock()
    top = MqttTop(clock.seconds, random.Random(1).random)
    for _ in range(3):
        top.published(message("old", b"x"))
    clock.advance(50)
    top.published(message("a", b"12", publisher="d1"))
    top.published(message("a", b"34", publisher="d2"))
    report = top.report(1)
    assert report["topics"] == [{"topic": "old", "messages": 3, "bytes": 3}]
    clock.advance(15)
    report = top.report(10)
    assert report["topics"] == [{"topic": "a", "messages": 2, "bytes": 4}]
    assert {row["client"] for row in report["clients"]} == {"d1", "d2"}
    assert report["sampled"] == 1
    clock.advance(60)
    assert top.report(10)["topics"] == []


def test_a_flood_is_sampled_and_estimated() -> None:
    clock = Clock()
    top = MqttTop(clock.seconds, random.Random(1).random)
    publishers = Publishers(top)
    a, b = message("a", b"x"), message("b", b"x")
    for number in range(100_000):
        publishers.published(a if number % 4 else b)
    report = top.report(2)
    assert report["sampled"] > 1
    found = {row["topic"]: row["messages"] for row in report["topics"]}
    assert 0.9 < sum(found.values()) / 100_000 < 1.1
    assert 2.5 < found["a"] / found["b"] < 3.6
    for _ in range(20):
        clock.advance(10)
        for _ in range(top.every * 4):
            publishers.published(a)
    assert top.every == 1


def test_memory_is_bounded_and_the_busy_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_module, "CAPACITY", 8)
    top = MqttTop(Clock().seconds, random.Random(1).random)
    publishers = Publishers(top)
    for number in range(500):
        publishers.published(message("busy"))
        publishers.published(message(f"once/{number}"))
    assert top.report(1)["topics"] == [{"topic": "busy", "messages": 500, "bytes": 3000}]
    assert len(top._slices[0].topics) <= 8


# ------------------------------------------------------------------ flapping


def flapping(clock: Clock, connects: int = 3, **more: Any) -> Flapping:
    settings = MqttSettings(flapping_connects=connects, flapping_window=10, flapping_ban=30)
    return Flapping(settings, clock.seconds, MqttCounters(), **more)


def test_who_connects_too_often_is_banned_for_a_while() -> None:
    clock = Clock()
    guard = flapping(clock)
    assert [guard.connected("a") for _ in range(3)] == [0, 0, 0]
    assert guard.connected("a") == 30
    assert guard.connected("b") == 0
    clock.advance(29)
    assert guard.connected("a") == 1
    assert (guard.banned_for("a"), guard.banned_for("b")) == (1, 0)
    clock.advance(1)
    assert guard.connected("a") == 0
    assert guard._counters.flapping_bans == 1


def test_slow_reconnects_are_nothing() -> None:
    clock = Clock()
    guard = flapping(clock)
    for _ in range(50):
        assert guard.connected("a") == 0
        clock.advance(4)


def test_without_a_bound_nothing_is_counted() -> None:
    guard = flapping(Clock(), connects=0)
    assert {guard.connected("a") for _ in range(100)} == {0}
    assert not guard._connects


def test_counting_is_bounded_and_forgets() -> None:
    clock = Clock()
    guard = flapping(clock, max_clients=5)
    for number in range(100):
        guard.connected(f"d{number}")
    assert len(guard._connects) == 5
    clock.advance(10)
    for number in range(100, 103):
        guard.connected(f"d{number}")
    assert set(guard._connects) == {"d100", "d101", "d102"}
    for number in range(20):
        for _ in range(4):
            guard.connected(f"e{number}")
    assert len(guard._bans) == 5


# ------------------------------------------------------------------ rates


def test_no_limit_costs_nothing() -> None:
    assert rate_of(MqttSettings(), 0.0) is None


def test_messages_past_the_burst_pause_the_reading() -> None:
    rate = rate_of(MqttSettings(messages_per_second=10, message_burst=5), 0.0)
    assert rate is not None
    assert rate.take(5, 1_000_000, 0.0) == 0
    assert rate.take(1, 10, 0.0) == pytest.approx(0.1)
    assert rate.take(0, 10, 0.0) == 0
    assert rate.take(1, 10, 0.2) == 0
    assert rate.take(25, 10, 100.0) == pytest.approx(2.0)


def test_bytes_pause_the_reading_too_and_the_longer_pause_counts() -> None:
    rate = rate_of(MqttSettings(bytes_per_second=1000, messages_per_second=1, message_burst=1), 0.0)
    assert rate is not None
    assert rate.take(1, 1000, 0.0) == 0
    assert rate.take(0, 500, 0.0) == pytest.approx(0.5)
    assert rate.take(1, 0, 0.5) == pytest.approx(0.5)


# ------------------------------------------------------------------ $SYS


class Sys:
    def __init__(self, interval: float = 10.0) -> None:
        self.clock = Clock()
        self.counters = MqttCounters()
        self.published: list[Message] = []
        self.topics = SysTopics(
            lambda: {**totals(self.counters), "bytes/received": 7}, self.published.append, clock=self.clock,
            wall=lambda: 100.0, interval=interval, version="accessgw version 1",
        )  # fmt: skip

    def take(self) -> dict[str, str]:
        found = {one.topic.removeprefix("$SYS/broker/"): one.payload.decode() for one in self.published}
        self.published.clear()
        return found


def test_the_state_of_the_broker_is_published_and_then_what_changes() -> None:
    world = Sys()
    world.counters.connected, world.counters.sessions, world.counters.retained = 2, 5, 3
    world.topics.start()
    assert {(one.qos, one.retain, one.publisher, one.at) for one in world.published} == {(0, True, "$sys", 100.0)}
    first = world.take()
    assert (first["version"], first["uptime"]) == ("accessgw version 1", "0 seconds")
    assert (first["clients/connected"], first["clients/disconnected"], first["clients/total"]) == ("2", "3", "5")
    assert (first["clients/maximum"], first["retained messages/count"], first["bytes/received"]) == ("2", "3", "7")
    assert "connects" not in first
    world.clock.advance(10)
    second = world.take()
    assert second.pop("uptime") == "10 seconds"
    assert set(second.values()) == {"0.00"}
    assert all(name.startswith("load/") for name in second)
    world.counters.connected = 1
    world.clock.advance(10)
    assert world.take() == {
        "uptime": "20 seconds", "clients/connected": "1", "clients/active": "1", "clients/disconnected": "4",
        "clients/inactive": "4",
    }  # fmt: skip


def test_loads_are_averages_per_minute() -> None:
    world = Sys()
    world.topics.start()
    for _ in range(360):
        world.counters.received_qos1 += 50
        world.clock.advance(10)
    found = world.take()
    assert found["load/publish/received/1min"] == "300.00"
    assert found["load/publish/received/15min"] == "294.51"
    world.clock.advance(60)
    found = world.take()
    one, fifteen = (float(found[f"load/publish/received/{minutes}min"]) for minutes in (1, 15))
    assert one == pytest.approx(300 / 2.71828, rel=0.01)
    assert 270 < fifteen < 280


def test_no_interval_means_no_topics() -> None:
    world = Sys(interval=0)
    world.topics.start()
    assert world.published == []
    assert world.clock.getDelayedCalls() == []


def test_a_publish_that_raises_does_not_end_the_updates() -> None:
    world = Sys()
    world.topics.start()
    world.topics._publish = lambda one: 1 // 0
    world.clock.advance(10)
    world.topics._publish = world.published.append
    world.published.clear()
    world.clock.advance(10)
    assert world.take()["uptime"] == "20 seconds"
    world.topics.stop()
    assert world.clock.getDelayedCalls() == []
