"""What is known of each dictionary: its record, and its figures while they are counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from accessgw.core.interfaces.control import ControlError
from accessgw.model.counters import DictionaryCounters
from accessgw.model.dictionaries import DictionaryRecord, Figures
from protocols.mmtp.dictionaries import Dictionary


class _Tally:
    """Figures while they are counted."""

    __slots__ = ("errors", "messages", "packed", "raw")

    def __init__(self, figures: Figures) -> None:
        self.messages = figures.messages
        self.raw = figures.raw
        self.packed = figures.packed
        self.errors = figures.errors

    def figures(self) -> Figures:
        return Figures(self.messages, self.raw, self.packed, self.errors)


class Ledger:
    """The records of all dictionaries. `readable()` gives those whose codecs may have counted."""

    __slots__ = ("_counters", "_readable", "_tallies", "records")

    def __init__(self, counters: DictionaryCounters, readable: Callable[[], Iterable[Dictionary]]) -> None:
        self.records: dict[int, DictionaryRecord] = {}
        """By id; their figures are those that were written last, see current()."""
        self._counters = counters
        self._readable = readable
        self._tallies: dict[int, _Tally] = {}

    def add(self, record: DictionaryRecord) -> None:
        """A new one, or one that the store had."""
        self.records[record.id] = record
        self._tallies[record.id] = _Tally(record.figures)

    def remove(self, id: int) -> None:
        """One that is forgotten."""
        del self.records[id]
        del self._tallies[id]

    def current(self) -> list[DictionaryRecord]:
        """The records with the figures of this moment."""
        self._collect()
        return [
            record if (figures := self._tallies[id].figures()) == record.figures else record.but(figures=figures)
            for id, record in self.records.items()
        ]

    def find(self, id: int) -> DictionaryRecord:
        """One with the figures of this moment. Raises ControlError(404)."""
        record = self.records.get(id)
        if record is None:
            raise ControlError(404, "not_found", f"no such dictionary: {id}")
        self._collect()
        return record.but(figures=self._tallies[id].figures())

    def take_unwritten(self) -> list[DictionaryRecord]:
        """The records whose figures have changed since the last call, to be written now."""
        changed = [record for record in self.current() if record.figures != self.records[record.id].figures]
        for record in changed:
            self.records[record.id] = record
        return changed

    def count(self, id: int, raw: int, packed: int) -> None:
        """A body that was coded with a dictionary, in bytes; see DictionaryService.record."""
        tally = self._tallies.get(id)
        if tally is not None:
            self._add(tally, 1, raw, packed)

    def count_error(self, id: int) -> None:
        """A body that could not be expanded with a dictionary."""
        self._counters.errors += 1
        tally = self._tallies.get(id)
        if tally is not None:
            tally.errors += 1

    def _collect(self) -> None:
        """Take over what codecs have counted on the dictionaries themselves."""
        for dictionary in self._readable():
            tally = self._tallies.get(dictionary.id)
            if tally is None or not (dictionary.bodies or dictionary.errors):
                continue
            self._add(tally, dictionary.bodies, dictionary.raw, dictionary.packed)
            tally.errors += dictionary.errors
            self._counters.errors += dictionary.errors
            dictionary.bodies = dictionary.raw = dictionary.packed = dictionary.errors = 0

    def _add(self, tally: _Tally, bodies: int, raw: int, packed: int) -> None:
        tally.messages += bodies
        tally.raw += raw
        tally.packed += packed
        self._counters.bodies += bodies
        self._counters.raw += raw
        self._counters.packed += packed
