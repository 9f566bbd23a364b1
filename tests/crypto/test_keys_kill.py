"""kill -9 at any moment: no flight is taken twice, no secret is lost, and nobody is blocked."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from accessgw.crypto.key_store import GENERATIONS, NAME, KeyStore
from accessgw.crypto.replay_register import ReplayRegister
from accessgw.crypto.revocations import RevocationStore
from accessgw.crypto.shared_file import SharedFile
from tests.crypto.keys_storm import DELAY, ENTRIES, NOW, READY, WINDOW

ROUNDS = 6


class Storm:
    """A child, and what it told before it was killed."""

    def __init__(self, what: str, directory: Path, began: float) -> None:
        self._command = [sys.executable, "-m", "tests.crypto.keys_storm", what, str(directory), str(began)]
        self.told: list[str] = []
        self._start()

    def _start(self) -> None:
        self.child = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)

    def read(self, lines: int) -> None:
        assert self.child.stdout is not None
        for _ in range(lines):
            line = self.child.stdout.readline()
            assert line, "the child ended by itself"
            self.told.append(line.rstrip())

    def kill(self) -> None:
        assert self.child.stdout is not None
        self.child.kill()
        rest = self.child.stdout.read()
        # a number that was cut short is another number
        self.told += rest[: rest.rfind("\n") + 1].split()
        self.child.wait()
        self.child.stdout.close()

    def again(self) -> None:
        self.kill()
        self._start()


def test_no_flight_is_taken_twice(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    ReplayRegister(
        directory / "seen", NOW, window=WINDOW, delay=DELAY, entries=ENTRIES, random_bytes=os.urandom
    ).close()
    began = time.time()
    storms = [Storm("strike", directory, began) for _ in range(3)]
    try:
        for turn in range(2 * ROUNDS):
            storm = storms[turn % 3]
            storm.read(random.randrange(1, 800))
            storm.again()
        for storm in storms:
            storm.read(50)
    finally:
        for storm in storms:
            storm.kill()
    taken = Counter(flight for storm in storms for flight in storm.told)
    assert [flight for flight, times in taken.items() if times > 1] == []
    assert all(len(storm.told) > 50 for storm in storms)


def test_a_process_that_stopped_in_a_strike_delays_the_others_and_its_end_frees_them(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    register = ReplayRegister(
        directory / "seen", NOW, window=WINDOW, delay=DELAY, entries=ENTRIES, random_bytes=os.urandom
    )
    storm = Storm("hold", directory, 0)
    try:
        storm.read(1)
        assert not register.strike(bytes(17), bytes(32), READY)
        assert register.ready(READY)
    finally:
        storm.kill()
    assert register.strike(bytes(17), bytes(32), READY)


def test_the_secrets_of_a_killed_rotation_are_whole(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    began = 0.0
    for _ in range(ROUNDS):
        storm = Storm("rotate", directory, began)
        try:
            storm.read(random.randrange(1, 40))
        finally:
            storm.kill()
        began += 6 * len(storm.told) + 6
        with SharedFile(directory / NAME, 1000).locked(wait=False) as held:
            assert held
        store = KeyStore(directory, NOW + began, rotation=28_800.0, random_bytes=os.urandom)
        epochs = store.epochs(NOW + began)
        assert 1 <= len(epochs) <= GENERATIONS
        assert len({epoch.number for epoch in epochs}) == len(epochs)
        assert store.current(NOW + began) == epochs[-1]
        # the last one that was told of is there, unless that was dropped or others have followed
        assert any(0 <= (epoch.number - int(storm.told[-1])) % 256 <= 3 for epoch in epochs) or (
            len(storm.told) % 3 == 0
        )


def test_no_revocation_that_was_answered_is_lost(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    done = 0
    for _ in range(ROUNDS // 2):
        storm = Storm("revoke", directory, done)
        try:
            storm.read(random.randrange(1, 40))
        finally:
            storm.kill()
        assert [int(number) for number in storm.told] == list(range(done, done + len(storm.told)))
        done += len(storm.told)
        revoked = RevocationStore(directory).count()["devices"]
        # the last one may have been kept and not been told of
        assert done <= revoked <= done + 1
