"""A short run of the fuzzer: nothing but RemoteError, and it reaches what it is meant to reach."""

from __future__ import annotations

from collections import Counter

from protocols.mmtp import Status
from tests.fuzz.fuzz_mmtp import fuzz


def test_a_short_run():
    outcomes = Counter(fuzz(8000, seed=7))
    assert outcomes["taken", 0] > 1000
    assert outcomes["stored", 0] > 50
    assert outcomes["not stored", Status.COMPRESSION] > 50
    assert {code for what, code in outcomes if what == "refused"} >= {
        Status.PROTOCOL,
        Status.FRAME_SIZE,
        Status.COMPRESSION,
    }


def test_the_same_seed_does_the_same():
    assert list(fuzz(500, seed=3)) == list(fuzz(500, seed=3))
