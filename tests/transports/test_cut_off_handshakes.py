"""Peers that go away at every byte of their hand-shake: nothing of them is left, in Python, in OpenSSL or in a counter."""

from __future__ import annotations

import gc
import socket

import pytest
from OpenSSL import SSL

from accessgw.transports.stream import RESET_ON_CLOSE
from protocols.errors import RemoteError
from protocols.tls.engines import NATIVE, PURE, WHY_NOT_NATIVE, server_context
from protocols.tls.server_context import ClientVerification, ServerOptions
from tests.protocols.tls.tls_links import PSK, client, issuer, keys, localhost
from tests.transports.support import Echo
from tests.transports.tls_by_hand import Contexts, EarlyFactory, Hand

if not WHY_NOT_NATIVE:
    from protocols._native import tls_engine

WHOLE = 1 << 20
MINE = issuer().issue("phone-1")


def early_device():
    device = client().engine("localhost", psk=PSK)
    device.early(b"ask")
    return device


KINDS = {
    "full": ({}, lambda: client().engine("localhost")),
    "asked again": ({"groups": ["P-256"]}, lambda: client().engine("localhost")),
    "early": ({}, early_device),
    "with a certificate": (
        {"clients": ClientVerification("require", issuer().pem), "tickets": False},
        lambda: client(chain=MINE.chain, key=MINE.key).engine("localhost"),
    ),
}


class Served(Contexts):
    def __init__(self, served):
        super().__init__()
        self.served = served


def kept():
    """Connections that OpenSSL has."""
    return len(SSL.Connection._reverse_mapping), *(() if WHY_NOT_NATIVE else tls_engine.counts())


def begin(served, make, upto):
    """A hand-shake of which the first `upto` bytes of the peer arrive; how many it has sent, and it."""
    hand = Hand(Served(served), device=make())
    echo = EarlyFactory(hand.journal) if hand.device._early else lambda connection: Echo(connection, hand.journal)
    hand.connection._factories = {"mmtp/1": echo}
    hand.device.start()
    sent = 0
    for _ in range(4):
        data = hand.device.to_send()[: upto - sent]
        sent += len(data)
        hand.send(data)
        if sent == upto:
            break
        hand.pool.all()
        try:
            hand.receive()
        except RemoteError:
            break
    return sent, hand


def leave(hand, number):
    """In one of several ways, at one of several moments."""
    if number % 3 == 0:
        hand.pool.all()
    elif number % 3 == 1 and hand.pool.steps:
        hand.pool.run()  # and is not told yet
    if number % 4 == 0:
        hand.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    if number % 4 == 1:
        hand.peer.shutdown(socket.SHUT_WR)
    else:
        hand.peer.close()
    hand.reactor.turn()
    hand.pool.all()
    hand.peer.close()
    hand.reactor.turn()
    hand.pool.all()


@pytest.mark.parametrize(
    "engine", [PURE, pytest.param(NATIVE, marks=pytest.mark.skipif(bool(WHY_NOT_NATIVE), reason=WHY_NOT_NATIVE))]
)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left(kind, engine):
    options, make = KINDS[kind]
    settings = {"certificates": [localhost()], "alpn": ["mmtp/1"], "find_psk": keys(PSK), "max_early_data": 16384}
    served = server_context(ServerOptions(**settings | options), engine)
    total, hand = begin(served, make, WHOLE)
    assert hand.journal.bindings
    leave(hand, 0)
    del hand  # with the peer's engine
    gc.collect()
    before = kept()
    for number, upto in enumerate(range(0, total + 1, 1 + total // 300)):
        _, hand = begin(served, make, upto)
        leave(hand, number)
        assert hand.ended is not None, upto
        services = hand.services
        left = hand.pool.unfinished, services.counters.open, len(services.table), len(hand.pool.steps)
        assert left == (0, 0, 0, 0), upto
        assert not hand.reactor.readers | hand.reactor.writers
    del hand, services
    gc.collect()
    # threads of earlier tests may have freed something of theirs
    assert all(now <= then for now, then in zip(kept(), before, strict=True))
