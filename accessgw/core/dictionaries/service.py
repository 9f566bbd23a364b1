"""Dictionaries of bodies in one gateway: what is in force, how it does, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.dictionaries.bundles import Bundles
from accessgw.core.dictionaries.ledger import Ledger
from accessgw.core.dictionaries.rows import class_row, dictionary_row
from accessgw.core.dictionaries.sampler import Sampler
from accessgw.core.dictionaries.trainer import Trainer
from accessgw.core.dictionaries.trainings import Trainings
from accessgw.core.interfaces.clock import Clock
from accessgw.core.interfaces.control import ControlError
from accessgw.core.interfaces.dictionaries import DictionaryStore
from accessgw.model.counters import DictionaryCounters
from accessgw.model.dictionaries import USED, DictionaryRecord, DictionaryState
from accessgw.model.dictionary_settings import DictionarySettings
from accessgw.policy import dictionary_life as life
from protocols.mmtp.bundles import Bundle
from protocols.mmtp.dictionaries import Dictionary

TICK = 1.0
"""Seconds between two looks at canaries and what is due."""

JUDGED = 4
"""Canaries that are judged at a time, in turn: each may take half a millisecond of the reactor."""

log = Logger()


class Dictionaries:
    """The DictionaryService and DictionaryControl of a worker; see core.interfaces.dictionaries.

    A change of state is first made durable, then comes into force. `wall` is the wall clock, `random` gives numbers
    in [0, 1). Disabled, it knows no dictionary and samples nothing.
    """

    def __init__(
        self,
        settings: DictionarySettings,
        store: DictionaryStore,
        trainer: Trainer,
        *,
        clock: Clock,
        wall: Callable[[], float],
        random: Callable[[], float],
        counters: DictionaryCounters,
        secret_operations: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """`secret_operations` gives operations of secret routes: names, and prefixes with a star."""
        self.settings = settings
        self._store = store
        self._clock = clock
        self._wall = wall
        self._counters = counters
        self._lock = DeferredLock()
        self._watchers: list[Callable[[str], None]] = []
        self._bundles = Bundles(self._bundle_made, self._bundle_gone)
        self._timer: Any = None
        self._ticks = 0
        self._working = False
        self._judged = 0
        """The id of the canary that was judged last."""
        self.sampler = Sampler(settings, random)
        self._ledger = Ledger(counters, self._bundles.readable)
        self._trainings = Trainings(
            settings, self._ledger, self.sampler, trainer, store,
            change=self._change, wall=wall, counters=counters, secret_operations=secret_operations,
        )  # fmt: skip
        self.observe: Callable[[str, str, str, str, bytes], None] = (
            self.sampler.observe if settings.enabled else _ignore
        )

    # ---------------------------------------------------------------- starting and stopping

    def start(self) -> None:
        """After the store has started. A training that the end of the process broke off is refused, visibly: its
        samples were in memory only."""
        if not self.settings.enabled:
            return
        records, sets = self._store.load()
        for record in records:
            self._ledger.add(record)
        self._bundles.load(records, sets)
        self._ledger.follow_trials()
        broken = [
            life.refused(record, self._wall(), "the gateway ended during the training; train again")
            for record in records
            if record.state == DictionaryState.TRAINING
        ]
        if broken:
            self._change(lambda: broken).addErrback(self._not_refused, broken)
        self._count()
        self._timer = self._clock.callLater(TICK, self._tick)

    def _not_refused(self, failure: Failure, broken: list[DictionaryRecord]) -> None:
        """The store did not take it. The next process will find the same; in this one the classes can be trained."""
        self._lost(failure, "broken trainings")
        self._ledger.records.update((record.id, record) for record in broken)

    def stop(self) -> Deferred[None]:
        """Fires when the training that runs has ended and the figures are written."""
        if self._timer is None:
            return succeed(None)
        self._timer.cancel()
        self._timer = None
        return Deferred.fromCoroutine(self._stop()).addErrback(self._lost, "the end")

    async def _stop(self) -> None:
        await self._trainings.stop()
        await self._lock.run(self._flush)

    def reconfigure(self, settings: DictionarySettings) -> None:
        """Judge by other margins, keep other secrets."""
        self.settings = self._trainings.settings = settings
        self.sampler.replace_secrets(settings.secret)

    # ---------------------------------------------------------------- the data path

    def is_secret(self, name: str) -> bool:
        return self.sampler.is_secret(name)

    def bundle_for(self, app: str, device: str) -> Bundle | None:
        return self._bundles.bundle_for(app, device)

    def known(self, digest: bytes) -> Bundle | None:
        return self._bundles.known(digest)

    def dictionary(self, id: int) -> Dictionary | None:
        return self._bundles.dictionary(id)

    def readable(self) -> list[Dictionary]:
        return self._bundles.readable()

    def active(self, app: str) -> Bundle | None:
        return self._bundles.active(app)

    def used(self, app: str) -> list[Dictionary]:
        ids = [record.id for record in self._ledger.records.values() if record.app == app and record.state in USED]
        found = map(self._bundles.dictionary, ids)
        return [dictionary for dictionary in found if dictionary is not None]

    def on_change(self, changed: Callable[[str], None]) -> Callable[[], None]:
        self._watchers.append(changed)
        return lambda: self._watchers.remove(changed) if changed in self._watchers else None

    # ---------------------------------------------------------------- operators

    def overview(self) -> dict[str, Any]:
        return {
            "enabled": self.settings.enabled,
            "dictionaries": [self._row(record) for record in self._ledger.current()],
            "classes": [class_row(key, reservoir, self.settings) for key, reservoir in self.sampler.classes()],
        }

    def show(self, id: int) -> dict[str, Any]:
        return self._row(self._ledger.find(id), whole=True)

    def content(self, id: int) -> bytes:
        content = self._ledger.find(id).content
        if not content:
            raise ControlError(404, "not_found", f"dictionary {id} has no content")
        return content

    def train(self, app: str | None, classes: Sequence[str]) -> Deferred[list[dict[str, Any]]]:
        return Deferred.fromCoroutine(self._train(app, tuple(classes)))

    async def _train(self, app: str | None, classes: tuple[str, ...]) -> list[dict[str, Any]]:
        if not self.settings.enabled:
            raise ControlError(409, "not_enabled", "dictionaries.enabled is false")
        begun = await self._trainings.begin(app, classes)
        self._count()
        return [self._row(record) for record in begun]

    def activate(self, id: int, share: float) -> Deferred[dict[str, Any]]:
        def decide() -> list[DictionaryRecord]:
            record = self._ledger.find(id)
            if share < 1.0:
                return life.canary(record, self._ledger.current(), self._wall(), share)
            return life.activate(record, self._ledger.current(), self._wall(), "an operator said so")

        return self._change(decide).addCallback(lambda _: self.show(id))

    def roll_back(self, id: int) -> Deferred[dict[str, Any]]:
        def decide() -> list[DictionaryRecord]:
            return life.roll_back(self._ledger.find(id), self._ledger.current(), self._wall(), "an operator said so")

        return self._change(decide).addCallback(lambda _: self.show(id))

    # ---------------------------------------------------------------- changes of state

    def _change(self, decide: Callable[[], list[DictionaryRecord]]) -> Deferred[None]:
        """Make what `decide` says durable, then bring it into force; one change at a time. Fails with ControlError."""

        async def make() -> None:
            try:
                changed = decide()
            except life.LifeError as error:
                raise ControlError(409, "conflict", str(error)) from None
            if not changed:
                return
            await self._store.put(changed)
            for record in changed:
                before = self._ledger.records.get(record.id)
                self._ledger.records[record.id] = record
                if before is None or before.state != record.state:
                    log.info("dictionary {id}: {state}{why}",
                             id=record.id, state=record.state.value,
                             why=f": {record.reason}" if record.reason else "")  # fmt: skip
            self._in_force()

        return self._lock.run(lambda: Deferred.fromCoroutine(make()))

    def _in_force(self) -> None:
        changed = self._bundles.update(list(self._ledger.records.values()))
        self._ledger.follow_trials()
        self._count()
        for app in changed:
            for watcher in list(self._watchers):
                watcher(app)

    def _bundle_made(self, ids: tuple[int, ...]) -> None:
        self._store.add_bundle(ids).addErrback(self._lost, "a set of dictionaries")

    def _bundle_gone(self, ids: tuple[int, ...]) -> None:
        self._store.remove((), (ids,)).addErrback(self._lost, "the end of a set of dictionaries")

    # ---------------------------------------------------------------- what time brings

    def _tick(self) -> None:
        self._timer = self._clock.callLater(TICK, self._tick)
        self._ticks += 1
        self._count()
        # not during a change: the records would be written in the states that they are about to leave
        if self.settings.flush and not self._ticks % self.settings.flush and not self._lock.locked:
            self._flush().addErrback(self._lost, "figures")
        if self._working:  # the store is slow: no second decision on the same figures
            return
        self._working = True
        Deferred.fromCoroutine(self._due()).addErrback(self._lost, "what is due").addBoth(self._due_done)

    def _due_done(self, _: object) -> None:
        self._working = False

    async def _due(self) -> None:
        now = self._wall()
        records = self._ledger.current()
        canaries = [record for record in records if record.state == DictionaryState.CANARY]
        canaries.sort(key=lambda record: (record.id <= self._judged, record.id))
        for record in canaries[:JUDGED]:
            self._judged = record.id
            active = life.slot_of(records, record, DictionaryState.ACTIVE)
            verdict = life.judge(record, active, now, self.settings)
            if verdict is not None:
                await self._carry_out(record.id, verdict)
        await self._lock.run(lambda: Deferred.fromCoroutine(self._forget(now)))
        await self._trainings.begin_due(now)
        self._count()

    async def _carry_out(self, id: int, verdict: life.Verdict) -> None:
        changed: list[DictionaryRecord] = []

        def decide() -> list[DictionaryRecord]:
            record = self._ledger.find(id)
            if record.state == DictionaryState.CANARY:  # else an operator was faster
                act = life.activate if verdict.good else life.roll_back
                changed.extend(act(record, self._ledger.current(), self._wall(), verdict.reason))
            return changed

        await self._change(decide)
        if not changed:
            return
        if verdict.good:
            self._counters.promotions += 1
        else:
            self._counters.rollbacks += 1
            log.warn("dictionary {id}: rolled back by itself: {reason}", id=id, reason=verdict.reason)

    async def _forget(self, now: float) -> None:
        old = [record.id for record in self._ledger.records.values() if life.forgotten(record, now, self.settings)]
        if not old:
            return
        await self._store.remove(old, ())
        for id in old:
            self._ledger.remove(id)
        self._in_force()

    def _flush(self) -> Deferred[None]:
        """Write the figures that have changed."""
        changed = self._ledger.take_unwritten()
        return self._store.put(changed, lazy=True) if changed else succeed(None)

    # ---------------------------------------------------------------- looking

    def _row(self, record: DictionaryRecord, whole: bool = False) -> dict[str, Any]:
        return dictionary_row(record, self._trainings.percent.get(record.id), self.settings, whole)

    def _count(self) -> None:
        counters, sampler = self._counters, self.sampler
        states = dict.fromkeys((state.value for state in DictionaryState), 0)
        for record in self._ledger.records.values():
            states[record.state.value] += 1
        counters.dictionaries = states
        counters.sampled = sampler.sampled
        counters.displaced = sampler.displaced
        counters.no_room = sampler.no_room
        counters.classes = len(sampler)
        counters.sample_bytes = sampler.size

    def _lost(self, failure: Failure, what: str) -> None:
        log.error("dictionaries: {what}: {reason}", what=what, reason=failure.getErrorMessage())


def _ignore(app: str, kind: str, name: str, user: str, body: bytes) -> None:
    """Disabled."""
