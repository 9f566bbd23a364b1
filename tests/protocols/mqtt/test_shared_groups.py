from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.mqtt.shared import Options, SharedGroup, jump_hash

STRATEGIES = ("round_robin", "sticky", "hash_client", "hash_topic", "random")


def group(size: int) -> SharedGroup[str]:
    members: SharedGroup[str] = SharedGroup("g", "f")
    for number in range(size):
        members.add(f"m{number}", Options(number % 3))
    return members


def anyone(member: str) -> bool:
    return True


def test_round_robin_gives_each_its_turn():
    members = group(4)
    assert [members.choose("round_robin", "", anyone) for _ in range(6)] == ["m0", "m1", "m2", "m3", "m0", "m1"]


def test_round_robin_passes_over_those_that_are_not_usable():
    members = group(4)
    usable = {"m1", "m3"}
    assert [members.choose("round_robin", "", usable.__contains__) for _ in range(4)] == ["m1", "m3", "m1", "m3"]


def test_sticky_stays_until_the_member_leaves_or_cannot():
    members = group(4)
    first = members.choose("sticky", "", anyone)
    assert {members.choose("sticky", "", anyone) for _ in range(5)} == {first}
    second = members.choose("sticky", "", lambda member: member != first)
    assert second != first and {members.choose("sticky", "", anyone) for _ in range(5)} == {second}
    members.remove(second)
    third = members.choose("sticky", "", anyone)
    assert third is not None and third != second
    assert third == members.choose("sticky", "", anyone)


@pytest.mark.parametrize("strategy", ["hash_client", "hash_topic"])
def test_hashes_give_a_key_one_member_and_all_members_keys(strategy):
    members = group(8)
    before = {f"k{number}": members.choose(strategy, f"k{number}", anyone) for number in range(2000)}
    assert before == {key: members.choose(strategy, key, anyone) for key in before}
    counts = Counter(before.values())
    assert len(counts) == 8 and min(counts.values()) > 100
    members.remove("m2")
    moved = [key for key in before if members.choose(strategy, key, anyone) != before[key]]
    assert {before[key] for key in moved} == {"m2", "m7"}


def test_random_asks_the_function_it_was_given():
    members = group(4)
    numbers = iter([0.0, 0.26, 0.99, 1.0])
    assert [members.choose("random", "", anyone, random=lambda: next(numbers)) for _ in range(4)] == [
        "m0",
        "m1",
        "m3",
        "m3",
    ]
    with pytest.raises(ValueError, match="random numbers"):
        members.choose("random", "", anyone)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_when_none_is_usable_one_gets_it_only_where_that_is_allowed(strategy):
    members = group(5)
    asked: list[str] = []

    def nobody(member: str) -> bool:
        asked.append(member)
        return False

    assert members.choose(strategy, "k", nobody, random=lambda: 0.5) is None
    assert sorted(set(asked)) == [f"m{number}" for number in range(5)]
    assert members.choose(strategy, "k", nobody, random=lambda: 0.5, allow_unusable=True) in members
    assert SharedGroup("g", "f").choose(strategy, "k", anyone, allow_unusable=True) is None


def test_away_members_queue_evenly():
    members = group(5)
    chosen = Counter(
        members.choose("round_robin", "", lambda member: False, allow_unusable=True, max_probes=2) for _ in range(50)
    )
    assert set(chosen.values()) == {10}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_more_members_are_probed_than_was_said(strategy):
    members = group(1000)
    asked: list[str] = []

    def nobody(member: str) -> bool:
        asked.append(member)
        return False

    assert members.choose(strategy, "k", nobody, random=lambda: 0.5, max_probes=10) is None
    assert len(asked) <= 11


def test_members_leave_in_any_order():
    for order in permutations(range(4)):
        members = group(4)
        left = {"m0", "m1", "m2", "m3"}
        for number in order:
            assert members.remove(f"m{number}")
            left.discard(f"m{number}")
            assert set(members) == left == {members.choose("round_robin", "", anyone) for _ in left}


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5))))
def test_members_come_and_go(changes):
    members: SharedGroup[str] = SharedGroup("g", "f")
    expected: dict[str, Options] = {}
    for step, (add, number) in enumerate(changes):
        name, options = f"m{number}", Options(step % 3, False, False, step)
        if add:
            assert members.add(name, options) is (name in expected)
            expected[name] = options
        else:
            assert members.remove(name) is (expected.pop(name, None) is not None)
        assert {member: members.options(member) for member in members} == expected
        assert len(members) == len(expected)
        assert {members.choose("round_robin", "", anyone) for _ in expected} == set(expected)
        if expected:
            assert members.choose("sticky", "", anyone) in expected
            assert members.choose("hash_topic", str(step), anyone) in expected


@given(st.integers(0, 2**32 - 1), st.integers(1, 500))
def test_one_bucket_more_moves_keys_only_there(key, buckets):
    before, after = jump_hash(key, buckets), jump_hash(key, buckets + 1)
    assert 0 <= before < buckets
    assert after in (before, buckets)
