"""The time that a packet may take: which one it is, when it ends, and who is spared."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from accessgw.core.mqtt.packet_timeout import BATCH, PacketTimeout
from accessgw.core.timers import TimingWheel
from protocols.mqtt.connection import Connection, Role
from protocols.mqtt.encoding import encode
from protocols.mqtt.limits import DEFAULT_LIMITS
from protocols.mqtt.packets import V5, Connack, Connect, Pingreq, Publish

PACKETS = [encode(Publish("t", b"x" * size), V5) for size in (0, 1, 200, 20_000)] + [encode(Pingreq(), V5)]


def opened() -> Connection:
    wire = Connection(Role.SERVER, limits=DEFAULT_LIMITS, now=0.0)
    wire.receive(encode(Connect("c", V5), V5), 0.0)
    wire.accept(Connack(False, 0))
    wire.events()
    return wire


class Link:
    def __init__(self, world: World) -> None:
        self.world = world
        self.wire = opened()
        self.held_back = False
        self.ended_at: list[float] = []

    def receive(self, data: bytes) -> None:
        if self.wire.receive(data, 0.0):
            self.world.timeout.begun(self)
        self.wire.events()

    def packet_late(self) -> None:
        self.ended_at.append(self.world.clock.seconds())


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.seconds = 10.0
        self.timeout = PacketTimeout(TimingWheel(self.clock), self.clock.seconds, lambda: self.seconds)

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds * 4)):
            self.clock.advance(0.25)


def late(link: Link, at: float) -> bool:
    return len(link.ended_at) == 1 and at <= link.ended_at[0] <= at + 1


@given(st.lists(st.sampled_from(PACKETS), min_size=1, max_size=6), st.data())
def test_packets_that_come_in_pieces_are_counted_once_each(packets: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(packets)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream)), max_size=8)) | {0, len(stream)})
    wire = opened()
    ends = {sum(map(len, packets[:count])) for count in range(len(packets) + 1)}
    begins = sorted(ends)[:-1]
    for start, stop in pairwise(cuts):
        assert wire.receive(stream[start:stop], 0.0) is (stop not in ends) is wire.within_packet
        wire.events()
    split = [
        begin
        for begin, packet in zip(begins, packets, strict=True)
        if any(begin < cut < begin + len(packet) for cut in cuts)
    ]
    assert wire.halves == len(split)


def test_a_packet_has_its_time_from_its_first_byte() -> None:
    world = World()
    whole, slow, dripping = Link(world), Link(world), Link(world)
    packet = PACKETS[3]
    whole.receive(packet)
    slow.receive(packet[:1])
    for at in range(9):
        dripping.receive(packet[at : at + 1])
        world.wait(1)
    slow.receive(packet[1:])
    world.wait(5)
    assert late(dripping, 10)
    assert not slow.ended_at and not whole.ended_at
    world.wait(60)
    assert len(dripping.ended_at) == 1
    assert not slow.ended_at and not whole.ended_at


def test_a_read_that_ends_one_packet_and_begins_another_begins_its_time_anew() -> None:
    world = World()
    link = Link(world)
    packet = PACKETS[3]
    link.receive(packet[:5])
    for _ in range(10):
        world.wait(6)
        link.receive(packet[5:] + packet[:5])
    assert not link.ended_at
    world.wait(9)
    assert not link.ended_at
    world.wait(2)
    assert late(link, 70)


def test_one_that_is_not_read_is_not_blamed_until_it_is() -> None:
    world = World()
    link, gone = Link(world), Link(world)
    link.held_back = True
    for one in (link, gone):
        one.receive(PACKETS[3][:5])
    world.timeout.gone(gone)
    world.wait(15)
    assert not link.ended_at
    link.held_back = False
    world.wait(6)
    assert late(link, 20)
    assert not gone.ended_at


def test_one_that_is_read_again_has_its_time_again() -> None:
    """It is held to fewer bytes a second than its packet needs in time."""
    world = World()
    link, other = Link(world), Link(world)
    for _ in range(5):
        link.receive(PACKETS[3][:5] if not link.wire.within_packet else b"x")
        link.held_back = True
        world.wait(8)
        link.held_back = False
        world.timeout.resumed(link)
    world.timeout.resumed(other)
    world.wait(9)
    assert not link.ended_at
    world.wait(2)
    assert late(link, 50)
    assert not other.ended_at


def test_many_at_once_end_in_batches_and_no_bound_is_none() -> None:
    world = World()
    links = [Link(world) for _ in range(3 * BATCH)]
    for link in links:
        link.receive(PACKETS[3][:5])
    world.wait(13)
    assert all(len(link.ended_at) == 1 for link in links)
    assert max(Counter(link.ended_at[0] for link in links).values()) <= BATCH
    world.seconds = 0.0
    free = Link(world)
    free.receive(PACKETS[3][:5])
    world.wait(100)
    assert not free.ended_at


def test_a_bound_that_is_taken_away_ends_nobody() -> None:
    world = World()
    link, held = Link(world), Link(world)
    held.held_back = True
    for one in (link, held):
        one.receive(PACKETS[3][:5])
    world.wait(5)
    world.seconds = 0.0
    world.wait(20)
    assert not world.clock.getDelayedCalls()
    assert not link.ended_at and not held.ended_at
