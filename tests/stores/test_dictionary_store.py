"""What every DictionaryStore does: the same tests over SQLite and memory, and what a new process finds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from accessgw.model.counters import StoreCounters
from accessgw.model.dictionaries import DictionaryRecord, DictionaryState, Figures, Trial, UserFigures
from accessgw.model.settings import StoreSettings
from accessgw.stores.memory_dictionaries import MemoryDictionaryStore
from accessgw.stores.sqlite_database import SqliteDatabase
from accessgw.stores.sqlite_dictionaries import SqliteDictionaryStore
from tests.stores.threaded_clock import ThreadedClock


class Place:
    """A store that can be opened again."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.clock = ThreadedClock()
        self.memory = MemoryDictionaryStore()
        self.database: SqliteDatabase | None = None
        self.open()

    def open(self) -> Any:
        if self.path is None:
            self.store: Any = self.memory
        else:
            self.database = SqliteDatabase(self.path, self.clock, StoreSettings(), StoreCounters())
            self.store = SqliteDictionaryStore(self.database)
            self.database.start()
        return self.store

    def stop(self) -> None:
        if self.database is not None:
            self.clock.wait(self.database.stop())

    def reopened(self) -> Any:
        self.stop()
        return self.open()

    def add(self, **more: Any) -> DictionaryRecord:
        return self.clock.wait(self.store.add(record(**more)))


@pytest.fixture(params=["memory", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made = Place(None if request.param == "memory" else tmp_path / "store.sqlite")
    yield made
    made.stop()


def record(**more: Any) -> DictionaryRecord:
    given: dict[str, Any] = {"app": "钱包", "classes": ("qpay", "a*"), "state": DictionaryState.TRAINING} | more
    return DictionaryRecord(id=0, created_at=1.5, changed_at=2.5, **given)


def test_a_new_store_is_empty(place: Place) -> None:
    assert place.store.load() == ([], [])


def test_everything_of_a_record_comes_back(place: Place) -> None:
    added = place.add()
    assert added == replace(record(), id=1)
    full = replace(
        added,
        state=DictionaryState.CANARY,
        reason="so",
        content=bytes(range(256)),
        share=0.25,
        replaced=9,
        samples=10,
        users=11,
        shortest=4,
        expected=0.3,
        figures=Figures(1, 2, 3, 4),
        trial=Trial(1, 5.5, 2**62, {0: UserFigures(6, 7, 8, True), 2**63 - 1: UserFigures(0, 0, 0, False)}),
    )
    place.clock.wait(place.store.put([full]))
    assert place.reopened().load() == ([full], [])


def test_an_id_is_never_used_again(place: Place) -> None:
    assert [place.add().id, place.add().id] == [1, 2]
    place.clock.wait(place.store.remove([1, 2], []))
    assert place.reopened().load() == ([], [])
    assert place.add().id == 3


def test_what_was_removed_is_not_put_back(place: Place) -> None:
    added = place.add()
    place.clock.wait(place.store.remove([added.id], []))
    place.clock.wait(place.store.put([added]))
    assert place.reopened().load() == ([], [])


def test_sets_come_back_once_each_oldest_first(place: Place) -> None:
    for ids in ([2, 3], [1], [2, 3], []):
        place.store.add_bundle(ids)
    assert place.reopened().load()[1] == [(2, 3), (1,), ()]
    place.clock.wait(place.store.remove([], [(1,)]))
    assert place.reopened().load()[1] == [(2, 3), ()]


def test_a_lazy_write_is_there_after_a_stop(place: Place) -> None:
    added = place.add()
    place.store.put([replace(added, figures=Figures(7, 7, 7, 7))], lazy=True)
    ((found,), _) = place.reopened().load()
    assert found.figures == Figures(7, 7, 7, 7)
