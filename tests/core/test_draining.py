"""Asking connections to leave, on a clock that the test turns."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from accessgw.core.draining import ABORT_AFTER, Draining
from accessgw.model.reasons import CloseReason

TICK = 0.002


class Leaver:
    """A connection that goes when it is asked (or closed, or only when it is broken), and remembers when."""

    def __init__(self, room: Room, goes_at: str) -> None:
        self.room = room
        self.goes_at = goes_at
        self.happened: list[tuple[str, float]] = []

    def retire(self) -> None:
        self._happens("retire")

    def close(self, reason: CloseReason, detail: str = "") -> None:
        assert reason is CloseReason.DRAINING
        self._happens("close")

    def abort(self, reason: CloseReason, detail: str = "") -> None:
        assert reason is CloseReason.DRAINING
        self._happens("abort")

    def leave(self) -> None:
        if self in self.room.present:
            self.room.present.remove(self)

    def _happens(self, what: str) -> None:
        self.happened.append((what, self.room.clock.seconds()))
        if what == self.goes_at:
            self.leave()

    def at(self, what: str) -> float:
        return next(at for name, at in self.happened if name == what)


class Room:
    """Connections of a worker, and its draining."""

    def __init__(self, count: int, goes_at: str = "retire") -> None:
        self.clock = Clock()
        self.everybody = [Leaver(self, goes_at) for _ in range(count)]
        self.present = list(self.everybody)
        self.spreads: list[float] = []
        table: Any = self
        self.draining = Draining(self.clock, table, self.spreads.append)

    def __len__(self) -> int:
        return len(self.present)

    def snapshot(self) -> list[Any]:
        return list(self.present)

    def asked(self) -> int:
        return sum(bool(one.happened) for one in self.everybody)

    def turn(self, seconds: float) -> None:
        self.clock.pump([TICK] * round(seconds / TICK))


def test_they_are_asked_at_the_rate() -> None:
    room = Room(100)
    assert room.draining.begin_at(20.0) == 100
    assert room.draining.active
    assert room.spreads == [pytest.approx(0.1)]
    for second in range(1, 6):
        room.turn(1.0)
        assert room.asked() == pytest.approx(20 * second, abs=2)
    room.turn(0.3)
    assert not room.present


def test_they_are_asked_over_a_time() -> None:
    room = Room(50)
    assert room.draining.begin(5.0) == 50
    room.turn(2.5)
    assert room.asked() == pytest.approx(25, abs=2)
    room.turn(2.7)
    assert room.asked() == 50


def test_a_worker_without_connections_is_empty_at_once() -> None:
    room = Room(0)
    assert room.draining.begin_at(10.0) == 0
    assert room.draining.emptied(30.0).called
    assert not room.clock.getDelayedCalls()


def test_connections_that_leave_before_they_are_asked_end_the_wait() -> None:
    room = Room(100)
    room.draining.begin_at(1.0)
    emptied = room.draining.emptied(5.0)
    room.turn(1.0)
    assert not emptied.called
    for one in list(room.present):
        one.leave()
    room.turn(0.1)
    assert emptied.called


def test_the_bound_counts_from_the_last_that_was_asked() -> None:
    """60 connections at 10 a second take longer to be asked than they then have to leave."""
    room = Room(60, goes_at="close")
    room.draining.begin_at(10.0)
    emptied = room.draining.emptied(2.0)
    room.turn(6.0)
    assert {name for one in room.everybody for name, _ in one.happened} == {"retire"}
    room.turn(2.5)
    assert emptied.called
    last = max(one.at("retire") for one in room.everybody)
    assert min(one.at("close") for one in room.everybody) == pytest.approx(last + 2.0, abs=0.1)


def test_what_stays_is_closed_then_broken() -> None:
    room = Room(3, goes_at="abort")
    room.draining.begin_at(1000.0)
    emptied = room.draining.emptied(1.0)
    room.turn(1.0 + ABORT_AFTER + 0.5)
    assert emptied.called
    for one in room.everybody:
        assert [name for name, _ in one.happened] == ["retire", "close", "abort"]
        assert one.at("abort") - one.at("close") == pytest.approx(ABORT_AFTER, abs=0.1)


def test_to_begin_again_while_it_runs_takes_the_new_rate() -> None:
    room = Room(100)
    room.draining.begin(1000.0)
    room.turn(10.0)
    left = 100 - room.asked()
    assert left > 90
    assert room.draining.begin_at(50.0) == left
    room.turn(1.0)
    assert room.asked() == pytest.approx(100 - left + 50, abs=5)
    room.turn(1.3)
    assert not room.present
    assert [len(one.happened) for one in room.everybody] == [1] * 100
    room.turn(1.0)
    assert not room.clock.getDelayedCalls(), "one chain of turns, and it has ended"
