"""Sessions opened, taken over, left, expired and restored; wills; subscriptions and what is retained for them."""

from __future__ import annotations

import random
from time import process_time
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from accessgw.core.interfaces.mqtt_state import Message
from accessgw.core.interfaces.stores import StoreUnavailable
from accessgw.core.mqtt.control import BrokerControl
from accessgw.core.mqtt.deadlines import BATCH, Deadlines
from accessgw.core.mqtt.session_keeper import granted_expiry
from accessgw.core.timers import TimingWheel
from accessgw.model.mqtt_settings import MqttSettings
from protocols.mqtt.reasons import Reason
from tests.core.mqtt.mqtt_world import Client, World, will_of


def watcher(world: World) -> Client:
    client = world.client("watcher", prompt=True)
    client.connect()
    client.subscribe("will", qos=1)
    return client


def later(world: World, seconds: float) -> None:
    """Time passes, turn by turn."""
    for _ in range(int(seconds * 4) + 2):
        world.clock.advance(0.25)


# ------------------------------------------------------------------ sessions


def test_a_session_goes_on_ends_or_is_taken_over() -> None:
    """[MQTT-3.1.2-4] [MQTT-3.1.2-5] [MQTT-3.1.2-6] [MQTT-3.1.4-3] [MQTT-3.2.2-2]"""
    world = World()
    first, second = world.client("c"), world.client("c")
    assert not first.connect(expiry=60).present
    first.subscribe("t")
    assert second.connect(expiry=60).present
    assert first.displaced == [Reason.SESSION_TAKEN_OVER]
    world.publish(b"1")
    assert (first.payloads, second.payloads) == ([], [b"1"])
    assert not first.connect(clean=True, expiry=60).present
    assert second.displaced == [Reason.SESSION_TAKEN_OVER]
    assert world.publish(b"2") == [Reason.NO_MATCHING_SUBSCRIBERS]
    assert len(world.store.loaded.sessions) == 1
    assert (world.counters.connected, world.counters.sessions, world.counters.subscriptions) == (1, 1, 0)


def test_the_session_of_another_user_is_not_handed_over() -> None:
    world = World()
    world.client("c").connect(user="alice")
    assert not world.client("c").connect(user="mallory").present


def test_a_connection_that_is_closed_twice_or_late_ends_nothing_of_its_successor() -> None:
    world = World()
    first, second = world.client("c"), world.client("c")
    opened = first.connect()
    second.connect()
    world.keeper.close(opened.session, first, with_will=True)
    assert opened.session.outlet is second
    assert world.counters.connected == 1


def test_expiry_counts_from_the_end_of_the_connection_and_across_a_restart() -> None:
    """[MQTT-3.1.2-23]"""
    world = World()
    client = world.client("c")
    client.connect(expiry=10)
    client.cut()
    later(world, 8)
    assert client.connect(expiry=10).present
    client.cut()
    later(world, 4)
    world.restart()
    later(world, 4)
    assert client.connect(expiry=10).present
    client.cut()
    later(world, 4)
    world.restart()
    later(world, 7)
    assert "c" not in world.broker.sessions
    assert world.counters.sessions_expired == 1
    assert world.store.loaded.sessions == []


def test_one_that_was_connected_at_a_kill_expires_after_it() -> None:
    world = World()
    client = world.client("c")
    client.connect(expiry=10)
    later(world, 100)
    world.restart()
    later(world, 9)
    assert "c" in world.broker.sessions
    later(world, 2)
    assert "c" not in world.broker.sessions


def test_disconnect_may_shorten_the_expiry_and_bounds_hold() -> None:
    assert granted_expiry(0xFFFFFFFF, 100.0) == 100.0
    assert granted_expiry(50, 100.0) == 50
    world = World(max_sessions=1)
    kept, not_kept = world.client("kept"), world.client("not-kept")
    assert kept.connect(expiry=60).session.durable
    opened = not_kept.connect(expiry=60)
    assert not opened.session.durable
    assert opened.session.expiry == 0
    kept.cut(expiry=0)
    assert "kept" not in world.broker.sessions
    not_kept.cut()
    assert not_kept.connect(expiry=60).session.durable


def test_a_session_that_cannot_be_stored_is_not_promised() -> None:
    world = World()
    client = world.client("c")
    world.store.hand = True
    client.connect(expiry=60)
    world.store.commands.clear()
    world.store.hand = False
    world.keeper._not_opened(StoreUnavailable("x"), client.opened.session, client.opened.session.connection, False)  # type: ignore[union-attr]
    assert client.displaced == [Reason.SERVER_UNAVAILABLE]
    assert "c" not in world.broker.sessions
    world.store.refuse = 1
    again = world.client("c")
    again.connect(expiry=60, welcome=False)
    assert again.displaced == [Reason.SERVER_UNAVAILABLE]
    assert not world.client("c").connect(expiry=60).present


@pytest.mark.parametrize("refused", [1, 2])
def test_a_will_that_cannot_be_stored_refuses_the_connection(refused: int) -> None:
    world = World()
    client = world.client("c")
    world.store.refuse = refused
    ready = client.connect(expiry=60, will=will_of(), welcome=False).ready
    assert ready is not None
    failures: list[Any] = []
    ready.addErrback(failures.append)
    assert failures[0].check(StoreUnavailable)


class NotedRules:
    """Rules that match everything, and note what they hear."""

    active = True

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def takes(self, topic: str) -> bool:
        return True

    def consumes(self, topic: str) -> bool:
        return False

    def offer(self, message: Message) -> int:
        self.heard.append((message.publisher, message.payload.decode()))
        return 0

    def session_ended(self, client_id: str) -> None:
        self.heard.append((client_id, "ended"))


def test_rules_hear_that_a_session_has_ended_and_not_that_a_connection_has() -> None:
    """Its will is the last of its messages."""
    world = World()
    rules = world.broker.rules = NotedRules()
    client = world.client("c")
    client.connect(expiry=60, will=will_of(payload=b"will", delay=50))
    client.cut(with_will=False)
    client.connect(expiry=60, will=will_of(payload=b"will", delay=50))
    assert rules.heard == []
    client.cut()
    client.connect(clean=True, expiry=0)
    assert rules.heard == [("c", "will"), ("c", "ended")]
    client.cut()
    assert rules.heard[2:] == [("c", "ended")]


# ------------------------------------------------------------------ wills


def test_when_a_will_is_published() -> None:
    """[MQTT-3.1.2-8] [MQTT-3.1.2-10] [MQTT-3.1.3-9] [MQTT-3.14.4-3]"""
    world = World()
    watching = watcher(world)

    def told() -> list[bytes]:
        world.run(watching)
        return watching.payloads

    def opened(payload: bytes, expiry: float, delay: float) -> Client:
        client = world.client("c")
        client.connect(expiry=expiry, will=will_of(payload=payload, delay=delay))
        return client

    opened(b"politely", 60, 0).cut(with_will=False)
    assert told() == []
    opened(b"at once", 60, 0).cut()
    assert told() == [b"at once"]
    opened(b"with the session", 0, 100).cut()
    assert told()[1:] == [b"with the session"]
    opened(b"delayed", 60, 5).cut()
    later(world, 4)
    assert told()[2:] == []
    later(world, 2)
    assert told()[2:] == [b"delayed"]
    opened(b"never", 60, 5).cut()
    later(world, 4)
    opened(b"expired", 10, 100).cut()
    later(world, 9)
    assert told()[3:] == []
    later(world, 2)
    assert told()[3:] == [b"expired"], "a session that ends does not wait for the delay"
    opened(b"begun anew", 60, 5).cut()
    world.client("c").connect(clean=True, expiry=60)
    assert told()[4:] == [b"begun anew"]
    opened(b"taken over", 60, 0)
    opened(b"not yet", 60, 5)
    assert told()[5:] == [b"taken over"]
    assert list(world.store.loaded.wills) == ["c"]
    assert world.counters.wills == 6


def test_wills_across_restarts() -> None:
    world = World()
    watching = watcher(world)
    for name, expiry, delay in (("ends", 0, 100), ("waits", 60, 5), ("returns", 60, 5)):
        world.client(name).connect(expiry=expiry, will=will_of(payload=name.encode(), delay=delay))
    world.restart()
    watching.connect()
    later(world, 2)
    world.run(watching)
    assert watching.payloads == [b"ends"]
    world.restart()
    watching.connect()
    world.client("returns").connect()
    later(world, 4)
    world.run(watching)
    assert watching.payloads == [b"ends", b"waits"], "the delay goes on across the second restart"
    world.restart()
    later(world, 100)
    assert world.store.loaded.wills == {}


def test_a_client_that_is_back_right_after_a_restart_has_its_old_will_published_before_it_has_another() -> None:
    world = World()
    watching = watcher(world)
    for name in ("again", "without"):
        world.client(name).connect(expiry=0, will=will_of(payload=b"old " + name.encode()))
    world.restart()
    watching.connect()
    world.client("without").connect(expiry=0)
    again = world.client("again")
    again.connect(expiry=60, will=will_of(payload=b"new", delay=5))
    world.run(watching)
    assert watching.payloads == [b"old without", b"old again"]
    again.cut()
    later(world, 3)
    world.run(watching)
    assert len(watching.payloads) == 2
    assert world.counters.wills_waiting == 1
    later(world, 3)
    world.run(watching)
    assert watching.payloads[2:] == [b"new"]
    assert (world.counters.wills_waiting, world.counters.wills_waiting_bytes) == (0, 0)
    assert world.store.loaded.wills == {}


def test_the_will_of_a_large_fan_out_does_not_forget_its_successor() -> None:
    world = World()
    for number in range(2001):
        client = world.client(f"many{number}")
        client.connect(expiry=0)
        client.subscribe("will", qos=0)
    client = world.client("c")
    client.connect(expiry=60, will=will_of(payload=b"first"))
    client.cut()
    client.connect(expiry=60, will=will_of(payload=b"second"))
    world.turn(5)
    assert world.store.loaded.wills["c"].will.payload == b"second"


def test_wills_that_wait_are_bounded_and_those_due_soonest_go_early() -> None:
    world = World(max_will_bytes=3 * 600)
    watching = watcher(world)

    def leave(name: str, delay: float, size: int = 0) -> Client:
        client = world.client(name)
        client.connect(expiry=3600, will=will_of(payload=name.encode().ljust(size, b"."), delay=delay))
        client.cut()
        world.run(watching)
        return client

    for name, delay in (("b", 20), ("a", 10), ("c", 30)):
        leave(name, delay)
    assert (world.counters.wills_waiting, watching.payloads) == (3, [])
    leave("d", 15)
    assert watching.payloads == [b"a"], "it would have been published first"
    leave("e", 1)
    assert watching.payloads == [b"a", b"e"], "so would the new one"
    leave("huge", 10, size=1800)
    assert [len(payload) for payload in watching.payloads[2:]] == [1800], "and nobody makes way for what never fits"
    world.client("b").connect()
    leave("f", 12, size=100)
    assert len(watching.payloads) == 3, "who comes back makes room"
    assert sorted(world.store.loaded.wills) == ["c", "d", "f"]
    assert world.counters.wills_early == 3
    later(world, 40)
    world.run(watching)
    assert [payload.rstrip(b".") for payload in watching.payloads[3:]] == [b"f", b"d", b"c"]
    assert (world.counters.wills_waiting, world.counters.wills_waiting_bytes) == (0, 0)
    world.client("b").connect(clean=True, expiry=0)
    assert world.store.loaded.wills == {}


def test_wills_of_another_bound_after_a_restart() -> None:
    world = World()
    watching = watcher(world)
    for number in range(500):
        world.client(f"c{number}").connect(expiry=3600, will=will_of(payload=b"%d" % number, delay=100 + number))
    world.settings = MqttSettings(max_will_bytes=520)
    world.restart()
    assert world.counters.wills == 0, "not before the broker is there"
    watching.connect()
    for _ in range(5):
        world.clock.advance(0.25)
    world.run(watching)
    assert watching.payloads == [b"%d" % number for number in range(499)]
    assert world.counters.wills_early == 499
    assert list(world.store.loaded.wills) == ["c499"]


# ------------------------------------------------------------------ deadlines


def test_deadlines_that_change_while_they_come() -> None:
    clock = Clock()
    came: list[str] = []

    def due(key: str) -> None:
        came.append(key)
        if key == "first":
            deadlines.remove("removed", 5.0)
            deadlines.add("added", 5.0)
        if key == "added":
            assert deadlines.pop_first() == "next"

    deadlines = Deadlines(TimingWheel(clock), clock.seconds, due)
    for key, at in (("first", 5.0), ("removed", 5.0), ("next", 6.0), ("last", 7.0)):
        deadlines.add(key, at)
    for _ in range(40):
        clock.advance(0.25)
    assert came == ["first", "added", "last"]
    assert deadlines.pop_first() is None


def test_many_deadlines_of_one_second_cost_no_more_each_than_few() -> None:
    def seconds_for(count: int) -> float:
        clock = Clock()
        left = set(range(count))
        deadlines = Deadlines(TimingWheel(clock), clock.seconds, lambda key: left.remove(int(key)))
        for number in range(count):
            deadlines.add(str(number), 5.0)
        start = process_time()
        while left:
            clock.advance(0.25)
        return process_time() - start

    few = min(seconds_for(5_000) for _ in range(5))
    assert seconds_for(100_000) < 20 * 5 * few


def test_deadlines_come_once_in_time_and_in_batches() -> None:
    clock = Clock()
    chance = random.Random(1)
    due: list[tuple[str, float]] = []
    deadlines = Deadlines(TimingWheel(clock), clock.seconds, lambda key: due.append((key, clock.seconds())))
    wanted = {f"k{n}": chance.random() * 20 for n in range(1000)}
    for key, at in wanted.items():
        deadlines.add(key, at)
    deadlines.add("never", float("inf"))
    for n in range(100):
        deadlines.remove(f"k{n}", wanted.pop(f"k{n}"))
    for n in range(BATCH * 3):
        deadlines.add(f"at-once{n}", 7.0)
    assert len(deadlines) == 900 + 3 * BATCH
    for _ in range(100):
        clock.advance(0.25)
    assert len(due) == len(set(due)) == 900 + 3 * BATCH
    assert all(at >= wanted.get(key, 7.0) for key, at in due), "never early"
    assert all(at <= wanted.get(key, 7.0) + 3 for key, at in due)
    assert len(deadlines) == 0


# ------------------------------------------------------------------ subscriptions and retained messages


@pytest.mark.parametrize("expiry", [0.0, 60.0])
def test_ten_thousand_retained_messages_for_a_slow_reader(expiry: float) -> None:
    """They are found as there is room, and what changes meanwhile comes as it is then."""
    world = World(max_inflight=8)
    for number in range(10_000):
        world.publish(b"old", f"r/{number}", qos=number % 2, retain=True)
    client = world.client("c")
    client.connect(expiry=expiry)
    client.subscribe("r/#", qos=1)
    assert len(client.frames) <= 108
    client.buffered = 10**9
    world.turn(5)
    stopped = len(client.frames)
    world.turn(5)
    assert len(client.frames) == stopped
    unseen = sorted({f"r/{number}" for number in range(10_000)} - {one.topic for one in client.got})
    for topic in unseen[:50]:
        world.publish(b"", topic, qos=0, retain=True)
    world.publish(b"new", unseen[60], qos=0, retain=True)
    client.buffered = 0
    assert client.session is not None
    world.outbound.pull(client.session)
    world.run(client)
    for _ in range(200):
        world.turn()
        world.run(client)
    retained = [one for one in client.got if one.retain]
    assert {one.topic for one in retained} == {f"r/{number}" for number in range(10_000)} - set(unseen[:50])
    assert len(retained) == 9950
    assert [one.payload for one in retained if one.topic == unseen[60]] == [b"new"]
    assert client.session.feed is None


def test_subscribing_again_and_again_costs_one_feed() -> None:
    world = World()
    for number in range(300):
        world.publish(b"x", f"r/{number}", qos=0, retain=True)
    client = world.client("c")
    client.connect(expiry=0)
    client.buffered = 10**9
    for _ in range(5000):
        client.subscribe("r/#", qos=0)
    assert client.session is not None
    assert client.session.feed is not None
    assert len(client.session.feed) == 1
    client.buffered = 0
    world.outbound.pull(client.session)
    world.turn(10)
    assert len(client.got) == 300


def test_nothing_retained_comes_after_unsubscribing() -> None:
    """[MQTT-3.10.4-2]"""
    world = World()
    for number in range(300):
        world.publish(b"x", f"r/{number}", qos=0, retain=True)
    client = world.client("c")
    client.connect(expiry=0)
    client.subscribe("r/#", "other", qos=0)
    seen = len(client.got)
    assert seen < 300
    assert client.session is not None
    assert world.subscriptions.unsubscribe(client.session, ["r/#", "r/+"]) == [0, Reason.NO_SUBSCRIPTION_EXISTED]
    world.turn(10)
    assert len(client.got) == seen
    assert client.session.feed is None


def test_retain_handling() -> None:
    """[MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]"""
    world = World()
    world.publish(b"x", "r", qos=0, retain=True)
    client = world.client("c")
    client.connect()
    for handling, expected in ((2, 0), (1, 0), (0, 1), (0, 2)):
        client.subscribe("r", qos=0, retain_handling=handling)
        assert len(client.got) == expected
    other = world.client("d")
    other.connect()
    other.subscribe("r", qos=0, retain_handling=1)
    assert len(other.got) == 1
    other.subscribe("$share/g/r", qos=0)
    assert len(other.got) == 1


def test_the_limit_of_subscriptions_holds_for_pipelined_ones() -> None:
    world = World(max_subscriptions=5)
    client = world.client("c")
    client.connect()
    world.store.hand = True
    outcomes: list[list[int] | Deferred[list[int]]] = [client.subscribe(f"a{n}", f"b{n}") for n in range(4)]
    world.store.settle()
    granted = [reason for one in outcomes for reason in (one if isinstance(one, list) else one.result)]  # type: ignore[union-attr]
    assert granted == [1] * 5 + [Reason.QUOTA_EXCEEDED] * 3
    world.store.hand = False
    assert client.session is not None
    world.subscriptions.unsubscribe(client.session, ["a0"])
    assert client.subscribe("c", "d").result == [1, Reason.QUOTA_EXCEEDED]


def test_subscriptions_that_cannot_be_stored() -> None:
    world = World()
    client = world.client("c")
    client.connect()
    world.store.refuse = 1
    assert client.subscribe("t").result == [Reason.UNSPECIFIED]
    assert world.publish(b"1") == [Reason.NO_MATCHING_SUBSCRIBERS]
    client.subscribe("t")
    world.store.refuse = 1
    assert client.session is not None
    gone: Any = world.subscriptions.unsubscribe(client.session, ["t"])
    assert gone.result == [Reason.UNSPECIFIED]
    world.publish(b"2")
    assert client.payloads == [b"2"]


def test_shared_subscribers_that_are_away_get_nothing_while_another_is_there() -> None:
    """All of it waits for them when nobody is."""
    world = World()
    here, away, gone = (world.client(name, prompt=True) for name in ("here", "away", "gone"))
    for client, expiry in ((here, 60), (away, 60), (gone, 0)):
        client.connect(expiry=expiry)
        client.subscribe("$share/g/t")
    away.cut()
    gone.cut()
    for number in range(10):
        world.publish(b"%d" % number)
        world.run(here)
    assert len(here.got) == 10
    here.cut()
    for number in range(10):
        world.publish(b"x%d" % number)
    away.connect()
    here.connect()
    world.run(here, away)
    assert sorted(here.payloads[10:] + away.payloads) == sorted(b"x%d" % number for number in range(10))


def test_what_ops_may_do() -> None:
    world = World()
    broker: Any = world.broker
    control = BrokerControl(broker, world.keeper, None, None, list)  # type: ignore[arg-type]  # neither asks nor counts
    for name in ("b", "a"):
        client = world.client(name)
        client.connect()
        client.subscribe("t", f"own/{name}")
    world.publish(b"kept", "kept", qos=1, retain=True)
    assert [row["client"] for row in control.clients("", 10, None)] == ["a", "b"]
    assert [row["client"] for row in control.clients("a", 10, True)] == ["b"]
    assert control.client("a")["connected"] is True
    got: list[int] = []
    control.publish(Message("t", b"x", 1)).addCallback(got.append)
    assert got == [2]
    emitted: list[Message] = []
    stop = control.subscribe("#", emitted.append)
    world.publish(b"y", "t")
    stop()
    world.publish(b"z", "t")
    assert [message.payload for message in emitted] == [b"kept", b"y"]
    assert control.kick("a")
    assert not control.kick("a")
    assert control.kick("a", discard=True)
    assert not control.kick("nobody")
    assert "a" not in world.broker.sessions
    rows = control.subscriptions("", "", 10)
    assert [(row["filter"], row["client"]) for row in rows] == [("own/b", "b"), ("t", "b")]
    removed: list[bool] = []
    control.remove_retained("kept").addCallback(removed.append)
    control.remove_retained("kept").addCallback(removed.append)
    assert removed == [True, False]
    assert world.store.loaded.retained == []


def test_levels_of_retained_topics_count_here_too() -> None:
    world = World(max_retained_bytes=10_000)
    assert world.publish(b"x", "/".join("a" * 30), retain=True) != [Reason.QUOTA_EXCEEDED]
    assert world.publish(b"x", "/".join("b" * 30), retain=True) == [Reason.QUOTA_EXCEEDED]
    assert world.publish(b"x", "/".join("a" * 31), retain=True) != [Reason.QUOTA_EXCEEDED]
    assert world.counters.retained_bytes == 60 + 62 + 30 * 250
    world.broker.settings = world.settings = MqttSettings(max_retained_bytes=8000, max_topic_length=100)
    with capturedLogs() as said:
        world.restart()
    assert world.counters.retained == 2 and not said
    world.settings = MqttSettings(max_retained_bytes=7500)
    with capturedLogs() as said:
        world.restart()
    assert world.counters.retained == 1
    assert [(one["missed"], one["count"]) for one in said] == [(1, 2)]
