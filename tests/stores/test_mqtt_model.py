"""Both MqttStores do the same, whatever they are told, and the durable one leaves no bodies behind."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from accessgw.core.interfaces.mqtt_state import Enqueue, Message, StoredSession, StoredSubscription, StoredWill
from protocols.mqtt.packets import SubscriptionRequest, Will
from tests.stores.mqtt_stores import NOW, SETTINGS, MqttStores
from tests.stores.mqtt_wholeness import strays

CLIENTS = st.sampled_from(["a", "b", "c"])
FILTERS = st.sampled_from(["x", "y/#"])
TOPICS = st.sampled_from(["t", "ü/2"])
PACKET_IDS = st.sampled_from([1, 2, 3])
EXPIRY = st.sampled_from([None, None, 2, 5])
RECEIVERS = st.lists(st.tuples(CLIENTS, st.sampled_from([0, 0, 0, 1, 2])), max_size=4)
PUBLICATIONS = st.tuples(TOPICS, st.integers(0, 40), EXPIRY, RECEIVERS)


class Twins(RuleBasedStateMachine):
    """Commands are not waited for until something is asked, so that batches and flushes are mixed, too."""

    @initialize(
        policy=st.sampled_from(["drop_old", "drop_old", "drop_new"]),
        most=st.sampled_from([1, 3, 5]),
        most_bytes=st.sampled_from([50, 1000]),
    )
    def begin(self, policy: Any, most: int, most_bytes: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "store.sqlite"
        chosen = msgspec.structs.replace(SETTINGS, queue_overflow=policy, max_queued=most, max_queued_bytes=most_bytes)
        self.twins = [MqttStores(None, chosen), MqttStores(self.path, chosen)]
        self.waiting: list[tuple[Any, Any]] = []
        self.bodies = 0
        for client in "abc":
            self.tell("save_session", StoredSession(client))

    def tell(self, method: str, *arguments: Any, **options: Any) -> None:
        memory, durable = (getattr(twin.store, method)(*arguments, **options) for twin in self.twins)
        if memory is not None:
            self.waiting.append((memory, durable))

    def settle(self) -> None:
        for memory, durable in self.waiting:
            assert self.twins[0].wait(memory) == self.twins[1].wait(durable)
        self.waiting.clear()

    def ask(self, method: str, *arguments: Any) -> Any:
        self.settle()
        memory, durable = (twin.wait(getattr(twin.store, method)(*arguments)) for twin in self.twins)
        assert memory == durable
        return memory

    @rule(client=CLIENTS, user=st.sampled_from("uv"), expiry=st.sampled_from([1.5, float("inf")]))
    def save(self, client: str, user: str, expiry: float) -> None:
        self.tell("save_session", StoredSession(client, user, 5, expiry, NOW))

    @rule(client=CLIENTS, again=st.sampled_from([True, True, False]))
    def end(self, client: str, again: bool) -> None:
        self.tell("end_session", client)
        if again:
            self.tell("save_session", StoredSession(client))

    @rule(client=CLIENTS, count=st.integers(1, 6), size=st.integers(1, 20))
    def flood(self, client: str, count: int, size: int) -> None:
        for _ in range(count):
            self.tell("publish", self.message("t", size, None), [Enqueue(client, 1)])

    @rule(client=CLIENTS, filter=FILTERS, qos=st.integers(0, 2))
    def subscribe(self, client: str, filter: str, qos: int) -> None:
        self.tell("subscribe", client, [StoredSubscription(SubscriptionRequest(filter, qos))])

    @rule(client=CLIENTS, filter=FILTERS)
    def unsubscribe(self, client: str, filter: str) -> None:
        self.tell("unsubscribe", client, [filter])

    @rule(client=CLIENTS, delay=st.integers(0, 3))
    def will(self, client: str, delay: int) -> None:
        if delay:
            self.tell("save_will", client, StoredWill(Will("w", b"will"), delay))
        else:
            self.tell("forget_will", client)

    def message(self, topic: str, size: int, expiry: int | None) -> Message:
        self.bodies += 1
        body = (b"%d " % self.bodies * size)[:size]
        return Message(topic, body, 1, expires_at=None if expiry is None else self.twins[0].now + expiry)

    @rule(
        publications=st.lists(PUBLICATIONS, min_size=1, max_size=4),
        retained=st.booleans(),
        received=st.none() | st.tuples(CLIENTS, PACKET_IDS),
        will_of=st.sampled_from(["", "", "a"]),
    )
    def publish(self, publications: Any, retained: bool, received: Any, will_of: str) -> None:
        for topic, size, expiry, receivers in publications:
            places = [
                Enqueue(client, 1, packet_id, bool(size % 2), (size,) * (size % 3)) for client, packet_id in receivers
            ]
            made = self.message(topic, size, expiry)
            self.tell("publish", made, places, retained=retained, received=received, will_of=will_of)

    @rule(topic=TOPICS, size=st.integers(0, 2), expiry=EXPIRY)
    def retain(self, topic: str, size: int, expiry: int | None) -> None:
        self.tell("retain", self.message(topic, size, expiry))

    @rule(client=CLIENTS, after=st.sampled_from([0, 0, 3]), limit=st.integers(1, 6), max_bytes=st.integers(0, 100))
    def read(self, client: str, after: int, limit: int, max_bytes: int) -> None:
        # what is written behind is not seen by a read that comes at once
        self.ask("inflight", client)
        self.ask("read", client, after, limit, max_bytes)

    @rule(client=CLIENTS, packet_id=PACKET_IDS, count=st.integers(1, 3))
    def send(self, client: str, packet_id: int, count: int) -> None:
        self.ask("inflight", client)
        waiting = self.ask("read", client, 0, count, 1000)
        self.tell("assign", client, [(queued.number, packet_id) for queued in waiting])

    @rule(client=CLIENTS, at=st.integers(0, 3), how=st.sampled_from(["acknowledged", "pubrec"]))
    def answer(self, client: str, at: int, how: str) -> None:
        for queued in self.ask("inflight", client)[at : at + 2]:
            self.tell(how, client, queued.number)

    @rule(client=CLIENTS, number=st.integers(1, 30), how=st.sampled_from(["acknowledged", "pubrec", "assign"]))
    def guess(self, client: str, number: int, how: str) -> None:
        self.tell(how, client, [(number, 4)] if how == "assign" else number)

    @rule(client=CLIENTS, packet_id=PACKET_IDS)
    def released(self, client: str, packet_id: int) -> None:
        self.tell("released", client, packet_id)

    @rule(seconds=st.integers(1, 3), sweep=st.booleans())
    def time_passes(self, seconds: int, sweep: bool) -> None:
        self.settle()
        for twin in self.twins:
            twin.now += seconds
        if sweep:
            self.ask("sweep", self.twins[0].now)
            assert self.ask("sweep", self.twins[0].now) == 0

    @rule()
    def ask_how_many_wait(self) -> None:
        self.ask("inflight", "a")  # behind what is written behind
        waiting = [{client: twin.store.waiting(client) for client in "abc"} for twin in self.twins]
        assert waiting[0] == waiting[1]

    @rule()
    def reopen(self) -> None:
        self.settle()
        memory, durable = (twin.reopened() for twin in self.twins)
        sessions = [sorted(state.sessions, key=lambda session: session.client_id) for state in (memory, durable)]
        assert sessions[0] == sessions[1]
        assert memory.wills == durable.wills
        by_topic = [sorted(state.retained, key=lambda message: message.topic) for state in (memory, durable)]
        assert by_topic[0] == by_topic[1]
        assert self.twins[0].dropped() == self.twins[1].dropped()
        # of those whose rows have gone no file remembers the numbers
        self.twins[0].store._last_number = self.twins[1].store._table._last_number
        assert strays(self.path) == {}

    def teardown(self) -> None:
        if hasattr(self, "twins"):
            self.reopen()
            self.twins[1].stop()
            self.folder.cleanup()


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
