"""The lean reactor, against real descriptors."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from accessgw.transports.reactor import FEW, LONGEST, MAX_EVENTS, SLICE, LeanReactor


class Reader:
    """Reads what comes, and does what a test asks for."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.here, self.there = socket.socketpair()
        self.came: list[bytes] = []
        self.written = 0
        self.lost: list[Any] = []
        self.why: Any = None
        self.raises: Exception | None = None
        self.tells: Callable[[], None] = lambda: None
        reactor.addReader(self)

    def fileno(self) -> int:
        return self.here.fileno()

    def logPrefix(self) -> str:
        return "test"

    def doRead(self) -> Any:
        self.came.append(self.here.recv(100))
        self.tells()
        if self.raises is not None:
            raise self.raises
        return self.why

    def doWrite(self) -> None:
        self.written += 1
        self.reactor.removeWriter(self)

    def connectionLost(self, reason: Failure) -> None:
        self.lost.append(reason.value)
        self.close()

    readConnectionLost = connectionLost

    def close(self) -> None:
        self.reactor.removeReader(self)
        self.here.close()


class Watch:
    """What the reactor measures its slice with: stands still, but for `step` seconds at each look."""

    def __init__(self) -> None:
        self.now = self.step = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr("accessgw.transports.reactor.monotonic", watch)
    return watch


@pytest.fixture
def no_collection() -> Iterator[None]:
    """A socket that an earlier test has left for the collector would give its number away at any moment."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def reactor(watch: Watch) -> Iterator[Any]:
    made: Any = LeanReactor()
    yield made
    made.removeAll()
    made._poller.close()
    for end in (made.waker.i, made.waker.o) if made.waker is not None else ():
        os.close(end)


def test_reads_come_to_their_descriptors(reactor: Any) -> None:
    one, two = Reader(reactor), Reader(reactor)
    one.there.send(b"one")
    two.there.send(b"two")
    reactor.doIteration(0)
    assert (one.came, two.came) == ([b"one"], [b"two"])
    reactor.doIteration(0)
    assert len(one.came) == 1


def test_reads_and_writes_together(reactor: Any) -> None:
    one = Reader(reactor)
    one.there.send(b"one")
    reactor.addWriter(one)
    reactor.doIteration(0)
    assert (one.came, one.written) == ([b"one"], 1)


def test_a_reason_disconnects(reactor: Any) -> None:
    one = Reader(reactor)
    one.why = ValueError("done with it")
    one.there.send(b"x")
    reactor.doIteration(0)
    assert one.lost == [one.why]


def test_an_exception_is_logged_and_disconnects_that_one_alone(reactor: Any) -> None:
    one, two = Reader(reactor), Reader(reactor)
    one.raises = ValueError("a defect")
    one.there.send(b"x")
    two.there.send(b"x")
    told: list[Any] = []
    globalLogPublisher.addObserver(told.append)
    try:
        reactor.doIteration(0)
    finally:
        globalLogPublisher.removeObserver(told.append)
    assert one.lost == [one.raises]
    assert two.came == [b"x"]
    assert any(event.get("log_failure") and event["log_failure"].value is one.raises for event in told)


@pytest.mark.parametrize("hangs_up", [False, True])
def test_what_an_end_raises_is_logged_and_the_others_are_served(reactor: Any, hangs_up: bool) -> None:
    readers = [Reader(reactor) for _ in range(3)]

    def lost(reason: Failure) -> None:
        raise ZeroDivisionError("as asked")

    for reader in readers[:2]:
        reader.why = ValueError("done with it")
        reader.connectionLost = reader.readConnectionLost = lost  # type: ignore[method-assign]
    for reader in readers:
        reader.there.send(b"x")
    if hangs_up:
        for reader in readers[:2]:
            reader.there.close()
    told: list[Any] = []
    globalLogPublisher.addObserver(told.append)
    try:
        reactor.doIteration(0)
    finally:
        globalLogPublisher.removeObserver(told.append)
    assert readers[2].came == [b"x"]
    assert [event["log_failure"].type for event in told if "log_failure" in event] == [ZeroDivisionError] * 2
    assert not reactor._alone
    readers[2].close()
    for reader in readers[:2]:
        reader.here.close()


def test_a_turn_ends_after_all_that_was_ready_and_before_the_reactor_waits(reactor: Any) -> None:
    readers = [Reader(reactor), Reader(reactor)]
    log: list[str] = []

    def reading(reader: Reader) -> Any:
        def read() -> None:
            reader.here.recv(100)
            assert not reactor.turn_is_over()
            log.append("read")
            reactor.at_turn_end(lambda: log.append("end"))
            reactor.callLater(0, log.append, "due")

        return read

    for reader in readers:
        reader.doRead = reading(reader)  # type: ignore[method-assign]
        reader.there.send(b"x")
    reactor.doIteration(0)
    reactor.runUntilCurrent()
    assert log == ["read", "read", "due", "due"]
    reactor.doIteration(0)
    assert log[4:] == ["end", "end"]


def test_the_end_of_a_turn_may_order_more_and_fail(reactor: Any) -> None:
    log: list[str] = []

    def end() -> None:
        log.append("end")
        reactor.at_turn_end(lambda: log.append("next"))

    def later() -> None:
        reactor.callLater(0, log.append, "due")

    reactor.at_turn_end(lambda: 1 / 0)
    reactor.at_turn_end(end)
    reactor.doIteration(None)  # does not wait: another end was ordered
    assert log == ["end"]
    reactor.at_turn_end(later)
    reactor.doIteration(None)  # nor for what an end has made due
    reactor.runUntilCurrent()
    assert log == ["end", "next", "due"]


def test_the_reactor_waits_no_longer_than_for_what_the_end_of_a_turn_moved(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    class Poller:
        def poll(self, wait: float, most: int) -> list[tuple[int, int]]:
            waits.append(wait)
            return []

    call = reactor.callLater(3600, lambda: None)
    assert reactor.timeout() > 3000
    reactor.at_turn_end(lambda: call.reset(1))
    with monkeypatch.context() as patched:
        patched.setattr(reactor, "_poller", Poller())
        reactor.doIteration(reactor.timeout())
    assert waits[0] <= 1
    call.cancel()


@pytest.mark.parametrize("due", [None, 0.1, 3600])
def test_an_iteration_waits_no_longer_than_it_may(
    reactor: Any, monkeypatch: pytest.MonkeyPatch, due: float | None
) -> None:
    waits: list[float] = []

    class Poller:
        def poll(self, wait: float, most: int) -> list[tuple[int, int]]:
            waits.append(wait)
            return []

    calls = [] if due is None else [reactor.callLater(due, lambda: None)]
    reactor.at_turn_end(lambda: None)
    with monkeypatch.context() as patched:
        patched.setattr(reactor, "_poller", Poller())
        reactor.iterate(0.5)
    (wait,) = waits
    assert 0 < wait <= (0.1 if due == 0.1 else 0.5)
    for call in calls:
        call.cancel()


@pytest.mark.parametrize("what", [ValueError, SystemExit])
def test_what_one_end_raises_does_not_keep_the_others_from_being_called(
    reactor: Any, what: type[BaseException]
) -> None:
    def end() -> None:
        raise what("as asked")

    log: list[str] = []
    reactor.at_turn_end(end)
    reactor.at_turn_end(lambda: log.append("end"))
    reactor.doIteration(0)
    assert log == ["end"]


@pytest.mark.parametrize("how", ["stop", "crash"])
def test_who_is_stopped_at_the_end_of_a_turn_does_not_wait(
    reactor: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    waits: list[float] = []

    class Poller:
        def poll(self, wait: float, most: int) -> list[tuple[int, int]]:
            waits.append(wait)
            return []

    with monkeypatch.context() as patched:
        patched.setattr(reactor, "_poller", Poller())
        reactor.callWhenRunning(lambda: reactor.at_turn_end(getattr(reactor, how)))
        reactor.run(installSignalHandlers=False)
    assert waits and not any(waits)


def test_a_turn_is_over_for_one_that_is_served_alone(reactor: Any) -> None:
    one = Reader(reactor)
    seen: list[bool] = []

    def read() -> None:
        one.here.recv(100)
        seen.append(reactor.turn_is_over())
        reactor.callLater(0, seen.append, False)
        seen.append(reactor.turn_is_over())

    one.doRead = read  # type: ignore[method-assign]
    one.there.send(b"x")
    assert not reactor.turn_is_over()
    reactor.doIteration(0)
    assert seen == [True, False]
    assert not reactor.turn_is_over()


def test_a_hang_up_is_told(reactor: Any) -> None:
    one = Reader(reactor)
    one.there.close()
    reactor.doIteration(0)
    assert one.came == [b""] or one.lost


def test_who_was_closed_in_the_same_turn_is_not_called(reactor: Any) -> None:
    readers = [Reader(reactor) for _ in range(2)]

    def closing(this: Reader, other: Reader) -> Any:
        def read() -> None:
            this.came.append(this.here.recv(100))
            other.close()

        return read

    readers[0].doRead = closing(readers[0], readers[1])  # type: ignore[method-assign]
    readers[1].doRead = closing(readers[1], readers[0])  # type: ignore[method-assign]
    for reader in readers:
        reader.there.send(b"x")
    reactor.doIteration(0)
    assert sorted(len(reader.came) for reader in readers) == [0, 1]


def test_delayed_calls_have_their_turn_in_a_flood_of_reads(reactor: Any) -> None:
    readers = [Reader(reactor) for _ in range(MAX_EVENTS + 10)]
    for reader in readers:
        reader.there.send(b"x")
    reactor.doIteration(0)
    assert sum(len(reader.came) for reader in readers) == MAX_EVENTS
    reactor.doIteration(0)
    assert all(reader.came == [b"x"] for reader in readers)
    for reader in readers:
        reader.close()
        reader.there.close()


def all_ready(reactor: Any, count: int) -> tuple[list[Reader], list[int]]:
    """So many readers for whom something has come, and where they note their numbers when they are called."""
    order: list[int] = []
    readers = [Reader(reactor) for _ in range(count)]
    for number, reader in enumerate(readers):
        reader.tells = partial(order.append, number)
        reader.there.send(b"first")
    return readers, order


def test_a_turn_serves_for_a_slice_and_the_next_begins_with_the_rest(reactor: Any, watch: Watch) -> None:
    readers, order = all_ready(reactor, 20)
    watch.step = 2 * SLICE / 5  # the third look is too late
    reactor.doPoll(0)
    first = len(order)
    assert 0 < first < 20
    for number in order[:first]:
        readers[number].there.send(b"again")
    watch.step = 0.0
    reactor.doPoll(0)
    assert sorted(order[:20]) == list(range(20))
    assert sorted(order[20:]) == sorted(order[:first])
    order.clear()
    reactor.doPoll(0)
    assert order == []
    for reader in readers:
        reader.close()


def test_a_turn_is_measured_without_its_wait(reactor: Any, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    watch.now = 100.0
    took: list[float] = []

    class Poller:
        def poll(self, wait: float, most: int) -> list[tuple[int, int]]:
            watch.now += 5.0
            return []

    reactor.watch_turns(took.append)
    with monkeypatch.context() as patched:
        patched.setattr(reactor, "_poller", Poller())
        reactor.doPoll(0)
        assert took == []
        watch.now += 0.25
        reactor.doPoll(0)
        reactor.watch_turns(None)
        watch.now += 0.5
        reactor.doPoll(0)
    assert took == [0.25]


def test_the_main_loop_goes_on_after_what_raises(reactor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    class Poller:
        calls = 0

        def poll(self, wait: float, most: int) -> list[tuple[int, int]]:
            self.calls += 1
            if self.calls == 1:
                raise OSError("as asked")
            reactor.stop()
            return []

    globalLogPublisher.addObserver(told.append)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(reactor, "_poller", Poller())
            reactor.run(installSignalHandlers=False)
    finally:
        globalLogPublisher.removeObserver(told.append)
    assert any(event.get("log_failure") and str(event["log_failure"].value) == "as asked" for event in told)


def test_the_reactor_waits_until_the_next_call_is_due(reactor: Any) -> None:
    assert reactor.timeout() is None
    far = reactor.callLater(1e9, lambda: None)
    assert reactor.timeout() == LONGEST
    near = reactor.callLater(-0.0, lambda: None)
    reactor.seconds = lambda: near.getTime() + 1
    assert reactor.timeout() == 0.0
    for call in (far, near):
        call.cancel()


def test_who_is_closed_before_its_turn_comes_again_is_not_called(reactor: Any, watch: Watch) -> None:
    readers, order = all_ready(reactor, 20)
    watch.step = 2 * SLICE / 5
    reactor.doPoll(0)
    watch.step = 0.0
    gone = next(number for number in range(20) if number not in order)
    readers[gone].close()
    successor = Reader(reactor)
    reactor.doPoll(0)
    assert gone not in order
    assert successor.came == []
    for reader in [*readers[:gone], *readers[gone + 1 :], successor]:
        reader.close()


def test_removing_a_reader_leaves_its_writing_and_strangers_alone(reactor: Any) -> None:
    one, two = Reader(reactor), Reader(reactor)
    reactor.addWriter(one)
    reactor.removeReader(one)
    reactor.removeReader(one)
    reactor.removeReader(two)
    reactor.removeReader(two)
    one.there.send(b"one")
    two.there.send(b"two")
    reactor.doIteration(0)
    assert (one.came, one.written, two.came) == ([], 1, [])
    assert not reactor.getReaders() or two not in reactor.getReaders()
    reactor.addReader(two)
    reactor.doIteration(0)
    assert two.came == [b"two"]


@pytest.mark.usefixtures("no_collection")
def test_who_is_forgotten_and_closed_leaves_its_number_to_the_next(reactor: Any) -> None:
    gone = Reader(reactor)
    reactor.addWriter(gone)
    number = gone.fileno()
    gone.there.send(b"unread")
    reactor.forget(gone)
    reactor.forget(gone)
    gone.here.close()
    next_one = Reader(reactor)
    assert next_one.fileno() == number
    reactor.doIteration(0)
    assert (gone.came, gone.written, next_one.came, next_one.written) == ([], 0, [], 0)
    next_one.there.send(b"x")
    reactor.doIteration(0)
    assert next_one.came == [b"x"]
    assert gone not in reactor.getReaders() and gone not in reactor.getWriters()


def test_a_stranger_is_not_forgotten_in_anothers_place(reactor: Any) -> None:
    one = Reader(reactor)

    class Stranger:
        def fileno(self) -> int:
            return one.fileno()

    reactor.forget(Stranger())
    one.there.send(b"x")
    reactor.doIteration(0)
    assert one.came == [b"x"]


@pytest.mark.usefixtures("no_collection")
def test_who_takes_the_number_of_one_that_was_closed_does_not_hear_its_hang_up(reactor: Any) -> None:
    closing = Reader(reactor)
    closing.there.send(b"x")  # it is ready first, and served first
    gone = Reader(reactor)
    reactor.addWriter(gone)
    reactor.removeReader(gone)
    number = gone.fileno()
    successors: list[Reader] = []

    def read() -> None:
        closing.came.append(closing.here.recv(100))
        reactor.forget(gone)
        gone.here.close()
        successors.append(Reader(reactor))

    closing.doRead = read  # type: ignore[method-assign]
    gone.there.close()
    reactor.doIteration(0)
    (successor,) = successors
    assert (gone.written, gone.lost) == (0, [])
    assert successor.fileno() == number
    assert successor.lost == []
    successor.there.close()
    reactor.doIteration(0)
    assert successor.came == [b""] or successor.lost


class Pauses:
    """What the reactor sleeps with, and the polls between; nothing is ready, but for what a test says."""

    def __init__(self, reactor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[tuple[str, float]] = []
        self.ready: list[tuple[int, int]] = []
        reactor._poller.close()
        reactor._poller = self
        monkeypatch.setattr("accessgw.transports.reactor.sleep", lambda seconds: self.log.append(("pause", seconds)))

    def poll(self, wait: float, most: int) -> list[tuple[int, int]]:
        self.log.append(("poll", wait))
        return self.ready

    def unregister(self, fd: int) -> None:
        """Nothing is registered."""

    def close(self) -> None:
        """Nothing is open."""

    def take(self) -> list[tuple[str, float]]:
        log, self.log = self.log, []
        return log


@pytest.fixture
def pauses(reactor: Any, monkeypatch: pytest.MonkeyPatch) -> Pauses:
    return Pauses(reactor, monkeypatch)


def test_events_come_together_before_a_poll_that_would_wait(reactor: Any, pauses: Pauses) -> None:
    busy = [True]
    reactor.doPoll(0.5)
    assert pauses.take() == [("poll", 0.5)]
    reactor.coalesce(0.25, lambda: busy[0])
    reactor.doPoll(0.5)
    pauses.take()  # what that turn served was not known before it
    reactor.doPoll(0.5)
    assert pauses.take() == [("pause", 0.25), ("poll", 0.25)]
    reactor.doPoll(None)
    assert pauses.take() == [("pause", 0.25), ("poll", -1.0)]
    reactor.doPoll(0.125)
    assert pauses.take() == [("pause", 0.125), ("poll", 0.0)]  # what is due then does not wait
    reactor.doPoll(0.0)
    assert pauses.take() == [("poll", 0.0)]
    busy[0] = False
    reactor.doPoll(0.5)
    assert pauses.take() == [("poll", 0.5)]


def test_events_that_come_together_by_themselves_are_not_waited_for(reactor: Any, pauses: Pauses) -> None:
    reactor.coalesce(0.25)
    pauses.ready = [(1000 + fd, 1) for fd in range(FEW)]
    reactor.doPoll(0.5)
    pauses.ready.pop()
    reactor.doPoll(0.5)
    assert pauses.take() == [("poll", 0.5)] * 2
    reactor.doPoll(0.5)
    assert pauses.take() == [("pause", 0.25), ("poll", 0.25)]


def test_who_was_ready_and_not_served_does_not_wait_for_others(reactor: Any, pauses: Pauses, watch: Watch) -> None:
    reactor.coalesce(0.25)
    pauses.ready = [(1000 + fd, 1) for fd in range(FEW - 1)]
    watch.step = SLICE  # the second look is too late
    reactor.doPoll(0.5)
    assert reactor._left
    watch.step = 0.0
    reactor.doPoll(0.5)
    assert pauses.take() == [("poll", 0.5)] * 2
    assert not reactor._left
    reactor.doPoll(0.5)
    assert pauses.take() == [("pause", 0.25), ("poll", 0.25)]


def test_coalescing_ends(reactor: Any, pauses: Pauses) -> None:
    reactor.coalesce(0.25)
    reactor.doPoll(0.5)
    reactor.coalesce(0.0)
    pauses.take()
    for _ in range(2):
        reactor.doPoll(0.5)
    assert pauses.take() == [("poll", 0.5)] * 2
