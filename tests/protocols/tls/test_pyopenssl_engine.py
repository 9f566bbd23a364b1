"""The engine against itself: hand-shakes cut anywhere, ends in order and not, hostile bytes."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from accessgw.crypto.contexts import ServerContexts
from protocols.errors import LocalError, RemoteError
from protocols.tls.engine import CloseNotifyReceived, HandshakeCompleted, PlaintextReceived
from protocols.tls.pyopenssl_engine import PyOpenSSLEngine
from tests.crypto.certificates import self_signed


@pytest.fixture(scope="module")
def server_context(tmp_path_factory):
    certificate = self_signed(tmp_path_factory.mktemp("certificates"), "localhost")
    return ServerContexts([certificate], ["mmtp/1", "http/1.1"]).context()


def client_context(alpn=(b"mmtp/1",), highest=None):
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if alpn:
        context.set_alpn_protos(list(alpn))
    if highest is not None:
        context.set_max_proto_version(highest)
    return context


def pair(server_context, **client):
    return (
        PyOpenSSLEngine(client_context(**client), server=False, server_name="localhost"),
        PyOpenSSLEngine(server_context, server=True),
    )


def exchange(client, server, step=1 << 20):
    """Carry bytes both ways, `step` at a time, until both are silent."""
    while True:
        moved = False
        for source, target in ((client, server), (server, client)):
            data = source.to_send()
            for at in range(0, len(data), step):
                target.feed(data[at : at + step])
            moved = moved or bool(data)
        if not moved:
            return


def plaintext(events):
    return b"".join(event.data for event in events if isinstance(event, PlaintextReceived))


def test_records_that_come_together_are_one_event(server_context):
    client, server = pair(server_context)
    client.start()
    server.start()
    exchange(client, server)
    server.events()
    for part in (b"one", b"two", b"x" * 40_000):
        client.encrypt(part)
    client.close()
    server.feed(client.to_send())
    assert server.events() == [PlaintextReceived(b"onetwo" + b"x" * 40_000), CloseNotifyReceived()]


def test_much_is_encrypted_in_one_go(server_context):
    client, server = pair(server_context)
    client.start()
    exchange(client, server)
    server.events()
    client.encrypt(bytes(20 << 20))
    server.feed(client.to_send())
    assert len(plaintext(server.events())) == 20 << 20


def test_what_came_before_a_damaged_record_is_still_told(server_context):
    client, server = pair(server_context)
    client.start()
    server.start()
    exchange(client, server)
    server.events()
    client.encrypt(b"good")
    good = client.to_send()
    client.encrypt(b"damaged")
    damaged = bytearray(client.to_send())
    damaged[-1] ^= 1
    with pytest.raises(RemoteError):
        server.feed(good + damaged)
    assert server.events() == [PlaintextReceived(b"good")]


@pytest.mark.parametrize("highest", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_a_handshake_one_byte_at_a_time(server_context, highest):
    client, server = pair(server_context, alpn=(b"http/1.1",), highest=highest)
    client.start()
    server.start()
    exchange(client, server, step=1)
    assert client.handshaken and server.handshaken
    (completed,) = server.events()
    version = "TLSv1.3" if highest == SSL.TLS1_3_VERSION else "TLSv1.2"
    assert isinstance(completed, HandshakeCompleted)
    assert (completed.alpn, completed.version, completed.server_name) == ("http/1.1", version, "localhost")
    assert completed.cipher
    client.encrypt(b"from the client")
    server.encrypt(b"from the server")
    exchange(client, server, step=1)
    assert plaintext(server.events()) == b"from the client"
    assert plaintext(client.events()) == b"from the server"


def test_a_handshake_in_two_pieces_cut_all_over(server_context):
    """The client's flights are cut in two, further on in each hand-shake."""
    longest = cut = 1
    while cut <= longest:
        client, server = pair(server_context)
        client.start()
        while not (client.handshaken and server.handshaken):
            flight = client.to_send()
            longest = max(longest, len(flight))
            server.feed(flight[:cut])
            server.feed(flight[cut:])
            client.feed(server.to_send())
        exchange(client, server)
        assert isinstance(server.events()[0], HandshakeCompleted)
        # One by one it would be 1,500 hand-shakes; the test before this has met every boundary.
        cut += 7
    assert longest > 200


def test_data_with_the_last_flight_of_the_handshake(server_context):
    client, server = pair(server_context)
    client.start()
    server.feed(client.to_send())
    client.feed(server.to_send())
    assert client.handshaken and not server.handshaken
    client.encrypt(b"at once")
    server.feed(client.to_send())
    events = server.events()
    assert isinstance(events[0], HandshakeCompleted)
    assert plaintext(events[1:]) == b"at once"


@pytest.mark.parametrize("size", [0, 1, 16384, 16385, 65536, 65537, 1_000_000])
def test_large_plaintext(server_context, size):
    client, server = pair(server_context)
    client.start()
    exchange(client, server)
    server.events()
    data = os.urandom(size)
    client.encrypt(data)
    exchange(client, server)
    assert plaintext(server.events()) == data


def test_no_common_alpn_is_refused_with_its_alert(server_context):
    client, server = pair(server_context, alpn=(b"h2", b"imap"))
    client.start()
    with pytest.raises(RemoteError, match="h2, imap") as refusal:
        server.feed(client.to_send())
    assert refusal.value.code == 120
    with pytest.raises(RemoteError, match="no application protocol"):
        client.feed(server.to_send())


def test_mmtp_needs_tls_1_3(server_context):
    client, server = pair(server_context, alpn=(b"mmtp/1",), highest=SSL.TLS1_2_VERSION)
    client.start()
    with pytest.raises(RemoteError) as refusal:
        server.feed(client.to_send())
    assert refusal.value.code == 120


def test_tls_1_2_is_refused_where_only_mmtp_is_spoken(tmp_path):
    context = ServerContexts([self_signed(tmp_path, "localhost")], ["mmtp/1"]).context()
    client, server = pair(context, highest=SSL.TLS1_2_VERSION)
    client.start()
    with pytest.raises(RemoteError) as refusal:
        server.feed(client.to_send())
    assert refusal.value.code == 70


def test_a_client_without_alpn_gets_through(server_context):
    client, server = pair(server_context, alpn=())
    client.start()
    exchange(client, server)
    (completed,) = server.events()
    assert completed.alpn == ""


def test_close_notify_and_then_the_end(server_context):
    client, server = pair(server_context)
    client.start()
    exchange(client, server)
    server.events()
    client.encrypt(b"last words")
    client.close()
    client.close()
    server.feed(client.to_send())
    events = server.events()
    assert plaintext(events) == b"last words"
    assert isinstance(events[-1], CloseNotifyReceived)
    server.feed_eof()
    with pytest.raises(LocalError):
        client.encrypt(b"too late")
    # The other direction is still open: what was on its way may be finished.
    server.encrypt(b"answer")
    assert server.to_send()


def test_the_end_without_close_notify_is_an_error(server_context):
    client, server = pair(server_context)
    client.start()
    exchange(client, server)
    with pytest.raises(RemoteError, match="without close_notify"):
        server.feed_eof()
    with pytest.raises(RemoteError):
        server.feed(b"more")


def test_no_application_data_before_the_handshake(server_context):
    client, server = pair(server_context)
    for engine in (client, server):
        with pytest.raises(LocalError):
            engine.encrypt(b"too early")
        engine.close()
        assert engine.to_send() == b""


def test_a_damaged_record_is_an_error_for_ever(server_context):
    client, server = pair(server_context)
    client.start()
    exchange(client, server)
    client.encrypt(b"hello")
    record = bytearray(client.to_send())
    record[-1] ^= 1
    for _ in range(2):
        with pytest.raises(RemoteError) as refusal:
            server.feed(bytes(record))
        assert refusal.value.code == 20
    assert server.to_send()  # the alert, encrypted
    with pytest.raises(LocalError):
        server.encrypt(b"no")
    server.close()


@pytest.mark.parametrize(
    ("first", "code"), [(b"GET / HTTP/1.1\r\n\r\n", None), (b"\x80\x01\x02\x03\x04\x05", None), (b"\x00" * 64, None)]
)
def test_other_protocols_raise_remote_error(server_context, first, code):
    server = PyOpenSSLEngine(server_context, server=True)
    with pytest.raises(RemoteError, match="hand-shake"):
        server.feed(first)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_hostile_bytes_raise_only_remote_error(server_context, data):
    """A good first flight with bytes changed, or noise, in one piece or two."""
    client, server = pair(server_context)
    client.start()
    flight = bytearray(client.to_send())
    if data.draw(st.booleans(), label="noise"):
        flight = bytearray(data.draw(st.binary(max_size=600)))
    else:
        for at, value in data.draw(
            st.lists(st.tuples(st.integers(0, len(flight) - 1), st.integers(0, 255)), min_size=1, max_size=6)
        ):
            flight[at] = value
    cut = data.draw(st.integers(0, len(flight)))
    for part in (flight[:cut], flight[cut:]):
        try:
            server.feed(bytes(part))
            server.events()
        except RemoteError as error:
            assert 0 <= error.code <= 255
        server.to_send()
    try:
        server.feed_eof()
    except RemoteError:
        pass
    else:
        raise AssertionError("an end without close_notify went unnoticed")


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=200), st.integers(0, 400))
def test_hostile_bytes_after_the_handshake(server_context, noise, at):
    client, server = pair(server_context)
    client.start()
    exchange(client, server)
    server.events()
    client.encrypt(bytes(300))
    record = bytearray(client.to_send())
    at %= len(record)
    record[at : at + len(noise)] = noise
    try:
        server.feed(bytes(record))
    except RemoteError as error:
        assert 0 <= error.code <= 255
    server.events()
    server.to_send()


def test_the_server_context_releases_buffers_and_never_renegotiates(tmp_path):
    context = ServerContexts([self_signed(tmp_path, "localhost")], ["mmtp/1"]).context()
    assert context.set_mode(0) & SSL.MODE_RELEASE_BUFFERS
    assert context.set_options(0) & SSL.OP_NO_RENEGOTIATION


def test_a_client_that_wants_to_renegotiate_is_refused(server_context):
    client, server = pair(server_context, alpn=(b"http/1.1",), highest=SSL.TLS1_2_VERSION)
    client.start()
    exchange(client, server)
    server.events()
    assert client._connection.renegotiate()
    # OpenSSL begins it with the next write, which has to wait for its end.
    with pytest.raises(LocalError):
        client.encrypt(b"now")
    with pytest.raises(RemoteError):
        exchange(client, server)
