"""Dictionaries of bodies in one gateway: what is in force, how it does, and what becomes of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.dictionaries.bundles import Bundles
from accessgw.core.dictionaries.rows import class_row, dictionary_row
from accessgw.core.dictionaries.sampler import Sampler
from accessgw.core.dictionaries.trainer import Trainer
from accessgw.core.dictionaries.training import TrainingRefused
from accessgw.core.interfaces import Clock, ControlError
from accessgw.core.interfaces.dictionaries import DictionaryStore
from accessgw.model.counters import DictionaryCounters
from accessgw.model.dictionaries import (
    SETTLED,
    USED,
    DictionaryRecord,
    DictionaryState,
    Figures,
    Sample,
    TrainingJob,
    TrainingResult,
)
from accessgw.model.dictionary_settings import DictionarySettings
from accessgw.policy import dictionary_life as life
from protocols.errors import LocalError
from protocols.mmtp.bundles import Bundle
from protocols.mmtp.dictionaries import Dictionary, check_class

TICK = 1.0
"""Seconds between two looks at canaries and what is due."""

log = Logger()


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
    ) -> None:
        self.settings = settings
        self._store = store
        self._trainer = trainer
        self._clock = clock
        self._wall = wall
        self._counters = counters
        self._records: dict[int, DictionaryRecord] = {}
        self._tallies: dict[int, _Tally] = {}
        self._percent: dict[int, int] = {}
        self._queue: deque[int] = deque()
        self._lock = DeferredLock()
        self._watchers: list[Callable[[str], None]] = []
        self._bundles = Bundles(self._bundle_made, self._bundle_gone)
        self._timer: Any = None
        self._ticks = 0
        self._working = False
        self._training: Deferred[None] | None = None
        self.sampler = Sampler(settings, random)
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
        self._records = {record.id: record for record in records}
        self._tallies = {record.id: _Tally(record.figures) for record in records}
        self._bundles.load(records, sets)
        broken = [
            life.refused(record, self._wall(), "the gateway ended during the training; train again")
            for record in records
            if record.state == DictionaryState.TRAINING
        ]
        if broken:
            self._change(lambda: broken).addErrback(self._lost, "broken trainings")
        self._count()
        self._timer = self._clock.callLater(TICK, self._tick)

    def stop(self) -> Deferred[None]:
        """Fires when the training that runs has ended and the figures are written."""
        if self._timer is None:
            return succeed(None)
        self._timer.cancel()
        self._timer = None
        self._queue.clear()
        return Deferred.fromCoroutine(self._stop()).addErrback(self._lost, "the end")

    async def _stop(self) -> None:
        over: Deferred[None] = Deferred()
        if self._training is not None:
            self._training.addBoth(lambda _: over.callback(None))
            self._trainer.stop()
            await over
        await self._flush()

    def reconfigure(self, settings: DictionarySettings) -> None:
        """Judge by other margins, keep other secrets."""
        self.settings = settings
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
        ids = [record.id for record in self._records.values() if record.app == app and record.state in USED]
        found = map(self._bundles.dictionary, ids)
        return [dictionary for dictionary in found if dictionary is not None]

    def _collect(self) -> None:
        """Take over what codecs have counted on the dictionaries themselves."""
        counters = self._counters
        for dictionary in self._bundles.readable():
            tally = self._tallies.get(dictionary.id)
            if tally is None or not (dictionary.bodies or dictionary.errors):
                continue
            tally.messages += dictionary.bodies
            tally.raw += dictionary.raw
            tally.packed += dictionary.packed
            tally.errors += dictionary.errors
            counters.bodies += dictionary.bodies
            counters.raw += dictionary.raw
            counters.packed += dictionary.packed
            counters.errors += dictionary.errors
            dictionary.bodies = dictionary.raw = dictionary.packed = dictionary.errors = 0

    def record(self, dictionary_id: int, raw: int, packed: int) -> None:
        tally = self._tallies.get(dictionary_id)
        if tally is not None:
            tally.messages += 1
            tally.raw += raw
            tally.packed += packed
            counters = self._counters
            counters.bodies += 1
            counters.raw += raw
            counters.packed += packed

    def record_error(self, dictionary_id: int) -> None:
        self._counters.errors += 1
        tally = self._tallies.get(dictionary_id)
        if tally is not None:
            tally.errors += 1

    def on_change(self, changed: Callable[[str], None]) -> Callable[[], None]:
        self._watchers.append(changed)
        return lambda: self._watchers.remove(changed) if changed in self._watchers else None

    # ---------------------------------------------------------------- operators

    def overview(self) -> dict[str, Any]:
        return {
            "enabled": self.settings.enabled,
            "dictionaries": [self._row(record) for record in self._current()],
            "classes": [class_row(key, reservoir, self.settings) for key, reservoir in self.sampler.classes()],
        }

    def show(self, id: int) -> dict[str, Any]:
        return self._row(self._find(id), whole=True)

    def content(self, id: int) -> bytes:
        content = self._find(id).content
        if not content:
            raise ControlError(404, "not_found", f"dictionary {id} has no content")
        return content

    def train(self, app: str | None, classes: Sequence[str]) -> Deferred[list[dict[str, Any]]]:
        return Deferred.fromCoroutine(self._train(app, tuple(classes)))

    async def _train(self, app: str | None, classes: tuple[str, ...]) -> list[dict[str, Any]]:
        if not self.settings.enabled:
            raise ControlError(409, "not_enabled", "dictionaries.enabled is false")
        wanted = [(app or "", classes)] if classes else self._trainable(app)
        if not wanted:
            raise ControlError(409, "too_little", "no class has enough bodies of enough users yet")
        for slot in wanted:
            self._check_slot(*slot)
        if len(self._records) + len(wanted) > self.settings.max_dictionaries:
            raise ControlError(409, "too_many", f"there are {len(self._records)} dictionaries; retention frees places")
        rows = []
        for its_app, its_classes in wanted:
            now = self._wall()
            record = await self._store.add(
                DictionaryRecord(
                    id=0,
                    app=its_app,
                    classes=its_classes,
                    state=DictionaryState.TRAINING,
                    created_at=now,
                    changed_at=now,
                )
            )
            self._records[record.id] = record
            self._tallies[record.id] = _Tally(Figures())
            self._percent[record.id] = 0
            self._queue.append(record.id)
            rows.append(self._row(record))
        self._count()
        self._next_training()
        return rows

    def activate(self, id: int, share: float) -> Deferred[dict[str, Any]]:
        def decide() -> list[DictionaryRecord]:
            record = self._find(id)
            if share < 1.0:
                return life.canary(record, self._current(), self._wall(), share)
            return life.activate(record, self._current(), self._wall(), "an operator said so")

        return self._change(decide).addCallback(lambda _: self.show(id))

    def roll_back(self, id: int) -> Deferred[dict[str, Any]]:
        def decide() -> list[DictionaryRecord]:
            return life.roll_back(self._find(id), self._current(), self._wall(), "an operator said so")

        return self._change(decide).addCallback(lambda _: self.show(id))

    # ---------------------------------------------------------------- trainings

    def _trainable(self, app: str | None) -> list[tuple[str, tuple[str, ...]]]:
        busy = {record.slot for record in self._records.values() if record.state == DictionaryState.TRAINING}
        slots = [
            (its_app, (kind + name,))
            for (its_app, kind, name), reservoir in self.sampler.classes()
            if (app is None or its_app == app)
            and len(reservoir.samples) >= self.settings.least_messages
            and reservoir.users >= self.settings.users
        ]
        return [slot for slot in slots if slot not in busy]

    def _check_slot(self, app: str, classes: tuple[str, ...]) -> None:
        for name in classes:
            try:
                check_class(name)
            except LocalError as error:
                raise ControlError(400, "invalid", str(error), "classes") from None
            if self.sampler.is_secret(name[1:]):
                raise ControlError(409, "secret", f"{name} is secret: its bodies travel raw", "classes")
        if any(
            record.slot == (app, classes) and record.state == DictionaryState.TRAINING for record in self._current()
        ):
            raise ControlError(409, "busy", f"{', '.join(classes)} is being trained")
        samples = self._samples(app, classes)
        users = len({sample.user for sample in samples})
        if len(samples) < self.settings.least_messages or users < self.settings.users:
            raise ControlError(
                409,
                "too_little",
                f"expected {self.settings.least_messages} bodies of {self.settings.users} users,"
                f" got {len(samples)} of {users}",
            )

    def _samples(self, app: str, classes: Sequence[str]) -> list[Sample]:
        return [sample for name in classes for sample in self.sampler.matching(app, name)][: 2 * self.settings.messages]

    def _next_training(self) -> None:
        if self._trainer.busy or not self._queue:
            return
        id = self._queue.popleft()
        record = self._records[id]
        job = TrainingJob(id, self._samples(record.app, record.classes), self.settings.users, self.settings.size)

        def progress(percent: int) -> None:
            self._percent[id] = percent

        training = self._training = Deferred.fromCoroutine(self._train_one(job, progress))
        training.addErrback(self._lost, f"dictionary {id}").addBoth(lambda _: self._training_over(id))

    async def _train_one(self, job: TrainingJob, progress: Callable[[int], None]) -> None:
        try:
            result = await self._trainer.train(job, progress)
        except TrainingRefused as error:
            await self._refused(job.id, str(error))
        else:
            await self._trained(job.id, result)

    def _training_over(self, id: int) -> None:
        self._percent.pop(id, None)
        self._training = None
        self._next_training()

    def _trained(self, id: int, result: TrainingResult) -> Deferred[None]:
        def decide() -> list[DictionaryRecord]:
            now = self._wall()
            record = life.trained(
                self._find(id).but(
                    content=result.content,
                    samples=result.samples,
                    users=result.users,
                    shortest=result.shortest,
                    expected=result.expected,
                ),
                now,
            )
            if not self.settings.canary_share:
                return [record]
            return life.canary(record, self._current(), now, self.settings.canary_share)

        self._counters.count_training("trained")
        log.info("dictionary {id}: trained, {size} bytes, ratio {ratio:.3f} on unseen bodies",
                 id=id, size=len(result.content), ratio=result.expected)  # fmt: skip
        return self._change(decide)

    def _refused(self, id: int, reason: str) -> Deferred[None]:
        self._counters.count_training("refused")
        log.warn("dictionary {id}: refused: {reason}", id=id, reason=reason)
        return self._change(lambda: [life.refused(self._find(id), self._wall(), reason)])

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
                before = self._records.get(record.id)
                self._records[record.id] = record
                if before is None or before.state != record.state:
                    log.info("dictionary {id}: {state}{why}",
                             id=record.id, state=record.state.value,
                             why=f": {record.reason}" if record.reason else "")  # fmt: skip
            self._in_force()

        return self._lock.run(lambda: Deferred.fromCoroutine(make()))

    def _in_force(self) -> None:
        changed = self._bundles.update(list(self._records.values()))
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
        if self.settings.flush and not self._ticks % self.settings.flush:
            self._flush().addErrback(self._lost, "figures")
        if self._working:  # the store is slow: no second decision on the same figures
            return
        self._working = True
        Deferred.fromCoroutine(self._due()).addErrback(self._lost, "what is due").addBoth(self._due_done)

    def _due_done(self, _: object) -> None:
        self._working = False

    async def _due(self) -> None:
        now = self._wall()
        for record in self._current():
            if record.state == DictionaryState.CANARY:
                active = life.slot_of(self._current(), record, DictionaryState.ACTIVE)
                verdict = life.judge(record, active, now, self.settings)
                if verdict is not None:
                    await self._carry_out(record.id, verdict)
        await self._forget(now)
        interval = self.settings.train_interval
        if interval and not self._trainer.busy and not self._queue:
            latest: dict[tuple[str, tuple[str, ...]], float] = {}
            for record in self._records.values():
                latest[record.slot] = max(latest.get(record.slot, 0.0), record.created_at)
            due = [slot for slot in self._trainable(None) if now - latest.get(slot, 0.0) >= interval]
            if due and len(self._records) < self.settings.max_dictionaries:
                await self._train(*due[0])

    async def _carry_out(self, id: int, verdict: life.Verdict) -> None:
        def decide() -> list[DictionaryRecord]:
            record = self._find(id)
            if record.state != DictionaryState.CANARY:  # an operator was faster
                return []
            act = life.activate if verdict.good else life.roll_back
            return act(record, self._current(), self._wall(), verdict.reason)

        await self._change(decide)
        if verdict.good:
            self._counters.promotions += 1
        else:
            self._counters.rollbacks += 1
            log.warn("dictionary {id}: rolled back by itself: {reason}", id=id, reason=verdict.reason)

    async def _forget(self, now: float) -> None:
        old = [record.id for record in self._records.values() if life.forgotten(record, now, self.settings)]
        if not old:
            return
        await self._store.remove(old, ())
        for id in old:
            if self._records[id].state in SETTLED:
                del self._records[id]
                del self._tallies[id]
        self._in_force()

    def _flush(self) -> Deferred[None]:
        """Write the figures that have changed."""
        changed = [record for record in self._current() if record.figures != self._records[record.id].figures]
        if not changed:
            return succeed(None)
        for record in changed:
            self._records[record.id] = record
        return self._store.put(changed, lazy=True)

    # ---------------------------------------------------------------- looking

    def _current(self) -> list[DictionaryRecord]:
        """The records with the figures of this moment."""
        self._collect()
        return [
            record if (figures := self._tallies[id].figures()) == record.figures else record.but(figures=figures)
            for id, record in self._records.items()
        ]

    def _find(self, id: int) -> DictionaryRecord:
        record = self._records.get(id)
        if record is None:
            raise ControlError(404, "not_found", f"no such dictionary: {id}")
        self._collect()
        return record.but(figures=self._tallies[id].figures())

    def _row(self, record: DictionaryRecord, whole: bool = False) -> dict[str, Any]:
        return dictionary_row(record, self._percent.get(record.id), self.settings, whole)

    def _count(self) -> None:
        counters, sampler = self._counters, self.sampler
        states = dict.fromkeys((state.value for state in DictionaryState), 0)
        for record in self._records.values():
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
