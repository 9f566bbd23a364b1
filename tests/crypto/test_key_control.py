from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, execute, fail
from twisted.internet.task import Clock

from accessgw.core.interfaces.control import ControlError
from accessgw.core.interfaces.keys import KeyControl
from accessgw.core.interfaces.tls import TicketBinding
from accessgw.core.timers import TimingWheel
from accessgw.crypto import key_control, revocations
from accessgw.crypto.key_control import Keys
from accessgw.crypto.key_store import LEAD, KeyStore
from accessgw.crypto.revocations import RevocationStore
from accessgw.crypto.services import AuthenticationUnavailable

NOW = 1_800_000_000.0
ROTATION = 600.0


class Process:
    """The keys of one of several processes, on a clock that they share."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.clock = clock
        self.store = KeyStore(directory, self.wall(), rotation=ROTATION, random_bytes=os.urandom)
        self.revocations = RevocationStore(directory)
        self.busy = False
        self.keys = Keys(
            self.store,
            self.revocations,
            run=self._run,
            timers=TimingWheel(clock, clock.seconds),
            wall=self.wall,
        )

    def wall(self) -> float:
        return NOW + float(self.clock.seconds())

    def _run(self, work: Callable[[], Any]) -> Deferred[Any]:
        return fail(AuthenticationUnavailable("256 are waiting")) if self.busy else execute(work)

    @property
    def states(self) -> list[str]:
        return [row["state"] for row in self.keys.overview()["epochs"]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def process(tmp_path: Path, clock: Clock) -> Process:
    return Process(tmp_path / "keys", clock)


def result(deferred: Deferred[Any]) -> Any:
    seen: list[Any] = []
    deferred.addBoth(seen.append)
    (value,) = seen
    return value


def error(deferred: Deferred[Any]) -> tuple[int, str]:
    value = result(deferred).value
    assert isinstance(value, ControlError)
    return value.status, value.code


def run(clock: Clock, seconds: int) -> None:
    clock.pump([0.25] * (4 * seconds))


def test_it_is_what_the_control_api_uses(process: Process) -> None:
    control: KeyControl = process.keys
    assert control.overview()["revoked"] == {"devices": 0, "certificates": 0, "listed": 0}


def test_secrets_are_rotated_on_schedule_by_one_of_the_processes(tmp_path: Path, clock: Clock) -> None:
    processes = [Process(tmp_path / "keys", clock) for _ in range(3)]
    for process in processes:
        process.keys.start()
    made = set()
    for _ in range(70):
        run(clock, 60)
        made |= {row["epoch"] for row in processes[0].keys.overview()["epochs"]}
        assert len({process.store.current(process.wall()) for process in processes}) == 1
    # 4,200 seconds: the first and seven more
    assert len(made) == 8
    assert processes[0].states == ["previous", "previous", "current"]


def test_a_rotation_by_hand_is_seen_before_it_takes_effect(process: Process, clock: Clock) -> None:
    row = result(process.keys.rotate())
    assert (row["state"], row["mints_from"], row["new"]) == ("next", NOW + LEAD, True)
    assert process.states == ["current", "next"]
    clock.advance(1)
    assert result(process.keys.rotate()) == row | {"new": False}
    clock.advance(LEAD - 1)
    assert process.states == ["previous", "current"]


def test_no_secret_is_told(process: Process) -> None:
    secret = process.store.current(NOW).secret
    assert repr(secret)[2:-1] not in repr(process.keys.overview())
    assert set(process.keys.overview()["epochs"][0]) == {"epoch", "state", "made", "mints_from"}


def test_an_epoch_is_revoked_once(process: Process) -> None:
    number = process.store.current(NOW).number
    assert result(process.keys.revoke_epoch(number)) == {"epoch": number, "revoked": True}
    assert error(process.keys.revoke_epoch(number)) == (404, "not_found")


def test_a_revocation_reaches_every_process_within_two_seconds(tmp_path: Path, clock: Clock) -> None:
    one, other = Process(tmp_path / "keys", clock), Process(tmp_path / "keys", clock)
    told: list[str] = []
    one.revocations.on_change(lambda: told.append("one"))
    other.revocations.on_change(lambda: told.append("other"))
    other.keys.start()
    run(clock, 2)
    assert result(one.keys.revoke_device("d1")) == {"device": "d1", "revoked": True}
    assert told == ["one"]
    run(clock, 2)
    assert told == ["one", "other"]
    assert other.revocations.is_revoked(TicketBinding("d1"), NOW)
    assert result(one.keys.revoke_certificate(b"\xab" * 32))["certificate"] == "ab" * 32
    run(clock, 2)
    assert told == ["one", "other", "one", "other"]


def test_what_cannot_be_done_is_told(process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "MOST", 0)
    assert error(process.keys.revoke_device("d1")) == (409, "too_many")
    (tmp_path / "keys" / "epochs").write_bytes(b"nothing")
    assert error(process.keys.rotate()) == (503, "store_unavailable")
    process.busy = True
    assert error(process.keys.rotate()) == (503, "busy")


def test_a_rotation_that_found_no_worker_is_made_at_the_next_tick(process: Process, clock: Clock) -> None:
    process.keys.start()
    process.busy = True
    run(clock, int(ROTATION) + 10)
    assert process.states == ["current"]
    process.busy = False
    run(clock, 2 * int(key_control.INTERVAL))
    assert process.states[0] != "current" or "next" in process.states


def test_one_rotation_is_under_way_at_a_time(process: Process, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a disk hangs, rotations must not fill the queue in which password checks wait."""
    waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def run_later(work: Callable[[], Any]) -> Deferred[Any]:
        waiting.append((Deferred(), work))
        return waiting[-1][0]

    monkeypatch.setattr(process.keys, "_run", run_later)
    process.keys.start()
    run(clock, int(ROTATION) + 30)
    ((deferred, work),) = waiting
    before = process.store.epochs(process.wall())
    deferred.callback(work())
    assert process.store.epochs(process.wall()) != before
    run(clock, int(ROTATION) + 30)
    assert len(waiting) == 2


def test_a_tick_that_fails_is_not_the_last_one(process: Process, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    polls: list[float] = []

    def poll(now: float) -> None:
        polls.append(now)
        if len(polls) == 1:
            raise ZeroDivisionError

    monkeypatch.setattr(process.revocations, "poll", poll)
    monkeypatch.setattr(process.keys._timers, "schedule", clock.callLater)
    process.keys.start()
    with pytest.raises(ZeroDivisionError):
        clock.advance(key_control.INTERVAL)
    for _ in range(2):
        clock.advance(key_control.INTERVAL)
    assert len(polls) == 3
