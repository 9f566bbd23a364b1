"""Balancing, retry budget, ejection, health, limits and back-off: decisions without I/O."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accessgw.policy.backoff import full_jitter
from accessgw.policy.balancing import Load, pick
from accessgw.policy.ejection import MAX_TIME, Ejector
from accessgw.policy.health import Health
from accessgw.policy.limits import KeyedLimiter, TokenBucket
from accessgw.policy.retry_budget import FLOOR, WINDOW, RetryBudget


@dataclass
class Server:
    name: str
    load: Load


def servers(count: int) -> list[Server]:
    return [Server(str(at), Load(0.0)) for at in range(count)]


# ------------------------------------------------------------------ balancing


def test_the_better_of_two_is_taken() -> None:
    one, other = servers(2)
    one.load.observe(0.5, 0.0)
    other.load.observe(0.1, 0.0)
    for value in (0.0, 0.99):
        assert pick([one, other], 0.0, lambda value=value: value) is other
    other.load.outstanding = 9
    assert pick([one, other], 0.0, lambda: 0.0) is one
    assert pick([one], 0.0, lambda: 0.9) is one


@given(st.integers(2, 20), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_two_different_ones_are_compared(count: int, first: float, second: float) -> None:
    candidates = servers(count)
    numbers = iter([first, second])
    chosen = pick(candidates, 0.0, lambda: next(numbers))
    chosen.load.outstanding = 1000
    numbers = iter([first, second])
    assert pick(candidates, 0.0, lambda: next(numbers)) is not chosen


def test_load_spreads_and_a_slow_server_gets_little() -> None:
    source = random.Random(7)
    candidates = servers(10)
    taken = dict.fromkeys((server.name for server in candidates), 0)
    now = 0.0
    for _ in range(5000):
        now += 0.001
        server = pick(candidates, now, source.random)
        taken[server.name] += 1
        server.load.observe(0.5 if server.name == "0" else 0.005, now)
    assert taken["0"] < 100
    others = [count for name, count in taken.items() if name != "0"]
    assert max(others) < 4 * min(others)


def test_a_slow_answer_counts_at_once_and_is_forgotten_slowly() -> None:
    load = Load(0.0)
    load.observe(0.01, 0.0)
    load.observe(1.0, 1.0)
    assert load.latency(1.0) == 1.0
    load.observe(0.01, 1.1)
    assert 0.9 < load.latency(1.1) < 1.0
    assert load.latency(100.0) < 0.01
    load.failed(0.0, 100.0)
    assert load.latency(100.0) >= 1.0


# ------------------------------------------------------------------ retry budget


def test_retries_are_a_share_of_recent_requests() -> None:
    budget = RetryBudget(0.2)
    for _ in range(1000):
        budget.request(5.0)
    allowed = sum(budget.try_retry(5.5) for _ in range(1000))
    assert allowed == 200 + FLOOR * WINDOW
    assert not budget.try_retry(14.9)
    assert sum(budget.try_retry(15.0) for _ in range(1000)) == FLOOR * WINDOW


def test_without_a_floor_nothing_is_allowed_without_requests() -> None:
    budget = RetryBudget(0.5, floor=0.0)
    assert not budget.try_retry(0.0)
    budget.request(1.0)
    budget.request(2.0)
    assert budget.try_retry(2.0)
    assert not budget.try_retry(3.0)


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=200), st.floats(0, 1))
def test_the_budget_is_never_exceeded(steps: list[tuple[float, bool]], share: float) -> None:
    budget = RetryBudget(share, floor=1.0)
    requests: list[float] = []
    retries: list[float] = []
    now = 0.0
    for step, retry in steps:
        now += step / 10
        if not retry:
            budget.request(now)
            requests.append(now)
        elif budget.try_retry(now):
            retries.append(now)
            recent = [at for at in retries if int(at) > int(now) - WINDOW]
            asked = [at for at in requests if int(at) > int(now) - WINDOW]
            assert len(recent) <= share * len(asked) + WINDOW


# ------------------------------------------------------------------ ejection


def fail(ejector: Ejector, key: str, now: float, times: int = 3) -> bool:
    return [ejector.failed(key, now) for _ in range(times)][-1]


def test_consecutive_failures_eject_and_time_brings_back() -> None:
    ejector = Ejector(3, 10.0, 0.1)
    ejector.members("ab")
    assert not fail(ejector, "a", 0.0, 2)
    ejector.succeeded("a")
    assert not fail(ejector, "a", 0.0, 2)
    assert ejector.failed("a", 0.0)
    assert ejector.ejected("a", 9.9) and not ejector.ejected("b", 9.9)
    assert not ejector.ejected("a", 10.0)


def test_ejections_grow_and_calm_shortens_them() -> None:
    ejector = Ejector(3, 10.0, 1.0)
    ejector.members("ab")
    now = 0.0
    for length in (10.0, 20.0, 40.0, 80.0, 160.0, MAX_TIME, MAX_TIME):
        assert fail(ejector, "a", now)
        assert ejector.ejected("a", now + length - 0.1) and not ejector.ejected("a", now + length)
        now += length
    now += 100 * MAX_TIME
    assert fail(ejector, "a", now)
    assert not ejector.ejected("a", now + 10.0)


@pytest.mark.parametrize(
    ("count", "share", "most"), [(1, 1.0, 1), (1, 0.1, 0), (2, 0.1, 1), (10, 0.1, 1), (30, 0.1, 3), (4, 0.5, 2)]
)
def test_a_bounded_share_is_out_at_once(count: int, share: float, most: int) -> None:
    ejector = Ejector(1, 10.0, share)
    keys = [str(at) for at in range(count)]
    ejector.members(keys)
    assert sum(ejector.failed(key, 0.0) for key in keys) == most
    assert sum(ejector.ejected(key, 1.0) for key in keys) == most


def test_members_that_stay_keep_their_record() -> None:
    ejector = Ejector(1, 10.0, 0.5)
    ejector.members("ab")
    assert ejector.failed("a", 0.0)
    ejector.members("ac")
    assert ejector.ejected("a", 1.0)
    assert not ejector.failed("b", 1.0)


# ------------------------------------------------------------------ health


def test_consecutive_results_decide() -> None:
    health = Health(2, 3)
    assert health.healthy
    results = [False, False, True, False, False, False, True, False, True, True]
    changes = [health.result(ok, "" if ok else "refused") for ok in results]
    assert changes == [False] * 5 + [True] + [False] * 3 + [True]
    assert health.healthy and health.last_error == ""
    health.result(False, "refused")
    assert health.last_error == "refused"


@given(st.lists(st.booleans()), st.integers(1, 4), st.integers(1, 4))
def test_the_state_is_what_the_last_run_of_results_says(results: list[bool], up: int, down: int) -> None:
    health = Health(up, down)
    healthy = True
    for at in range(len(results)):
        health.result(results[at])
        run = len(list(itertools.takewhile(lambda ok, now=healthy: ok is not now, reversed(results[: at + 1]))))
        if run >= (down if healthy else up):
            healthy = not healthy
        assert health.healthy is healthy


# ------------------------------------------------------------------ limits and back-off


def test_a_bucket_allows_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(2.0, 3, 0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait(0.0) == 0.5
    assert not bucket.take(0.4)
    assert bucket.take(0.5)
    assert bucket.wait(0.5, 4) == float("inf")
    assert not bucket.full(1.9) and bucket.full(2.0)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert TokenBucket(0.0, 0, 0.0).wait(1.0) == float("inf")


@given(st.lists(st.floats(0, 1), max_size=200), st.floats(0.1, 10), st.integers(1, 10))
def test_a_bucket_never_gives_more_than_burst_and_rate(steps: list[float], rate: float, burst: int) -> None:
    bucket = TokenBucket(rate, burst, 0.0)
    now, taken = 0.0, 0
    for step in steps:
        now += step
        taken += bucket.take(now)
        assert taken <= burst + rate * now + 1e-6


def test_buckets_by_key_are_bounded() -> None:
    limiter = KeyedLimiter(1.0, 1, max_keys=2)
    assert limiter.take("a", 0.0) and not limiter.take("a", 0.0)
    assert limiter.wait("a", 0.0) == 1.0 and limiter.wait("unknown", 0.0) == 0.0
    assert limiter.take("b", 0.0)
    assert not limiter.take("a", 0.0)
    assert limiter.take("c", 0.0)
    assert len(limiter) == 2
    assert not limiter.take("a", 0.0)
    assert limiter.take("b", 0.0), "b was used least recently and had to be forgotten"


def test_full_buckets_are_swept() -> None:
    limiter = KeyedLimiter(1.0, 1)
    for key in range(10):
        limiter.take(key, float(key))
    assert limiter.sweep(5.5) == 5
    assert limiter.sweep(100.0, limit=2) == 2
    assert len(limiter) == 3


@given(st.integers(0, 2000), st.floats(0, 1, exclude_max=True))
def test_jitter_is_full_and_bounded(attempt: int, share: float) -> None:
    assert full_jitter(attempt, 0.5, 60.0, lambda: share) == share * min(60.0, 0.5 * 2.0 ** min(attempt, 60))
