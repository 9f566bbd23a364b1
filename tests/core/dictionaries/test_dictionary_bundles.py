"""Which dictionaries are in force together: canaries of several classes, sets of earlier times, bounds."""

from __future__ import annotations

from typing import Any

import pytest

from accessgw.core.dictionaries import bundles
from accessgw.core.dictionaries.bundles import Bundles
from accessgw.model.dictionaries import DictionaryRecord, DictionaryState
from accessgw.policy.dictionary_life import share_of
from protocols.mmtp.bundles import Bundle
from protocols.mmtp.dictionaries import Dictionary

S = DictionaryState


def record(id: int, state: DictionaryState, name: str = "qpay", app: str = "wallet", share: float = 0.0) -> Any:
    return DictionaryRecord(
        id=id,
        app=app,
        classes=(name,),
        state=state,
        created_at=0,
        changed_at=0,
        content=b"content %d" % id,
        share=share,
    )


class World:
    def __init__(self) -> None:
        self.made: list[tuple[int, ...]] = []
        self.gone: list[tuple[int, ...]] = []
        self.bundles = Bundles(self.made.append, self.gone.append)

    def ids(self, device: str) -> tuple[int, ...]:
        bundle = self.bundles.bundle_for("wallet", device)
        return tuple(bundle.by_id) if bundle else ()


@pytest.fixture
def world() -> World:
    return World()


def test_each_canary_has_its_share_of_the_devices(world: World) -> None:
    records = [
        record(1, S.ACTIVE, "qa"),
        record(2, S.CANARY, "qa", share=0.3),
        record(3, S.ACTIVE, "qb"),
        record(4, S.CANARY, "qb", share=0.6),
        record(5, S.CANARY, "qc", share=0.3),
    ]
    assert world.bundles.update(records) == ["wallet"]
    for number in range(300):
        device = f"d{number}"
        place = share_of("wallet", device)
        expected = (2, 4, 5) if place < 0.3 else (1, 4) if place < 0.6 else (1, 3)
        assert world.ids(device) == expected
    assert sorted(world.made) == [(1, 3), (1, 4), (2, 4, 5)]


def test_an_app_with_canaries_alone_has_nothing_for_the_others(world: World) -> None:
    world.bundles.update([record(1, S.CANARY, share=0.5)])
    found = {world.bundles.bundle_for("wallet", f"d{number}") is None for number in range(50)}
    assert found == {True, False}


@pytest.mark.parametrize("state", S)
def test_only_what_is_or_was_in_use_is_readable(world: World, state: DictionaryState) -> None:
    world.bundles.update([record(1, state, share=0.5)])
    readable = state in (S.CANARY, S.ACTIVE, S.RETIRED, S.ROLLED_BACK)
    assert (world.bundles.dictionary(1) is not None) == readable


def test_a_change_elsewhere_is_none_here(world: World) -> None:
    world.bundles.update([record(1, S.ACTIVE)])
    assert world.bundles.update([record(1, S.ACTIVE), record(2, S.CANDIDATE)]) == []
    assert world.bundles.update([record(1, S.ACTIVE), record(2, S.ACTIVE, app="other")]) == ["other"]
    assert world.bundles.update([record(1, S.RETIRED), record(2, S.ACTIVE, app="other")]) == ["wallet"]


def test_a_set_goes_with_any_of_its_dictionaries(world: World) -> None:
    world.bundles.update([record(1, S.ACTIVE, "qa"), record(2, S.ACTIVE, "qb")])
    digest = world.bundles.bundle_for("wallet", "d").digest
    world.bundles.update([record(1, S.RETIRED, "qa"), record(2, S.ACTIVE, "qb")])
    assert world.bundles.known(digest) is not None
    world.bundles.update([record(2, S.ACTIVE, "qb")])
    assert world.bundles.known(digest) is None and world.gone == [(1, 2)]


def test_stored_sets_are_known_again_and_broken_ones_are_forgotten(world: World) -> None:
    world.bundles.load([record(1, S.RETIRED), record(2, S.ACTIVE)], [(1,), (1, 9), (2,)])
    assert world.gone == [(1, 9)]
    assert world.ids("d") == (2,) and world.made == []
    assert world.bundles.update([record(1, S.RETIRED), record(2, S.ACTIVE)]) == []
    assert world.bundles.known(Bundle([Dictionary(1, b"content 1")]).digest) is not None


def test_sets_are_bounded_and_those_in_force_stay(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "MAX_KNOWN", 5)
    first = [record(100, S.ACTIVE, "qfirst", app="other")]
    for id in range(1, 21):
        world.bundles.update([*first, *(record(old, S.RETIRED) for old in range(1, id)), record(id, S.ACTIVE)])
    assert len(world.made) - len(world.gone) == 5
    assert (100,) not in world.gone and (20,) not in world.gone and (1,) in world.gone
    assert world.bundles.known(world.bundles.bundle_for("other", "d").digest) is not None
