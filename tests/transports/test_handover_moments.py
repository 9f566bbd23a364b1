"""A connection that is offered to another process at a bad moment: no byte is lost, and it stays where it cannot go."""

from __future__ import annotations

import pytest

from accessgw.model.identity import ConnectionInfo
from accessgw.transports.tls import TlsConnection
from tests.transports.handover_peers import MovableEcho
from tests.transports.tls_by_hand import Hand


class Listening(MovableEcho):
    """Keeps what it gets, and is asked what to do about it."""

    def __init__(self, connection, journal, heard=lambda binding: None):
        super().__init__(connection)
        self.received = b""
        self.heard = heard
        journal.bindings.append(self)

    def data_received(self, data):
        assert not self.left
        self.received += data
        self.heard(self)


def hand_of(heard=lambda binding: None):
    hand = Hand()
    hand.connection._factories = {"mmtp/1": lambda connection: Listening(connection, hand.journal, heard)}
    return hand


def taken_over(hand, released):
    """The connection of the process that has it now, on a socket of its own."""
    connection = hand.connection
    sock = connection._sock.dup()
    sock.setblocking(False)
    assert connection.surrender()
    info = ConnectionInfo(id=2, listener="test", transport="tls", peer="127.0.0.1", alpn="mmtp/1")
    adopted = TlsConnection(sock, info, hand.services, "", {}, hand.contexts)
    adopted.adopt(released.records, lambda made: Listening(made, hand.journal))
    return adopted


@pytest.mark.parametrize("taken", [False, True])
def test_a_binding_that_wants_to_read_on_takes_nothing_from_the_next_owner(taken):
    """What it waited for comes when it has left; the peer speaks before the other process has answered."""
    hand = hand_of().shake_hands()
    connection = hand.connection
    connection.pause()
    released = connection.release()
    connection.resume()
    hand.device.encrypt(b"for who has the keys")
    hand.peer.send(hand.device.to_send())
    hand.reactor.turn()
    if taken:
        taken_over(hand, released)
    else:
        connection.take_back(released)
    hand.reactor.turn()
    assert hand.journal.bindings[-1].received == b"for who has the keys"


@pytest.mark.parametrize("when", ["before", "while it is offered"])
def test_one_that_comes_back_paused_reads_when_its_binding_wants_to(when):
    hand = hand_of().shake_hands()
    connection = hand.connection
    if when == "before":
        connection.pause()
    released = connection.release()
    if when != "before":
        connection.pause()
    connection.take_back(released)
    hand.device.encrypt(b"not yet")
    hand.peer.send(hand.device.to_send())
    hand.reactor.turn()
    assert hand.binding.received == b""
    connection.resume()
    hand.reactor.turn()
    assert hand.binding.received == b"not yet"
    # and it can be paused again
    connection.pause()
    assert connection not in hand.reactor.readers


def test_in_the_last_step_of_its_hand_shake_it_stays():
    """Behind what its binding hears first more may wait, of which the layer of records knows nothing yet."""
    offers = []
    hand = hand_of(lambda binding: offers.append(binding.connection.release()))
    hand.device.start()
    hand.turn()
    hand.device.encrypt(b"first")
    hand.send()
    hand.device.encrypt(b"second")
    hand.send()
    hand.pool.all()
    assert offers[0] is None
    assert hand.binding.received == b"firstsecond"


def test_half_a_record_and_an_answer_that_is_due_go_along():
    hand = hand_of().shake_hands()
    hand.device.encrypt(b"whole")
    whole = hand.device.to_send()
    hand.send(whole[:9])
    hand.connection.write(b"said before")
    released = hand.connection.release()
    taken_over(hand, released)
    hand.send(whole[9:])
    hand.reactor.turn()
    assert hand.journal.bindings[-1].received == b"whole"
    hand.journal.bindings[-1].connection.write(b" and after")
    hand.receive()
    assert hand.plaintext() == b"said before and after"


@pytest.mark.parametrize("moment", ["hand-shake", "closing", "over"])
def test_one_that_is_not_there_yet_or_any_more_stays(moment):
    hand = hand_of()
    if moment == "hand-shake":
        hand.device.start()
        hand.turn()
    else:
        hand.shake_hands()
        hand.connection.close("internal")
        if moment == "over":
            hand.peer.close()
            hand.reactor.turn()
    assert hand.connection.release() is None
