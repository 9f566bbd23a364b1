"""The client's core, driven with a fake clock: coming to a connection, keeping it, leaving."""

from __future__ import annotations

import pytest

from accessgw.client import commands as c
from accessgw.client.model import CallFailed, Reply, State
from protocols.mmtp.handshake import Goaway, Welcome
from protocols.mmtp.statuses import Status
from tests.client.driver import Driver
from tests.client.fake_gateway import FakeGateway


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
