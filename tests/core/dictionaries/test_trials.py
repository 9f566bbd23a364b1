"""What is kept of the users of a trial: each once, a fair sample of many, and never more than the bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from accessgw.core.dictionaries.trials import MAX_USERS, RunningTrial
from accessgw.model.dictionaries import WITNESSES, Trial, UserFigures
from accessgw.policy.dictionary_life import witness_of

WITNESS = st.sampled_from([0, 1, 2, 77, WITNESSES])


@given(st.lists(st.tuples(WITNESS, st.integers(0, 999), st.integers(0, 999), st.booleans())))
def test_few_are_kept_whole_and_another_process_goes_on(seen: list[tuple[int, int, int, bool]]) -> None:
    running = RunningTrial(Trial(2, 1.5))
    expected: dict[int, UserFigures] = {}
    for witness, raw, packed, fails in seen:
        had = expected.get(witness, UserFigures(0, 0, 0, False))
        if fails:
            running.fail(witness)
            expected[witness] = UserFigures(had.messages, had.raw, had.packed, True)
        else:
            running.count(witness, raw, packed)
            expected[witness] = UserFigures(had.messages + 1, had.raw + raw, had.packed + packed, had.failed)
        running = RunningTrial(running.figures())
    assert running.key == (2, 1.5)
    assert running.figures() == Trial(2, 1.5, WITNESSES, expected)


def test_of_very_many_a_fair_sample_is_kept() -> None:
    running = RunningTrial(Trial(2, 1.5))
    for number in range(50_000):
        witness = witness_of(f"user{number}")
        running.count(witness, 1000, 500 if number % 2 else 300)
        if number % 10 == 0:
            running.fail(witness)
        if number % 1000 == 0:
            assert len(running.figures().users) <= MAX_USERS
    users = running.figures().users
    assert MAX_USERS // 3 < len(users) <= MAX_USERS
    assert 0.05 < sum(user.failed for user in users.values()) / len(users) < 0.15
    assert 0.4 < sum(user.packed == 500 for user in users.values()) / len(users) < 0.6


def test_who_is_left_out_stays_so() -> None:
    running = RunningTrial(Trial(2, 1.5))
    for number in range(MAX_USERS):
        running.fail(WITNESSES - number)
    assert len(running.figures().users) == MAX_USERS
    running.fail(0)
    running.fail(WITNESSES)
    running.count(WITNESSES, 1, 1)
    assert running.figures().users == {0: UserFigures(0, 0, 0, True)}
