"""Coroutines that are run as far as they go without waiting."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed

from accessgw.core.begun import begun


async def sum_of(*terms: Deferred[int]) -> int:
    total = 0
    for term in terms:
        try:
            total += await term
        except KeyError:
            total += 100
    return total


def test_what_has_fired_gives_the_result_at_once() -> None:
    assert begun(sum_of(succeed(1), fail(KeyError()), succeed(2))) == 103


def test_what_it_raises_at_once_is_raised() -> None:
    with pytest.raises(ValueError, match="so"):
        begun(sum_of(succeed(1), fail(ValueError("so"))))


def test_what_has_not_fired_is_waited_for_again_and_again() -> None:
    terms: list[Deferred[int]] = [Deferred(), Deferred(), Deferred()]
    result = begun(sum_of(succeed(1), *terms))
    assert isinstance(result, Deferred) and not result.called
    terms[1].callback(4)
    terms[0].errback(KeyError())
    assert not result.called
    terms[2].callback(5)
    assert result.result == 110


def test_a_failure_behind_a_wait_fails_the_result() -> None:
    waits: Deferred[int] = Deferred()
    result = begun(sum_of(waits))
    assert isinstance(result, Deferred)
    waits.errback(ValueError("late"))
    failures: list[object] = []
    result.addErrback(lambda failure: failures.append(failure.value))
    assert [str(each) for each in failures] == ["late"]


def test_cancelling_the_result_cancels_what_it_waits_for() -> None:
    cancelled: list[Deferred[int]] = []
    waits: Deferred[int] = Deferred(cancelled.append)
    result = begun(sum_of(waits))
    assert isinstance(result, Deferred)
    failures: list[object] = []
    result.addErrback(lambda failure: failures.append(failure.value))
    result.cancel()
    assert cancelled == [waits] and isinstance(failures[0], CancelledError)
