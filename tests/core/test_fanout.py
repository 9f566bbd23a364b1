"""Fan-out in slices: bounded turns, fairness, and members that come and go under way."""

from __future__ import annotations

from accessgw.model.pushes import PushRequest, Scope, StreamKey
from accessgw.model.settings import PushSettings
from tests.core.push_world import BROADCAST, DEVICE, TOPIC, FakeLink, World

MANY = 200


class Costly(FakeLink):
    """Each push takes a tenth of a millisecond of the reactor."""

    world: World

    def send_push(self, push, gap):
        self.world.clock.rightNow += 0.0001
        return super().send_push(push, gap)


def costly_world(count: int = MANY, window: int = 64) -> tuple[World, list[FakeLink]]:
    world = World(PushSettings(fanout_slice=0.002))
    links = []
    for number in range(count):
        session = world.session(f"d{number}")
        session.link = Costly(window)
        session.link.world = world
        world.pushes.attach(session, [])
        links.append(session.link)
    world.clock.settle()
    world.push(BROADCAST, b"first")
    world.clock.settle()
    assert all(link.seqs(BROADCAST) == [1] for link in links)
    return world, links


def reached(links: list[FakeLink], count: int) -> int:
    return sum(len(link.sent) >= count for link in links)


def test_a_turn_of_the_reactor_takes_about_a_slice():
    world, links = costly_world()
    world.pushes.append([PushRequest(BROADCAST, b"x")])
    assert reached(links, 2) == 0
    turns = []
    while reached(links, 2) < MANY:
        before = reached(links, 2)
        world.clock.turn()
        turns.append(reached(links, 2) - before)
    # 20 pushes fill the slice, and the time is looked at after each stride of 32.
    assert max(turns) == 32
    assert len(turns) == 7


def test_many_writes_belong_to_the_slice_and_few_wait_for_the_end_of_the_turn():
    world, links = costly_world()
    written = []
    world.pushes._fanout._flush = lambda: written.append(reached(links, 2))
    world.push(BROADCAST, b"x")
    world.clock.settle()
    assert written == [32, 64, 96, 128, 160, 192]
    assert reached(links, 2) == MANY


def test_pushes_of_one_batch_on_several_streams_of_a_device_are_one_write():
    world = World()
    link = world.connect("d1", user="u")
    world.clock.settle()
    streams = [DEVICE, StreamKey(Scope.USER, "u", "orders"), BROADCAST]
    written = []
    world.pushes._fanout._flush = lambda: written.append(True)
    for body in (b"1", b"2"):  # the streams begin, and go on
        turns = world.counters.fanout_slices
        world.pushes.append([PushRequest(stream, body) for stream in streams])
        world.clock.settle()
    assert len(link.sent) == 6
    assert world.counters.fanout_slices == turns + 1
    assert not written


def test_a_push_that_comes_during_a_fan_out_reaches_those_who_were_served_already():
    world, links = costly_world()
    world.pushes.append([PushRequest(BROADCAST, b"2")])
    world.clock.turn()
    world.clock.turn()
    assert 0 < reached(links, 2) < MANY
    world.pushes.append([PushRequest(BROADCAST, b"3")])
    assert len(world.pushes._fanout) == 1
    world.clock.settle()
    assert all(link.seqs(BROADCAST) == [1, 2, 3] for link in links)
    assert not any(call.startswith("read") for call in world.store.calls)


def test_pushes_to_a_stream_that_is_being_fanned_out_do_not_pile_up():
    world, links = costly_world(window=1000)
    for _ in range(100):
        world.pushes.append([PushRequest(BROADCAST, b"x")])
    assert len(world.pushes._fanout) == 1
    world.clock.settle()
    assert all(link.seqs(BROADCAST) == list(range(1, 102)) for link in links)


def test_fan_outs_take_turns():
    world, links = costly_world()
    other = StreamKey(Scope.BROADCAST, "", "other")
    world.push(other)
    world.pushes.append([PushRequest(BROADCAST, b"x"), PushRequest(other, b"x")])
    for _ in range(4):
        world.clock.turn()
    counts = [sum(len(link.seqs(stream)) == 2 for link in links) for stream in (BROADCAST, other)]
    assert counts == [64, 64]


def test_an_urgent_push_does_not_wait_for_a_large_fan_out():
    world, links = costly_world()
    world.push(DEVICE)
    world.pushes.append([PushRequest(BROADCAST, b"x")])
    world.clock.turn()
    world.pushes.append([PushRequest(StreamKey(Scope.DEVICE, "d1", "orders"), b"now")])
    world.clock.turn()
    world.clock.turn()
    assert reached(links, 3) == 0 or links[1].seqs(DEVICE)[-1:] == [2]
    assert sum(len(link.seqs(BROADCAST)) == 2 for link in links) < MANY
    assert links[1].seqs(DEVICE)[-1] == 2


def test_members_may_leave_and_join_under_way():
    world, links = costly_world()
    world.pushes.append([PushRequest(BROADCAST, b"2")])
    world.clock.turn()
    served = [n for n, link in enumerate(links) if len(link.sent) == 2]
    waiting = [n for n, link in enumerate(links) if len(link.sent) == 1]
    assert served and waiting
    gone = [served[0], served[-1], waiting[0], waiting[-1], waiting[len(waiting) // 2]]
    for number in gone:
        session = world.sessions[f"d{number}"]
        session.link = None
        world.pushes.detach(session)
    newcomer = world.session("new")
    newcomer.link = FakeLink()
    world.pushes.attach(newcomer, [])
    returning = world.sessions[f"d{served[0]}"]
    returning.link = FakeLink()
    world.pushes.attach(returning, [])
    world.clock.settle()
    for number, link in enumerate(links):
        if number not in gone:
            assert link.seqs(BROADCAST) == [1, 2]
    assert [links[number].seqs(BROADCAST) for number in gone] == [[1, 2], [1, 2], [1], [1], [1]]
    assert newcomer.link.seqs(BROADCAST) == []
    assert returning.link.seqs(BROADCAST) == [1, 2]  # nothing was acknowledged
    world.push(BROADCAST)
    assert newcomer.link.seqs(BROADCAST) == [3]


def test_a_stream_that_begins_reaches_everyone_in_slices():
    world, links = costly_world()
    new = StreamKey(Scope.BROADCAST, "", "new")
    world.pushes.append([PushRequest(new, b"x")])
    world.clock.turn()
    assert 0 < sum(len(link.seqs(new)) for link in links) < MANY
    world.clock.settle()
    assert all(link.seqs(new) == [1] for link in links)


def test_a_link_that_fails_costs_nobody_else():
    world = World()
    links = [world.connect(f"d{n}") for n in range(5)]
    world.push(BROADCAST)

    def broken(push, gap):
        raise ZeroDivisionError

    links[2].send_push = broken  # type: ignore[method-assign]
    world.push(BROADCAST)
    assert [link.seqs(BROADCAST) for link in links] == [[1, 2], [1, 2], [1], [1, 2], [1, 2]]


def test_a_slow_member_is_served_from_the_ring():
    world = World()
    links = [world.connect(f"d{n}", window=2) for n in range(2)]
    for name in ("d0", "d1"):
        world.subscribe(name, "news/sport")
    world.push(TOPIC, *[b"x"] * 6)
    for _ in range(3):
        world.ack("d0")
        world.ack("d1")
    assert [link.seqs(TOPIC) for link in links] == [[1, 2, 3, 4, 5, 6]] * 2
    assert not any(call.startswith("read") for call in world.store.calls)


def test_large_bodies_are_read_from_the_store_once_for_all():
    world = World()
    links = [world.connect(f"d{n}") for n in range(10)]
    world.push(BROADCAST, b"small")
    world.push(BROADCAST, b"x" * 50_000)
    assert all(link.seqs(BROADCAST) == [1, 2] for link in links)
    assert sum(call.startswith("read") for call in world.store.calls) == 1
    assert len({id(link.push_objects[1]) for link in links}) == 1
