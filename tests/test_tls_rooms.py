"""What TLS does beside its connections: looks at files every second, and events that come together."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock

from accessgw.config import loads
from accessgw.model.counters import TlsCounters
from accessgw.tls_rooms import LOOK_INTERVAL, TlsRooms

SETTINGS = """
state_dir = "{directory}"
[[listeners]]
name = "tls"
transport = "tls"
port = 7443
[tls]
engine = "pure"
"""


class ClockTimers:
    """Timers on a Clock."""

    def __init__(self) -> None:
        self.clock = Clock()

    def schedule(self, seconds: float, call: Any) -> Any:
        return self.clock.callLater(seconds, call)


class CoalescingReactor(MemoryReactorClock):
    """Notes what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.coalescing: list[tuple[float, bool]] = []

    def coalesce(self, seconds: float, busy: Any) -> None:
        self.busy = busy
        self.coalescing.append((seconds, busy()))


@pytest.mark.parametrize(("listeners", "coalesced"), [("tls", [(0.002, False), (0.0, True)]), ("tcp", [])])
def test_events_come_together_while_several_steps_wait(tmp_path: Path, listeners: str, coalesced: Any) -> None:
    text = SETTINGS.format(directory=tmp_path).replace('transport = "tls"', f'transport = "{listeners}"')
    reactor, counters = CoalescingReactor(), TlsCounters()
    rooms = TlsRooms(
        loads(text + "handshake_coalescing = 0.002\n"),
        reactor=reactor,
        timers=ClockTimers(),
        run=lambda work: pytest.fail("nothing waits for the disk"),
        counters=counters,
    )
    rooms.start()
    counters.pool_waiting = 1
    assert not coalesced or not reactor.busy()
    counters.pool_waiting = 2
    rooms.stop()
    assert reactor.coalescing == coalesced


def test_a_look_that_fails_is_not_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timers = ClockTimers()
    rooms = TlsRooms(
        loads(SETTINGS.format(directory=tmp_path)),
        reactor=MemoryReactorClock(),
        timers=timers,
        run=lambda work: pytest.fail("nothing waits for the disk"),
        counters=TlsCounters(),
    )
    looks: list[float] = []

    class Lists:
        """Revocations that are followed."""

        followed = 0

        def poll(self, now: float) -> None:
            self.followed += 1

    def poll(now: float) -> bool:
        looks.append(now)
        if len(looks) == 1:
            raise ZeroDivisionError
        return False

    lists = Lists()
    monkeypatch.setattr(rooms, "lists", [lists])
    monkeypatch.setattr(rooms.contexts["tls"], "poll", poll)
    started = time.time()
    with pytest.raises(ZeroDivisionError):
        rooms._look_at_files()
    assert lists.followed == 1, "whatever is wrong with certificates"
    for _ in range(2):
        timers.clock.advance(LOOK_INTERVAL)
    assert len(looks) == lists.followed == 3
    assert all(now >= started for now in looks)
    rooms.handshakes.stop()
