"""The record layer against OpenSSL: a hand-shake of two OpenSSL connections, then one end goes on as a record layer."""

from __future__ import annotations

import contextlib
import os

import pytest
from OpenSSL import SSL

from protocols.errors import RemoteError
from protocols.tls.engine import CloseNotifyReceived, SessionTicketReceived
from protocols.tls.key_schedule import SUITES_BY_NAME
from protocols.tls.record_state import DetachedState
from protocols.tls.records import RecordLayer, RecordLimits
from tests.crypto.certificates import self_signed
from tests.protocols.tls.record_peers import BACKENDS, backend_or_skip, damaged, plaintext

SUITES = list(SUITES_BY_NAME)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("certificates"), "localhost")


@pytest.fixture(params=BACKENDS)
def backend(request):
    return backend_or_skip(request.param)


@pytest.fixture(params=SUITES)
def suite(request):
    return request.param


def take(connection):
    """What an OpenSSL connection wants to send."""
    try:
        return connection.bio_read(1 << 20)
    except SSL.WantReadError:
        return b""


def read(connection):
    """All application data that an OpenSSL connection has."""
    parts = []
    try:
        while True:
            parts.append(connection.recv(1 << 16))
    except SSL.WantReadError:
        return b"".join(parts)


def records(data):
    """How many records these bytes are."""
    count = at = 0
    while at < len(data):
        at += 5 + (data[at + 3] << 8 | data[at + 4])
        count += 1
    return count


def handshake(certificate, suite):
    """A client and a server after their hand-shake, the secrets of the client, and the tickets, which nobody has read."""
    server_context = SSL.Context(SSL.TLS_SERVER_METHOD)
    server_context.use_certificate_chain_file(certificate.chain)
    server_context.use_privatekey_file(certificate.key)
    client_context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    client_context.set_tls13_ciphersuites(suite.encode())
    secrets = {}

    def note(connection, line):
        label, _, secret = line.split()
        secrets[label.decode()] = bytes.fromhex(secret.decode())

    client_context.set_keylog_callback(note)
    client = SSL.Connection(client_context, None)
    client.set_connect_state()
    server = SSL.Connection(server_context, None)
    server.set_accept_state()
    for one, other in ((client, server), (server, client), (client, server)):
        with contextlib.suppress(SSL.WantReadError):
            one.do_handshake()
        other.bio_write(take(one))
    server.do_handshake()
    tickets = take(server)
    assert client.get_cipher_name() == server.get_cipher_name() == suite
    return client, server, secrets, tickets


def state_of(secrets, suite, is_server, **more):
    mine, theirs = (
        secrets[f"{name}_TRAFFIC_SECRET_0"] for name in (("SERVER", "CLIENT") if is_server else ("CLIENT", "SERVER"))
    )
    return DetachedState(
        SUITES_BY_NAME[suite].id, is_server, theirs, mine, exporter_secret=secrets["EXPORTER_SECRET"], **more
    )


def server_layer(certificate, suite, backend, limits=None):
    """A record layer that goes on as server, and OpenSSL as its client."""
    client, server, secrets, tickets = handshake(certificate, suite)
    layer = RecordLayer(
        state_of(secrets, suite, True, write_sequence=records(tickets)),
        limits=limits or RecordLimits(),
        backend=backend,
    )
    client.bio_write(tickets)
    return layer, client, server


def client_layer(certificate, suite, backend, limits=None):
    """A record layer that goes on as client, and OpenSSL as its server; the tickets are still to be read."""
    client, server, secrets, tickets = handshake(certificate, suite)
    layer = RecordLayer(
        state_of(secrets, suite, False, unread=tickets), limits=limits or RecordLimits(), backend=backend
    )
    return layer, server, client


@pytest.mark.parametrize("make", [server_layer, client_layer])
def test_data_both_ways_and_the_end(certificate, suite, backend, make):
    layer, peer, _ = make(certificate, suite, backend)
    layer.start()
    tickets = layer.events()
    assert [type(ticket) for ticket in tickets] == ([] if make is server_layer else [SessionTicketReceived] * 2)
    assert all(len(ticket.ticket) > 100 and len(ticket.nonce) == 8 for ticket in tickets)
    for size in (1, 100, 16384, 16385, 70_000):
        data = os.urandom(size)
        layer.encrypt(data)
        peer.bio_write(layer.to_send())
        assert read(peer) == data
        peer.sendall(data)
        layer.feed(take(peer))
        assert plaintext(layer.events()) == data
    layer.close()
    peer.bio_write(layer.to_send())
    with pytest.raises(SSL.ZeroReturnError):
        peer.recv(1)
    peer.shutdown()
    layer.feed(take(peer))
    assert layer.events() == [CloseNotifyReceived()]
    layer.feed_eof()


@pytest.mark.parametrize("make", [server_layer, client_layer])
def test_keys_are_updated_both_ways(certificate, suite, backend, make):
    """We update after 3 records, and ask OpenSSL for its own after 3 records of it."""
    layer, peer, _ = make(certificate, suite, backend, RecordLimits(rekey_after=3, records_per_key=9))
    for number in range(40):
        data = bytes([number]) * 10
        layer.encrypt(data)
        peer.bio_write(layer.to_send())
        assert read(peer) == data
        peer.send(data)
        layer.feed(take(peer))
        assert plaintext(layer.events()) == data


@pytest.mark.parametrize("make", [server_layer, client_layer])
def test_our_refusal_reaches_openssl(certificate, suite, backend, make):
    layer, peer, _ = make(certificate, suite, backend)
    peer.send(b"x")
    with pytest.raises(RemoteError) as refusal:
        layer.feed(damaged(take(peer)))
    assert refusal.value.code == 20
    peer.bio_write(layer.to_send())
    with pytest.raises(SSL.Error, match="bad record mac"):
        peer.recv(1)


@pytest.mark.parametrize("make", [server_layer, client_layer])
def test_the_refusal_of_openssl_reaches_us(certificate, suite, backend, make):
    layer, peer, _ = make(certificate, suite, backend)
    layer.encrypt(b"x")
    peer.bio_write(damaged(layer.to_send()))
    with pytest.raises(SSL.Error):
        peer.recv(1)
    with pytest.raises(RemoteError, match="alert 20") as refusal:
        layer.feed(take(peer))
    assert refusal.value.code == 20


@pytest.mark.parametrize("make", [server_layer, client_layer])
def test_keying_material_is_the_same(certificate, suite, backend, make):
    layer, peer, _ = make(certificate, suite, backend)
    for label, size, context in ((b"EXPORTER-Channel-Binding", 32, b""), (b"another", 100, b"context")):
        assert layer.export_keying_material(label, size, context) == peer.export_keying_material(label, size, context)


@pytest.mark.parametrize("other", BACKENDS)
def test_handed_over_in_the_middle(certificate, suite, backend, other):
    """With a record half read, and an answer unsent; from each twin to each."""
    layer, peer, _ = server_layer(certificate, suite, backend)
    peer.send(b"first")
    peer.send(b"second")
    sent = take(peer)
    layer.feed(sent[:40])
    assert plaintext(layer.events()) == b"first"
    layer.encrypt(b"unsent")
    layer = RecordLayer.import_state(layer.export_state(), backend=backend_or_skip(other))
    layer.start()
    layer.feed(sent[40:])
    assert plaintext(layer.events()) == b"second"
    layer.encrypt(b" and more")
    peer.bio_write(layer.to_send())
    assert read(peer) == b"unsent and more"
