"""What test_keys_kill.py kills: strikes flights, rotates secrets or revokes devices, and tells of each that was done."""

from __future__ import annotations

import itertools
import os
import random
import sys
import time
from pathlib import Path

from accessgw.crypto.key_store import KeyStore
from accessgw.crypto.replay_register import ReplayRegister
from accessgw.crypto.revocations import RevocationStore

NOW = 1_800_000_000.0
WINDOW = 10.0
DELAY = 3.0
READY = NOW + 2 * WINDOW + 1
ENTRIES = 8192
FLIGHTS_PER_SECOND = 50


def tell(what: object) -> None:
    os.write(1, f"{what}\n".encode())


def strike(directory: Path, began: float) -> None:
    """Any flight that is fresh, again and again, at a clock that is 25 times as fast as it should be."""

    def clock() -> float:
        return READY + 25 * (time.time() - began)

    register = ReplayRegister(
        directory / "seen", clock(), window=WINDOW, delay=DELAY, entries=ENTRIES, random_bytes=os.urandom
    )
    while True:
        now = clock()
        # half of the time the latest one, for which the others reach at the same moment
        estimate = now + random.choice((0.0, random.uniform(-WINDOW, WINDOW)))
        flight = int((estimate - NOW) * FLIGHTS_PER_SECOND)
        if abs(NOW + flight / FLIGHTS_PER_SECOND - now) <= WINDOW and register.strike(
            bytes(17), flight.to_bytes(32, "big"), now
        ):
            tell(flight)


def rotate(directory: Path, began: float) -> None:
    store = KeyStore(directory, NOW + began, rotation=28_800.0, random_bytes=os.urandom)
    for turn in itertools.count():
        now = NOW + began + 6 * turn
        epoch = store.rotate(now)
        tell(epoch.number)
        if turn % 3 == 2:
            store.drop(epoch.number, now)


def revoke(directory: Path, began: float) -> None:
    store = RevocationStore(directory)
    for turn in itertools.count(int(began)):
        store.revoke_device(f"d{turn}", NOW)
        tell(turn)


def hold(directory: Path, began: float) -> None:
    """Stop in the middle of a strike."""
    register = ReplayRegister(
        directory / "seen", READY, window=WINDOW, delay=DELAY, entries=ENTRIES, random_bytes=os.urandom
    )
    register._lock()
    tell("held")
    time.sleep(3600)  # the test kills it here


if __name__ == "__main__":
    {"strike": strike, "rotate": rotate, "revoke": revoke, "hold": hold}[sys.argv[1]](
        Path(sys.argv[2]), float(sys.argv[3])
    )
