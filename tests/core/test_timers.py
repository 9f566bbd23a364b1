"""The timing wheel: never early, at most a tick late, cheap, and sliced."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from accessgw.core.timers import SLOTS, TICK, TimingWheel


def advance(clock: Clock, seconds: float, step: float = 0.05) -> None:
    for _ in range(round(seconds / step)):
        clock.advance(step)


def test_a_timer_fires_once_within_a_tick_after_its_delay() -> None:
    clock = Clock()
    wheel = TimingWheel(clock)
    fired: list[float] = []
    wheel.schedule(1.0, lambda: fired.append(clock.seconds()))
    advance(clock, 5)
    assert len(fired) == 1
    assert 1.0 <= fired[0] <= 1.0 + TICK + 0.05


@given(
    st.lists(st.tuples(st.floats(0, 30), st.floats(0, 200), st.booleans(), st.floats(0, 30), st.floats(0, 200))),
    st.floats(0, 1e6),
)
def test_never_early_and_at_most_a_tick_and_a_step_late(plan: list, start: float) -> None:
    clock = Clock()
    clock.rightNow = start
    wheel = TimingWheel(clock)
    fired: dict[int, float] = {}
    due: dict[int, float] = {}

    def begin(number: int, delay: float, touched: bool, after: float, other: float) -> None:
        due[number] = clock.seconds() + delay
        timer = wheel.schedule(delay, lambda: fired.setdefault(number, clock.seconds()))

        def touch() -> None:
            if number not in fired:
                due[number] = clock.seconds() + other
            timer.touch(other)

        if touched:
            clock.callLater(after, touch)

    for number, (at, delay, touched, after, other) in enumerate(plan):
        clock.callLater(at, begin, number, delay, touched, after, other)
    for _ in range(1000):
        clock.advance(0.3)
    assert fired.keys() == due.keys()
    for number, at in fired.items():
        assert due[number] <= at <= due[number] + TICK + 0.3 + 1e-6
    assert not clock.getDelayedCalls()


def test_one_delayed_call_while_timers_are_pending_and_none_afterwards() -> None:
    clock = Clock()
    wheel = TimingWheel(clock)
    timers = [wheel.schedule(delay, lambda: None) for delay in (1, 2, 300)]
    advance(clock, 3, 0.3)
    assert len(clock.getDelayedCalls()) == 1
    timers[2].cancel()
    clock.advance(TICK)
    assert not clock.getDelayedCalls()
    assert len(wheel) == 0


def test_a_cancelled_timer_leaves_nothing_behind() -> None:
    wheel = TimingWheel(Clock())
    for _ in range(10_000):
        timer = wheel.schedule(10, lambda: None)
        timer.cancel()
        timer.cancel()
    assert len(wheel) == 0
    assert sum(len(slot) for slot in wheel._slots) == 0


def test_touch_moves_later_and_earlier() -> None:
    clock = Clock()
    wheel = TimingWheel(clock)
    fired: list[str] = []
    later = wheel.schedule(1, lambda: fired.append("later"))
    earlier = wheel.schedule(500, lambda: fired.append("earlier"))
    later.touch(10)
    earlier.touch(2)
    advance(clock, 3)
    assert fired == ["earlier"]
    advance(clock, 8)
    assert fired == ["earlier", "later"]
    later.touch(1)
    later.cancel()
    advance(clock, 3)
    assert fired == ["earlier", "later"]


def test_longer_than_a_revolution() -> None:
    clock = Clock()
    wheel = TimingWheel(clock)
    fired: list[float] = []
    delay = SLOTS * TICK * 3.5
    wheel.schedule(delay, lambda: fired.append(clock.seconds()))
    advance(clock, delay - 0.1, 0.1)
    assert not fired
    advance(clock, 1, 0.1)
    assert len(fired) == 1


def test_after_a_long_stop_of_the_process_everything_due_fires_once() -> None:
    clock = Clock()
    wheel = TimingWheel(clock)
    fired: list[int] = []
    for delay in range(1, 100):
        wheel.schedule(delay, lambda delay=delay: fired.append(delay))
    late = wheel.schedule(100_000, lambda: fired.append(0))
    clock.advance(50_000)
    for _ in range(10):
        clock.advance(0)
    assert sorted(fired) == list(range(1, 100))
    late.touch(1)
    advance(clock, 2)
    assert fired[-1] == 0


def test_a_crowded_slot_is_sliced() -> None:
    spent = [0.0]
    fired: list[float] = []
    turns: list[int] = []

    class TurnCounter(Clock):
        def callLater(self, delay, *args):
            if delay == 0:
                turns.append(len(fired))
            return super().callLater(delay, *args)

    clock = TurnCounter()
    wheel = TimingWheel(clock, seconds=lambda: spent[0])

    def work() -> None:
        spent[0] += 0.0001
        fired.append(clock.seconds())

    for _ in range(1000):
        wheel.schedule(1.0, work)
    clock.advance(1.0 + TICK)
    assert len(fired) == 1000
    assert len(turns) >= 25
    assert all(0 < later - earlier <= 40 for earlier, later in pairwise(turns))
    assert not clock.getDelayedCalls()


def test_a_timer_touched_or_cancelled_by_an_earlier_callback_of_its_slot_stays_quiet() -> None:
    clock = Clock()
    wheel = TimingWheel(clock)
    fired: list[int] = []
    timers = []

    def first_comes(number: int) -> None:
        fired.append(number)
        for other, timer in enumerate(timers):
            if other != number:
                timer.cancel() if other % 2 else timer.touch(50)

    for number in range(10):
        timers.append(wheel.schedule(1, lambda number=number: first_comes(number)))
    advance(clock, 3)
    assert len(fired) == 1
    advance(clock, 60)
    assert len(fired) == 2 and fired[1] % 2 == 0


def test_a_bound_holds_however_often_it_is_touched() -> None:
    clock = Clock()
    wheel = TimingWheel(clock)
    fired: list[float] = []
    touched = wheel.schedule(10, lambda: fired.append(clock.seconds()))
    touched.bound(95.0)
    for _ in range(120):
        advance(clock, 1)
        touched.touch(10)
    assert len(fired) == 1 and 95.0 <= fired[0] < 95.6
    late = wheel.schedule(1000, lambda: fired.append(clock.seconds()))
    late.bound(clock.seconds() + 5)
    late.bound(math.inf)
    late.bound(clock.seconds() + 7)
    advance(clock, 6)
    assert len(fired) == 1
    advance(clock, 2)
    assert len(fired) == 2
    late.bound(0.0)
    advance(clock, 2)
    assert len(fired) == 2 and not wheel


def test_scheduling_inside_a_callback() -> None:
    clock = Clock()
    wheel = TimingWheel(clock)
    fired: list[float] = []

    def again() -> None:
        fired.append(clock.seconds())
        if len(fired) < 4:
            wheel.schedule(0, again)

    wheel.schedule(0, again)
    other: list[float] = []
    wheel.schedule(0.6, lambda: other.append(clock.seconds()))
    advance(clock, 3)
    assert len(fired) == 4 and len(other) == 1
    assert fired == sorted(fired) and fired[0] < fired[-1]
    assert not clock.getDelayedCalls()


def test_a_callback_that_raises_hurts_nobody() -> None:
    from twisted.logger import globalLogPublisher

    clock = Clock()
    wheel = TimingWheel(clock)
    fired: list[str] = []
    seen: list[dict] = []
    globalLogPublisher.addObserver(seen.append)
    try:
        for number in range(4):
            wheel.schedule(1, (lambda: 1 / 0) if number % 2 else (lambda: fired.append("ok")))
        advance(clock, 3)
    finally:
        globalLogPublisher.removeObserver(seen.append)
    assert fired == ["ok", "ok"]
    assert [event["log_failure"].type for event in seen if "log_failure" in event] == [ZeroDivisionError] * 2
