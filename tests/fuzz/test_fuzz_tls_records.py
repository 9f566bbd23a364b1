"""A short run of the fuzzer: nothing but RemoteError, the twins agree, and it reaches what it is meant to reach."""

from __future__ import annotations

from collections import Counter

from tests.fuzz.fuzz_tls_records import fuzz


def test_a_short_run_on_tls_records():
    outcomes = Counter(fuzz(5_000, seed=7))
    assert outcomes["taken", 0] > 1000
    assert outcomes["silent", 0] > 100
    assert {code for what, code in outcomes if what == "refused"} >= {10, 20, 22, 40, 47, 50}


def test_the_same_seed_does_the_same_on_tls_records():
    assert list(fuzz(500, seed=3)) == list(fuzz(500, seed=3))
