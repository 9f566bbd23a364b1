"""How fast the durable store is on a disk: `python -m accessgw.stores.probe FOLDER` prints one JSON object.

Appends go through the real store on a reactor of their own, a fixed number of them waiting at any time; beside
them stands what fdatasync costs on the same disk. `--delay-ms` lengthens every commit, for slower disks. With
`--what mqtt` messages of MQTT take the place of appends: each is published to one session and acknowledged.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import statistics
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.epollreactor import EPollReactor

from accessgw.core.interfaces.mqtt_state import Enqueue, Message, StoredSession
from accessgw.model.counters import StoreCounters
from accessgw.model.mqtt_settings import MqttSettings
from accessgw.model.pushes import PushRequest, Scope, StreamKey
from accessgw.model.settings import PushSettings, StoreSettings
from accessgw.stores.sqlite_database import SqliteDatabase
from accessgw.stores.sqlite_mqtt import SqliteMqttStore
from accessgw.stores.sqlite_streams import SqliteStreamStore
from accessgw.stores.sqlite_writer import Writer

SYNCS = 200
WARM_UP = 0.3
"""Seconds that do not count."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a temporary store is made in there")
    parser.add_argument("--what", choices=LOADS, default="appends")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--waiting", type=int, default=256, help="appends waiting at any time")
    parser.add_argument("--streams", type=int, default=10_000, help="device streams or sessions that they go to")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="added to every commit")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="store-probe-") as folder:
        result = fdatasync(Path(folder) / "plain") | LOADS[options.what](Path(folder) / "store.sqlite", options).run()
    print(json.dumps(result))


def fdatasync(path: Path) -> dict[str, float]:
    """Milliseconds to append 4 KiB to a file durably."""
    taken = []
    with path.open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(bytes(4096))
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - started)
    return {"fdatasync_p50_ms": quantile(taken, 0.5), "fdatasync_p99_ms": quantile(taken, 0.99)}


def quantile(seconds: list[float], share: float) -> float:
    """In milliseconds."""
    return statistics.quantiles(seconds, n=100, method="inclusive")[round(share * 100) - 1] * 1000


class Load(ABC):
    """Keeps a number of writes waiting until the time is over."""

    def __init__(self, path: Path, options: argparse.Namespace) -> None:
        self._options = options
        self._reactor = EPollReactor()
        self._counters = StoreCounters()
        self._database = SqliteDatabase(path, self._reactor, StoreSettings(), self._counters)
        self._database.writer_class = delayed(options.delay_ms / 1000)
        self._make_store(self._database, options.streams, random.Random(options.seed))
        self._next = 0
        self._open = 0
        self._taken: list[float] = []
        self._begin = self._end = 0.0
        self._prepared = (0, 0)

    @abstractmethod
    def _make_store(self, database: SqliteDatabase, targets: int, chance: random.Random) -> None:
        """Before the database starts."""

    def _prepare(self) -> Deferred[Any]:
        """Before the time begins."""
        return succeed(None)

    @abstractmethod
    def _write(self, number: int) -> Deferred[Any]:
        """One write."""

    def run(self) -> dict[str, float]:
        """What came of it."""
        self._database.start()
        self._reactor.callWhenRunning(lambda: self._prepare().addCallback(self._start))
        self._reactor.run(installSignalHandlers=False)
        commits = self._counters.commits - self._prepared[0]
        writes = self._counters.writes - self._prepared[1]
        return {
            "puts_per_second": len(self._taken) / self._options.seconds,
            "p50_ms": quantile(self._taken, 0.5),
            "p99_ms": quantile(self._taken, 0.99),
            "puts_per_commit": writes / commits,
            "commit_mean_ms": self._counters.commit_seconds / commits * 1000,
        }

    def _start(self, _: Any) -> None:
        self._prepared = self._counters.commits, self._counters.writes
        self._begin = time.perf_counter() + WARM_UP
        self._end = self._begin + self._options.seconds
        for _ in range(self._options.waiting):
            self._begin_one()

    def _begin_one(self) -> None:
        number = self._next
        self._next += 1
        self._open += 1
        self._write(number).addCallback(self._written, time.perf_counter())

    def _written(self, _: Any, started: float) -> None:
        now = time.perf_counter()
        self._open -= 1
        if self._begin <= now < self._end:
            self._taken.append(now - started)
        if now < self._end:
            self._begin_one()
        elif not self._open:
            self._database.stop().addCallback(self._stop)

    def _stop(self, _: Any) -> None:
        self._reactor.stop()


class Appends(Load):
    """Pushes to streams of devices."""

    def _make_store(self, database: SqliteDatabase, targets: int, chance: random.Random) -> None:
        self._store = SqliteStreamStore(database, PushSettings())
        self._requests = [
            PushRequest(
                StreamKey(Scope.DEVICE, f"device-{chance.randrange(targets)}", "orders"),
                chance.randbytes(chance.randint(50, 600)),
            )
            for _ in range(10_000)
        ]

    def _write(self, number: int) -> Deferred[Any]:
        return self._store.append([self._requests[number % len(self._requests)]], now=time.time())


class MqttMessages(Load):
    """QoS 1 messages to sessions, acknowledged as soon as they are durable."""

    def _make_store(self, database: SqliteDatabase, targets: int, chance: random.Random) -> None:
        self._store = SqliteMqttStore(database, MqttSettings(), time.time)
        self._clients = [f"device-{number}" for number in range(targets)]
        self._messages = [
            (
                self._clients[chance.randrange(targets)],
                Message(f"devices/{number}/orders", chance.randbytes(chance.randint(50, 600)), 1, publisher="service"),
            )
            for number in range(10_000)
        ]

    def _prepare(self) -> Deferred[Any]:
        return gatherResults([self._store.save_session(StoredSession(client)) for client in self._clients])

    def _write(self, number: int) -> Deferred[Any]:
        client, message = self._messages[number % len(self._messages)]
        published = self._store.publish(message, [Enqueue(client, 1, packet_id=number % 65535 + 1)])
        return published.addCallback(lambda numbers: self._store.acknowledged(client, numbers[0]))


LOADS: dict[str, type[Load]] = {"appends": Appends, "mqtt": MqttMessages}


def delayed(seconds: float) -> type[Writer]:
    """A writer whose commits take so much longer."""

    class Delayed(Writer):
        """As its factory says."""

        def commit(self, connection: sqlite3.Connection) -> None:
            if seconds:
                time.sleep(seconds)
            super().commit(connection)

    return Delayed


if __name__ == "__main__":
    main()
