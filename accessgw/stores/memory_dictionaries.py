"""Dictionaries of bodies in memory: the DictionaryStore of tests."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed

from accessgw.model.dictionaries import DictionaryRecord


class MemoryDictionaryStore:
    """See core.interfaces.dictionaries."""

    def __init__(self) -> None:
        self._last_id = 0
        self._records: dict[int, DictionaryRecord] = {}
        self._bundles: dict[tuple[int, ...], None] = {}

    def load(self) -> tuple[list[DictionaryRecord], list[tuple[int, ...]]]:
        return [self._records[id] for id in sorted(self._records)], list(self._bundles)

    def add(self, record: DictionaryRecord) -> Deferred[DictionaryRecord]:
        self._last_id += 1
        added = self._records[self._last_id] = replace(record, id=self._last_id)
        return succeed(added)

    def put(self, records: Sequence[DictionaryRecord], *, lazy: bool = False) -> Deferred[None]:
        for record in records:
            if record.id in self._records:
                self._records[record.id] = record
        return succeed(None)

    def add_bundle(self, ids: Sequence[int]) -> Deferred[None]:
        self._bundles.setdefault(tuple(ids))
        return succeed(None)

    def remove(self, ids: Sequence[int], bundles: Sequence[Sequence[int]]) -> Deferred[None]:
        for id in ids:
            self._records.pop(id, None)
        for bundle in bundles:
            self._bundles.pop(tuple(bundle), None)
        return succeed(None)
