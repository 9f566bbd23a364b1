from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from accessgw.crypto.signers.watchdog import Watchdog

AFTER = 1.0


class Watched:
    def __init__(self, after: float = AFTER) -> None:
        self.clock = Clock()
        self.barked: list[float] = []
        self.dog = Watchdog(after, self.clock, lambda: self.barked.append(self.clock.seconds()))

    def pass_time(self, seconds: float) -> None:
        """As on a reactor that turns often."""
        for _ in range(round(seconds * 64)):
            self.clock.advance(1 / 64)


def test_silence_for_the_time_is_told_once() -> None:
    watched = Watched()
    watched.dog.asked()
    watched.pass_time(0.5)
    watched.dog.asked()
    watched.pass_time(10.0)
    assert watched.barked == [AFTER]
    assert watched.clock.getDelayedCalls() == []


def test_who_was_not_asked_may_be_silent() -> None:
    watched = Watched()
    watched.pass_time(5.0)
    watched.dog.asked()
    watched.dog.heard(more=False)
    watched.pass_time(5.0)
    assert watched.barked == []
    assert watched.clock.getDelayedCalls() == []


def test_an_answer_begins_the_time_anew() -> None:
    watched = Watched()
    watched.dog.asked()
    for _ in range(10):
        watched.pass_time(0.75)
        watched.dog.heard(more=True)
    heard_at = watched.clock.seconds()
    watched.pass_time(5.0)
    (barked,) = watched.barked
    assert AFTER <= barked - heard_at <= AFTER + AFTER / 4


def test_an_answer_just_in_time_is_in_time() -> None:
    watched = Watched()
    watched.dog.asked()
    for _ in range(20):
        watched.pass_time(0.9375)
        watched.dog.heard(more=True)
    assert watched.barked == []


def test_what_is_asked_after_an_answer_has_its_own_time() -> None:
    watched = Watched()
    watched.dog.asked()
    watched.pass_time(0.9)
    watched.dog.heard(more=False)
    watched.dog.asked()
    watched.pass_time(0.7)
    assert watched.barked == []
    watched.pass_time(0.6)
    assert len(watched.barked) == 1


def test_more_that_is_owed_without_a_new_question_is_watched() -> None:
    watched = Watched()
    watched.dog.heard(more=True)
    watched.pass_time(5.0)
    assert watched.barked == [AFTER]


def test_who_was_stopped_himself_does_not_take_that_for_the_silence_of_the_other() -> None:
    watched = Watched()
    watched.dog.asked()
    watched.clock.advance(60.0)
    assert watched.barked == []
    # the answer lay there all the time
    watched.dog.heard(more=False)
    watched.pass_time(5.0)
    assert watched.barked == []


@pytest.mark.parametrize("after", [0.0, AFTER])
def test_none_that_is_off_or_stopped_barks(after: float) -> None:
    watched = Watched(after)
    watched.dog.asked()
    if after:
        watched.dog.stop()
    else:
        watched.dog.heard(more=True)
    watched.pass_time(5.0)
    assert watched.barked == []
    assert watched.clock.getDelayedCalls() == []
