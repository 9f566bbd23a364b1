"""A short run of the fuzzer: nothing but RemoteError, and it reaches what it is meant to reach."""

from __future__ import annotations

from collections import Counter

from tests.fuzz.fuzz_mqtt import fuzz


def test_a_short_run():
    """[MQTT-4.13.1-1] [MQTT3-4.8.0-1]"""
    outcomes = Counter(fuzz(20_000, seed=7))
    assert outcomes["taken", 0] > 1000
    assert outcomes["incomplete", 0] > 100
    assert {code for what, code in outcomes if what == "refused"} >= {
        0x81,
        0x82,
        0x8F,
        0x90,
        0x93,
        0x94,
        0x95,
        0x9A,
        0x9B,
    }


def test_the_same_seed_does_the_same():
    assert list(fuzz(500, seed=3)) == list(fuzz(500, seed=3))
