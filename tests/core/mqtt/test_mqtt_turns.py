"""How much one turn of the reactor does for those who ask for much at once."""

from __future__ import annotations

from typing import Any

from accessgw.core.interfaces.mqtt_state import Message
from protocols.mqtt.reasons import Reason
from tests.core.mqtt.mqtt_world import Client, World


def subscribed(world: World, name: str, topic: str = "t") -> Client:
    client = world.client(name)
    client.connect()
    client.subscribe(topic, qos=1)
    return client


def test_many_small_fan_outs_at_once_share_turns_and_keep_their_order() -> None:
    """A read brings ten thousand small messages: not each with all of its receivers in one turn."""
    world = World(max_inflight=1000)
    many = [subscribed(world, f"many{number}") for number in range(100)]
    alone = subscribed(world, "alone", "alone")
    outcomes: list[Any] = [world.publish(b"%d" % number) for number in range(60)]
    world.publish(b"behind", "alone")
    assert [len(client.payloads) for client in many] == [20] * 100
    assert outcomes[20:] == [[]] * 40
    world.turn(5)
    assert outcomes == [[0]] * 60
    assert {tuple(client.payloads) for client in many} == {tuple(b"%d" % number for number in range(60))}
    assert alone.payloads == [b"behind"]
    assert world.broker.served == 0


def test_few_receivers_are_served_at_once_however_many_messages_come() -> None:
    world = World(max_inflight=10_000)
    few = [subscribed(world, f"few{number}") for number in range(4)]
    outcomes = [world.publish(b"") for _ in range(1000)]
    assert outcomes == [[0]] * 1000
    assert [len(client.payloads) for client in few] == [1000] * 4


def test_many_groups_of_shared_subscribers_do_not_share_one_turn() -> None:
    world = World(max_inflight=10_000, max_subscriptions=10_000)
    member = world.client("member")
    member.connect()
    for number in range(1200):
        member.subscribe(f"$share/g{number}/t", qos=1)
    outcome = world.publish(b"x")
    assert member.session is not None
    assert 0 < len(member.session.inflight) < 1200
    assert outcome == []
    world.turn(5)
    assert len(member.payloads) == 1200
    assert outcome == [0]


def test_a_large_fan_out_says_how_many_it_reached() -> None:
    world = World(max_inflight=1000)
    for number in range(4500):
        subscribed(world, f"many{number}")
    for number in range(10):
        away = world.client(f"away{number}")
        away.connect(expiry=60)
        away.subscribe("t", qos=1)
        away.cut()
    told: list[tuple[str, tuple[int, int]]] = []
    for topic in ("t", "nobody", "t"):
        counted = world.broker.publish_counted(Message(topic, b"x", 1, at=world.wall()))
        counted.addCallback(lambda answer, topic=topic: told.append((topic, answer)))
    assert told == []
    world.turn(10)
    assert told == [("t", (0, 4510)), ("nobody", (Reason.NO_MATCHING_SUBSCRIBERS, 0)), ("t", (0, 4510))]
    world.broker.publish_counted(Message("nobody", b"x")).addCallback(lambda answer: told.append(("", answer)))
    assert told[3:] == [("", (Reason.NO_MATCHING_SUBSCRIBERS, 0))]
