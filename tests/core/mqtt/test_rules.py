from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher

from accessgw.core.interfaces.mqtt_state import Message
from accessgw.core.interfaces.upstreams import UpstreamFailure
from accessgw.core.mqtt.rule_queue import RuleQueue
from accessgw.core.mqtt.rules import ServiceRules
from accessgw.core.timers import TimingWheel
from accessgw.model.counters import MqttCounters
from accessgw.model.identity import Identity
from accessgw.model.mqtt_settings import MessageRuleSettings
from protocols.mqtt.packets import Property
from protocols.mqtt.reasons import Reason
from tests.core.gateway_fakes import WALL, FakeUpstreams


class World:
    def __init__(self, *rules: MessageRuleSettings) -> None:
        self.clock = Clock()
        self.upstreams = FakeUpstreams()
        self.counters = MqttCounters()
        self.random = 0.999
        self.rules = ServiceRules(
            rules, self.upstreams, clock=self.clock, timers=TimingWheel(self.clock), counters=self.counters,
            wall=lambda: WALL + self.clock.seconds(), random=lambda: self.random,
        )  # fmt: skip

    def offer(self, topic: str, payload: bytes = b"x", qos: int = 1, publisher: str = "d1", **more: Any) -> Any:
        identity = Identity(device=publisher, user="u-" + publisher)
        return self.rules.offer(
            Message(topic, payload, qos=qos, publisher=publisher, identity=identity, at=WALL, **more)
        )

    def posts(self) -> list[list[Any]]:
        return [json.loads(exchange.request.body) for exchange in self.upstreams.exchanges]

    def linger(self) -> None:
        self.clock.advance(0.01)


def rule(name: str = "r", **more: Any) -> MessageRuleSettings:
    more.setdefault("topics", ("t/#",))
    return MessageRuleSettings(name=name, cluster="c", **more)


def fail(exchange: Any, kind: str = "reset") -> None:
    exchange.sink.failed(UpstreamFailure(kind, "gone", executed=True))


def test_a_message_of_no_rule_is_nobodys_business() -> None:
    world = World(rule())
    assert world.offer("other") == Reason.SUCCESS
    world.clock.advance(1)
    assert world.upstreams.exchanges == []
    assert not World().rules.active


def test_messages_leave_together_after_the_linger_time() -> None:
    world = World(rule(path="/in"))
    assert world.offer("t/1", b"one") == Reason.SUCCESS
    world.clock.advance(0.009)
    world.offer("t/2", b"\xff\xfe", publisher="d2", qos=0)
    assert world.upstreams.exchanges == []
    world.clock.advance(0.002)
    request = world.upstreams.last.request
    assert (request.method, request.target) == ("POST", "/in")
    assert ("content-type", "application/json") in request.headers
    assert request.deadline == world.clock.seconds() + 5
    first, second = world.posts()[0]
    epoch = first.pop("epoch")
    assert first == {
        "topic": "t/1", "payload": "one", "qos": 1, "retain": False, "device": "d1", "user": "u-d1",
        "client": "d1", "seq": 1, "at": WALL,
    }  # fmt: skip
    assert second["epoch"] != epoch
    assert base64.b64decode(second["payload_b64"]) == b"\xff\xfe"
    assert "payload" not in second


def test_properties_of_a_message_are_told() -> None:
    world = World(rule())
    properties = {
        Property.CONTENT_TYPE: "application/json", Property.RESPONSE_TOPIC: "r", Property.CORRELATION_DATA: b"\0\1",
        Property.USER_PROPERTY: [("a", "1"), ("a", "2")], Property.PAYLOAD_FORMAT: 1,
    }  # fmt: skip
    world.offer("t/1", b'{"a": 1}', properties=properties)
    world.linger()
    (message,) = world.posts()[0]
    assert message["payload"] == '{"a": 1}'
    assert message["properties"] == {
        "content_type": "application/json", "response_topic": "r", "correlation_data_b64": "AAE=",
        "user": [["a", "1"], ["a", "2"]], "payload_format": "utf-8",
    }  # fmt: skip


def test_a_full_batch_does_not_linger() -> None:
    world = World(rule(batch=2, linger=60))
    world.offer("t/1", publisher="d1")
    world.offer("t/1", publisher="d2")
    world.offer("t/1", publisher="d3")
    world.clock.advance(0)
    assert [len(post) for post in world.posts()] == [2, 1]


def test_messages_of_one_publisher_are_never_in_two_posts_at_once_and_keep_their_order() -> None:
    world = World(rule(batch=2, concurrency=4))
    for number in range(5):
        world.offer("t/1", str(number).encode())
    world.offer("t/1", b"other", publisher="d2")
    world.clock.advance(1)
    assert [[m["payload"] for m in post] for post in world.posts()] == [["0", "1"], ["other"]]
    world.upstreams.exchanges[1].answer()
    world.clock.advance(1)
    assert len(world.upstreams.exchanges) == 2
    world.upstreams.exchanges[0].answer()
    world.clock.advance(1)
    world.upstreams.last.answer()
    world.clock.advance(1)
    posts = [post for post in world.posts() if post[0]["client"] == "d1"]
    assert [m["seq"] for post in posts for m in post] == [1, 2, 3, 4, 5]
    assert [m["payload"] for post in posts for m in post] == ["0", "1", "2", "3", "4"]


def test_only_so_many_posts_at_once() -> None:
    world = World(rule(batch=1, concurrency=2))
    for number in range(4):
        world.offer("t", publisher=f"d{number}")
    world.clock.advance(1)
    assert len(world.upstreams.exchanges) == 2
    world.upstreams.exchanges[0].answer()
    world.clock.advance(1)
    assert len(world.upstreams.exchanges) == 3


def test_a_publisher_with_much_to_say_lets_others_in_between() -> None:
    world = World(rule(batch=2, concurrency=1))
    for number in range(6):
        world.offer("t", str(number).encode())
    world.offer("t", b"other", publisher="d2")
    world.clock.advance(1)
    world.upstreams.last.answer()
    world.clock.advance(1)
    assert "other" in [m["payload"] for m in world.posts()[1]]


def test_a_full_queue_refuses_and_drops() -> None:
    world = World(rule(queue=2))
    assert world.offer("t", publisher="a") == Reason.SUCCESS
    assert world.offer("t", publisher="b") == Reason.SUCCESS
    assert world.offer("t", publisher="c") == Reason.QUOTA_EXCEEDED
    assert world.offer("t", publisher="c", qos=2) == Reason.QUOTA_EXCEEDED
    assert world.offer("t", publisher="c", qos=0) == Reason.SUCCESS
    assert world.counters.rule_dropped == {"r": 3}
    assert world.counters.rule_taken == {"r": 2}
    world.linger()
    assert [m["client"] for m in world.posts()[0]] == ["a", "b"]
    assert world.offer("t", publisher="c") == Reason.SUCCESS


def test_bytes_bound_the_queue_too_but_a_large_message_fits_when_it_is_empty() -> None:
    world = World(rule(queue_bytes=100))
    assert world.offer("t", bytes(1000)) == Reason.SUCCESS
    assert world.offer("t", b"") == Reason.QUOTA_EXCEEDED


def test_where_one_rule_is_full_none_takes_the_message() -> None:
    world = World(rule("a"), rule("b", queue=1))
    assert world.offer("t") == Reason.SUCCESS
    assert world.offer("t") == Reason.QUOTA_EXCEEDED
    assert world.offer("t", qos=0) == Reason.SUCCESS
    assert world.counters.rule_taken == {"a": 2, "b": 1}
    assert world.counters.rule_dropped == {"a": 0, "b": 2}


def test_a_rule_with_two_matching_filters_takes_a_message_once() -> None:
    world = World(rule(topics=("t/#", "t/+", "t/1")))
    world.offer("t/1")
    world.linger()
    assert [len(post) for post in world.posts()] == [1]


def test_a_failed_post_is_tried_again_with_growing_back_off_and_its_publisher_waits() -> None:
    world = World(rule(retries=2))
    world.offer("t", b"1")
    world.linger()
    fail(world.upstreams.last)
    world.offer("t", b"2")
    world.clock.advance(0.2)
    assert len(world.upstreams.exchanges) == 1
    world.clock.advance(0.3)
    assert [[m["payload"] for m in post] for post in world.posts()] == [["1"], ["1"]]
    world.upstreams.last.answer(503)
    world.clock.advance(0.45)
    assert len(world.upstreams.exchanges) == 2
    world.clock.advance(0.3)
    assert world.counters.rule_failed == {"r": 2}
    world.upstreams.last.answer(200)
    world.linger()
    assert [m["payload"] for m in world.posts()[-1]] == ["2"]
    assert world.counters.rule_delivered == {"r": 1}
    assert world.counters.rule_queued == {"r": 1}


def test_what_fails_to_the_last_is_dropped_and_the_next_goes() -> None:
    world = World(rule(retries=1))
    world.offer("t", b"1")
    world.linger()
    world.offer("t", b"2")
    fail(world.upstreams.last, "connect")
    world.clock.advance(1)
    world.upstreams.last.answer(500)
    world.linger()
    assert [[m["payload"] for m in post] for post in world.posts()] == [["1"], ["1"], ["2"]]
    assert world.counters.rule_dropped == {"r": 1}
    assert world.counters.rule_queued == {"r": 1}


@pytest.mark.parametrize("status", [400, 404, 301, 422])
def test_what_the_service_refuses_is_not_repeated(status: int) -> None:
    world = World(rule())
    world.offer("t")
    world.linger()
    world.upstreams.last.answer(status)
    world.clock.advance(60)
    assert len(world.upstreams.exchanges) == 1
    assert world.counters.rule_dropped == {"r": 1}


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_what_may_pass_is_repeated(status: int) -> None:
    world = World(rule())
    world.offer("t")
    world.linger()
    world.upstreams.last.answer(status)
    world.clock.advance(1)
    assert len(world.upstreams.exchanges) == 2


def test_a_service_says_when_to_try_again() -> None:
    world = World(rule())
    world.offer("t")
    world.linger()
    world.upstreams.last.answer(429, headers=[("retry-after", "3")])
    world.clock.advance(2.9)
    assert len(world.upstreams.exchanges) == 1
    world.clock.advance(0.5)
    assert len(world.upstreams.exchanges) == 2


def test_a_long_answer_counts_by_its_status() -> None:
    world = World(rule())
    world.offer("t")
    world.linger()
    world.upstreams.last.sink.started(200, [], "e", 1)
    fail(world.upstreams.last, "too_large")
    assert world.counters.rule_delivered == {"r": 1}


def results(*deferreds: Deferred[int]) -> list[Any]:
    found: list[Any] = [None] * len(deferreds)
    for index, deferred in enumerate(deferreds):
        deferred.addCallback(lambda reason, index=index: found.__setitem__(index, reason))
    return found


@pytest.mark.parametrize(
    ("status", "reason"),
    [(200, Reason.SUCCESS), (204, Reason.SUCCESS), (400, Reason.IMPLEMENTATION_SPECIFIC), (403, Reason.NOT_AUTHORIZED)],
)
def test_an_acknowledgement_may_wait_for_the_answer(status: int, reason: Reason) -> None:
    world = World(rule(acknowledge="answer"))
    found = results(world.offer("t", qos=1), world.offer("t", qos=2, publisher="d2"))
    assert world.offer("t", qos=0) == Reason.SUCCESS
    world.linger()
    assert found == [None, None]
    world.upstreams.last.answer(status)
    assert found == [reason, reason]


def test_an_acknowledgement_is_refused_after_the_last_attempt() -> None:
    world = World(rule(acknowledge="answer", retries=0))
    found = results(world.offer("t"))
    world.linger()
    fail(world.upstreams.last, "timeout")
    assert found == [Reason.UNSPECIFIED]


def test_two_rules_acknowledge_together_and_a_failure_counts() -> None:
    world = World(rule("a", acknowledge="answer"), rule("b", acknowledge="answer"), rule("c"))
    found = results(world.offer("t"))
    world.linger()
    first, second, _ = world.upstreams.exchanges
    first.answer(400)
    assert found == [None]
    second.answer(200)
    assert found == [Reason.IMPLEMENTATION_SPECIFIC]


def test_raw_posts_have_the_payload_as_body_and_the_rest_in_headers() -> None:
    world = World(rule(format="raw"))
    properties = {
        Property.CONTENT_TYPE: "image/png", Property.USER_PROPERTY: [("a b", "1=2")],
        Property.CORRELATION_DATA: b"\xff", Property.RESPONSE_TOPIC: "r/é",
    }  # fmt: skip
    world.offer("t/名\r\nx: y", b"\x89PNG", properties=properties, retain=True)
    world.offer("t/2", b"next")
    world.clock.advance(1)
    assert len(world.upstreams.exchanges) == 1
    request = world.upstreams.last.request
    headers = dict(request.headers)
    assert request.body == b"\x89PNG"
    assert headers["content-type"] == "image/png"
    assert headers["x-mqtt-topic"] == "t/%E5%90%8D%0D%0Ax:%20y"
    assert (headers["x-device-id"], headers["x-user-id"], headers["x-mqtt-seq"]) == ("d1", "u-d1", "1")
    assert (headers["x-mqtt-qos"], headers["x-mqtt-retain"], headers["x-mqtt-rule"]) == ("1", "1", "r")
    assert headers["x-mqtt-user-property"] == "a%20b=1%3D2"
    assert (headers["x-mqtt-correlation-data"], headers["x-mqtt-response-topic"]) == ("/w==", "r/%C3%A9")
    world.upstreams.last.answer()
    world.clock.advance(1)
    assert world.upstreams.last.request.body == b"next"
    assert dict(world.upstreams.last.request.headers)["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("told", ["a/b\r\nx: y", "nonsense", "", "text/plain\x00"])
def test_a_content_type_that_http_does_not_take_is_left_out(told: str) -> None:
    world = World(rule(format="raw"))
    world.offer("t", properties={Property.CONTENT_TYPE: told, Property.PAYLOAD_FORMAT: 1})
    world.linger()
    assert dict(world.upstreams.last.request.headers)["content-type"] == "text/plain; charset=utf-8"


def test_an_expired_message_is_not_posted_and_its_publisher_goes_on() -> None:
    world = World(rule(linger=2.0))
    world.offer("t", b"old", expires_at=WALL + 1)
    world.offer("t", b"new", expires_at=WALL + 10)
    world.clock.advance(2)
    assert [[m["payload"] for m in post] for post in world.posts()] == [["new"]]
    assert world.counters.rule_dropped == {"r": 1}
    world.upstreams.last.answer()
    world.offer("t", b"old", expires_at=WALL + 3)
    world.clock.advance(2)
    world.offer("t", b"newer")
    world.clock.advance(2)
    assert [m["payload"] for m in world.posts()[-1]] == ["newer"]


def test_subscribers_are_left_out_where_a_rule_says_so() -> None:
    world = World(rule("a", topics=("t/#",)), rule("b", topics=("t/only",), local=False))
    assert not world.rules.consumes("t/1")
    assert world.rules.consumes("t/only")
    assert not world.rules.consumes("x")
    assert world.rules.takes("t/1")
    assert not world.rules.takes("x")
    assert not World().rules.takes("x")


def test_a_session_that_ends_is_numbered_anew() -> None:
    world = World(rule())
    world.offer("t")
    world.offer("t")
    world.linger()
    world.rules.session_ended("d1")
    world.offer("t")
    world.upstreams.last.answer()
    world.linger()
    world.upstreams.last.answer()
    world.rules.session_ended("d1")
    world.offer("t")
    world.linger()
    numbers = [(m["epoch"], m["seq"]) for post in world.posts() for m in post]
    assert [seq for _, seq in numbers] == [1, 2, 1, 1]
    assert len({epoch for epoch, _ in numbers}) == 3


def test_only_so_many_numberings_are_remembered() -> None:
    queue = RuleQueue(10, 1000, lambda: WALL, max_lanes=3)
    for number in range(20):
        queue.put(Message("t", b"", publisher=f"d{number}"), 1)
        queue.done(queue.take(1, 1000))
    assert len(queue._lanes) == 3


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 3)),
            st.tuples(st.just("take"), st.integers(1, 4)),
            st.tuples(st.just("done"), st.integers(0, 5)),
            st.tuples(st.just("forget"), st.integers(0, 3)),
        ),
        max_size=80,
    )
)
def test_whatever_happens_each_publisher_is_served_in_order_and_once_at_a_time(steps: list[tuple[str, int]]) -> None:
    queue = RuleQueue(20, 10_000, lambda: WALL, max_lanes=2)
    put: dict[str, list[int]] = {}
    served: dict[str, list[int]] = {}
    batches: list[list[Any]] = []
    number = 0
    for step, argument in steps:
        if step == "put" and queue.has_room(1):
            number += 1
            put.setdefault(f"d{argument}", []).append(number)
            queue.put(Message("t", b"%d" % number, publisher=f"d{argument}"), 1)
        elif step == "take":
            batch = queue.take(argument, 10_000)
            assert len(batch) <= argument
            busy = {taken.message.publisher for other in batches for taken in other}
            assert not busy & {taken.message.publisher for taken in batch}
            for taken in batch:
                served.setdefault(taken.message.publisher, []).append(int(taken.message.payload))
            if batch:
                batches.append(batch)
        elif step == "done" and batches:
            queue.done(batches.pop(argument % len(batches)))
        elif step == "forget":
            queue.forget(f"d{argument}")
    while batches or queue.available:
        while batches:
            queue.done(batches.pop())
        for taken in queue.take(100, 10_000):
            served.setdefault(taken.message.publisher, []).append(int(taken.message.payload))
            batches.append([taken])
    assert served == put
    assert (len(queue), queue.bytes, queue.available) == (0, 0, 0)


def test_posts_are_bounded_in_bytes() -> None:
    queue = RuleQueue(10, 1000, lambda: WALL)
    for number in range(4):
        queue.put(Message("t", b"", publisher=f"d{number % 2}"), 40)
    assert [t.message.publisher for t in queue.take(10, 100)] == ["d0", "d0"]
    assert [t.seq for t in queue.take(10, 1)] == [1]
    assert (len(queue), queue.bytes, queue.available) == (1, 40, 0)


def test_closing_posts_what_waits_and_takes_no_more() -> None:
    world = World(rule(linger=30))
    world.offer("t")
    done = world.rules.close(5)
    assert world.offer("t") == Reason.QUOTA_EXCEEDED
    world.clock.advance(0)
    assert not done.called
    world.upstreams.last.answer()
    assert done.called
    assert world.clock.getDelayedCalls() == []


def test_closing_gives_up_in_time() -> None:
    world = World(rule(acknowledge="answer", concurrency=1))
    found = results(world.offer("t"), world.offer("t"))
    done = world.rules.close(5)
    world.clock.advance(1)
    fail(world.upstreams.last)
    world.clock.advance(3)
    assert not done.called
    world.clock.advance(1)
    assert done.called
    assert found == [Reason.UNSPECIFIED] * 2
    assert world.upstreams.last.cancelled
    assert world.counters.rule_queued == {"r": 0}
    assert World().rules.close(5).called


def test_a_reload_keeps_queues_of_rules_that_stay_and_empties_those_that_go() -> None:
    world = World(rule("a", linger=1), rule("b", linger=1, topics=("b",)))
    world.offer("t", b"1")
    world.offer("b", b"2")
    world.rules.apply([rule("a", path="/new"), rule("c", topics=("c",))])
    assert world.offer("b") == Reason.SUCCESS
    world.clock.advance(0)
    world.linger()
    sent = {
        exchange.request.target: json.loads(exchange.request.body)[0]["payload"]
        for exchange in world.upstreams.exchanges
    }
    assert sent == {"/": "2", "/new": "1"}
    for exchange in world.upstreams.exchanges:
        exchange.answer()
    assert world.rules._leaving == set()


def test_drops_are_logged_once_a_second() -> None:
    lines: list[Any] = []

    def observe(event: Any) -> None:
        if event.get("log_level") == LogLevel.warn and event.get("rule") == "r":
            lines.append(event["count"])

    globalLogPublisher.addObserver(observe)
    try:
        world = World(rule(queue=1, linger=60))
        for _ in range(10):
            world.offer("t")
        world.clock.advance(1)
        world.offer("t")
    finally:
        globalLogPublisher.removeObserver(observe)
    assert lines == [1, 9]
