"""Rings, members and aliases of open streams."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from accessgw.core.interfaces.pushes import OutgoingPush
from accessgw.core.stream_aliases import AliasTable
from accessgw.core.streams import RING_BYTES, RING_PUSHES, Entry, Ring, Segment, StreamTable
from accessgw.model.pushes import Scope, StreamKey, StreamState

KEY = StreamKey(Scope.TOPIC, "t", "b")


def entry(seq: int, size: int = 1, collapse: str = "", ttl: float | None = None) -> Entry:
    push = OutgoingPush(KEY, 1, 7, seq, b"x" * size, ttl, collapse)
    return Entry(push, None if ttl is None else 1000.0 + ttl, None, 1000.0)


def seqs(segment: Segment) -> list[int]:
    return [one.seq for one in segment.entries]


def test_a_ring_keeps_the_newest_within_its_bounds():
    ring = Ring(0)
    for seq in range(1, RING_PUSHES + 11):
        ring.extend(entry(seq))
    assert (ring.after, ring.end, len(ring.entries)) == (10, RING_PUSHES + 10, RING_PUSHES)
    assert not ring.covers(9)
    assert ring.covers(10)
    assert not ring.covers(ring.end)
    ring.extend(entry(ring.end + 1, RING_BYTES))
    assert len(ring.entries) == 1


def test_a_later_push_with_the_same_collapse_key_replaces_the_earlier():
    ring = Ring(0)
    for seq, key in enumerate(("a", "b", "a"), 1):
        ring.extend(entry(seq, collapse=key))
    assert seqs(ring) == [2, 3]
    assert ring.covers(0)
    assert ring.entries[ring.find(0)].seq == 2


@given(
    st.sets(st.integers(1, 40)),
    st.tuples(st.integers(0, 40), st.integers(0, 40)),
    st.tuples(st.integers(0, 40), st.integers(0, 40)),
)
def test_a_ring_that_absorbs_a_read_still_knows_all_that_it_covers(
    alive: set[int], have: tuple[int, int], read: tuple[int, int]
) -> None:
    after, end = sorted(have)
    ring = Ring(after)
    ring.end = end
    ring.entries = [entry(seq) for seq in sorted(alive) if after < seq <= end]
    ring.size = sum(one.size for one in ring.entries)
    first, last = sorted(read)
    ring.absorb(Segment(first, last, [entry(seq) for seq in sorted(alive) if first < seq <= last]))
    assert seqs(ring) == [seq for seq in sorted(alive) if ring.after < seq <= ring.end]
    assert ring.after <= after
    assert ring.end >= end
    assert ring.size == sum(one.size for one in ring.entries)


def test_a_hole_begins_a_new_ring_and_late_notices_are_ignored():
    table = StreamTable()
    stream = table.open(StreamState(KEY, 7, 0, 0))
    table.extend(stream, entry(1))
    table.extend(stream, entry(4))
    table.extend(stream, entry(2))
    assert stream.ring is not None
    assert (stream.ring.after, seqs(stream.ring)) == (3, [4])


def test_all_rings_together_stay_within_their_bytes():
    table = StreamTable(ring_bytes=10_000)
    streams = [table.open(StreamState(KEY._replace(id=str(n)), 7, 0, 0)) for n in range(20)]
    for stream in streams:
        table.extend(stream, entry(1, 500))
        assert table.ring_bytes <= 10_000
    assert streams[0].ring is None
    assert streams[-1].ring is not None
    for stream in streams:
        table.close_if_unused(stream)
    assert table.ring_bytes == 0
    assert len(table) == 0 == len(table.aliases)


def test_the_remaining_ttl_is_renewed_and_encoded_anew():
    one = entry(1, ttl=100.0)
    first = one.outgoing(1000.5)
    assert first is one.outgoing(1000.9)
    first.encodings["x"] = b"y"
    later = one.outgoing(1040.0)
    assert later.ttl == 60.0
    assert not later.encodings


def test_private_streams_of_one_biz_share_an_alias_and_shared_streams_do_not():
    aliases = AliasTable()
    devices = [aliases.take(StreamKey(Scope.DEVICE, f"d{n}", "orders")) for n in range(3)]
    assert set(devices) == {1}
    assert aliases.take(StreamKey(Scope.USER, "u", "orders")) == 2
    assert aliases.take(StreamKey(Scope.TOPIC, "t1", "orders")) == 3
    assert aliases.take(StreamKey(Scope.TOPIC, "t2", "orders")) == 4


def test_aliases_are_used_again_when_nobody_holds_them():
    aliases = AliasTable()
    keys = [StreamKey(Scope.TOPIC, f"t{n}", "b") for n in range(3)]
    assert [aliases.take(key) for key in (*keys, keys[0])] == [1, 2, 3, 1]
    aliases.release(keys[0])
    aliases.release(keys[1])
    assert aliases.take(keys[0]) == 1
    assert aliases.take(StreamKey(Scope.TOPIC, "new", "b")) == 2
