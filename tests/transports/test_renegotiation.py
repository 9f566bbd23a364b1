"""A peer that wants to renegotiate over TLS 1.2, and does not give up when it is told that nobody does."""

from __future__ import annotations

import pytest

from protocols.tls.engines import NATIVE, PURE, WHY_NOT_NATIVE, server_context
from protocols.tls.server_context import ServerOptions
from tests.protocols.tls.tls12_peer import ALERT, DATA, HANDSHAKE, NO_RENEGOTIATION, OPTIONS, Tls12Peer, client_hello
from tests.protocols.tls.tls_links import localhost
from tests.transports.support import Echo
from tests.transports.tls_by_hand import Contexts, Hand


class Served(Contexts):
    def __init__(self, engine):
        super().__init__()
        self.served = server_context(ServerOptions([localhost()], **OPTIONS), engine)


class Old:
    """A Hand, and the peer of TLS 1.2 at its other end."""

    def __init__(self, engine):
        self.hand = Hand(Served(engine))
        self.hand.connection._factories = {"http/1.1": lambda connection: Echo(connection, self.hand.journal)}
        self.peer = Tls12Peer(self.carry)

    def carry(self, data):
        self.hand.send(data)
        self.hand.pool.all()
        return self.hand.peer.recv(1 << 16)


@pytest.mark.parametrize(
    "engine", [PURE, pytest.param(NATIVE, marks=pytest.mark.skipif(bool(WHY_NOT_NATIVE), reason=WHY_NOT_NATIVE))]
)
def test_the_connection_ends_and_says_why(engine):
    old = Old(engine)
    hand, peer = old.hand, old.peer
    hand.send(peer.record(DATA, b"before") + peer.record(HANDSHAKE, client_hello()) + peer.record(DATA, b"behind"))
    said = peer.opened(hand.peer.recv(1 << 16))
    assert NO_RENEGOTIATION in said
    assert said[-1] == (ALERT, b"\1\0")
    # what had come is heard, and nothing any more
    assert hand.binding.received.startswith(b"before")
    hand.send(peer.record(DATA, b"after"))
    assert b"after" not in hand.binding.received
    hand.peer.close()
    hand.reactor.turn()
    assert hand.ended == ("protocol_error", "alert 100 (no_renegotiation): TLS: the peer wants to renegotiate")
