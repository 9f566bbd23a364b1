"""Connections whose hand-shakes a crew makes: held, lost and stopped at every moment, and whom a turn wakes."""

from __future__ import annotations

import gc
import os
import sys
import threading
from types import SimpleNamespace

import pytest

from accessgw.model.counters import TlsCounters
from accessgw.transports import handshake_crew
from accessgw.transports.handshake_crew import NICER, HandshakeCrew
from accessgw.transports.handshakes import HandshakePool
from protocols.tls.engines import WHY_NOT_NATIVE, make_crew
from protocols.tls.server_context import ClientVerification
from tests.protocols.tls.tls_links import PSK, client, issuer, keys, localhost
from tests.transports.support import HandReactor
from tests.transports.tls_by_hand import Contexts, EarlyFactory, Hand, ManualCrew

if WHY_NOT_NATIVE:
    pytest.skip(f"no native engine here: {WHY_NOT_NATIVE}", allow_module_level=True)

from protocols._native import tls_engine
from tests.protocols.tls.native_links import native_server


class OnCrew(Contexts):
    offloaded = True

    def __init__(self, **options):
        super().__init__()
        self.served = native_server(**options)


@pytest.fixture(autouse=True)
def no_collection():
    """What an earlier test has left for the collector would be counted, and freed at any moment."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def idle(no_collection):
    """A crew whose thread is busy until the test says so."""
    crew, gate, entered = ManualCrew(), threading.Event(), threading.Event()

    def find(identity):
        entered.set()
        gate.wait(30)

    engine = native_server(find_psk=find).engine()
    device = client().engine("localhost", psk=PSK)
    device.start()
    crew.submit(engine, device.to_send(), SimpleNamespace(resume=lambda state: None, done=lambda: None), False)
    assert entered.wait(30)
    yield SimpleNamespace(crew=crew, open=gate.set)
    gate.set()
    crew.stop()


def told(crew, count):
    """Until the crew has told so many of its steps."""
    left = crew.counters.pool_waiting - count
    pool = Hand(Contexts(), crew=crew).pool
    while crew.counters.pool_waiting > left:
        pool.run()
        pool.tell()


def test_a_connection_is_made_and_speaks():
    hand = Hand(OnCrew()).shake_hands()
    hand.say(b"hello")
    hand.receive()
    assert hand.plaintext() == b"hello"
    assert (hand.services.tls.full, hand.services.tls.detached, hand.pool.unfinished) == (1, 1, 0)
    hand.connection.abort("done")


def test_only_the_step_that_signs_is_the_crew_s():
    hand = Hand(OnCrew())
    hand.device.start()
    hand.send()
    assert hand.pool.crew.busy
    hand.pool.all()
    hand.receive()
    hand.send()
    assert [begun for _, begun in hand.pool.steps] == ["last"]
    hand.connection.abort("done")


def test_one_that_shows_a_certificate_is_verified_by_the_crew():
    shown = issuer().issue("device-1")
    device = client(chain=shown.chain, key=shown.key).engine("localhost")
    hand = Hand(OnCrew(clients=ClientVerification("require", issuer().pem), tickets=False), device=device)
    hand.device.start()
    hand.turn()
    hand.send()
    assert not hand.pool.steps and hand.pool.crew.busy
    hand.pool.all()
    assert hand.services.tls.full == 1
    hand.connection.abort("done")


def test_early_data_is_answered_in_the_first_flight():
    device = client().engine("localhost", psk=PSK)
    device.early(b"a call")
    hand = Hand(OnCrew(find_psk=keys(PSK)), device=device)
    hand.connection._factories = {"mmtp/1": EarlyFactory(hand.journal)}
    hand.device.start()
    hand.turn()
    assert hand.plaintext() == b"early:a call"
    hand.turn()
    assert hand.services.tls.resumed == 1
    hand.connection.abort("done")


def test_what_comes_while_the_crew_is_at_it_waits(idle):
    hand = Hand(OnCrew(alpn=["mmtp/1"]), crew=idle.crew)
    hand.device.start()
    hand.send()
    hand.send(b"\x14\x03\x03\x00\x01\x01")
    assert hand.connection._handshake.held == 6
    idle.open()
    told(idle.crew, 2)
    hand.pool.all()
    hand.receive()
    hand.turn()
    assert hand.services.tls.full == 1
    hand.connection.abort("done")


def test_one_that_is_lost_before_its_step_costs_no_hand_shake(idle):
    before = tls_engine.counts()[0]
    hand = Hand(OnCrew(), crew=idle.crew)
    hand.device.start()
    hand.send()
    hand.connection.abort("lost")
    assert (hand.pool.unfinished, tls_engine.counts()[0]) == (0, before + 1)
    idle.open()
    told(idle.crew, 2)
    assert tls_engine.counts()[0] == before
    assert hand.services.tls.full == 0


def test_one_that_is_lost_between_its_step_and_the_word_of_it_is_freed():
    before = tls_engine.counts()[0]
    hand = Hand(OnCrew())
    hand.device.start()
    hand.send()
    hand.pool.run()
    hand.connection.abort("lost")
    hand.pool.tell()
    assert tls_engine.counts()[0] == before
    assert hand.ended[0] == "lost"


def test_an_engine_that_cannot_be_made_ends_its_connection(monkeypatch):
    contexts = OnCrew()
    monkeypatch.setattr(contexts, "engine", lambda: 1 / 0)
    hand = Hand(contexts)
    hand.device.start()
    hand.send()
    hand.peer.close()
    hand.reactor.turn()
    assert hand.ended == ("internal", "ZeroDivisionError in the hand-shake")
    assert (hand.pool.unfinished, hand.services.tls.pool_waiting) == (0, 0)


def test_trouble_of_one_is_nobody_else_s(monkeypatch):
    logged = []
    monkeypatch.setattr(handshake_crew._log, "failure", logged.append)
    crew, heard = ManualCrew(), []

    def step(name, done):
        return SimpleNamespace(resume=lambda state: heard.append(name), done=done)

    for name, done in (("first", lambda: 1 / 0), ("second", lambda: heard.append("told"))):
        crew.submit(native_server().engine(), b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", step(name, done), False)
    told(crew, 2)
    assert heard == ["first", "second", "told"]
    assert len(logged) == 1
    crew.stop()


def test_what_one_turn_has_wakes_the_threads_once():
    ends, counters = [], TlsCounters()
    crew = HandshakeCrew(make_crew(), counters, HandReactor(), threads=1, at_turn_end=ends.append)
    step = SimpleNamespace(resume=lambda state: None, done=lambda: None)
    for _ in range(3):
        crew.submit(native_server().engine(), b"\x16\x03\x01", step, False)
    assert (len(ends), counters.pool_waiting) == (1, 3)
    ends.pop()()
    crew.submit(native_server().engine(), b"\x16\x03\x01", step, False)
    assert len(ends) == 1
    crew.stop()
    assert counters.pool_waiting == 0


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own in Linux only")
def test_its_threads_let_the_reactor_go_first(idle):
    (thread,) = idle.crew._threads  # it is at work
    reactor = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert os.getpriority(os.PRIO_PROCESS, thread.native_id) == min(reactor + NICER, 19)


def test_after_stop_nothing_happens_and_nothing_waits(idle):
    before = tls_engine.counts()[0]
    hand = Hand(OnCrew(), crew=idle.crew)
    pool = HandshakePool(TlsCounters(), crew=idle.crew)
    hand.device.start()
    hand.send()
    threads = idle.crew._threads[:]
    idle.open()
    pool.stop()
    assert not any(thread.is_alive() for thread in threads)
    assert idle.crew.counters.pool_waiting == 0
    idle.crew.submit(native_server(certificates=[localhost()]).engine(), b"x", None, False)
    assert idle.crew.counters.pool_waiting == 0
    hand.connection.abort("done")
    del hand
    assert tls_engine.counts()[0] <= before


@pytest.mark.parametrize(("processors", "threads"), [(1, 1), (2, 1), (3, 2), (9, 8), (64, 8)])
def test_one_processor_is_left_to_the_reactor(processors, threads):
    assert handshake_crew.crew_size(processors) == threads
