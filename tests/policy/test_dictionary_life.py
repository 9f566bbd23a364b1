"""The life of a dictionary, decision by decision."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from accessgw.model.dictionaries import WITNESSES, DictionaryRecord, DictionaryState, Trial, UserFigures
from accessgw.model.dictionary_settings import DictionarySettings
from accessgw.policy import dictionary_life as life

S = DictionaryState
NOW = 1_800_000_000.0
SETTINGS = DictionarySettings(
    canary_messages=100, canary_users=10, ratio_margin=0.05, error_margin=0.01, promote_after=60.0, retention=1000.0
)


def record(id: int, state: DictionaryState, **more: Any) -> DictionaryRecord:
    given: dict[str, Any] = {"app": "wallet", "classes": ("qpay",), "content": b"content", "changed_at": NOW} | more
    return DictionaryRecord(id=id, state=state, created_at=NOW, **given)


def users(count: int, messages: int, ratio: float, failed: int = 0) -> list[UserFigures]:
    """So many users with so many bodies each; for the first ones it has failed."""
    return [UserFigures(messages, messages * 1000, int(messages * 1000 * ratio), at < failed) for at in range(count)]


def trial(*groups: list[UserFigures]) -> Trial:
    return Trial(2, NOW, users=dict(enumerate(user for group in groups for user in group)))


ACTIVE = trial(users(20, 25, 0.3))


@pytest.mark.parametrize(
    ("own", "active", "promote", "later", "expected"),
    [
        (users(11, 9, 0.9), ACTIVE, True, 100, None),  # 99 bodies: too early
        (users(10, 10, 0.316), ACTIVE, False, 100, False),
        (users(10, 10, 0.314), ACTIVE, False, 100, None),  # within the margin
        (users(10, 10, 0.2), ACTIVE, False, 100, None),  # better, and an operator decides
        (users(10, 10, 0.2), ACTIVE, True, 59, None),
        (users(10, 10, 0.2), ACTIVE, True, 60, True),
        (users(10, 10, 0.314), ACTIVE, True, 60, True),
        (users(9, 1000, 0.9), ACTIVE, True, 100, None),  # too few users
        (users(10, 10, 0.9), trial(users(11, 9, 0.3)), True, 100, None),  # the other one is not measured yet
        (users(10, 10, 0.9), trial(users(9, 1000, 0.3)), True, 100, None),
        (users(9, 1, 0.9) + users(1, 10_000, 0.9), ACTIVE, True, 100, None),  # most bodies are one user's: 19 count
        (users(10, 0, 0.0, failed=10), trial(), False, 0, False),  # errors need no comparison of ratios
        (users(9, 0, 0.0, failed=9), trial(), False, 0, None),
        (users(600, 1, 0.3, failed=10), ACTIVE, False, 0, False),
        (users(1000, 1, 0.3, failed=10), ACTIVE, False, 0, None),  # 1 % is the margin
        (users(100, 1, 0.3, failed=20), trial(users(100, 1, 0.3, failed=20)), False, 0, None),  # as often
        (users(10, 10, 0.5), None, True, 60, True),
        (users(10, 10, 0.5), None, False, 60, None),
        (users(10, 10, 1.2), None, False, 0, False),  # worse than raw
    ],
)
def test_a_canary_is_judged_by_what_it_does_for_its_users(
    own: list[UserFigures], active: Trial | None, promote: bool, later: float, expected: bool | None
) -> None:
    canary = record(2, S.CANARY, trial=trial(own))
    other = record(1, S.ACTIVE, trial=active) if active is not None else None
    verdict = life.judge(canary, other, NOW + later, replace(SETTINGS, promote=promote))
    assert (None if verdict is None else verdict.good) == expected
    assert verdict is None or verdict.reason


HONEST = users(10, 10, 0.3)
HOSTILE = [
    UserFigures(10**6, 10**9, 10**9 + 10**7, False),  # a million bodies that nothing makes smaller
    UserFigures(10**6, 10**9, 10**6, False),  # all zeros
    UserFigures(0, 0, 0, True),
    UserFigures(10**6, 10**9, 10**9, True),
]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("side", ["canary", "active"])
@pytest.mark.parametrize("good", [True, False])
def test_one_user_decides_nothing(hostile: UserFigures, side: str, good: bool) -> None:
    """Whatever it sends: the verdict is the one without it."""
    settings = replace(SETTINGS, promote=True)

    def judged(more: list[UserFigures]) -> bool | None:
        own, other = list(HONEST if good else users(10, 10, 0.4)), list(HONEST)
        (own if side == "canary" else other).extend(more)
        canary, active = record(2, S.CANARY, trial=trial(own)), record(1, S.ACTIVE, trial=trial(other))
        verdict = life.judge(canary, active, NOW + 60, settings)
        return None if verdict is None else verdict.good

    assert judged([]) == judged([hostile]) == good


def test_many_users_decide() -> None:
    active = record(1, S.ACTIVE, trial=ACTIVE)
    for one in (HOSTILE[0], HOSTILE[2]):
        verdict = life.judge(record(2, S.CANARY, trial=trial(HONEST, [one] * 20)), active, NOW, SETTINGS)
        assert verdict is not None and not verdict.good


def test_without_a_trial_nothing_is_judged() -> None:
    assert life.judge(record(2, S.CANARY), record(1, S.ACTIVE), NOW, SETTINGS) is None
    assert life.judge(record(2, S.CANARY), None, NOW, replace(SETTINGS, promote=True)) is None


def test_who_is_nobody_in_particular_is_one() -> None:
    assert life.witness_of("") == 0
    numbers = {life.witness_of(f"user{number}") for number in range(1000)} | {life.witness_of("\ud800")}
    assert len(numbers) == 1001 and all(0 < number <= WITNESSES for number in numbers)


def test_a_share_of_the_devices_is_stable_and_about_right() -> None:
    places = [life.share_of("wallet", f"device{number}") for number in range(2000)]
    assert places == [life.share_of("wallet", f"device{number}") for number in range(2000)]
    assert 160 < sum(place < 0.1 for place in places) < 240
    assert all(0 <= place < 1 for place in places)
    assert life.share_of("wallet", "d") != life.share_of("other", "d")
    life.share_of("\ud800", "\udfff")


def by_id(changed: list[DictionaryRecord]) -> dict[int, DictionaryState]:
    return {one.id: one.state for one in changed}


CASES = [record(number, state) for number, state in enumerate(S, 1)]


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.state.value)
def test_what_can_follow_each_state(one: DictionaryRecord) -> None:
    usable = one.state not in (S.TRAINING, S.REFUSED)
    if usable:
        assert by_id(life.activate(one, [one], NOW, "")) == ({} if one.state == S.ACTIVE else {one.id: S.ACTIVE})
    else:
        with pytest.raises(life.LifeError):
            life.activate(one, [one], NOW, "")
    if usable and one.state != S.ACTIVE:
        assert by_id(life.canary(one, [one], NOW, 0.1)) == {one.id: S.CANARY}
    else:
        with pytest.raises(life.LifeError):
            life.canary(one, [one], NOW, 0.1)
    if one.state in (S.CANDIDATE, S.CANARY, S.ACTIVE):
        assert by_id(life.roll_back(one, [one], NOW, "")) == {one.id: S.ROLLED_BACK}
    else:
        with pytest.raises(life.LifeError):
            life.roll_back(one, [one], NOW, "")


def test_a_slot_has_one_active_and_one_canary() -> None:
    active, canary, candidate = record(1, S.ACTIVE), record(2, S.CANARY), record(3, S.CANDIDATE)
    elsewhere = [record(4, S.ACTIVE, app="other"), record(5, S.ACTIVE, classes=("apay",))]
    records = [active, canary, candidate, *elsewhere]
    assert by_id(life.activate(canary, records, NOW, "")) == {2: S.ACTIVE, 1: S.RETIRED}
    assert by_id(life.canary(candidate, records, NOW, 0.1)) == {3: S.CANARY, 2: S.RETIRED}


def test_a_rollback_brings_back_what_was_replaced() -> None:
    old, new = record(1, S.ACTIVE), record(2, S.CANARY)
    new, old = life.activate(new, [old, new], NOW, "")
    assert new.replaced == 1
    assert by_id(life.roll_back(new, [old, new], NOW, "")) == {2: S.ROLLED_BACK, 1: S.ACTIVE}
    assert by_id(life.roll_back(new, [new], NOW, "")) == {2: S.ROLLED_BACK}, "it is forgotten"


def test_a_wider_canary_goes_on_with_its_trial() -> None:
    canary = record(2, S.CANARY, trial=trial(HONEST), changed_at=NOW - 30, share=0.05)
    (wider,) = life.canary(canary, [canary], NOW, 0.5)
    assert (wider.share, wider.changed_at, wider.trial) == (0.5, NOW - 30, canary.trial)


@pytest.mark.parametrize("state", S)
def test_only_what_is_over_is_forgotten_and_in_time(state: DictionaryState) -> None:
    over = state in (S.RETIRED, S.ROLLED_BACK, S.REFUSED)
    assert life.forgotten(record(1, state), NOW + 1000, SETTINGS) == over
    assert not life.forgotten(record(1, state), NOW + 999, SETTINGS)


def test_a_refused_one_has_no_content() -> None:
    refused = life.refused(record(1, S.TRAINING), NOW, "because")
    assert (refused.state, refused.content, refused.reason) == (S.REFUSED, b"", "because")
