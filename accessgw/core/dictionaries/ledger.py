"""What is known of each dictionary: its record, and its figures while they are counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from accessgw.core.dictionaries.trials import RunningTrial
from accessgw.core.interfaces.control import ControlError
from accessgw.model.counters import DictionaryCounters
from accessgw.model.dictionaries import DictionaryRecord, DictionaryState, Figures, Trial
from accessgw.policy.dictionary_life import slot_of
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
    """The records of all dictionaries, and the trials. `readable()` gives those whose codecs may have counted."""

    __slots__ = ("_counters", "_readable", "_tallies", "_trials", "records")

    def __init__(self, counters: DictionaryCounters, readable: Callable[[], Iterable[Dictionary]]) -> None:
        self.records: dict[int, DictionaryRecord] = {}
        """By id; their figures are those that were written last, see current()."""
        self._counters = counters
        self._readable = readable
        self._tallies: dict[int, _Tally] = {}
        self._trials: dict[int, RunningTrial] = {}

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
        return [self._now(record) for record in self.records.values()]

    def find(self, id: int) -> DictionaryRecord:
        """One with the figures of this moment. Raises ControlError(404)."""
        record = self.records.get(id)
        if record is None:
            raise ControlError(404, "not_found", f"no such dictionary: {id}")
        self._collect()
        return self._now(record)

    def take_unwritten(self) -> list[DictionaryRecord]:
        """The records whose figures have changed since the last call, to be written now."""
        changed = [record for record in self.current() if record.figures != self.records[record.id].figures]
        for record in changed:
            self.records[record.id] = record
        return changed

    def follow_trials(self) -> None:
        """Count for the canaries that there are, and for the active dictionaries beside them; for no others."""
        records = self.records.values()
        wanted: dict[int, tuple[int, float]] = {}
        for record in records:
            if record.state == DictionaryState.CANARY:
                active = slot_of(records, record, DictionaryState.ACTIVE)
                for one in (record, active) if active is not None else (record,):
                    wanted[one.id] = record.id, record.changed_at
        self._trials = {id: self._trial(id, *key) for id, key in wanted.items()}
        for dictionary in self._readable():
            dictionary.watcher = self._trials.get(dictionary.id)

    def _trial(self, id: int, canary: int, began: float) -> RunningTrial:
        """The one that runs, else the one that an earlier process wrote, else a new one."""
        running = self._trials.get(id)
        if running is not None and running.key == (canary, began):
            return running
        written = self.records[id].trial
        if written is not None and (written.canary, written.began) == (canary, began):
            return RunningTrial(written)
        return RunningTrial(Trial(canary, began))

    def _now(self, record: DictionaryRecord) -> DictionaryRecord:
        running = self._trials.get(record.id)
        trial = None if running is None else running.figures()
        return record.but(figures=self._tallies[record.id].figures(), trial=trial)

    def _collect(self) -> None:
        """Take over what codecs have counted on the dictionaries themselves."""
        for dictionary in self._readable():
            tally = self._tallies.get(dictionary.id)
            if tally is None or not (dictionary.bodies or dictionary.errors):
                continue
            tally.messages += dictionary.bodies
            tally.raw += dictionary.raw
            tally.packed += dictionary.packed
            tally.errors += dictionary.errors
            self._counters.bodies += dictionary.bodies
            self._counters.raw += dictionary.raw
            self._counters.packed += dictionary.packed
            self._counters.errors += dictionary.errors
            dictionary.bodies = dictionary.raw = dictionary.packed = dictionary.errors = 0
