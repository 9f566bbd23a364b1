"""The Bloom filter: never no to a member, seldom yes to others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accessgw.stores.bloom import BloomFilter


@given(st.lists(st.tuples(st.text(), st.text())))
def test_a_member_is_always_found(members: list[tuple[str, str]]) -> None:
    bloom = BloomFilter(1 << 10)
    for member in members:
        bloom.add(member)
    assert all(member in bloom for member in members)


def test_others_are_seldom_found() -> None:
    bloom = BloomFilter(1 << 16)
    for number in range(4096):
        bloom.add(("device", f"d{number}"))
    wrong = sum(("device", f"other{number}") in bloom for number in range(10_000))
    assert wrong < 200


def test_its_size_is_a_power_of_two() -> None:
    with pytest.raises(ValueError, match="1000 bits"):
        BloomFilter(1000)
