"""Connections whose hand-shake or records failed: freed at once, and not by the cyclic garbage collector some time."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest
from OpenSSL import SSL

from accessgw.transports import tls
from accessgw.transports.tls import TlsConnection
from accessgw.transports.tls_handshake import TlsHandshake
from protocols.tls.engines import NATIVE, PURE, WHY_NOT_NATIVE, server_context
from protocols.tls.handshake_notes import HandshakeNotes
from protocols.tls.pyopenssl_engine import PyOpenSSLEngine
from protocols.tls.records import RecordLayer
from protocols.tls.server_context import ClientVerification, ServerOptions
from tests.protocols.tls.tls_links import PSK, client, issuer, keys, localhost
from tests.transports.tls_by_hand import Contexts, Hand

WATCHED = (TlsConnection, TlsHandshake, PyOpenSSLEngine, HandshakeNotes, RecordLayer, SSL.Connection)
NATIVE_WATCHED: tuple[type, ...] = ()
if not WHY_NOT_NATIVE:
    from protocols._native import tls_engine
    from protocols.tls.native_engine import NativeEngine

    NATIVE_WATCHED = (NativeEngine, tls_engine.Connection)


CREW = "crew"
"""The native engine, its hand-shakes on a crew."""


class Served(Contexts):
    def __init__(self, engine, detachable=True, **options):
        super().__init__()
        self.offloaded = engine == CREW
        engine = NATIVE if engine == CREW else engine
        options = {"certificates": [localhost()], "alpn": ["mmtp/1"], "max_early_data": 16384, **options}
        self.served = server_context(ServerOptions(**options), engine)
        self.detachable = detachable

    def engine(self):
        self.made += 1
        return self.served.engine(detachable=self.detachable)


def fails(identity):
    raise KeyError("the store is closed")


def no_engine(self):
    raise OSError("no certificate")


def garbage(engine):
    hand = Hand(Served(engine))
    hand.send(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00")
    hand.pool.all()
    return hand


def other_protocol(engine):
    return begun(Hand(Served(engine), device=client(alpn=["h2"]).engine("localhost")))


def no_certificate(engine):
    return begun(Hand(Served(engine, clients=ClientVerification("require", issuer().pem), tickets=False)))


def failing_look_up(engine):
    device = client().engine("localhost", psk=PSK)
    device.early(b"early")
    return begun(Hand(Served(engine, find_psk=fails), device=device))


def defect(engine):
    contexts = Served(engine)
    contexts.engine = no_engine.__get__(contexts)
    return begun(Hand(contexts))


def cut_off(engine):
    hand = begun(Hand(Served(engine)), 1)
    hand.peer.close()
    hand.reactor.turn()
    return hand


def lost_with_a_step_that_fails(engine):
    hand = Hand(Served(engine))
    hand.send(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00")
    hand.pool.run()
    hand.connection.abort("lost")
    hand.pool.tell()
    return hand


def noise_in_records(engine, detachable=True):
    hand = Hand(Served(engine, detachable, find_psk=keys(PSK)))
    hand.shake_hands()
    hand.send(b"\x17\x03\x03\x00\x20" + bytes(32))
    return hand


def noise_in_records_of_openssl(engine):
    return noise_in_records(engine, False)


def begun(hand, flights=3):
    hand.device.start()
    for _ in range(flights):
        hand.send()
        hand.pool.all()
        try:
            hand.receive()
        except Exception:  # its alert
            break
    return hand


def alive():
    kinds = [type(one) for one in gc.get_objects()]
    return {kind.__name__: kinds.count(kind) for kind in (*WATCHED, *NATIVE_WATCHED)}


@pytest.mark.parametrize("engine", [PURE, NATIVE, CREW])
@pytest.mark.parametrize(
    "case",
    [
        garbage, other_protocol, no_certificate, failing_look_up, defect, cut_off, lost_with_a_step_that_fails,
        noise_in_records, noise_in_records_of_openssl,
    ],
)  # fmt: skip
def test_nothing_is_left_for_the_garbage_collector(case, engine, monkeypatch):
    if engine != PURE and WHY_NOT_NATIVE:
        pytest.skip(f"no native engine here: {WHY_NOT_NATIVE}")
    # Where logging has not begun Twisted keeps what is logged.
    monkeypatch.setattr(tls, "_log", SimpleNamespace(failure=lambda *args, **more: None))
    gc.collect()
    gc.disable()
    try:
        before = alive()
        hand = case(engine)
        connection = hand.connection
        hand.peer.close()
        hand.reactor.turn()
        connection.abort("done")
        assert hand.ended is not None
        assert hand.pool.unfinished == 0
        hand.device = hand.connection = None
        hand.journal.bindings.clear()
        del connection
        after = alive()
    finally:
        gc.enable()
    # threads of earlier tests may have freed something of theirs
    assert {kind: count for kind, count in after.items() if count > before[kind]} == {}
