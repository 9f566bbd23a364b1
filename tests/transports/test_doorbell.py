"""Calls of other threads to the reactor's."""

from __future__ import annotations

import select
import threading

from twisted.internet.defer import Deferred

from accessgw.transports.doorbell import Doorbell
from tests.reactor_loop import run
from tests.transports.support import HandReactor


def readable(bell):
    return bool(select.select([bell], [], [], 0)[0])


def test_calls_of_threads_come_on_the_reactor_s_thread_in_their_order():
    bell = Doorbell(HandReactor())
    came = []
    threads = [threading.Thread(target=lambda: [bell.call(lambda n=n: came.append(n)) for n in range(100)])]
    for thread in threads:
        thread.start()
        thread.join()
    assert came == []
    assert readable(bell)
    bell.doRead()
    assert came == list(range(100))
    assert not readable(bell)
    bell.stop()


def test_a_call_that_raises_is_nobody_else_s_trouble(monkeypatch):
    logged = []
    monkeypatch.setattr("accessgw.transports.doorbell._log.failure", logged.append)
    bell = Doorbell(HandReactor())
    came = []
    bell.call(lambda: 1 / 0)
    bell.call(lambda: came.append("next"))
    bell.doRead()
    assert came == ["next"]
    assert len(logged) == 1
    bell.stop()


def test_a_call_that_orders_another_is_not_gone_round_by_it():
    """What comes while it answers waits for the next turn: the reactor has others to serve."""
    bell = Doorbell(HandReactor())
    came = []
    bell.call(lambda: (came.append(1), bell.call(lambda: came.append(2))))
    bell.doRead()
    assert came == [1]
    assert readable(bell)
    bell.doRead()
    assert came == [1, 2]
    bell.stop()
    bell.stop()


async def heard_by(reactor):
    bell, heard = Doorbell(reactor), Deferred()
    bell.start()
    threading.Thread(target=lambda: bell.call(lambda: heard.callback(threading.current_thread().name))).start()
    name = await heard
    bell.stop()
    return name


def test_the_reactor_hears_it():
    assert run(heard_by) == "MainThread"
