"""The life of a dictionary, decision by decision."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from accessgw.model.dictionaries import DictionaryRecord, DictionaryState, Figures
from accessgw.model.dictionary_settings import DictionarySettings
from accessgw.policy import dictionary_life as life

S = DictionaryState
NOW = 1_800_000_000.0
SETTINGS = DictionarySettings(
    canary_messages=100, ratio_margin=0.05, error_margin=0.01, promote_after=60.0, retention=1000.0
)


def record(id: int, state: DictionaryState, **more: Any) -> DictionaryRecord:
    given: dict[str, Any] = {"app": "wallet", "classes": ("qpay",), "content": b"content", "changed_at": NOW} | more
    return DictionaryRecord(id=id, state=state, created_at=NOW, **given)


def figures(messages: int, ratio: float, errors: int = 0) -> Figures:
    return Figures(messages, messages * 1000, int(messages * 1000 * ratio), errors)


@pytest.mark.parametrize(
    ("own", "active", "promote", "later", "expected"),
    [
        (figures(99, 0.9), figures(500, 0.3), True, 100, None),  # too early
        (figures(100, 0.316), figures(500, 0.3), False, 100, False),
        (figures(100, 0.314), figures(500, 0.3), False, 100, None),  # within the margin
        (figures(100, 0.2), figures(500, 0.3), False, 100, None),  # better, and an operator decides
        (figures(100, 0.2), figures(500, 0.3), True, 59, None),
        (figures(100, 0.2), figures(500, 0.3), True, 60, True),
        (figures(100, 0.314), figures(500, 0.3), True, 60, True),
        (figures(100, 0.9), figures(99, 0.3), True, 100, None),  # the other one is not measured yet
        (figures(0, 1.0, errors=100), figures(0, 1.0), False, 0, False),  # errors need no comparison of ratios
        (figures(98, 0.2, errors=2), figures(500, 0.3), False, 0, False),
        (figures(99, 0.2, errors=1), figures(500, 0.3), False, 0, None),  # 1 % is the margin
        (figures(95, 0.2, errors=5), figures(475, 0.3, errors=25), False, 0, None),  # the active one fails as often
        (figures(100, 0.5), None, True, 60, True),
        (figures(100, 0.5), None, False, 60, None),
        (figures(100, 1.2), None, False, 0, False),  # worse than raw
    ],
)
def test_a_canary_is_judged_by_its_figures(
    own: Figures, active: Figures | None, promote: bool, later: float, expected: bool | None
) -> None:
    canary = record(2, S.CANARY, figures=own)
    other = record(1, S.ACTIVE, figures=active) if active is not None else None
    verdict = life.judge(canary, other, NOW + later, replace(SETTINGS, promote=promote))
    assert (None if verdict is None else verdict.good) == expected
    assert verdict is None or verdict.reason


def test_what_was_before_the_trial_does_not_count() -> None:
    before, other = figures(100_000, 0.1), figures(100_000, 0.9)
    canary = record(2, S.CANARY, own_baseline=before, figures=figures(100_000, 0.1))
    active = record(1, S.ACTIVE, figures=other)
    assert life.judge(canary, active, NOW, SETTINGS) is None
    worse = Figures(before.messages + 100, before.raw + 100_000, before.packed + 90_000, 0)
    better = Figures(other.messages + 100, other.raw + 100_000, other.packed + 30_000, 0)
    canary = replace(canary, figures=worse, baseline=other)
    verdict = life.judge(canary, replace(active, figures=better), NOW, SETTINGS)
    assert verdict is not None and not verdict.good and "0.900 against 0.300" in verdict.reason


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
    canary = record(2, S.CANARY, figures=figures(50, 0.3), changed_at=NOW - 30, share=0.05)
    (wider,) = life.canary(canary, [canary], NOW, 0.5)
    assert (wider.share, wider.changed_at, wider.own_baseline) == (0.5, NOW - 30, Figures())


@pytest.mark.parametrize("state", S)
def test_only_what_is_over_is_forgotten_and_in_time(state: DictionaryState) -> None:
    over = state in (S.RETIRED, S.ROLLED_BACK, S.REFUSED)
    assert life.forgotten(record(1, state), NOW + 1000, SETTINGS) == over
    assert not life.forgotten(record(1, state), NOW + 999, SETTINGS)


def test_a_refused_one_has_no_content() -> None:
    refused = life.refused(record(1, S.TRAINING), NOW, "because")
    assert (refused.state, refused.content, refused.reason) == (S.REFUSED, b"", "because")
