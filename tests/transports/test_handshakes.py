"""The pool of hand-shakes: what runs first, how the reactor is woken, what is left at the end."""

from __future__ import annotations

import os
import sys
import threading
from itertools import pairwise
from queue import Queue

import pytest

from accessgw.model.counters import TlsCounters
from accessgw.transports.handshake_crew import NICER
from accessgw.transports.handshakes import DELIVERED_PER_TURN, SLICE, HandshakePool, LastSteps


class Note:
    """A step that notes who ran it."""

    def __init__(self, name, log, gate=None):
        self.name, self.log, self.gate = name, log, gate

    def run(self):
        if self.gate is not None:
            self.gate.wait(10)
        self.log.append(("run", self.name, threading.current_thread() is threading.main_thread()))

    def done(self):
        self.log.append(("done", self.name, threading.current_thread() is threading.main_thread()))


def names(log, what):
    return [name for kind, name, _ in log if kind == what]


def deliver(calls, log, count):
    """Be the reactor until `count` steps were told; how often it was woken."""
    woken = 0
    while len(names(log, "done")) < count:
        calls.get(timeout=10)()
        woken += 1
    return woken


def test_without_threads_a_step_runs_at_once():
    log = []
    pool = HandshakePool(TlsCounters())
    pool.submit(Note("a", log), False)
    assert log == [("run", "a", True), ("done", "a", True)]
    assert not pool.full


def test_steps_run_on_threads_and_are_told_on_the_reactors():
    log, calls, counters = [], Queue(), TlsCounters()
    pool = HandshakePool(counters, threads=2, waiting=100, call_from_thread=calls.put)
    for number in range(10):
        pool.submit(Note(number, log), False)
    assert counters.pool_waiting == 10
    deliver(calls, log, 10)
    assert sorted(names(log, "run")) == list(range(10))
    assert {main for kind, _, main in log if kind == "run"} == {False}
    assert {main for kind, _, main in log if kind == "done"} == {True}
    assert counters.pool_waiting == 0
    pool.stop()


def test_a_thread_yields_its_processor_after_each_step(monkeypatch):
    log, calls = [], Queue()
    monkeypatch.setattr("os.sched_yield", lambda: log.append(("yield", "", False)))
    pool = HandshakePool(TlsCounters(), threads=1, waiting=100, call_from_thread=calls.put)
    for number in range(3):
        pool.submit(Note(number, log), False)
    deliver(calls, log, 3)
    pool.stop()
    assert [kind for kind, _, _ in log if kind != "done"] == ["run", "yield"] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own in Linux only")
def test_its_threads_let_the_reactor_go_first():
    calls, log, found = Queue(), [], []

    class Look(Note):
        def run(self):
            super().run()
            found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    pool = HandshakePool(TlsCounters(), threads=1, waiting=100, call_from_thread=calls.put)
    pool.submit(Look("a", log), False)
    deliver(calls, log, 1)
    pool.stop()
    reactor = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert found == [min(reactor + NICER, 19)]


def test_a_thread_that_may_not_change_its_priority_works_all_the_same(monkeypatch):
    def refuse(*_):
        raise PermissionError

    calls, log = Queue(), []
    monkeypatch.setattr("os.setpriority", refuse)
    pool = HandshakePool(TlsCounters(), threads=1, waiting=100, call_from_thread=calls.put)
    pool.submit(Note("a", log), False)
    deliver(calls, log, 1)
    pool.stop()
    assert names(log, "done") == ["a"]


def test_what_has_begun_goes_first():
    log, calls, gate = [], Queue(), threading.Event()
    pool = HandshakePool(TlsCounters(), threads=1, waiting=100, call_from_thread=calls.put)
    pool.submit(Note("blocks", log, gate), False)
    for name, begun in (("new 1", False), ("new 2", False), ("begun 1", True), ("begun 2", True)):
        pool.submit(Note(name, log), begun)
    gate.set()
    deliver(calls, log, 5)
    ran = names(log, "run")
    # the thread may have taken the first one before or after the others came
    ran.remove("blocks")
    assert ran == ["begun 1", "begun 2", "new 1", "new 2"]
    pool.stop()


def test_what_has_begun_does_not_keep_others_from_beginning():
    log, calls, gate, running = [], Queue(), threading.Event(), threading.Event()

    class Blocks(Note):
        def run(self):
            running.set()
            super().run()

    pool = HandshakePool(TlsCounters(), threads=1, waiting=100, call_from_thread=calls.put)
    pool.submit(Blocks("blocks", log, gate), False)
    assert running.wait(10)
    for number in range(40):
        pool.submit(Note(f"begun {number}", log), True)
    for number in range(3):
        pool.submit(Note(f"new {number}", log), False)
    gate.set()
    deliver(calls, log, 44)
    ran = names(log, "run")
    ran.remove("blocks")
    assert [ran.index(f"new {number}") for number in range(3)] == [8, 17, 26]
    assert [name for name in ran if name.startswith("begun")] == [f"begun {number}" for number in range(40)]
    pool.stop()


def test_it_is_full_when_as_many_wait_as_may():
    log, calls, gate = [], Queue(), threading.Event()
    pool = HandshakePool(TlsCounters(), threads=1, waiting=3, call_from_thread=calls.put)
    for number in range(3):
        assert not pool.full
        pool.submit(Note(number, log, gate), False)
    assert pool.full
    gate.set()
    deliver(calls, log, 3)
    assert not pool.full
    pool.stop()


def test_it_is_full_when_as_many_are_under_way_as_may():
    counters = TlsCounters()
    pool = HandshakePool(counters, threads=1, waiting=100, unfinished=2, call_from_thread=Queue().put)
    pool.begun()
    assert not pool.full
    pool.begun()
    assert pool.full
    pool.finished()
    assert not pool.full
    assert counters.unfinished == 1


def test_completions_are_told_in_batches_and_in_slices():
    log, calls, gate = [], Queue(), threading.Event()
    count = 5 * DELIVERED_PER_TURN
    pool = HandshakePool(TlsCounters(), threads=1, waiting=count + 1, call_from_thread=calls.put)
    for number in range(count):
        pool.submit(Note(number, log, gate), False)
    gate.set()
    while len(pool._finished) < count:
        threading.Event().wait(0.001)
    # all are done, and the reactor is asked once
    told = [0]
    while told[-1] < count:
        calls.get(timeout=10)()
        told.append(len(names(log, "done")))
    # a thread that looked late may have asked once more, for nothing
    slices = [b - a for a, b in pairwise(told) if b > a]
    assert slices == [DELIVERED_PER_TURN] * 5
    pool.stop()


def test_what_one_turn_has_for_the_threads_wakes_them_at_its_end():
    log, calls, ends = [], Queue(), []
    pool = HandshakePool(TlsCounters(), threads=2, waiting=10, call_from_thread=calls.put, at_turn_end=ends.append)
    for number in range(3):
        pool.submit(Note(number, log), False)
    assert len(ends) == 1
    assert pool._tokens.empty()
    ends.pop()()
    deliver(calls, log, 3)
    assert not ends
    pool.submit(Note(3, log), False)
    ends.pop()()
    deliver(calls, log, 4)
    pool.stop()


def test_tokens_do_not_grow_while_the_thread_is_never_idle():
    log, calls, gate = [], Queue(), threading.Event()
    pool = HandshakePool(TlsCounters(), threads=1, waiting=100, call_from_thread=calls.put)
    for number in range(20):
        pool.submit(Note(number, log, gate), False)
    assert pool._tokens.qsize() <= 1
    gate.set()
    deliver(calls, log, 20)
    pool.submit(Note(20, log), False)
    deliver(calls, log, 21)
    pool.stop()


class Stopwatch:
    """Each step takes a part of a slice."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_last_steps_take_a_slice_of_each_turn_on_the_reactor_s_thread():
    log, ends, watch, counters = [], [], Stopwatch(), TlsCounters()
    last = LastSteps(counters, ends.append, watch)
    pool = HandshakePool(counters, threads=1, waiting=5, last_steps=last)

    class Short(Note):
        def run(self):
            super().run()
            watch.now += SLICE / 2

    for number in range(5):
        pool.submit_last(Short(number, log))
    assert pool.full
    assert (log, len(ends)) == ([], 1)
    ends.pop()()
    # the second ends with the slice; what is left is for the next turn
    assert log == [(what, number, True) for number in range(2) for what in ("run", "done")]
    assert (counters.pool_waiting, len(ends)) == (3, 1)
    ends.pop()()
    assert len(names(log, "done")) == 4
    pool.stop()
    assert counters.pool_waiting == 0
    ends.pop()()
    assert len(names(log, "done")) == 4
    pool.submit_last(Short("late", log))
    assert not ends


def test_a_last_step_alone_in_its_turn_is_made_at_once():
    log, ends, over, counters = [], [], [True], TlsCounters()
    last = LastSteps(counters, ends.append, turn_is_over=lambda: over[0])
    last.submit(Note("alone", log))
    assert names(log, "done") == ["alone"]
    over[0] = False
    last.submit(Note("one of many", log))
    over[0] = True
    # not past one that waits
    last.submit(Note("behind it", log))
    assert names(log, "done") == ["alone"]
    ends.pop()()
    assert names(log, "done") == ["alone", "one of many", "behind it"]
    assert counters.pool_waiting == 0
    assert not ends


def test_a_last_step_that_cannot_be_told_harms_no_other():
    class Broken(Note):
        def done(self):
            raise ValueError("as asked")

    log, ends = [], []
    last = LastSteps(TlsCounters(), ends.append)
    last.submit(Broken("bad", log))
    last.submit(Note("good", log))
    while ends:
        ends.pop()()
    assert names(log, "done") == ["good"]


def test_without_a_place_for_them_the_threads_make_last_steps():
    log, calls = [], Queue()
    pool = HandshakePool(TlsCounters(), threads=1, waiting=5, call_from_thread=calls.put)
    pool.submit_last(Note("a", log))
    deliver(calls, log, 1)
    assert log == [("run", "a", False), ("done", "a", True)]
    pool.stop()


def test_a_step_that_cannot_be_told_harms_no_other():
    class Broken(Note):
        def done(self):
            super().done()
            raise ValueError("as asked")

    log, calls = [], Queue()
    pool = HandshakePool(TlsCounters(), threads=1, waiting=10, call_from_thread=calls.put)
    pool.submit(Broken("bad", log), False)
    pool.submit(Note("good", log), False)
    deliver(calls, log, 2)
    assert names(log, "done") == ["bad", "good"]
    pool.stop()


def test_a_step_that_is_over_after_stop_tells_nobody(monkeypatch):
    monkeypatch.setattr("accessgw.transports.handshakes.LAST_STEP", 0.0)
    monkeypatch.setattr("accessgw.transports.handshakes.TELL_AFTER", 0.0)
    log, calls, gate, running = [], [], threading.Event(), threading.Event()

    class Long(Note):
        def run(self):
            running.set()
            super().run()

    pool = HandshakePool(TlsCounters(), threads=1, waiting=10, call_from_thread=calls.append)
    pool.submit(Long("long", log, gate), False)
    assert running.wait(10)
    (thread,) = pool._threads
    pool.stop()
    gate.set()
    thread.join(10)
    assert names(log, "run") == ["long"] and not calls, "who listens may be gone"


def test_stop_drops_what_waits_and_ends_the_threads():
    log, calls = [], Queue()
    pool = HandshakePool(TlsCounters(), threads=2, waiting=10, call_from_thread=calls.put)

    class UntilStopped(Note):
        def run(self):
            while not pool._stopped:
                threading.Event().wait(0.001)
            super().run()

    for number in range(6):
        pool.submit(UntilStopped(number, log), False)
    threads = pool._threads[:]
    assert len(threads) == 2 and all(thread.is_alive() for thread in threads)
    pool.stop()
    assert len(names(log, "run")) <= 2
    pool.submit(Note("late", log), False)
    while not calls.empty():
        calls.get()()
    assert names(log, "done") == []
    assert "late" not in names(log, "run")
    assert not any(thread.is_alive() for thread in threads)
