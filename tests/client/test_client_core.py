"""The client's core, driven with a fake clock."""

from __future__ import annotations

from dataclasses import replace

import pytest

from accessgw.client import commands as c
from accessgw.client.cursors import Memory
from accessgw.client.model import CallFailed, Reply, State
from protocols.mmtp.handshake import Goaway, StreamCursor, Welcome
from protocols.mmtp.statuses import Status
from tests.client.driver import Driver
from tests.client.fake_gateway import FakeGateway

ORDERS = ("device", "d1", "orders")


def test_connects_and_calls() -> None:
    driver = Driver()
    key = driver.call("payments.pay", b"{}")
    reply = driver.outcomes[key]
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body, reply.via, reply.attempts) == (0, b"payments.pay:{}", "long", 1)
    assert driver.states == [State.CONNECTING, State.CONNECTED]


def test_a_call_leaves_together_with_hello() -> None:
    driver = Driver(connect=False)
    driver.accepting = False
    driver.core.connect(driver.now)
    driver.call()
    driver.run()
    driver.accepting = True
    driver.links[1] = driver.gateway.accept(driver.now)
    driver.core.connected(1, driver.now)
    writes = [command for command in driver.core.take_commands() if isinstance(command, c.Write)]
    assert len(writes) == 1
    driver.links[1].receive(writes[0].data, driver.now)
    assert len(driver.gateway.hellos) == len(driver.gateway.executed) == 1


def test_a_lost_connection_comes_back_and_resends_with_the_same_id() -> None:
    driver = Driver("mmtp://gw:7080")
    driver.gateway.hold.add("slow")
    key = driver.call("slow")
    (call_id,) = driver.gateway.executed
    driver.gateway.hold.clear()
    driver.lose()
    assert driver.states[-1] is State.WAITING
    driver.advance(1.0)
    reply = driver.outcomes[key]
    assert isinstance(reply, Reply)
    assert reply.attempts == 2
    assert list(driver.gateway.executed) == [call_id]
    assert driver.gateway.resent == [call_id]
    first, second = driver.gateway.hellos
    assert (second.boot, second.counter) > (first.boot, first.counter)


def test_the_cause_of_a_connection_that_ends_before_welcome_is_told() -> None:
    driver = Driver("mmtps://gw:7443", connect=False)
    driver.black_hole = True
    driver.core.connect(driver.now)
    driver.run()
    del driver.links[1]
    driver.core.lost(1, "alert certificate revoked", driver.now, tls_failed=True)
    driver.run()
    told = driver.kinds(c.Changed)[-1]
    assert told.state is State.WAITING
    assert told.message == "mmtps://gw:7443: alert certificate revoked"


def test_reconnects_are_spread_and_capped() -> None:
    driver = Driver("mmtp://gw:7080", backoff_initial=1.0, backoff_cap=8.0)
    driver.lose()
    driver.accepting = False
    times: list[float] = []
    for _ in range(40):
        before = len(driver.connects)
        start = driver.now
        while len(driver.connects) == before:
            at = driver.core.next_timer()
            assert at is not None
            driver.advance(at - driver.now)
        times.append(driver.now - start)
        driver.core.lost(driver.connects[-1].attempt, "refused", driver.now)
        driver.run()
    assert max(times) <= 8.0
    assert max(times[6:]) > 4.0
    assert min(times[6:]) < 2.0, "full jitter reaches down to 0"


def test_addresses_are_raced_and_losers_closed() -> None:
    driver = Driver(["mmtp://a:1", "mmtp://b:2", "mmtp://c:3"], connect=False)
    driver.accepting = False
    driver.core.connect(driver.now)
    driver.run()
    driver.advance(0.6)
    assert [str(command.address) for command in driver.connects] == ["mmtp://a:1", "mmtp://b:2", "mmtp://c:3"]
    driver.links[2] = driver.gateway.accept(driver.now)
    driver.core.connected(2, driver.now)
    driver.run()
    assert {command.attempt for command in driver.kinds(c.Close)} == {1, 3}
    assert driver.core.state is State.CONNECTED
    driver.core.connected(3, driver.now)
    assert len(driver.gateway.hellos) == 1


def test_a_gateway_that_accepts_and_says_nothing_is_given_up() -> None:
    driver = Driver("mmtp://gw:7080", connect=False)
    driver.black_hole = True
    driver.core.connect(driver.now)
    driver.run()
    driver.advance(5.0)
    assert [command.attempt for command in driver.kinds(c.Close)] == [1]
    driver.black_hole = False
    driver.advance(1.0)
    assert driver.core.state is State.CONNECTED


def test_takeover_by_another_client_stops_for_good() -> None:
    driver = Driver()
    driver.gateway.hold.add("slow")
    key = driver.call("slow")
    driver.gateway.links[0].connection.go_away(Goaway(Status.REPLACED, "newer"))
    driver.from_gateway()
    failure = driver.outcomes[key]
    assert isinstance(failure, CallFailed)
    assert failure.status == Status.REPLACED
    assert driver.core.state is State.CLOSED
    driver.advance(120.0)
    assert len(driver.connects) == 1
    with pytest.raises(CallFailed, match="replaced"):
        driver.call()


def test_a_stale_generation_stops_for_good() -> None:
    driver = Driver(gateway=FakeGateway(welcome=Welcome(result=Status.REPLACED)))
    assert driver.core.state is State.CLOSED
    assert driver.core.next_timer() is None


def test_a_refused_token_asks_for_another_then_stops() -> None:
    driver = Driver(gateway=FakeGateway(welcome=Welcome(result=Status.AUTH, message="no")))
    assert driver.token_asked == 1
    driver.core.token("t2", driver.now)
    driver.run()
    assert driver.gateway.hellos[-1].token == "t2"
    driver.core.token("t3", driver.now)
    driver.run()
    assert driver.core.state is State.CLOSED
    assert [hello.token for hello in driver.gateway.hellos] == ["t", "t2", "t3"]


def test_without_another_token_it_stops() -> None:
    driver = Driver(gateway=FakeGateway(welcome=Welcome(result=Status.AUTH, message="no")))
    driver.core.token(None, driver.now)
    driver.run()
    assert driver.core.state is State.CLOSED


def test_a_refusal_with_retry_after_is_obeyed() -> None:
    gateway = FakeGateway(welcome=Welcome(result=Status.OVERLOAD, retry_after=20.0))
    driver = Driver(gateway=gateway)
    driver.advance(19.9)
    assert len(driver.connects) == 1
    driver.advance(4.2)
    assert len(driver.connects) == 2


def test_goaway_moves_what_was_not_executed_and_lets_the_rest_finish() -> None:
    driver = Driver("mmtp://gw:7080")
    gateway = driver.gateway
    gateway.hold.add("slow")
    old = gateway.links[0]
    kept = driver.call("slow", b"kept")
    old.connection.go_away(Goaway(Status.DRAINING, address="other:7080"))
    late = driver.core.call("echo", [], b"late", timeout=30, idempotent=False, now=driver.now)
    # the request crosses the GOAWAY: the gateway refuses it, the client sends it elsewhere
    commands = driver.core.take_commands()
    driver.from_gateway(1)
    for command in commands:
        driver.perform(command)
    driver.advance(0.1)
    assert str(driver.connects[1].address) == "mmtp://other:7080"
    reply = driver.outcomes[late]
    assert isinstance(reply, Reply)
    assert reply.body == b"echo:late"
    assert kept not in driver.outcomes
    old.connection.respond(0, 0, [], b"answer")
    driver.from_gateway(1)
    reply = driver.outcomes[kept]
    assert isinstance(reply, Reply)
    assert (reply.body, reply.attempts) == (b"answer", 1)
    assert 1 not in driver.links, "the old connection is closed once its calls are answered"


def test_goaway_spreads_the_return() -> None:
    driver = Driver("mmtp://gw:7080", seed=5)
    driver.gateway.links[0].connection.go_away(Goaway(Status.DRAINING, delay=60.0))
    driver.from_gateway()
    at = driver.core.next_timer()
    assert at is not None
    assert len(driver.connects) == 1
    driver.advance(60.0)
    assert len(driver.connects) == 2


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


def test_pushes_ride_on_short_connections_without_repeating() -> None:
    driver = Driver()
    driver.push(b"1")
    driver.black_hole = True
    driver.gateway.log[ORDERS].append(b"2")
    driver.call()
    driver.advance(0.6)
    assert [(push.seq, push.via) for push in driver.pushes] == [(1, "long"), (2, "short")]


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


# ---------------------------------------------------------------- pushes


def test_a_push_is_acknowledged_once_processed() -> None:
    driver = Driver()
    driver.push(b"1")
    driver.push(b"2")
    assert [push.seq for push in driver.pushes] == [1, 2]
    driver.advance(1.0)
    assert driver.gateway.links[0].acked == []
    driver.process(driver.pushes[0])
    driver.advance(0.3)
    assert driver.gateway.links[0].acked == [(ORDERS, 1)]


def test_streams_are_acknowledged_independently() -> None:
    driver = Driver()
    news = ("topic", "news", "news")
    for n in range(4):
        driver.push(b"o%d" % n)
        driver.push(b"n%d" % n, news)
    for push in [p for p in driver.pushes if p.biz == "news"]:
        driver.process(push)
    driver.advance(0.3)
    assert driver.gateway.cursors == {news: 4}
    for push in [p for p in driver.pushes if p.biz == "orders"]:
        driver.process(push)
    driver.advance(0.3)
    assert driver.gateway.cursors == {news: 4, ORDERS: 4}


def test_processing_out_of_order_holds_the_cursor() -> None:
    driver = Driver("mmtp://gw:7080")
    for n in range(3):
        driver.push(b"%d" % n)
    driver.process(driver.pushes[2])
    driver.process(driver.pushes[1])
    driver.advance(0.3)
    assert driver.gateway.cursors == {}
    driver.process(driver.pushes[0])
    driver.advance(0.3)
    assert driver.gateway.cursors == {ORDERS: 3}


def test_what_was_delivered_is_not_delivered_again_but_acknowledged_on_the_new_connection() -> None:
    driver = Driver("mmtp://gw:7080")
    for n in range(3):
        driver.push(b"%d" % n)
    driver.process(driver.pushes[0])
    driver.lose()
    driver.advance(1.0)
    assert driver.gateway.hellos[1].cursors == [StreamCursor(*ORDERS, 1, 1)]
    assert [push.seq for push in driver.pushes] == [1, 2, 3]
    driver.process(driver.pushes[1])
    driver.process(driver.pushes[2])
    driver.advance(0.3)
    assert driver.gateway.links[1].acked == [(ORDERS, 2), (ORDERS, 3)]


def test_a_cursor_is_stored_before_its_push_is_acknowledged() -> None:
    driver = Driver(persistent=True)
    driver.auto_save = False
    driver.push(b"1")
    saves = len(driver.saves)
    driver.process(driver.pushes[0])
    driver.advance(5.0)
    assert driver.saves[saves].cursors == [StreamCursor(*ORDERS, 1, 1)]
    assert driver.gateway.links[0].acked == []
    driver.saved()
    driver.advance(0.3)
    assert driver.gateway.links[0].acked == [(ORDERS, 1)]


def test_only_stored_cursors_are_told() -> None:
    driver = Driver("mmtp://gw:7080", persistent=True)
    driver.auto_save = False
    driver.push(b"1")
    driver.process(driver.pushes[0])
    driver.lose()
    driver.advance(1.0)
    assert driver.gateway.hellos[1].cursors == []
    assert len(driver.pushes) == 1
    driver.saved()
    driver.advance(0.3)
    assert driver.gateway.links[1].acked == [(ORDERS, 1)]


def test_what_is_processed_during_a_save_goes_into_the_next() -> None:
    driver = Driver(persistent=True)
    driver.auto_save = False
    for n in range(3):
        driver.push(b"%d" % n)
    for push in driver.pushes:
        driver.process(push)
    saves = len(driver.saves)
    driver.saved()
    driver.advance(0.3)
    assert driver.gateway.cursors == {ORDERS: 1}
    assert len(driver.saves) == saves + 1
    driver.saved()
    driver.advance(0.3)
    assert driver.gateway.cursors == {ORDERS: 3}


def test_a_full_disk_acknowledges_nothing_until_it_takes_the_cursor() -> None:
    driver = Driver(persistent=True)
    driver.auto_save = False
    driver.push(b"1")
    driver.process(driver.pushes[0])
    driver.unsaved -= 1
    driver.core.save_failed("no space left", driver.now)
    driver.run()
    assert [note.kind for note in driver.notes] == ["save_failed"]
    driver.advance(0.9)
    assert driver.gateway.cursors == {}
    driver.auto_save = True
    driver.advance(0.5)
    assert driver.gateway.cursors == {ORDERS: 1}


def test_boot_grows_and_cursors_last() -> None:
    memory = Memory(boot=5_000_000_000, cursors=[StreamCursor(*ORDERS, 1, 7)])
    driver = Driver(memory=memory, persistent=True)
    hello = driver.gateway.hellos[0]
    assert hello.boot == 5_000_000_001
    assert hello.cursors == [StreamCursor(*ORDERS, 1, 7)]
    assert driver.saves[0].boot == hello.boot


def test_gaps_notes_and_new_epochs_are_told() -> None:
    driver = Driver()
    driver.push(b"1")
    link = driver.gateway.links[0]
    from protocols.mmtp.pushes import encode_push

    link.connection.send_push(1, 4, encode_push(1, b"4", gap=2), 1, ("x", 4))
    driver.from_gateway()
    link.connection.note_stream(StreamCursor(*ORDERS, 1, 9), 1, "truncated")
    driver.from_gateway()
    link.connection.note_stream(StreamCursor(*ORDERS, 2, 0), 1, "history_lost")
    link.connection.send_push(1, 1, encode_push(1, b"new"), 3, ("x", 1))
    driver.from_gateway()
    assert [(note.kind, note.count) for note in driver.notes] == [("gap", 2), ("truncated", 5), ("history_lost", 0)]
    assert [(push.epoch, push.seq) for push in driver.pushes] == [(1, 1), (1, 4), (2, 1)]


def test_an_application_that_takes_nothing_is_bounded() -> None:
    driver = Driver("mmtp://gw:7080", max_held=50)
    for n in range(60):
        driver.push(b"%d" % n)
    assert driver.core.state is State.WAITING
    driver.advance(60.0)
    assert len(driver.connects) == 1
    for push in list(driver.pushes):
        driver.process(push)
    driver.advance(1.0)
    assert len(driver.connects) == 2
    assert [push.seq for push in driver.pushes] == list(range(1, 61))


# ---------------------------------------------------------------- heartbeats


def test_heartbeats_after_silence_only() -> None:
    driver = Driver()
    driver.advance(59.0)
    assert len(driver.kinds(c.Write)) == 1
    driver.call()
    driver.advance(59.0)
    pings = [command for command in driver.kinds(c.Write) if command.data == b"\x01"]
    assert not pings
    driver.advance(2.0)
    assert [command.data for command in driver.kinds(c.Write)][-1] == b"\x01"


def test_a_dead_path_is_found_by_the_heartbeat() -> None:
    driver = Driver("mmtp://gw:7080")
    driver.black_hole = True
    driver.advance(59.0)
    assert len(driver.connects) == 1
    driver.advance(10.0)
    assert len(driver.connects) > 1


# ---------------------------------------------------------------- the end


def test_close_says_goaway_and_fails_what_is_open() -> None:
    driver = Driver()
    driver.gateway.hold.add("slow")
    key = driver.call("slow")
    driver.core.close(driver.now)
    driver.run()
    assert len(driver.gateway.links[0].goaways) == 1
    failure = driver.outcomes[key]
    assert isinstance(failure, CallFailed)
    assert failure.status == Status.CANCELLED
    assert driver.core.next_timer() is None


def test_a_gateway_that_breaks_the_protocol_is_told_and_left() -> None:
    driver = Driver("mmtp://gw:7080")
    driver.core.received(1, b"\x10", driver.now)
    driver.run()
    assert driver.notes[0].kind == "protocol_error"
    assert len(driver.gateway.links[0].goaways) == 1
    driver.advance(1.0)
    assert driver.core.state is State.CONNECTED
    assert driver.gateway.hellos[1].last_close == Status.PROTOCOL
