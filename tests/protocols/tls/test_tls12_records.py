"""Records that break TLS 1.2 after its hand-shake: refused by whichever OpenSSL has the connection, under the right name."""

from __future__ import annotations

import pytest

from protocols.errors import RemoteError
from protocols.tls.engine import PlaintextReceived
from tests.protocols.tls.tls12_peer import ALERT, DATA, HANDSHAKE, NO_RENEGOTIATION, OPTIONS, Tls12Peer, client_hello
from tests.protocols.tls.tls_links import server


class Pair:
    def __init__(self):
        self.engine = server(**OPTIONS).engine(detachable=True)
        self.peer = Tls12Peer(self.carry)
        assert self.engine.detach() is None
        self.engine.events()

    def carry(self, data):
        self.engine.feed(data)
        return self.engine.to_send()

    def said(self):
        return self.peer.opened(self.engine.to_send())


BAD = {
    "HelloRequest": (HANDSHAKE, b"\0\0\0\0", 0, 10),
    "Finished": (HANDSHAKE, b"\x14\0\0\x0c" + bytes(12), 0, 10),
    "KeyUpdate": (HANDSHAKE, b"\x18\0\0\1\1", 0, 10),
    "change_cipher_spec": (20, b"\1", 0, 10),
    "heartbeat": (24, b"\1\0\x10" + bytes(16), 0, 10),
    "no alert": (ALERT, b"", 0, 10),
    "no_renegotiation": (*NO_RENEGOTIATION, 0, 40),
    "warnings": (ALERT, b"\1\x5a", 4, 10),
    "empty data": (DATA, b"", 32, 10),
    "empty hand-shake": (HANDSHAKE, b"", 32, 10),
}
"""Type, content, how many of them are taken, and the alert that ends it."""


@pytest.mark.parametrize(("kind", "content", "taken", "alert"), BAD.values(), ids=BAD)
def test_refused_with_its_alert(kind, content, taken, alert):
    pair = Pair()
    for _ in range(taken):
        pair.engine.feed(pair.peer.record(kind, content))
        assert pair.engine.events() == []
    with pytest.raises(RemoteError) as refusal:
        pair.engine.feed(pair.peer.record(kind, content))
    assert pair.said() == [(ALERT, bytes((2, alert)))]
    assert refusal.value.code == alert


def test_a_wish_to_renegotiate_gets_a_warning_and_no_more():
    """RFC 5246 section 7.2.2. That it goes on is for the transport to end."""
    pair = Pair()
    pair.engine.feed(pair.peer.record(HANDSHAKE, client_hello()))
    assert pair.said() == [NO_RENEGOTIATION]
    pair.engine.feed(pair.peer.record(DATA, b"on"))
    assert pair.engine.events() == [PlaintextReceived(b"on")]
