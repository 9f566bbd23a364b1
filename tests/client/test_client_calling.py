"""Calls of the client's core over long and short connections: bounds, statuses, repetitions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from accessgw.client import commands as c
from accessgw.client.model import CallFailed, Reply
from protocols.mmtp.statuses import Status
from tests.client.driver import Driver

# ---------------------------------------------------------------- silence and short connections


def test_a_silent_long_connection_is_answered_by_a_short_one() -> None:
    driver = Driver()
    driver.advance(1.0)
    driver.black_hole = True
    key = driver.call("payments.pay", b"1")
    driver.advance(0.5)
    reply = driver.outcomes[key]
    assert isinstance(reply, Reply)
    assert reply.via == "short"
    assert reply.elapsed < 0.5
    assert "suspect" in [note.kind for note in driver.notes]
    assert len(driver.gateway.executed) == 1


def test_the_same_id_travels_both_ways_and_the_first_answer_counts() -> None:
    driver = Driver()
    driver.auto_post = False
    driver.gateway.hold.add("slow")
    key = driver.call("slow")
    (call_id,) = driver.gateway.executed
    driver.black_hole = True
    driver.advance(0.6)
    assert len(driver.posts) == 1
    driver.black_hole = False
    link = driver.gateway.links[0]
    link.connection.respond(0, 0, [], b"long answer")
    driver.from_gateway()
    reply = driver.outcomes[key]
    assert isinstance(reply, Reply)
    assert (reply.via, reply.body) == ("long", b"long answer")
    assert [command.post for command in driver.kinds(c.CancelPost)] == [driver.posts[0].post]
    driver.gateway.hold.clear()
    driver.answer_post(driver.posts[0])  # too late: the driver would fail on a second Finish
    assert driver.gateway.resent == [call_id]


def test_a_slow_upstream_on_a_living_connection_makes_no_short_request() -> None:
    driver = Driver()
    driver.gateway.hold.add("slow")
    key = driver.call("slow", timeout=60.0)
    driver.advance(30.0)
    assert not driver.posts
    pings = sum(command.data == b"\x01" for command in driver.kinds(c.Write))
    assert 3 <= pings <= 20, "asked often at first, then less and less"
    driver.gateway.links[0].connection.respond(0, 0, [], b"at last")
    driver.from_gateway()
    assert isinstance(driver.outcomes[key], Reply)


def test_unacknowledged_bytes_make_it_suspect_earlier() -> None:
    driver = Driver()
    driver.advance(1.0)
    for _ in range(8):
        driver.core.rtt.observe(0.4)  # a slow path with much variation: the PING alone would take longer
        driver.core.rtt.observe(0.1)
    driver.black_hole = True
    key = driver.call()
    driver.advance(driver.core.rtt.inspect_after + 0.001)
    assert driver.inspected == [1]
    assert key not in driver.outcomes
    driver.core.inspected(1, True, driver.now)
    driver.run()
    reply = driver.outcomes[key]
    assert isinstance(reply, Reply)
    assert reply.via == "short"


def test_without_a_connection_calls_go_by_short_ones_after_a_moment() -> None:
    driver = Driver(connect=False)
    driver.accepting = False
    driver.core.connect(driver.now)
    driver.run()
    key = driver.call()
    driver.advance(0.39)
    assert key not in driver.outcomes
    driver.advance(0.02)
    reply = driver.outcomes[key]
    assert isinstance(reply, Reply)
    assert (reply.via, reply.attempts) == ("short", 1)
    assert driver.gateway.resent == []
    second = driver.call(body=b"y")
    driver.advance(0.5)
    assert isinstance(driver.outcomes[second], Reply)
    assert driver.posts[0].body[1] == 1, "the first with HELLO"
    assert driver.posts[1].body[1] == 0, "then with the session that it brought"


def test_an_unknown_session_is_repeated_with_hello() -> None:
    driver = Driver("https://gw:7443")
    first = driver.call()
    assert isinstance(driver.outcomes[first], Reply)
    driver.gateway.welcome = replace(driver.gateway.welcome, session="s2")
    second = driver.call()
    driver.advance(0.1)
    reply = driver.outcomes[second]
    assert isinstance(reply, Reply)
    assert [post.body[1] for post in driver.posts] == [1, 0, 1]


def test_outcome_unknown_by_short_waits_for_the_long_connection() -> None:
    driver = Driver()
    driver.gateway.hold.add("slow")
    key = driver.call("slow")
    driver.gateway.hold.clear()
    driver.gateway.statuses["slow"] = Status.OUTCOME_UNKNOWN
    driver.black_hole = True
    driver.advance(0.6)
    assert len(driver.posts) == 1
    assert key not in driver.outcomes
    driver.black_hole = False
    driver.gateway.links[0].connection.respond(0, 0, [], b"fine")
    driver.from_gateway()
    assert isinstance(driver.outcomes[key], Reply)


def test_outcome_unknown_stands_once_the_long_connection_is_lost() -> None:
    driver = Driver()
    driver.gateway.hold.add("slow")
    key = driver.call("slow")
    driver.gateway.statuses["slow"] = Status.OUTCOME_UNKNOWN
    driver.gateway.hold.clear()
    driver.black_hole = True
    driver.advance(10.0)
    failure = driver.outcomes[key]
    assert isinstance(failure, CallFailed)
    assert failure.status == Status.OUTCOME_UNKNOWN
    assert failure.reply is not None


def test_short_connections_that_fail_are_repeated_until_the_deadline() -> None:
    driver = Driver("https://gw:7443")
    driver.auto_post = False
    key = driver.call(timeout=3.0)
    for _ in range(4):
        driver.core.post_failed(driver.posts[-1].post, "refused", driver.now)
        driver.run()
        driver.advance(1.0)
        if key in driver.outcomes:
            break
    failure = driver.outcomes[key]
    assert isinstance(failure, CallFailed)
    assert failure.status == Status.DEADLINE
    assert len(driver.posts) >= 2


# ---------------------------------------------------------------- calls: bounds and statuses


def test_deadline_cancels_at_the_gateway() -> None:
    driver = Driver("mmtp://gw:7080")
    driver.gateway.hold.add("slow")
    key = driver.call("slow", timeout=2.0)
    driver.advance(2.0)
    failure = driver.outcomes[key]
    assert isinstance(failure, CallFailed)
    assert failure.status == Status.DEADLINE
    assert driver.gateway.links[0].connection.open_calls() == 0


def test_cancelling() -> None:
    driver = Driver("mmtp://gw:7080")
    driver.gateway.hold.add("slow")
    key = driver.call("slow")
    driver.core.cancel(key, driver.now)
    driver.run()
    failure = driver.outcomes[key]
    assert isinstance(failure, CallFailed)
    assert failure.status == Status.CANCELLED
    assert driver.gateway.links[0].connection.open_calls() == 0


def test_calls_beyond_the_bound_wait_then_are_refused() -> None:
    driver = Driver("mmtp://gw:7080", max_waiting=10)
    driver.gateway.hold.add("slow")
    keys = [driver.call("slow", b"%d" % n) for n in range(74)]
    assert len(driver.gateway.executed) == 64
    with pytest.raises(CallFailed, match="overload"):
        driver.call("slow")
    link = driver.gateway.links[0]
    link.connection.respond(0, 0, [], b"")
    driver.from_gateway()
    assert len(driver.gateway.executed) == 65
    assert keys[0] in driver.outcomes


def test_more_than_128_calls_on_one_connection() -> None:
    driver = Driver("mmtp://gw:7080")
    for n in range(300):
        assert isinstance(driver.outcomes[driver.call(body=b"%d" % n)], Reply)
    assert len(driver.connects) == 1


def test_a_failure_carries_status_and_message() -> None:
    driver = Driver()
    driver.gateway.statuses["gone"] = 404
    failure = driver.outcomes[driver.call("gone")]
    assert isinstance(failure, CallFailed)
    assert (failure.status, failure.name) == (404, "application 404")
    assert failure.reply is not None
    assert failure.message == "gone:x"


def test_headers_that_cannot_be_sent_fail_that_call_alone() -> None:
    driver = Driver("mmtp://gw:7080")
    bad = driver.core.call("echo", [("Bad Name", "x")], b"", timeout=5, idempotent=False, now=driver.now)
    driver.run()
    failure = driver.outcomes[bad]
    assert isinstance(failure, CallFailed)
    assert isinstance(driver.outcomes[driver.call()], Reply)


@pytest.mark.parametrize("status", [Status.STATE_MISS, Status.DICTIONARY_MISS, Status.EARLY_DATA_REFUSED])
def test_statuses_that_ask_for_a_repetition_get_a_bounded_one(status: int) -> None:
    driver = Driver("mmtp://gw:7080")
    driver.gateway.statuses["op"] = status
    failure = driver.outcomes[driver.call("op")]
    assert isinstance(failure, CallFailed)
    assert failure.status == status
    assert len(driver.gateway.resent) == 3
    assert len(driver.gateway.executed) == 1


def test_an_unavailable_upstream_is_not_hammered() -> None:
    driver = Driver()
    driver.gateway.statuses["op"] = Status.UPSTREAM_UNAVAILABLE
    failure = driver.outcomes[driver.call("op")]
    assert isinstance(failure, CallFailed)
    assert failure.status == Status.UPSTREAM_UNAVAILABLE
    assert driver.gateway.resent == []


@pytest.mark.parametrize("url", ["mmtp://gw:7080", "https://gw:7443"])
def test_a_repetition_waits_as_long_as_the_gateway_says(url: str) -> None:
    driver = Driver(url)
    driver.gateway.statuses["op"] = Status.RATE_LIMIT
    driver.gateway.headers.append(("retry-after", "2"))
    key = driver.call("op")
    driver.advance(1.9)
    assert key not in driver.outcomes
    driver.gateway.statuses.clear()
    driver.advance(0.2)
    reply = driver.outcomes[key]
    assert isinstance(reply, Reply)
    assert reply.attempts == 2
    driver.gateway.statuses["op"] = Status.RATE_LIMIT
    failure = driver.outcomes[driver.call("op", b"hurry", timeout=1.5)]
    assert isinstance(failure, CallFailed)
    assert failure.status == Status.RATE_LIMIT, "there is no time for another attempt"


def test_large_bodies_both_ways() -> None:
    driver = Driver("mmtp://gw:7080")
    connection = driver.gateway.links[0].connection
    parts: list[bytes] = []

    def receive(data: bytes, now: float) -> bytes:
        connection.receive(data, now)
        for event in connection.events():
            parts.append(getattr(event, "body", b"") + getattr(event, "data", b""))
            if hasattr(event, "wire_size"):
                connection.consumed(event.call, event.wire_size)
                if not event.more:
                    connection.respond(event.call, 0, [], b"".join(parts))
        return connection.to_send(now)

    driver.gateway.links[0].receive = receive  # type: ignore[method-assign]
    body = bytes(range(256)) * 4000
    reply = driver.outcomes[driver.call("big", body)]
    assert isinstance(reply, Reply)
    assert reply.body == body


def test_an_answer_above_the_bound_fails_its_call() -> None:
    driver = Driver("mmtp://gw:7080", max_reply=10)
    failure = driver.outcomes[driver.call(body=b"x" * 20)]
    assert isinstance(failure, CallFailed)
    assert failure.status == Status.FRAME_SIZE
