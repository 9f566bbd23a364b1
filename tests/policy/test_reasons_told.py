"""Which reasons are told: each once an hour, few of them, whatever a peer says."""

from __future__ import annotations

from accessgw.policy.reasons_told import MAX_TOLD, TELL_AGAIN, ReasonsTold


def test_each_reason_once_an_hour() -> None:
    told = ReasonsTold()
    assert told.may("a", 0.0) and told.may("b", 10.0)
    assert not told.may("a", TELL_AGAIN - 0.1) and told.may("a", TELL_AGAIN) and not told.may("b", TELL_AGAIN)
    told.forget()
    assert told.may("b", TELL_AGAIN)


def test_a_peer_that_thinks_of_many_gets_few_lines() -> None:
    told = ReasonsTold()
    assert sum(told.may(f"reason {number % 1000}", number / 10) for number in range(10_000)) == MAX_TOLD
    assert told.may("another", TELL_AGAIN + 100.0)
