"""A hand-shake that stops for a signature: what waits meanwhile, how it goes on, how it ends."""

from __future__ import annotations

import gc
import threading

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
    assert tls_engine.counts() == before


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
    assert handshake._engine is None
    assert not hand.pool.steps


def test_a_connection_that_is_lost_before_it_could_ask_does_not():
    hand = hand_of()
    hand.device.start()
    hand.send()
    hand.pool.run()
    hand.connection.abort("lost")
    hand.pool.tell()
    assert hand.pool.signer.asked == []


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
