"""Somebody on the way who makes less of a ClientHello: both ends notice, and what is left is refused or marked."""

from __future__ import annotations

import pytest
from OpenSSL import SSL

from protocols.errors import RemoteError
from protocols.tls.client_context import ClientContext, ClientOptions
from protocols.tls.key_schedule import traffic_keys
from protocols.tls.pyopenssl_engine import PyOpenSSLEngine as ClientEngine
from protocols.tls.record_protection import Sealer
from tests.protocols.tls.minimal_handshake import SUITE, MinimalClient, vector
from tests.protocols.tls.tls_links import PSK, client, early, issuer, localhost, server

OLD_TOO = {"alpn": ["mmtp/1", "http/1.1"], "alpn_below_1_3": frozenset({"http/1.1"}), "minimum": "1.2"}
DOWNGRADED = b"DOWNGRD\1"
"""The end of the server's random when it could have spoken TLS 1.3 (RFC 8446 section 4.1.3)."""
CHANGE_CIPHER_SPEC = b"\x14\3\3\0\1\1"


def hello_of_a_client_that_could_do_better():
    """A client for both versions, and its ClientHello with supported_versions made unknown on the way."""
    context = ClientContext(ClientOptions(issuer().pem, alpn=["http/1.1"], minimum="1.2"))
    device = context.engine("localhost")
    device.start()
    flight = device.to_send()
    versions = b"\x00\x2b\x00\x05\x04\x03\x04\x03\x03"
    assert flight.count(versions) == 1
    return device, flight.replace(versions, b"\xfa\xfa" + versions[2:])


def test_a_listener_of_both_versions_marks_what_a_client_did_not_ask_for():
    gateway = server(**OLD_TOO).engine()
    device, stripped = hello_of_a_client_that_could_do_better()
    gateway.feed(stripped)
    answer = gateway.to_send()
    assert answer[9:11] == b"\3\3"
    assert answer[35:43] == DOWNGRADED
    with pytest.raises(RemoteError, match=r"downgrade|fallback"):
        device.feed(answer)
    # the client's alert is all that the gateway hears
    with pytest.raises(RemoteError):
        gateway.feed(device.to_send())
    assert not gateway.handshaken


def test_a_listener_of_the_new_version_alone_refuses():
    gateway = server(**OLD_TOO | {"minimum": "1.3"}).engine()
    with pytest.raises(RemoteError) as refusal:
        gateway.feed(hello_of_a_client_that_could_do_better()[1])
    assert refusal.value.code == 70


def test_mmtp_does_not_go_down_with_it():
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.set_alpn_protos([b"mmtp/1"])
    device = ClientEngine(context, server=False)
    device.start()
    gateway = server(**OLD_TOO).engine()
    with pytest.raises(RemoteError, match=r"mmtp/1 over TLSv1\.2") as refusal:
        gateway.feed(device.to_send())
    assert refusal.value.code == 120


@pytest.mark.parametrize(("count", "good"), [(1, True), (32, True), (33, False)])
def test_a_flood_of_change_cipher_spec(count, good):
    """One may come, for boxes on the way (RFC 8446 appendix D.4)."""
    gateway, device = server().engine(detachable=True), MinimalClient()
    gateway.feed(device.start())
    finished = device.answer(gateway.to_send())
    if good:
        gateway.feed(CHANGE_CIPHER_SPEC * count + finished)
        assert gateway.handshaken
        assert gateway.detach() is not None
    else:
        with pytest.raises(RemoteError) as refusal:
            gateway.feed(CHANGE_CIPHER_SPEC * count + finished)
        assert refusal.value.code == 10


@pytest.mark.parametrize("size", [0, 16_000])
def test_early_data_that_nobody_reads_is_skipped_to_its_bound(size):
    """Under a key that is not known it cannot be opened; a peer that goes on with it is cut off."""
    gateway = server(find_psk=None).engine()
    device = MinimalClient(early=True)
    gateway.feed(device.start())
    record = b"\x17\3\3" + vector(2, bytes(size + 17))
    with pytest.raises(RemoteError) as refusal:
        for _ in range(20_000 if not size else 3):
            gateway.feed(record)
    assert refusal.value.code == 10


def test_a_second_hello_in_place_of_finished():
    gateway = server(certificates=[localhost()], find_psk={PSK.identity: PSK}.get).engine(detachable=True)
    gateway.feed(MinimalClient().start())
    with pytest.raises(RemoteError) as refusal:
        gateway.feed(MinimalClient().start())
    assert refusal.value.code == 10
    assert not gateway.handshaken


EARLY_ENDS = {
    "KeyUpdate": ([(22, b"\x18\0\0\1\0")], 10),
    "ClientHello": ([(22, b"\1\0\0\0")], 10),
    "close_notify": ([(21, b"\1\0")], 0),
    "a long EndOfEarlyData": ([(22, b"\5\0\0\1\0")], 47),
    "half of EndOfEarlyData, and data": ([(22, b"\5\0"), (23, b"late")], 10),
    "empty records": ([(23, b"")] * 33, 10),
}
"""Records behind the first one of early data, and the alert that they are worth."""


def early_flight(data):
    """A first flight with this early data in a record, and what seals the next."""
    lines = []
    device = client(key_log=lines.append).engine("localhost", psk=PSK)
    device.early(data)
    device.start()
    (line,) = (line for line in lines if line.startswith(b"CLIENT_EARLY_TRAFFIC_SECRET"))
    secret = bytes.fromhex(line.split()[2].decode())
    return device.to_send(), Sealer(SUITE.id, secret, *traffic_keys(SUITE, secret), 1)


@pytest.mark.parametrize(("contents", "alert"), EARLY_ENDS.values(), ids=EARLY_ENDS)
def test_what_may_not_come_in_early_data(contents, alert):
    """What came before is told, and the hand-shake ends."""
    flight, sealer = early_flight(b"call")
    gateway = server().engine(detachable=True)
    with pytest.raises(RemoteError) as refusal:
        gateway.feed(flight + b"".join(sealer.seal(kind, content) for kind, content in contents))
    assert refusal.value.code == alert
    assert early(gateway.events()) == b"call"
    assert not gateway.handshaken


def test_empty_records_among_early_data_hold_nothing_up():
    flight, sealer = early_flight(b"one ")
    gateway = server().engine(detachable=True)
    gateway.feed(flight + sealer.seal(23, b"") + sealer.seal(23, b"two") + sealer.seal(23, b""))
    assert early(gateway.events()) == b"one two"
