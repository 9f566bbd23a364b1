"""What is written while the answer of a step of the hand-shake is held: in order, and no more than a little of it."""

from __future__ import annotations

from accessgw.transports.http import HttpBindingFactory
from protocols.tls.engine import HandshakeCompleted
from tests.protocols.tls.tls_links import PSK, client
from tests.transports.tls_by_hand import Contexts, EarlyEcho, EarlyFactory, Hand

MUCH = 4 << 20


class Silent:
    """What receives a request without a body."""

    def finished(self):
        pass

    def drained(self):
        pass


def test_what_is_held_leaves_behind_what_is_buffered():
    """The answer to early data is more than the kernel takes; the last step has tickets to send, the binding a word."""

    class Much(EarlyEcho):
        def early_data_received(self, data, replayed):
            self.connection.write(b"e" * 1_000_000)

        def handshake_completed(self):
            self.connection.write(b"complete")

    device = client().engine("localhost", psk=PSK)
    device.early(b"ask")
    hand = Hand(Contexts(tickets=True), device=device, write_buffer=MUCH)
    hand.connection._factories = {"mmtp/1": EarlyFactory(hand.journal, Much)}
    hand.device.start()
    hand.send()
    hand.pool.all()
    hand.device.feed(hand.peer.recv(4096))
    hand.events += hand.device.events()
    assert any(type(event) is HandshakeCompleted for event in hand.events)
    hand.send()
    assert hand.connection.buffered
    (step, _) = hand.pool.steps[0]
    hand.pool.run()
    assert step.answer
    hand.pool.tell()
    while hand.receive():
        hand.reactor.turn()
    assert hand.plaintext() == b"e" * 1_000_000 + b"complete"
    assert hand.ended is None


def test_an_answer_far_beyond_the_buffer_waits_for_the_peer_behind_finished_as_well():
    """HTTP writes the next piece as soon as nothing is buffered: the hold must not look like a kernel with room."""

    def answer(exchange):
        exchange.respond(200, [], b"x" * MUCH)
        return Silent()

    hand = Hand(Contexts(alpn=["http/1.1"]), device=client(alpn=["http/1.1"]).engine("localhost"))
    hand.connection._factories = {"http/1.1": HttpBindingFactory(answer, hand.services.limits)}
    hand.device.start()
    hand.turn()
    hand.device.encrypt(b"GET / HTTP/1.1\r\nhost: gw\r\n\r\n")
    hand.send()
    hand.pool.all()
    assert 0 < hand.connection.buffered <= hand.services.limits.write_buffer
    while hand.receive():
        hand.reactor.turn()
    assert hand.plaintext().partition(b"\r\n\r\n")[2] == b"x" * MUCH
    assert hand.ended is None


def test_the_servers_flight_is_not_lost_to_early_data_that_came_while_it_was_made():
    """The rest of a record comes while a thread makes the flight; where the reactor has nothing else to do, the step that
    reads it runs within the telling of the first."""
    device = client().engine("localhost", psk=PSK)
    device.early(b"ask" * 100)
    hand = Hand(Contexts(), device=device)
    hand.connection._factories = {"mmtp/1": EarlyFactory(hand.journal)}

    def at_once(step):
        step.run()
        step.done()

    hand.pool.submit_last = at_once
    hand.device.start()
    flight = hand.device.to_send()
    hand.send(flight[:-50])
    hand.pool.run()
    hand.send(flight[-50:])
    hand.pool.tell()
    assert hand.receive()
    hand.turn()
    assert [call[:2] for call in hand.binding.calls if call[0] == "early"] == [("early", b"ask" * 100)]
    assert "completed" in hand.binding.calls
    assert hand.plaintext() == b"early:" + b"ask" * 100


def test_bindings_know_that_what_they_write_in_a_step_leaves_with_its_answer():
    """Early data and what came with Finished; not what comes later."""
    told = []

    class Asking(EarlyEcho):
        def early_data_received(self, data, replayed):
            told.append(("early", hand.services.answers.gathering))
            super().early_data_received(data, replayed)

        def handshake_completed(self):
            told.append(("complete", hand.services.answers.gathering))
            self.connection.write(b"complete")

        def data_received(self, data):
            told.append(("data", hand.services.answers.gathering))

    device = client().engine("localhost", psk=PSK)
    device.early(b"ask")
    hand = Hand(Contexts(tickets=True), device=device)
    hand.connection._factories = {"mmtp/1": EarlyFactory(hand.journal, Asking)}
    hand.device.start()
    hand.turn()
    hand.turn()
    hand.say(b"later")
    assert told == [("early", True), ("complete", True), ("data", False)]
    assert hand.plaintext() == b"early:ask" + b"complete"
