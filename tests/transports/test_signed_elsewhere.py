"""A hand-shake that stops for a signature: what waits meanwhile, how it goes on, how it ends."""

from __future__ import annotations

import gc
import threading
from queue import Queue
from types import SimpleNamespace

import pytest
from twisted.internet.defer import Deferred, succeed

from accessgw.core.interfaces.tls import SigningFailed
from accessgw.crypto.signers.libcrypto import PrivateKey
from accessgw.model.counters import TlsCounters
from accessgw.transports.handshakes import PinnedHandshakes
from tests.protocols.tls.native_links import HAS_NATIVE, native_server, without_key
from tests.protocols.tls.tls_links import PSK, client, localhost
from tests.transports.tls_by_hand import Contexts, Hand

if not HAS_NATIVE:
    pytest.skip("no native engine here", allow_module_level=True)

from protocols._native import tls_engine


class HeldSigner:
    """A Signer that signs when a test says so."""

    def __init__(self, kind="ec"):
        self.key = PrivateKey.from_pem(localhost(kind).key, kind)
        self.asked = []
        self.cancelled = 0

    def sign(self, key, algorithm, data):
        assert key == self.key.id
        deferred = Deferred(self.cancel)
        self.asked.append((deferred, data))
        return deferred

    def cancel(self, deferred):
        self.cancelled += 1

    def answer(self):
        deferred, data = self.asked.pop(0)
        deferred.callback(self.key.sign(data))


class KeylessContexts(Contexts):
    def __init__(self, kind="ec"):
        super().__init__()
        self.served = native_server(certificates=[without_key(localhost(kind))])


def hand_of(kind="ec", **more):
    hand = Hand(KeylessContexts(kind), **more)
    hand.pool.signer = HeldSigner(kind)
    return hand


@pytest.fixture(autouse=True)
def nothing_is_left():
    gc.collect()
    before = tls_engine.counts()
    yield
    gc.collect()
    # threads of earlier tests may have freed something of theirs
    assert all(now <= then for now, then in zip(tls_engine.counts(), before, strict=True))


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_the_hand_shake_goes_on_when_the_signature_comes(kind):
    hand = hand_of(kind)
    hand.device.start()
    hand.turn()
    signer = hand.pool.signer
    assert len(signer.asked) == 1
    assert hand.connection._handshake.busy
    assert not hand.pool.steps
    signer.answer()
    assert [begun for _, begun in hand.pool.steps] == [True]
    for _ in range(3):
        hand.turn()
    hand.say(b"hello")
    hand.receive()
    assert hand.plaintext() == b"hello"
    assert (hand.services.tls.full, hand.services.tls.detached) == (1, 1)
    hand.connection.abort("done")


def test_a_signer_that_answers_at_once():
    hand = hand_of()
    held = hand.pool.signer

    class Instant:
        def sign(self, key, algorithm, data):
            return succeed(held.key.sign(data))

    hand.pool.signer = Instant()
    hand.shake_hands()
    assert hand.services.tls.full == 1
    hand.connection.abort("done")


def test_without_a_signature_the_hand_shake_ends_with_an_alert_and_the_reason():
    hand = hand_of()
    hand.device.start()
    hand.turn()
    deferred, _ = hand.pool.signer.asked.pop()
    deferred.errback(SigningFailed("no signature within 2 s"))
    hand.pool.all()
    hand.peer.close()
    hand.reactor.turn()
    reason, detail = hand.ended
    assert reason == "handshake_failed"
    assert "no signature within 2 s" in detail
    assert hand.services.tls.refused == {"internal_error": 1}


def test_a_connection_that_is_lost_while_it_waits_forgets_the_signature():
    hand = hand_of()
    hand.device.start()
    hand.turn()
    handshake = hand.connection._handshake
    hand.connection.abort("lost")
    assert hand.pool.signer.cancelled == 1
    # Freed by a step on the thread on which it stopped, which nobody is told of.
    assert [begun for _, begun in hand.pool.steps] == [True]
    hand.pool.all()
    assert handshake._engine is None
    assert not handshake.busy


def test_a_connection_that_is_lost_before_it_could_ask_does_not():
    hand = hand_of()
    hand.device.start()
    hand.send()
    hand.pool.run()
    handshake = hand.connection._handshake
    hand.connection.abort("lost")
    hand.pool.tell()
    assert hand.pool.signer.asked == []
    hand.pool.all()
    assert handshake._engine is None


def test_nor_does_one_that_is_lost_when_it_is_told():
    hand = hand_of()
    hand.device.start()
    hand.send()
    handshake = hand.connection._handshake
    handshake._told = lambda: hand.connection.abort("lost")
    hand.pool.run()
    hand.pool.tell()
    assert hand.pool.signer.asked == []
    hand.pool.all()
    assert handshake._engine is None


def test_a_connection_that_is_lost_when_the_signature_has_come():
    hand = hand_of()
    hand.device.start()
    hand.turn()
    handshake = hand.connection._handshake
    hand.pool.signer.answer()
    hand.connection.abort("lost")
    hand.pool.all()
    assert handshake._engine is None
    assert not hand.pool.steps


class Lane:
    """Hand-shakes on a thread of their own, told when a test says so."""

    def __init__(self):
        self.calls = Queue()
        self.signer = HeldSigner()
        self.pinned = PinnedHandshakes(
            TlsCounters(), self.signer, threads=1, waiting=100, call_from_thread=self.calls.put
        )

    def stopped_hand(self):
        """A connection that waits for a signature."""
        hand = Hand(KeylessContexts())
        hand.services.handshakes = self.pinned
        hand.device.start()
        hand.send()
        while not self.signer.asked:
            self.calls.get(timeout=30)()
        self.signer.asked.clear()
        return hand

    def catch_up(self):
        """Until the thread has done what there was: behind it, it does this."""
        ran = threading.Event()
        step = SimpleNamespace(run=ran.set, done=lambda: None)
        self.pinned.lane().submit(step, True)
        assert ran.wait(30)

    def stop(self):
        (thread,) = [thread for pool in self.pinned._pools for thread in pool._threads]
        self.pinned.stop()
        assert not thread.is_alive()


def test_what_is_lost_while_it_waits_is_freed_by_its_own_thread_and_soon():
    before = tls_engine.counts()
    lane = Lane()
    hands = [lane.stopped_hand() for _ in range(3)]
    assert tls_engine.counts()[1] == before[1] + 3
    gc.disable()
    try:
        for hand in hands:
            hand.connection.abort("lost")
        lane.catch_up()
        assert tls_engine.counts() == before
    finally:
        gc.enable()
        lane.stop()


def test_what_stop_drops_is_freed_before_its_thread_ends():
    before = tls_engine.counts()
    lane = Lane()
    hand = lane.stopped_hand()
    gate = threading.Event()
    lane.pinned.lane().submit(SimpleNamespace(run=lambda: gate.wait(30), done=lambda: None), True)
    hand.connection.abort("lost")
    put, tokens = lane.pinned._pools[0]._tokens.put, []

    def watch(token):
        # All that waited is dropped by now, by a thread that cannot free it.
        tokens.append((token, tls_engine.counts()[2] - before[2]))
        gate.set()
        put(token)

    lane.pinned._pools[0]._tokens = SimpleNamespace(put=watch, get=lane.pinned._pools[0]._tokens.get)
    lane.stop()
    assert tokens == [(False, 1)]
    assert tls_engine.counts() == before


def test_what_comes_meanwhile_waits():
    hand = hand_of()
    hand.device.start()
    hand.turn()
    hand.send(b"\x14\x03\x03\x00\x01\x01")
    assert not hand.pool.steps
    hand.pool.signer.answer()
    for _ in range(3):
        hand.turn()
    assert hand.services.tls.full == 1
    hand.connection.abort("done")


def test_who_comes_with_a_ticket_needs_no_signature():
    hand = hand_of(device=client().engine("localhost", psk=PSK))
    hand.shake_hands()
    assert hand.pool.signer.asked == []
    assert (hand.services.tls.full, hand.services.tls.resumed) == (0, 1)
    hand.connection.abort("done")


def test_hand_shakes_stay_on_their_thread():
    ran = threading.Semaphore(0)
    pinned = PinnedHandshakes(
        TlsCounters(), HeldSigner(), threads=3, waiting=100, call_from_thread=lambda function: None
    )

    class Step:
        def __init__(self):
            self.threads = set()

        def run(self):
            self.threads.add(threading.get_ident())
            ran.release()

        def done(self):
            pass

    lanes = [(pinned.lane(), Step()) for _ in range(6)]
    for round_ in range(4):
        for lane, step in lanes:
            lane.submit(step, round_ > 0)
    assert all(ran.acquire(timeout=30) for _ in range(4 * len(lanes)))
    pinned.stop()
    assert [len(step.threads) for _, step in lanes] == [1] * 6
    assert len(set.union(*(step.threads for _, step in lanes))) == 3
