"""A process that appends and claims in a storm and tells on stdout what was acknowledged, until it is killed.

usage: storm.py PATH RUN      runs the real store on an epoll reactor of its own
"""

from __future__ import annotations

import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from twisted.internet.epollreactor import EPollReactor

from accessgw.core.interfaces.stores import AppendOutcome
from accessgw.model.counters import StoreCounters, WebhookCounters
from accessgw.model.presence import PresenceEvent
from accessgw.model.pushes import Cursor, PushRequest, Scope, StreamKey
from accessgw.model.settings import CallSettings, PushSettings, StoreSettings, WebhookSettings
from accessgw.stores.sqlite_answers import SqliteAnswerStore
from accessgw.stores.sqlite_database import SqliteDatabase
from accessgw.stores.sqlite_outbox import SqliteOutboxStore
from accessgw.stores.sqlite_streams import SqliteStreamStore
from accessgw.stores.sqlite_writer import Writer

CONCURRENCY = 40


class SlowWriter(Writer):
    """Dwells between writing and committing, where a kill does the most harm."""

    def commit(self, connection: sqlite3.Connection) -> None:
        time.sleep(0.01)
        super().commit(connection)


def main(path: str, run: str) -> None:
    reactor = EPollReactor()
    database = SqliteDatabase(path, reactor, StoreSettings(), StoreCounters())
    database.writer_class = SlowWriter
    streams = SqliteStreamStore(database, PushSettings(max_stream_messages=10**9, cursor_flush=0.01))
    answers = SqliteAnswerStore(database, CallSettings().max_claims)
    outbox = SqliteOutboxStore(database, WebhookSettings(), WebhookCounters(), time.time)
    database.start()
    numbers = iter(range(10**9))

    def tell(*words: Any) -> None:
        sys.stdout.write(" ".join(map(str, words)) + "\n")
        sys.stdout.flush()

    def append() -> None:
        number = next(numbers)
        key = StreamKey(Scope.DEVICE, f"d{number % 7}", "b")
        bodies = [f"{run}-{number}-{part}".encode() for part in range(1 + number % 3)]

        def stored(outcome: AppendOutcome) -> None:
            for body, (epoch, seq) in zip(bodies, outcome.places, strict=True):
                tell("push", key.id, epoch, seq, body.decode())
            streams.save_cursors(key.id, [Cursor(key, *outcome.places[0])])
            append()

        requests = [PushRequest(key, body) for body in bodies]
        streams.append(requests, now=time.time(), idempotency_key=f"{run}-{number}", digest=b"x").addCallback(stored)

    def claim() -> None:
        number = next(numbers) | (1 << 63)
        claimed = answers.claim("d", run, number, b"x", time.time())
        claimed.addCallback(
            lambda state: (tell("claim", run, number, state), answers.settle("d", run, number), claim())
        )

    def event() -> None:
        seq = outbox.next_seq("d")
        made = PresenceEvent(f"e{seq}", seq, f"d{seq}", "", "connect", 1.0)
        outbox.put(made).addCallback(lambda _: (tell("event", seq), event()))

    for _ in range(CONCURRENCY):
        append()
        claim()
    event()
    reactor.run(installSignalHandlers=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
