from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accessgw.policy.drain import INTERVAL, DrainPlan


def test_it_releases_at_the_rate() -> None:
    plan = DrainPlan(total=1000, rate=100.0, now=50.0)
    assert plan.seconds == 10.0
    counts = [plan.release(50.0 + tick * INTERVAL) for tick in range(1, 101)]
    assert counts == [10] * 100
    assert plan.remaining == 0
    assert plan.release(1000.0) == 0


def test_a_slow_rate_releases_one_at_a_time() -> None:
    plan = DrainPlan(total=3, rate=2.0, now=0.0)
    times = [tick * INTERVAL for tick in range(1, 31) if plan.release(tick * INTERVAL)]
    assert times == pytest.approx([0.5, 1.0, 1.5])


def test_over_a_time() -> None:
    plan = DrainPlan.over(500, 5.0, now=0.0)
    assert plan.rate == 100.0
    assert sum(plan.release(tick * INTERVAL) for tick in range(1, 26)) == 250
    at_once = DrainPlan.over(500, 0.0, now=0.0)
    assert at_once.release(INTERVAL) == 500
    assert DrainPlan.over(0, 5.0, now=0.0).remaining == 0


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        DrainPlan(1, 0.0, now=0.0)


def test_a_clock_that_stands_still_or_goes_back_releases_nothing() -> None:
    plan = DrainPlan(100, 10.0, now=5.0)
    assert [plan.release(5.0), plan.release(4.0), plan.release(5.0)] == [0, 0, 0]


def test_lost_time_is_not_made_good_in_a_burst() -> None:
    plan = DrainPlan(total=10_000, rate=1000.0, now=0.0)
    assert plan.release(5.0) <= 1.2 * 1000.0 * INTERVAL


@given(
    rate=st.floats(5.0, 5000.0),
    gaps=st.lists(st.one_of(st.floats(0.0, 0.05), st.floats(0.09, 0.2), st.floats(0.5, 5.0)), min_size=5, max_size=60),
)
def test_no_second_sees_more_than_1_2_times_the_rate(rate: float, gaps: list[float]) -> None:
    plan = DrainPlan(total=1_000_000, rate=rate, now=0.0)
    now, released = 0.0, []
    for gap in gaps:
        now += gap
        released.append((now, plan.release(now)))
    for start, _ in released:
        window = sum(count for at, count in released if start <= at < start + 1.0)
        assert window <= 1.2 * rate + 1
    assert sum(count for _, count in released) <= rate * now + 1


@given(total=st.integers(0, 3000), rate=st.floats(20.0, 5000.0))
@settings(deadline=None)
def test_everyone_is_released_in_time(total: int, rate: float) -> None:
    plan = DrainPlan(total, rate, now=0.0)
    ticks = 0
    while plan.remaining:
        ticks += 1
        plan.release(ticks * INTERVAL)
        assert ticks * INTERVAL <= total / rate + 2 * INTERVAL + 1e-6
