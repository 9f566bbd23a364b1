"""The bus of one process."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from accessgw.bus.local import LocalBus
from accessgw.core.interfaces.bus import Bus


def turn(clock: Clock) -> None:
    """One turn of a reactor: what is scheduled meanwhile stays for the next."""
    calls, clock.calls = clock.calls, []
    for call in calls:
        call.func(*call.args, **call.kw)


class CountingClock(Clock):
    """Counts what is scheduled."""

    scheduled = 0

    def callLater(self, *args: Any, **kwargs: Any) -> Any:
        self.scheduled += 1
        return super().callLater(*args, **kwargs)


def test_messages_of_a_turn_are_delivered_together_in_the_next() -> None:
    clock = CountingClock()
    bus: Bus = LocalBus(clock)
    seen: list[bytes] = []
    bus.subscribe("t", seen.append)
    bus.subscribe("t", lambda message: seen.append(message.upper()))
    bus.subscribe("other", seen.append)
    bus.publish("t", b"a")
    bus.publish("t", b"b")
    assert seen == []
    clock.advance(0)
    assert seen == [b"a", b"A", b"b", b"B"]
    assert clock.scheduled == 1


def test_a_failing_receiver_hurts_nobody_and_is_logged() -> None:
    clock = Clock()
    bus = LocalBus(clock)
    failures: list[Any] = []
    bus._log = type("Log", (), {"failure": lambda self, *a, **k: failures.append(k["topic"])})()
    seen: list[bytes] = []

    def broken(message: bytes) -> None:
        raise RuntimeError("broken")

    bus.subscribe("t", broken)
    bus.subscribe("t", seen.append)
    bus.publish("t", b"a")
    bus.publish("t", b"b")
    clock.advance(0)
    assert seen == [b"a", b"b"]
    assert failures == ["t", "t"]


def test_cancelling_holds_for_what_was_published_and_is_idempotent() -> None:
    clock = Clock()
    bus = LocalBus(clock)
    seen: list[bytes] = []
    cancel_first = bus.subscribe("t", lambda message: cancel_second())
    cancel_second = bus.subscribe("t", seen.append)
    bus.subscribe("t", seen.append)
    bus.publish("t", b"a")
    clock.advance(0)
    assert seen == [b"a"]
    cancel_second()
    cancel_first()
    bus.publish("t", b"b")
    clock.advance(0)
    assert seen == [b"a", b"b"]


def test_what_a_receiver_publishes_waits_for_the_next_turn() -> None:
    clock = Clock()
    bus = LocalBus(clock)
    seen: list[bytes] = []

    def echo(message: bytes) -> None:
        seen.append(message)
        if len(seen) < 3:
            bus.publish("t", message + b"!")

    bus.subscribe("t", echo)
    bus.publish("t", b"a")
    for turns in (1, 2, 3):
        turn(clock)
        assert len(seen) == turns
    turn(clock)
    assert seen == [b"a", b"a!", b"a!!"]


def test_a_long_delivery_gives_the_reactor_back() -> None:
    clock = Clock()
    bus = LocalBus(clock)
    seen: list[bytes] = []

    def slow(message: bytes) -> None:
        seen.append(message)
        clock.rightNow += 0.0015

    bus.subscribe("t", slow)
    for _ in range(5):
        bus.publish("t", b"x")
    delivered = []
    for _ in range(3):
        turn(clock)
        delivered.append(len(seen))
    assert delivered == [2, 4, 5]


def test_waiting_messages_are_bounded() -> None:
    clock = Clock()
    bus = LocalBus(clock, max_pending=2)
    seen: list[bytes] = []
    bus.subscribe("t", seen.append)
    for body in (b"1", b"2", b"3"):
        bus.publish("t", body)
    turn(clock)
    assert (seen, bus.dropped) == ([b"1", b"2"], 1)


def test_nobody_listens() -> None:
    clock = Clock()
    bus = LocalBus(clock)
    bus.publish("t", b"x")
    assert not clock.getDelayedCalls()
