"""Devices that may never come back: next to nothing is kept of their push side until something is pushed to them."""

from __future__ import annotations

from typing import Any

import pytest

from accessgw.model.pushes import StreamKey
from tests.core.push_world import BROADCAST, DEVICE, TOPIC, USER, FakeLink, World


def passing(world: World, device: str, user: str = "", app: str = "") -> FakeLink:
    """A device connects of which the store has never heard."""
    store: Any = world.store
    store.knows_nothing_of = lambda device, user: True
    session = world.session(device, user, app=app)
    session.link = FakeLink()
    world.pushes.attach(session, [], passing=True)
    return session.link


@pytest.mark.parametrize("stream", [DEVICE, USER, BROADCAST])
def test_a_push_reaches_a_passing_device_and_is_acknowledged(stream: StreamKey) -> None:
    world = World()
    link = passing(world, "d1", "u1")
    assert not world.sessions["d1"].delivery.woken
    assert world.push(stream, b"1", b"2")[0].live == 1
    assert link.seqs(stream) == [1, 2]
    world.ack("d1")
    assert not world.sessions["d1"].delivery.inflight
    world.disconnect("d1")
    assert world.push(stream, b"3")[0].live == 0
    assert link.seqs(stream) == [1, 2]


def test_a_broadcast_with_a_condition_counts_passing_devices() -> None:
    world = World()
    links = [passing(world, f"d{n}", app="wallet") for n in range(3)]
    assert world.push(BROADCAST, b"x", where={"app": "wallet"})[0].live == 3
    assert all(link.seqs(BROADCAST) == [1] for link in links)


def test_a_passing_device_may_subscribe_to_topics() -> None:
    world = World()
    link = passing(world, "d1")
    world.subscribe("d1", "news/sport")
    world.push(TOPIC, b"goal")
    assert link.seqs(TOPIC) == [1]


def test_what_a_passing_device_does_before_any_push_wakes_nothing() -> None:
    world = World()
    passing(world, "d1")
    session = world.sessions["d1"]
    world.pushes.acked(session, [(1, 1)])
    world.pushes.writable(session)
    world.pushes.activity(session)
    done: list[Any] = []
    world.pushes.unsubscribe(session, ["news/sport"]).addBoth(done.append)
    world.pushes.pending(session, [], 10, 1000).addBoth(done.append)
    world.clock.settle()
    assert done == [None, []]
    assert not session.delivery.woken
    world.disconnect("d1")
    assert session.delivery is None
    assert world.push(BROADCAST, b"x")[0].live == 0
