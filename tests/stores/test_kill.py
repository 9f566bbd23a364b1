"""kill -9 in the middle of a storm: everything acknowledged is there, once, after reopening."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from accessgw.core.interfaces.stores import ClaimState
from accessgw.model.pushes import PushRequest, Scope, StreamKey
from accessgw.model.settings import PushSettings, WebhookSettings

ROUNDS = 3


def storm(path: Path, run: str, lines: int) -> list[list[str]]:
    """What a child acknowledged before it was killed, somewhere after so many lines of it."""
    script = Path(__file__).with_name("storm.py")
    child = subprocess.Popen([sys.executable, script, path, run], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = []
    try:
        for line in child.stdout:
            told.append(line)
            if len(told) == lines:
                child.kill()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert len(told) >= lines, "the child ended by itself"
    return [line.split() for line in told if line.endswith("\n")]


def test_acknowledged_is_kept_exactly_once(tmp_path: Path, make_sqlite: Any) -> None:
    path = tmp_path / "store.sqlite"
    chance = random.Random(7)
    told: list[list[str]] = []
    for number in range(ROUNDS):
        told += storm(path, f"r{number}", chance.randrange(1, 3000))

    made = make_sqlite(path, PushSettings(max_stream_messages=10**9), WebhookSettings())
    try:
        check_pushes(made, [words[1:] for words in told if words[0] == "push"])
        check_claims(made, [words[1:] for words in told if words[0] == "claim"])
        check_events(made, [int(words[1]) for words in told if words[0] == "event"])
    finally:
        made.stop()
    assert {words[0] for words in told} == {"push", "claim", "event"}


def check_pushes(made: Any, told: list[list[str]]) -> None:
    for id in {id for id, *_ in told}:
        key = StreamKey(Scope.DEVICE, id, "b")
        pushes = made.wait(made.streams.read(key, 0, 10**6, 10**9))
        state = made.wait(made.streams.states([key]))[key]
        assert [push.seq for push in pushes] == list(range(1, state.head + 1))
        assert max(Counter(push.body for push in pushes).values()) == 1
        kept = {(state.epoch, push.seq): push.body for push in pushes}
        acknowledged = {(int(epoch), int(seq)): body.encode() for at, epoch, seq, body in told if at == id}
        assert acknowledged.items() <= kept.items()
        cursor = made.wait(made.streams.cursors(id)).get(key)
        assert cursor is None or (cursor.epoch == state.epoch and cursor.seq <= state.head)
    id, epoch, seq, body = told[-1]
    request, part = body.rsplit("-", 1)
    repetition = [PushRequest(StreamKey(Scope.DEVICE, id, "b"), b"again")]
    again = made.wait(made.streams.append(repetition, now=1.0, idempotency_key=request, digest=b"x"))
    assert again.repeated
    assert again.places[int(part)] == (int(epoch), int(seq))


def check_claims(made: Any, told: list[list[str]]) -> None:
    assert {state for *_, state in told} <= {ClaimState.NEW}
    for run, call_id, _ in told:
        state = made.wait(made.answers.claim("d", run, int(call_id), b"x", 1.0))
        assert state in (ClaimState.OPEN, ClaimState.ANSWERED)


def check_events(made: Any, told: list[int]) -> None:
    assert len(set(told)) == len(told)
    kept = {event.seq for event in made.wait(made.outbox.pending(10**6))}
    assert set(told) <= kept
    assert made.outbox.next_seq("d") > max(kept)
