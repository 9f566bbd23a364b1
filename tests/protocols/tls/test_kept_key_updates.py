"""KeyUpdates on a connection whose records stay with OpenSSL, as those of the profile sm do: bounded as elsewhere."""

from __future__ import annotations

import dataclasses
from unittest.mock import patch

import pytest

from protocols.errors import RemoteError
from protocols.tls import binding
from protocols.tls.engine import PlaintextReceived
from protocols.tls.key_schedule import SUITES, next_secret, traffic_keys
from protocols.tls.pyopenssl_engine import MAX_KEY_UPDATES
from protocols.tls.record_protection import Sealer
from protocols.tls.server_context import ServerContext, ServerOptions
from tests.protocols.tls import minimal_handshake
from tests.protocols.tls.tls_links import localhost

SUITE = SUITES[0x1301]
HANDSHAKE, DATA = 22, 23


class Peer:
    """Has shaken hands with an engine that counts, over a suite that can be written here."""

    def __init__(self):
        context = ServerContext(ServerOptions([localhost()], alpn=["mmtp/1"]))
        traits = dataclasses.replace(context.context.get_app_data(), counts_updates=True)
        binding.answer_callbacks(context.context, traits, server=True)
        self.engine = context.engine()
        client, secrets = minimal_handshake.MinimalClient(), []
        make = minimal_handshake.sealer
        self.engine.feed(client.start())
        with patch.object(minimal_handshake, "sealer", lambda secret: secrets.append(secret) or make(secret)):
            finished = client.answer(self.engine.to_send())
        self.engine.feed(finished)
        assert self.engine.handshaken
        self.engine.events()
        self._use(secrets[0])  # the one of application data; then comes that of Finished

    def _use(self, secret):
        self._secret = secret
        self._sealer = Sealer(SUITE.id, secret, *traffic_keys(SUITE, secret), 0)

    def data(self, content=b"x"):
        return self._sealer.seal(DATA, content)

    def update(self, asks):
        record = self._sealer.seal(HANDSHAKE, b"\x18\0\0\1" + bytes([asks]))
        self._use(next_secret(SUITE, self._secret))
        return record


@pytest.mark.parametrize("asks", [0, 1])
def test_a_flood_ends_the_connection(asks):
    peer = Peer()
    peer.engine.feed(b"".join(peer.update(asks) for _ in range(MAX_KEY_UPDATES)))
    assert peer.engine.events() == []
    with pytest.raises(RemoteError, match="at most 32 KeyUpdates") as refusal:
        peer.engine.feed(peer.update(asks))
    assert refusal.value.code == 10


def test_it_ends_before_much_of_it_was_worked_through():
    peer = Peer()
    flood = b"".join(peer.update(1) for _ in range(2000))
    with patch.object(binding, "give", wraps=binding.give) as given, pytest.raises(RemoteError):
        peer.engine.feed(flood)
    assert sum(len(call.args[1]) for call in given.call_args_list) <= 4096


def test_data_pays_for_updates():
    peer = Peer()
    for number in range(3 * MAX_KEY_UPDATES):
        peer.engine.feed(peer.update(number % 2) + peer.data())
        assert peer.engine.events() == [PlaintextReceived(b"x")]


def test_much_data_comes_whole():
    peer = Peer()
    sent = [bytes([number]) * 9_000 for number in range(8)]
    peer.engine.feed(b"".join(map(peer.data, sent)))
    heard = [event.data for event in peer.engine.events()]
    assert b"".join(heard) == b"".join(sent)
