"""Random histories of publishers, subscribers, a store that lags and crashes, against what each QoS promises."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from protocols.mqtt.reasons import FAILURE
from tests.core.mqtt.mqtt_world import Client, World

NAMES = ("one", "two", "twice")
QOS = {"one": 1, "two": 2, "twice": 2}
names = st.sampled_from(NAMES)


class Delivery(RuleBasedStateMachine):
    """Durable subscribers of one topic; `one` takes QoS 1. Nothing overflows, so that nothing may be missing."""

    @initialize(window=st.integers(1, 4))
    def begin(self, window: int) -> None:
        self.world = World(max_inflight=window, max_queued=10_000)
        self.clients: dict[str, Client] = {name: self.world.client(name) for name in NAMES}
        for client in self.clients.values():
            client.connect()
            client.subscribe("t", qos=QOS[client.name])
        self.store = self.world.store
        self.store.hand = True
        self.number = 0
        self.outcomes: list[tuple[int, int, list[int]]] = []

    @rule(qos=st.integers(0, 2), retain=st.booleans())
    def publish(self, qos: int, retain: bool) -> None:
        self.number += 1
        reasons = self.world.publish(b"%d" % self.number, qos=qos, retain=retain and qos > 0)
        self.outcomes.append((self.number, qos, reasons))

    @rule(name=names, times=st.integers(1, 4))
    def answer(self, name: str, times: int) -> None:
        for _ in range(times):
            self.clients[name].answer()

    @rule(name=names)
    def cut(self, name: str) -> None:
        self.clients[name].cut()

    @rule(name=names, receive_maximum=st.integers(1, 5), welcome=st.booleans())
    def connect(self, name: str, receive_maximum: int, welcome: bool) -> None:
        client = self.clients[name]
        client.receive_maximum = receive_maximum
        client.connect(welcome=welcome)

    @rule(name=names)
    def welcomed(self, name: str) -> None:
        client = self.clients[name]
        if client.session is None and client.opened is not None:
            client.welcomed()

    @rule(times=st.integers(1, 5))
    def commit(self, times: int) -> None:
        for _ in range(times):
            self.store.commit()

    @rule(times=st.integers(1, 5))
    def fire(self, times: int) -> None:
        for _ in range(times):
            self.store.fire()

    @rule()
    def read(self) -> None:
        self.store.read_one()

    @rule()
    def turn(self) -> None:
        self.world.turn()

    @rule(times=st.integers(1, 2))
    def refuse(self, times: int) -> None:
        self.store.refuse = times

    @rule()
    def crash(self) -> None:
        for client in self.clients.values():
            client.session = client.wire = client.opened = None
        self.store.refuse = 0
        self.world.restart()

    def step(self, step: str, chance: random.Random) -> None:
        name = chance.choice(NAMES)
        if step == "publish":
            self.publish(chance.randint(0, 2), chance.random() < 0.2)
        elif step == "answer":
            self.answer(name, chance.randint(1, 3))
        elif step == "connect":
            self.connect(name, chance.randint(1, 5), chance.random() < 0.7)
        elif step in ("cut", "welcomed"):
            getattr(self, step)(name)
        elif step in ("commit", "fire", "refuse"):
            getattr(self, step)(chance.randint(1, 2))
        else:
            getattr(self, step)()

    @invariant()
    def windows_are_heeded(self) -> None:
        for client in getattr(self, "clients", {}).values():
            if client.session is not None:
                assert len(client.outstanding) <= client.session.window

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.store.refuse = 0
        self.store.settle()
        for client in self.clients.values():
            # Those that are connected get all of it without coming back.
            if client.session is None:
                client.connect()
        self.world.run(*self.clients.values())
        acknowledged = [(number, qos) for number, qos, reasons in self.outcomes if reasons and reasons[0] < FAILURE]
        for name, client in self.clients.items():
            for qos in (1, 2):
                numbers = [int(publish.payload) for publish in client.got if publish.qos == min(qos, QOS[name])]
                promised = {number for number, published in acknowledged if published == qos}
                assert promised <= set(numbers), f"{name}: lost {sorted(promised - set(numbers))} of {numbers}"
            numbers = [int(publish.payload) for publish in client.got if publish.qos]
            first = list(dict.fromkeys(numbers))
            assert first == sorted(first), f"{name}: out of order {numbers}"
            if QOS[name] == 2:
                twice = [int(publish.payload) for publish in client.got if publish.qos == 2]
                assert len(twice) == len(set(twice)), f"{name}: twice {twice}"
            at_most_once = [publish.payload for publish in client.got if not publish.qos]
            assert len(at_most_once) == len(set(at_most_once))
            session: Any = client.session
            assert session is not None
            assert not session.inflight, f"{name}: packet ids leak {session.inflight}"
            assert not session.behind
            assert not session.uncommitted


Delivery.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestDelivery = Delivery.TestCase


HISTORIES = 700
STEPS = 80
WEIGHTS = {
    "publish": 14, "answer": 20, "cut": 3, "connect": 5, "welcomed": 4, "commit": 14, "fire": 14, "read": 10, "turn": 4,
    "refuse": 1, "crash": 1,
}  # fmt: skip


def test_long_histories() -> None:
    """As above, with likelier steps and without a search: more of what is rare."""
    for seed in range(HISTORIES):
        chance = random.Random(seed)
        machine = Delivery()
        try:
            machine.begin(chance.randint(1, 4))
            rare = chance.random() < 0.5
            steps = [step for step in WEIGHTS if rare or step not in ("refuse", "crash")]
            for step in chance.choices(steps, [WEIGHTS[one] for one in steps], k=STEPS):
                machine.step(step, chance)
                machine.windows_are_heeded()
            machine.teardown()
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error
