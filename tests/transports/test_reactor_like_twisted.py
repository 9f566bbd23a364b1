"""The lean reactor does at each moment what Twisted's own does, and waits as long, whatever is ordered, moved or raised."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from twisted.internet.epollreactor import EPollReactor

from accessgw.transports.reactor import LeanReactor

MOST = 60
"""Calls of one history, after which it is stopped."""
DELAYS = (0, 0, 0.1, 0.5, 1, 3, 100)


class History:
    """What one reactor does on a clock and with polls of the test. It is the poller, too: waiting is going on in time."""

    def __init__(self, kind: Any, seed: int, ends: bool) -> None:
        self.random = random.Random(seed)
        self.ends = ends
        self.now = 0.0
        self.told: list[tuple[float, str]] = []
        self.waits: list[float] = []
        self.calls: list[Any] = []
        self.woken = self.hangs = self.spins = False
        self.reactor = reactor = kind()
        reactor._poller.close()
        reactor._poller = self
        reactor.seconds = lambda: self.now
        reactor.wakeUp = self.wake
        reactor.callWhenRunning(self.act, "begin")

    def run(self) -> History:
        self.reactor.run(installSignalHandlers=False)
        for end in (self.reactor.waker.i, self.reactor.waker.o):
            os.close(end)
        return self

    def wake(self) -> None:
        self.woken = True

    def poll(self, wait: float, most: int) -> list[tuple[int, int]]:
        self.waits.append(round(wait, 6))
        if len(self.waits) == 20 * MOST:
            self.spins = True  # to raise it here would be one more thing that the reactor logs
            self.reactor.crash()
        elif self.woken:
            self.woken = False
        elif wait < 0:
            active = [call for call in self.reactor.getDelayedCalls() if call.active()]
            self.hangs = bool(active or self.reactor.threadCallQueue or getattr(self.reactor, "_ends", ()))
            self.reactor.crash()
        else:
            self.now += wait
        return []

    def unregister(self, fd: int) -> None:
        """Nothing is registered."""

    def act(self, name: str) -> None:
        self.told.append((round(self.now, 6), name))
        if len(self.told) > MOST:
            self.stop()
            return
        for at in range(self.random.randrange(4)):
            self.one(f"{len(self.told)}.{at}")

    def stop(self) -> None:
        if not self.reactor._stopped:
            self.reactor.stop()

    def one(self, name: str) -> None:
        reactor, draw = self.reactor, self.random
        what, delay, chance = draw.randrange(11), draw.choice(DELAYS), draw.random()
        active = [call for call in self.calls if call.active()]
        if what < 4:
            self.calls.append(reactor.callLater(delay, self.act, name))
        elif what < 7 and active:
            call = draw.choice(active)
            if what == 6:
                call.cancel()
            else:
                (call.reset if what == 4 else call.delay)(delay)
        elif what == 7:
            reactor.callFromThread(self.act, name)
        elif what == 8 and chance < 0.3:
            raise ValueError("as drawn")
        elif what == 9 and chance < 0.1:
            self.stop()
        elif what == 10 and self.ends:
            reactor.at_turn_end(lambda: self.act(name))


@pytest.mark.parametrize("part", range(4))
def test_it_does_the_same_and_waits_as_long(part: int) -> None:
    for seed in range(100 * part, 100 * part + 100):
        ours, twisted = History(LeanReactor, seed, False).run(), History(EPollReactor, seed, False).run()
        assert (ours.told, ours.waits) == (twisted.told, twisted.waits)


@pytest.mark.parametrize("part", range(4))
def test_with_ends_of_turns_it_neither_hangs_nor_spins(part: int) -> None:
    for seed in range(100 * part, 100 * part + 100):
        history = History(LeanReactor, seed, True).run()
        assert not history.hangs and not history.spins
