"""A process that publishes in a storm and tells on stdout what was acknowledged to it, until it is killed.

usage: mqtt_storm.py PATH RUN      runs the real store on an epoll reactor of its own
"""

from __future__ import annotations

import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from twisted.internet.epollreactor import EPollReactor

from accessgw.core.interfaces.mqtt_state import Enqueue, Message, StoredSession, StoredSubscription, StoredWill
from accessgw.model.counters import StoreCounters
from accessgw.model.mqtt_settings import MqttSettings
from accessgw.model.settings import StoreSettings
from accessgw.stores.sqlite_database import SqliteDatabase
from accessgw.stores.sqlite_mqtt import SqliteMqttStore
from accessgw.stores.sqlite_writer import Writer
from protocols.mqtt.packets import SubscriptionRequest, Will

CONCURRENCY = 30


class SlowWriter(Writer):
    """Dwells between writing and committing, where a kill does the most harm."""

    def commit(self, connection: sqlite3.Connection) -> None:
        time.sleep(0.01)
        super().commit(connection)


def main(path: str, run: str) -> None:
    reactor = EPollReactor()
    database = SqliteDatabase(path, reactor, StoreSettings(), StoreCounters())
    database.writer_class = SlowWriter
    store = SqliteMqttStore(database, MqttSettings(max_queued=1_000_000, max_queued_bytes=1 << 30), time.time)
    database.start()
    numbers = iter(range(10**9))

    def tell(*words: Any) -> None:
        sys.stdout.write(" ".join(map(str, words)) + "\n")
        sys.stdout.flush()

    def publish() -> None:
        """Every message goes to two sessions, is retained under its topic, and comes with a received id and a will."""
        number = next(numbers)
        here, there = f"d{number % 5}", f"d{(number + 1) % 5}"
        name, packet_id = f"{run}-{number}", number % 65535 + 1

        def saved(_: None) -> None:
            published = store.publish(
                Message(f"t/{name}", name.encode(), 1),
                [Enqueue(here, 1), Enqueue(there, 2)],
                retained=True,
                received=(f"in-{run}", packet_id),
                will_of=name,
            )
            published.addCallback(done)

        def done(places: list[int]) -> None:
            tell("message", name, here, places[0], there, places[1], packet_id)
            if number % 3 == 0:
                store.acknowledged(here, places[0])
                tell("dropped", name, here)
            if number % 7 == 0:
                store.assign(there, [(places[1], packet_id)]).addCallback(
                    lambda _: tell("assigned", there, places[1], packet_id)
                )
            publish()

        store.save_will(name, StoredWill(Will("w", b"x"))).addCallback(saved)

    def come_and_go() -> None:
        client = f"{run}-s{next(numbers)}"
        store.save_session(StoredSession(client))
        store.publish(Message("t", b"x"), [Enqueue(client, 1), Enqueue(client, 1)])
        subscribed = store.subscribe(client, [StoredSubscription(SubscriptionRequest("x"))])
        subscribed.addCallback(lambda _: store.end_session(client))
        subscribed.addCallback(lambda _: (tell("ended", client), come_and_go()))

    for number in range(5):
        store.save_session(StoredSession(f"d{number}"))
    store.save_session(StoredSession(f"in-{run}"))
    for _ in range(CONCURRENCY):
        publish()
    come_and_go()
    reactor.run(installSignalHandlers=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
