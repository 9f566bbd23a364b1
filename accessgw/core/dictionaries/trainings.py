"""Trainings of dictionaries: which classes can be trained, in what order they are, and what comes of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from accessgw.core.dictionaries.ledger import Ledger
from accessgw.core.dictionaries.sampler import Sampler
from accessgw.core.dictionaries.trainer import Trainer
from accessgw.core.dictionaries.training import TrainingRefused
from accessgw.core.interfaces.control import ControlError
from accessgw.core.interfaces.dictionaries import DictionaryStore
from accessgw.model.counters import DictionaryCounters
from accessgw.model.dictionaries import DictionaryRecord, DictionaryState, Sample, TrainingJob, TrainingResult
from accessgw.model.dictionary_settings import DictionarySettings
from accessgw.policy import dictionary_life as life
from protocols.errors import LocalError
from protocols.mmtp.dictionaries import REQUEST_KIND, check_class

Change = Callable[[Callable[[], list[DictionaryRecord]]], Deferred[None]]
"""Makes what the function decides durable and brings it into force."""

log = Logger()


class Trainings:
    """One training at a time; the others wait. `wall` is the wall clock."""

    __slots__ = (
        "_beginning",
        "_change",
        "_counters",
        "_ledger",
        "_queue",
        "_running",
        "_sampler",
        "_secret_operations",
        "_store",
        "_trainer",
        "_wall",
        "percent",
        "settings",
    )

    def __init__(
        self,
        settings: DictionarySettings,
        ledger: Ledger,
        sampler: Sampler,
        trainer: Trainer,
        store: DictionaryStore,
        *,
        change: Change,
        wall: Callable[[], float],
        counters: DictionaryCounters,
        secret_operations: Callable[[], Iterable[str]],
    ) -> None:
        self.settings = settings
        self._ledger = ledger
        self._sampler = sampler
        self._trainer = trainer
        self._store = store
        self._change = change
        self._wall = wall
        self._counters = counters
        self._secret_operations = secret_operations
        self.percent: dict[int, int] = {}
        """How far those are that wait or run, by id."""
        self._beginning = DeferredLock()
        self._queue: deque[int] = deque()
        self._running: Deferred[None] | None = None

    @property
    def busy(self) -> bool:
        """One runs or waits."""
        return self._trainer.busy or bool(self._queue)

    async def stop(self) -> None:
        """Break off the one that runs, and wait for its end; those that wait are left to the next start."""
        self._queue.clear()
        if self._running is not None:
            over: Deferred[None] = Deferred()
            self._running.addBoth(lambda _: over.callback(None))
            self._trainer.stop()
            await over

    async def begin(self, app: str | None, classes: tuple[str, ...]) -> list[DictionaryRecord]:
        """One dictionary for `classes`, or one for each class that has enough. Raises ControlError."""
        # one at a time: until the store has answered, a class that is about to be trained looks as if it were not
        await self._beginning.acquire()
        try:
            return await self._begin(app, classes)
        finally:
            self._beginning.release()
            self._next()

    async def _begin(self, app: str | None, classes: tuple[str, ...]) -> list[DictionaryRecord]:
        wanted = [(app or "", classes)] if classes else self.trainable(app)
        if not wanted:
            raise ControlError(409, "too_little", "no class has enough bodies of enough users yet")
        for slot in wanted:
            self._check_slot(*slot)
        there = len(self._ledger.records)
        if there + len(wanted) > self.settings.max_dictionaries:
            raise ControlError(409, "too_many", f"there are {there} dictionaries; retention frees places")
        begun = []
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
            self._ledger.add(record)
            self.percent[record.id] = 0
            self._queue.append(record.id)
            begun.append(record)
        return begun

    async def begin_due(self, now: float) -> None:
        """The next of those that are trained by the clock, if one is due."""
        interval = self.settings.train_interval
        if not interval or self.busy:
            return
        records = self._ledger.records
        latest: dict[tuple[str, tuple[str, ...]], float] = {}
        for record in records.values():
            latest[record.slot] = max(latest.get(record.slot, 0.0), record.created_at)
        due = [slot for slot in self.trainable(None) if now - latest.get(slot, 0.0) >= interval]
        if due and len(records) < self.settings.max_dictionaries:
            await self.begin(*due[0])

    def trainable(self, app: str | None) -> list[tuple[str, tuple[str, ...]]]:
        """The classes that have enough bodies and are not being trained."""
        busy = {record.slot for record in self._ledger.records.values() if record.state == DictionaryState.TRAINING}
        slots = [
            (its_app, (kind + name,))
            for (its_app, kind, name), reservoir in self._sampler.classes()
            if (app is None or its_app == app)
            and not life.shortfall(len(reservoir.samples), reservoir.users, reservoir.size, self.settings)
        ]
        return [slot for slot in slots if slot not in busy]

    def _check_slot(self, app: str, classes: tuple[str, ...]) -> None:
        for name in classes:
            try:
                check_class(name)
            except LocalError as error:
                raise ControlError(400, "invalid", str(error), "classes") from None
            secret = self._secret(name)
            if secret:
                raise ControlError(409, "secret", secret, "classes")
        if any(
            record.slot == (app, classes) and record.state == DictionaryState.TRAINING
            for record in self._ledger.records.values()
        ):
            raise ControlError(409, "busy", f"{', '.join(classes)} is being trained")
        samples = self._samples(app, classes)
        users = len({sample.user for sample in samples})
        lacks = life.shortfall(len(samples), users, sum(len(sample.body) for sample in samples), self.settings)
        if lacks:
            raise ControlError(409, "too_little", lacks)

    def _secret(self, name: str) -> str:
        """Why a class must have no dictionary; empty: it may.

        Answers and pushes of a larger class are sent raw where they are secret. But a device knows of no secrets, only
        that a class of requests has a dictionary.
        """
        if self._sampler.is_secret(name[1:]):
            return f"{name} is secret: its bodies travel raw"
        if name[0] == REQUEST_KIND and name.endswith("*"):
            for pattern in (*self._sampler.secrets, *self._secret_operations()):
                if pattern.startswith(name[1:-1]):
                    return f"{name} covers {pattern}, which is secret, and devices would compress its requests"
        return ""

    def _samples(self, app: str, classes: Sequence[str]) -> list[Sample]:
        found = [sample for name in classes for sample in self._sampler.matching(app, name)]
        return found[: 2 * self.settings.messages]

    def _next(self) -> None:
        if self._trainer.busy or not self._queue:
            return
        id = self._queue.popleft()
        record = self._ledger.records[id]
        job = TrainingJob(id, self._samples(record.app, record.classes), self.settings.users, self.settings.size)

        def progress(percent: int) -> None:
            self.percent[id] = percent

        running = self._running = Deferred.fromCoroutine(self._run(job, progress))
        running.addErrback(
            lambda failure: log.error("dictionary {id}: {reason}", id=id, reason=failure.getErrorMessage())
        ).addBoth(lambda _: self._over(id))

    async def _run(self, job: TrainingJob, progress: Callable[[int], None]) -> None:
        try:
            result = await self._trainer.train(job, progress)
        except TrainingRefused as error:
            await self._refused(job.id, str(error))
        else:
            await self._trained(job.id, result)

    def _over(self, id: int) -> None:
        self.percent.pop(id, None)
        self._running = None
        record = self._ledger.records[id]
        if record.state == DictionaryState.TRAINING:
            # as the next process will find it, and the class can be trained again
            reason = "the store did not take what came of it; train again"
            self._ledger.records[id] = life.refused(record, self._wall(), reason)
        self._next()

    def _trained(self, id: int, result: TrainingResult) -> Deferred[None]:
        def decide() -> list[DictionaryRecord]:
            now = self._wall()
            secret = next(filter(None, map(self._secret, self._ledger.find(id).classes)), "")
            if secret:  # since it began
                return [life.refused(self._ledger.find(id), now, secret)]
            record = life.trained(
                self._ledger.find(id).but(
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
            return life.canary(record, self._ledger.current(), now, self.settings.canary_share)

        self._counters.count_training("trained")
        log.info("dictionary {id}: trained, {size} bytes, ratio {ratio:.3f} on unseen bodies",
                 id=id, size=len(result.content), ratio=result.expected)  # fmt: skip
        return self._change(decide)

    def _refused(self, id: int, reason: str) -> Deferred[None]:
        self._counters.count_training("refused")
        log.warn("dictionary {id}: refused: {reason}", id=id, reason=reason)
        return self._change(lambda: [life.refused(self._ledger.find(id), self._wall(), reason)])
