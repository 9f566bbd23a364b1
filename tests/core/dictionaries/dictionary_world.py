"""A gateway's dictionaries with a trainer that a test ends, on a store that the next process finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from accessgw.core.dictionaries.service import Dictionaries
from accessgw.core.dictionaries.training import TrainingRefused
from accessgw.model.counters import DictionaryCounters
from accessgw.model.dictionaries import TrainingJob, TrainingResult
from accessgw.model.dictionary_settings import DictionarySettings
from accessgw.stores.memory_dictionaries import MemoryDictionaryStore

WALL = 1_800_000_000.0
SETTINGS = DictionarySettings(
    enabled=True,
    users=2,
    least_messages=50,
    canary_share=0.5,
    canary_messages=10,
    canary_users=5,
    ratio_margin=0.1,
    error_margin=0.05,
    promote_after=5.0,
    retention=1000.0,
)


class FakeTrainer:
    def __init__(self) -> None:
        self.jobs: list[TrainingJob] = []
        self.progress: Callable[[int], None] = lambda percent: None
        self.deferred: Deferred[TrainingResult] | None = None

    @property
    def busy(self) -> bool:
        return self.deferred is not None

    def train(self, job: TrainingJob, progress: Callable[[int], None]) -> Deferred[TrainingResult]:
        assert not self.busy
        self.jobs.append(job)
        self.progress = progress
        self.deferred = Deferred()
        return self.deferred

    def finish(self, reason: str = "") -> None:
        deferred, self.deferred = self.deferred, None
        assert deferred is not None
        if reason:
            deferred.errback(TrainingRefused(reason))
        else:
            number = len(self.jobs)
            deferred.callback(TrainingResult(b"common to all %d " % number * 9, 60, 3, 1, 0.3, 0.8))

    def stop(self) -> None:
        if self.busy:
            self.finish("the gateway stopped")


class World:
    """A gateway's dictionaries; `restarted` is the next process on the same store."""

    def __init__(self, store: Any = None, now: float = WALL, **settings: Any) -> None:
        self.store = store or MemoryDictionaryStore()
        self.clock = Clock()
        self.clock.advance(0)
        self.began = now
        self.trainer = FakeTrainer()
        self.counters = DictionaryCounters()
        self.settings = settings
        self.secret_operations: tuple[str, ...] = ()
        self.service = Dictionaries(
            replace(SETTINGS, **settings),
            self.store,
            self.trainer,  # type: ignore[arg-type]  # in a Trainer's place, without its processes
            clock=self.clock,
            wall=lambda: self.began + self.clock.seconds(),
            random=lambda: 0.5,
            counters=self.counters,
            secret_operations=lambda: self.secret_operations,
        )
        self.changed: list[str] = []
        self.service.on_change(self.changed.append)
        self.service.start()

    def restarted(self, **settings: Any) -> World:
        return World(self.store, self.began + self.clock.seconds(), **{**self.settings, **settings})

    def feed(
        self, app: str = "wallet", name: str = "pay", kind: str = "q", count: int = 60, users: int = 3, size: int = 200
    ) -> None:
        for number in range(count):
            self.service.observe(
                app, kind, name, f"user{number % users}", b"body number %04d of them" % number + bytes(size - 24)
            )

    def train(self, app: str | None = None, *classes: str) -> list[dict[str, Any]]:
        return result(self.service.train(app, classes))

    def trained(self, **how: Any) -> int:
        """A new canary of wallet's pay."""
        if not self.service.overview()["classes"]:
            self.feed(**how)
        (row,) = self.train()
        self.trainer.finish()
        return row["id"]

    def states(self) -> dict[int, str]:
        return {row["id"]: row["state"] for row in self.service.overview()["dictionaries"]}

    def ids_for(self, device: str, app: str = "wallet") -> tuple[int, ...]:
        bundle = self.service.bundle_for(app, device)
        return tuple(dictionary.id for dictionary in bundle.dictionaries) if bundle else ()

    def pass_bodies(self, id: int, count: int, ratio: float) -> None:
        """Bodies of five users in turn."""
        dictionary = self.service.dictionary(id)
        for number in range(count):
            dictionary.count(1000, int(1000 * ratio), number % 5 + 1)


def result(deferred: Deferred[Any]) -> Any:
    found: list[Any] = []
    deferred.addBoth(found.append)
    assert found, "it has not fired"
    if hasattr(found[0], "raiseException"):
        found[0].raiseException()
    return found[0]


DEVICES = [f"device{number}" for number in range(200)]
