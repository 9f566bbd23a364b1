"""StreamStore against a simple model: any sequence of appends, sweeps, cursors and reopenings."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from accessgw.core.interfaces.stores import IdempotencyConflict
from accessgw.model.pushes import Cursor, PushRequest, Scope, StreamKey
from accessgw.model.settings import PushSettings

KEYS = [
    StreamKey(Scope.DEVICE, "d", "a"),
    StreamKey(Scope.DEVICE, "d", "b"),
    StreamKey(Scope.TOPIC, "d", "a"),
    StreamKey(Scope.BROADCAST, "", "a"),
]
KEPT = {Scope.DEVICE: 4, Scope.TOPIC: 6, Scope.BROADCAST: 6}
RETENTION, DAY = 100_000.0, 86400.0
PUSHES = PushSettings(max_stream_messages=4, max_topic_messages=6, retention=RETENTION)

requests = st.lists(
    st.tuples(st.sampled_from(KEYS), st.sampled_from(["", "", "k", "l"]), st.sampled_from([None, 1.0, 50_000.0])),
    max_size=6,
)


class StreamModel(RuleBasedStateMachine):
    """`logs[key]` is [head, floor, {seq: (body, appended at, expires at, collapse)}]."""

    def open(self) -> None:
        raise AssertionError("chosen by the subclass")

    @initialize()
    def begin(self) -> None:
        self.logs: dict[StreamKey, list[Any]] = {}
        self.keys: dict[str, tuple[bytes, list[tuple[StreamKey, int]], float]] = {}
        self.saved: dict[StreamKey, Cursor] = {}
        self.now = 1_700_000_000.0
        self.bodies = 0
        self.epochs: dict[StreamKey, int] = {}
        self.open()

    @rule(wanted=requests, key=st.sampled_from(["", "", "p", "q"]), digest=st.sampled_from([b"1", b"1", b"2"]))
    def append(self, wanted: Any, key: str, digest: bytes) -> None:
        made = []
        for stream, collapse, ttl in wanted:
            self.bodies += 1
            made.append(PushRequest(stream, b"%d" % self.bodies, ttl, collapse))
        deferred = self.stores.streams.append(made, now=self.now, idempotency_key=key, digest=digest)
        known = self.keys.get(key) if key else None
        if known and self.now - known[2] < DAY:
            if known[0] != digest:
                try:
                    self.stores.wait(deferred)
                except IdempotencyConflict:
                    return
                raise AssertionError("expected a conflict")
            outcome = self.stores.wait(deferred)
            assert outcome.repeated
            assert outcome.places == [(self.epochs[stream], seq) for stream, seq in known[1]]
            return
        places = [(request.stream, self.model_append(request)) for request in made]
        for stream in {request.stream for request in made}:
            log = self.logs[stream]
            for seq in sorted(log[2])[: -KEPT[stream.scope]]:
                log[1] = seq
                del log[2][seq]
        outcome = self.stores.wait(deferred)
        assert not outcome.repeated
        for (stream, seq), (epoch, given) in zip(places, outcome.places, strict=True):
            assert given == seq
            assert self.epochs.setdefault(stream, epoch) == epoch
        if key:
            self.keys[key] = (digest, places, self.now)

    def model_append(self, request: PushRequest) -> int:
        log = self.logs.setdefault(request.stream, [0, 0, {}])
        log[0] += 1
        if request.collapse:
            log[2] = {seq: kept for seq, kept in log[2].items() if kept[3] != request.collapse}
        expires = None if request.ttl is None else self.now + request.ttl
        log[2][log[0]] = (request.body, self.now, expires, request.collapse)
        return log[0]

    @rule(seconds=st.sampled_from([0.5, 1.0, 40_000.0, 90_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.stores.clock.advance(1.0)

    @rule()
    def sweep(self) -> None:
        while self.stores.wait(self.stores.streams.sweep(self.now)):
            pass
        for log in self.logs.values():
            aged = [seq for seq, kept in log[2].items() if kept[1] <= self.now - RETENTION]
            log[1] = max([log[1], *aged])
            log[2] = {
                seq: kept for seq, kept in log[2].items() if seq > log[1] and (kept[2] is None or kept[2] > self.now)
            }
        self.keys = {key: known for key, known in self.keys.items() if self.now - known[2] < DAY}

    @rule(key=st.sampled_from(KEYS), epoch=st.integers(1, 2), seq=st.integers(0, 9))
    def save_cursor(self, key: StreamKey, epoch: int, seq: int) -> None:
        old = self.saved.get(key)
        if old is not None and old.epoch > epoch:
            # An epoch that was left never comes again; between two writes the store may not even see that it was left.
            return
        self.stores.streams.save_cursors("d", [Cursor(key, epoch, seq)])
        if old is None or old.epoch != epoch or old.seq < seq:
            self.saved[key] = Cursor(key, epoch, seq)

    @rule()
    def reopen(self) -> None:
        self.close()
        self.open()

    def close(self) -> None:
        raise AssertionError("chosen by the subclass")

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "stores"):
            return
        states = self.stores.wait(self.stores.streams.states(KEYS))
        assert {key: [state.head, state.floor] for key, state in states.items()} == {
            key: log[:2] for key, log in self.logs.items()
        }
        for key, log in self.logs.items():
            found = self.stores.wait(self.stores.streams.read(key, 0, 100, 1 << 20))
            assert {p.seq: (p.body, p.appended_at, p.expires_at, p.collapse) for p in found} == log[2]
            assert [p.seq for p in found] == sorted(log[2])
            assert states[key].epoch == self.epochs[key]
        assert self.stores.wait(self.stores.streams.cursors("d")) == self.saved


def test_memory(make_memory: Any) -> None:
    class InMemory(StreamModel):
        def open(self) -> None:
            if not hasattr(self, "stores"):
                self.stores = make_memory(PUSHES)

        def close(self) -> None:
            """There is nothing to reopen."""

    run(InMemory, 25)


def test_sqlite(make_sqlite: Any) -> None:
    class InSqlite(StreamModel):
        def open(self) -> None:
            if not hasattr(self, "folder"):
                self.folder = tempfile.TemporaryDirectory()
            self.stores = make_sqlite(Path(self.folder.name) / "s", PUSHES)

        def close(self) -> None:
            self.stores.stop()

        def teardown(self) -> None:
            if hasattr(self, "stores"):
                self.stores.stop()
                self.folder.cleanup()

    run(InSqlite, 12)


def run(machine: type[StreamModel], examples: int) -> None:
    machine.TestCase.settings = settings(max_examples=examples, stateful_step_count=25, deadline=None)
    machine.TestCase("runTest").runTest()
