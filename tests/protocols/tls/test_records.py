"""The record layer: both twins, the vectors of RFC 8448, the rules of RFC 8446 sections 4.6, 5 and 6, hostile bytes."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.tls.engine import CloseNotifyReceived, PlaintextReceived, SessionTicketReceived
from protocols.tls.key_schedule import SUITES, SUITES_BY_NAME
from protocols.tls.record_backends import get_backend
from protocols.tls.record_protection import MAX_AWAKE, MAX_EMPTY_RECORDS
from protocols.tls.record_state import DetachedState
from protocols.tls.records import RecordLayer, RecordLimits
from tests.protocols.tls.record_peers import BACKENDS, Hand, backend_or_skip, backends_here, damaged, pair, plaintext

ALERT, HANDSHAKE, DATA = 21, 22, 23
SUITE_IDS = list(SUITES)
UPDATE = b"\x18\0\0\x01\0"
UPDATE_PLEASE = b"\x18\0\0\x01\x01"

# RFC 8448 section 3: the same 50 bytes from either side, and the alerts after them.
SERVER_SECRET = bytes.fromhex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643")
CLIENT_SECRET = bytes.fromhex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5")
PAYLOAD = bytes(range(50))
TICKET_RECORD = bytes.fromhex(
    "17030300de3a6b8f90414a97d6959c3487680de5134a2b240e6cffac116e95d41d6af8f6b580dcf3d11d63c758db289a"
    "015940252f55713e061dc13e078891a38efbcf5753ad8ef170ad3c7353d16d9da773b9ca7f2b9fa1b6c0d4a3d03f75e0"
    "9c30ba1e62972ac46f75f7b981be63439b2999ce13064615139891d5e4c5b406f16e3fc181a77ca475840025db2f0a77"
    "f81b5ab05b94c01346755f69232c86519d86cbeeac87aac347d143f9605d64f650db4d023e70e952ca49fe5137121c74"
    "bc2697687e248746d6df353005f3bce18696129c8153556b3b6c6779b37bf15985684f"
)
TICKET = bytes.fromhex(
    "2c035d829359ee5ff7af4ec900000000262a6494dc486d2c8a34cb33fa90bf"
    "1b0070ad3c498883c9367c09a2be785abc55cd226097a3a982117283f82a03a143efd3ff5dd36d64e861be7fd61d2827"
    "db279cce145077d454a3664d4e6da4d29ee03725a6a4dafcd0fc67d2aea70529513e3da2677fa5906c5b3f7d8f92f228"
    "bda40dda721470f9fbf297b5aea617646fac5c03272e970727c621a79141ef5f7de6505e5bfbc388e93343694093934a"
    "e4d357"
)
CLIENT_RECORD = bytes.fromhex(
    "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b"
    "62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4"
)
SERVER_RECORD = bytes.fromhex(
    "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb501a59a8"
    "fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d"
)
CLIENT_CLOSE = bytes.fromhex("1703030013c9872760655666b74d7ff1153efd6db6d0b0e3")
SERVER_CLOSE = bytes.fromhex("1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9")


@pytest.fixture(params=BACKENDS)
def backend(request):
    return backend_or_skip(request.param)


def ticket_message(ticket=b"T" * 40, lifetime=7200, nonce=b"\1", extensions=b""):
    body = lifetime.to_bytes(4, "big") + b"\0\0\0\7" + bytes([len(nonce)]) + nonce
    body += len(ticket).to_bytes(2, "big") + ticket + len(extensions).to_bytes(2, "big") + extensions
    return b"\x04" + len(body).to_bytes(3, "big") + body


def refused(layer, data, code, words=None):
    """The layer refuses these bytes, tells the peer why, and stays refused."""
    with pytest.raises(RemoteError, match=words) as refusal:
        layer.feed(data)
    assert refusal.value.code == code
    with pytest.raises(RemoteError, match=words) as again:
        layer.feed(b"more")
    assert again.value.code == code
    with pytest.raises(RemoteError):
        layer.feed_eof()
    with pytest.raises(LocalError):
        layer.encrypt(b"no")
    layer.close()


# ---------------------------------------------------------------------- RFC 8448


def test_the_server_of_rfc_8448(backend):
    """Its ticket was record 0 of the server."""
    layer = RecordLayer(DetachedState(0x1301, True, CLIENT_SECRET, SERVER_SECRET, write_sequence=1), backend=backend)
    layer.feed(CLIENT_RECORD)
    assert layer.events() == [PlaintextReceived(PAYLOAD)]
    layer.encrypt(PAYLOAD)
    assert layer.to_send() == SERVER_RECORD
    layer.feed(CLIENT_CLOSE)
    assert layer.events() == [CloseNotifyReceived()]
    layer.close()
    assert layer.to_send() == SERVER_CLOSE


def test_the_client_of_rfc_8448(backend):
    layer = RecordLayer(DetachedState(0x1301, False, SERVER_SECRET, CLIENT_SECRET), backend=backend)
    layer.feed(TICKET_RECORD)
    (ticket,) = layer.events()
    assert ticket == SessionTicketReceived(TICKET[-178:], b"\0\0", 30, 0xFAD6AAC5, 1024)
    layer.encrypt(PAYLOAD)
    assert layer.to_send() == CLIENT_RECORD
    layer.feed(SERVER_RECORD)
    assert layer.events() == [PlaintextReceived(PAYLOAD)]
    layer.close()
    assert layer.to_send() == CLIENT_CLOSE
    layer.feed(SERVER_CLOSE)
    assert layer.events() == [CloseNotifyReceived()]


# ---------------------------------------------------------------------- data


@pytest.mark.parametrize("suite", SUITE_IDS, ids=SUITES_BY_NAME)
@pytest.mark.parametrize("size", [1, 2, 16383, 16384, 16385, 32768, 100_001])
def test_plaintext_of_any_size(backend, suite, size):
    server, client = pair(backend, suite)
    data = os.urandom(size)
    client.encrypt(data)
    sent = client.to_send()
    assert len(sent) == size + 22 * ((size + 16383) // 16384)
    server.feed(sent)
    assert server.events() == [PlaintextReceived(data)]
    server.encrypt(data)
    client.feed(server.to_send())
    assert client.events() == [PlaintextReceived(data)]


def test_nothing_to_encrypt_is_no_record(backend):
    server, _ = pair(backend)
    server.encrypt(b"")
    server.start()
    assert server.to_send() == b""
    assert server.events() == []


def test_records_that_come_together_are_one_event(backend):
    server, client = pair(backend)
    for part in (b"one", b"two", b"x" * 40_000):
        client.encrypt(part)
    client.close()
    server.feed(client.to_send())
    assert server.events() == [PlaintextReceived(b"onetwo" + b"x" * 40_000), CloseNotifyReceived()]


def test_plaintext_around_a_key_update_is_one_event(backend):
    hand = Hand(backend)
    data = hand.record(DATA, b"old ")
    data += hand.record(HANDSHAKE, UPDATE)
    hand.rekey()
    hand.layer.feed(data + hand.record(DATA, b"new"))
    assert hand.layer.events() == [PlaintextReceived(b"old new")]


def test_padding_is_taken_away(backend):
    hand = Hand(backend)
    hand.layer.feed(hand.record(DATA, b"a\0b\0", padding=100) + hand.record(DATA, b"c", padding=16383))
    assert hand.layer.events() == [PlaintextReceived(b"a\0b\0c")]


def test_every_split_of_the_bytes(backend):
    """Two pieces, everywhere; each with records of both kinds."""
    hand = Hand(backend, is_server=False)
    data = hand.record(DATA, b"before") + hand.record(HANDSHAKE, ticket_message())
    data += hand.record(HANDSHAKE, UPDATE)
    hand.rekey()
    data += hand.record(DATA, b"after") + hand.record(ALERT, b"\1\0")
    state = hand.layer.export_state()
    for cut in range(len(data) + 1):
        layer = RecordLayer.import_state(state, backend=backend)
        layer.feed(data[:cut])
        layer.feed(data[cut:])
        events = layer.events()
        assert plaintext(events) == b"beforeafter"
        assert sum(isinstance(event, SessionTicketReceived) for event in events) == 1
        assert events[-1] == CloseNotifyReceived()


def test_one_byte_at_a_time(backend):
    server, client = pair(backend)
    for part in (b"one", b"two" * 7000):
        client.encrypt(part)
    client.close()
    for byte in client.to_send():
        server.feed(bytes([byte]))
    events = server.events()
    assert plaintext(events) == b"one" + b"two" * 7000
    assert events[-1] == CloseNotifyReceived()


def test_a_record_that_comes_in_pieces_is_kept_in_one_place(backend):
    """Were it joined anew with every piece, the work would grow with the square of its size."""
    server, client = pair(backend)
    client.encrypt(b"x" * 16384)
    record = client.to_send()
    server.feed(record[:7])
    kept = server._unread
    for byte in record[7:-1]:
        server.feed(bytes([byte]))
        assert server._unread is kept
    server.feed(record[-1:])
    assert plaintext(server.events()) == b"x" * 16384
    assert not server._unread


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.binary(max_size=40_000), max_size=6),
    cuts=st.lists(st.integers(0, 100_000), max_size=8),
    suite=st.sampled_from(SUITE_IDS),
    name=st.sampled_from(backends_here()),
)
def test_round_trip(parts, cuts, suite, name):
    server, client = pair(get_backend(name), suite)
    for part in parts:
        client.encrypt(part)
    data, at = client.to_send(), 0
    for cut in sorted(cuts):
        server.feed(data[at:cut])
        at = max(at, cut)
    server.feed(data[at:])
    assert plaintext(server.events()) == b"".join(parts)


# ---------------------------------------------------------------------- the end


def test_close_notify_is_for_one_direction(backend):
    server, client = pair(backend)
    client.encrypt(b"last words")
    client.close()
    client.close()
    sent = client.to_send()
    server.feed(sent + b"what follows is not read")
    assert server.events() == [PlaintextReceived(b"last words"), CloseNotifyReceived()]
    server.feed(b"nor this")
    server.feed_eof()
    with pytest.raises(LocalError, match="after the end"):
        client.encrypt(b"too late")
    server.encrypt(b"answer")
    server.close()
    client.feed(server.to_send())
    assert client.events() == [PlaintextReceived(b"answer"), CloseNotifyReceived()]
    client.feed_eof()


def test_the_end_without_close_notify_is_an_error(backend):
    server, _ = pair(backend)
    with pytest.raises(RemoteError, match="without close_notify"):
        server.feed_eof()
    with pytest.raises(RemoteError, match="without close_notify"):
        server.feed(b"more")
    assert server.to_send() == b""


@pytest.mark.parametrize("level", [1, 2])
def test_an_alert_of_the_peer_ends_the_connection(backend, level):
    hand = Hand(backend)
    hand.layer.encrypt(b"nobody will hear this")
    with pytest.raises(RemoteError, match="alert 48") as refusal:
        hand.layer.feed(hand.record(DATA, b"good") + hand.record(ALERT, bytes([level, 48])))
    assert refusal.value.code == 48
    assert hand.layer.events() == [PlaintextReceived(b"good")]
    assert hand.layer.to_send() == b""


def test_user_canceled_is_only_a_notice(backend):
    hand = Hand(backend)
    hand.layer.feed(hand.record(ALERT, b"\1\x5a") + hand.record(DATA, b"on") + hand.record(ALERT, b"\1\0"))
    assert hand.layer.events() == [PlaintextReceived(b"on"), CloseNotifyReceived()]


def test_our_alert_comes_after_what_was_said(backend):
    hand = Hand(backend)
    hand.layer.encrypt(b"said")
    refused(hand.layer, damaged(hand.record(DATA, b"")), 20)
    assert hand.said() == [(DATA, b"said"), (ALERT, b"\2\x14")]
    assert hand.layer.to_send() == b""


@pytest.mark.parametrize("update_due", [False, True])
def test_a_peer_that_is_refused_hears_why_and_nothing_more(backend, update_due):
    hand = Hand(backend)
    hand.layer.encrypt(b"said")
    if update_due:
        hand.layer.feed(hand.record(HANDSHAKE, UPDATE_PLEASE))
    hand.layer.refuse(44)
    hand.layer.close()
    hand.layer.refuse(42)
    assert hand.said() == [(DATA, b"said"), (ALERT, b"\x02\x2c")]
    with pytest.raises(LocalError):
        hand.layer.encrypt(b"more")
    with pytest.raises(LocalError, match="failed"):
        hand.layer.export_state()
    with pytest.raises(RemoteError, match=r"alert 44 \(certificate_revoked\)") as refusal:
        hand.layer.feed(hand.record(DATA, b"late"))
    assert refusal.value.code == 44
    assert hand.layer.events() == []
    assert hand.said() == []


def test_the_peer_of_one_that_is_refused_knows_the_alert(backend):
    server, client = pair(backend)
    server.refuse(44)
    with pytest.raises(RemoteError, match=r"the peer sent alert 44 \(certificate_revoked\)") as told:
        client.feed(server.to_send())
    assert told.value.code == 44
    assert client.to_send() == b""


@pytest.mark.parametrize("end", [RecordLayer.close, RecordLayer.export_state])
def test_nobody_is_refused_after_the_end(backend, end):
    hand = Hand(backend)
    end(hand.layer)
    if end is RecordLayer.export_state:
        with pytest.raises(LocalError, match="handed over"):
            hand.layer.refuse(44)
        return
    hand.layer.refuse(44)
    assert hand.said() == [(ALERT, b"\x01\x00")]


def test_no_alert_after_our_close_notify(backend):
    hand = Hand(backend)
    hand.layer.close()
    refused(hand.layer, hand.record(25, b"x"), 10)
    assert hand.said() == [(ALERT, b"\1\0")]


# ---------------------------------------------------------------------- what is refused

BAD_RECORDS = {
    "another protocol": (lambda hand: b"GET / HTTP/1.1\r\n\r\n", 10, "type application_data"),
    "change_cipher_spec": (lambda hand: b"\x14\3\3\0\1\1", 10, "type application_data"),
    "a plaintext alert": (lambda hand: b"\x15\3\3\0\2\2\x28", 10, "type application_data"),
    "renegotiation": (lambda hand: b"\x16\3\3\0\4\1\0\0\0", 10, "type application_data"),
    "another version": (lambda hand: b"\x17\3\1" + hand.record(DATA, b"x")[3:], 50, "version"),
    "a long record": (lambda hand: b"\x17\3\3\x41\1", 22, "at most 16640"),
    "a short record": (lambda hand: b"\x17\3\3\0\x10" + bytes(16), 20, "at least 17"),
    "a long plaintext": (lambda hand: hand.record(DATA, bytes(16385)), 22, "at most 16384"),
    "long padding": (lambda hand: hand.record(DATA, b"x", padding=16384), 22, "at most 16384"),
    "only padding": (lambda hand: hand.inner(bytes(20)), 10, "padding"),
    "no handshake message": (lambda hand: hand.record(HANDSHAKE, b""), 10, "empty"),
    "no alert": (lambda hand: hand.record(ALERT, b""), 10, "2 bytes"),
    "half an alert": (lambda hand: hand.record(ALERT, b"\1"), 50, "2 bytes"),
    "two alerts": (lambda hand: hand.record(ALERT, b"\1\0\1\0"), 50, "2 bytes"),
    "an inner change_cipher_spec": (lambda hand: hand.record(20, b"\1"), 10, "got 20"),
    "an unknown type": (lambda hand: hand.record(99, b"x"), 10, "got 99"),
    "ClientHello": (lambda hand: hand.record(HANDSHAKE, b"\1"), 10, "ClientHello after"),
    "CertificateRequest": (lambda hand: hand.record(HANDSHAKE, b"\x0d\0\0\x03\0\0\0"), 10, "CertificateRequest after"),
    "an unknown message": (lambda hand: hand.record(HANDSHAKE, b"\x63\0\0\0"), 10, "message 99"),
    "a long KeyUpdate": (lambda hand: hand.record(HANDSHAKE, b"\x18\0\0\2\0\0"), 50, "1 byte"),
    "an empty KeyUpdate": (lambda hand: hand.record(HANDSHAKE, b"\x18\0\0\0"), 50, "1 byte"),
    "an odd KeyUpdate": (lambda hand: hand.record(HANDSHAKE, b"\x18\0\0\1\2"), 47, "0 or 1"),
    "KeyUpdate and more": (lambda hand: hand.record(HANDSHAKE, UPDATE + b"\x18"), 10, "end of a record"),
    "two KeyUpdates": (lambda hand: hand.record(HANDSHAKE, UPDATE + UPDATE), 10, "end of a record"),
    "data inside a message": (
        lambda hand: hand.record(HANDSHAKE, UPDATE[:3]) + hand.record(DATA, b"x"), 10, "rest of a handshake message"),
    "nothing inside a message": (
        lambda hand: hand.record(HANDSHAKE, UPDATE[:3]) + hand.record(DATA, b""), 10, "rest of a handshake message"),
    "an alert inside a message": (
        lambda hand: hand.record(HANDSHAKE, UPDATE[:3]) + hand.record(ALERT, b"\1\0"), 10, "rest of a handshake"),
    "empty records": (
        lambda hand: b"".join(hand.record(DATA, b"", n) for n in range(MAX_EMPTY_RECORDS + 1)), 10, "empty records"),
    "empty user_canceled": (
        lambda hand: b"".join(hand.record(ALERT, b"\1\x5a") for _ in range(33)), 10, "32 control messages"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "code", "words"), BAD_RECORDS.values(), ids=BAD_RECORDS)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_refused_with_its_alert(backend, make, code, words, step):
    hand = Hand(backend)
    data = hand.record(DATA, b"good") + make(hand)
    layer = hand.layer
    with pytest.raises(RemoteError):
        for at in range(0, len(data), step):
            layer.feed(data[at : at + step])
    assert plaintext(layer.events()) == b"good"
    refused(layer, b"", code, words)
    assert hand.said() == [(ALERT, bytes([2, code]))]


@pytest.mark.parametrize("header", [b"\x17\3\3\x41\1", b"\x17\3\3\xff\xff", b"\x17\3\2\0\x20", b"\x16\3\3\0\x20"])
def test_a_record_is_refused_at_its_header(backend, header):
    """Not when its body has come: that would be kept until then."""
    layer = Hand(backend).layer
    for byte in header[:-1]:
        layer.feed(bytes([byte]))
    refused(layer, header[-1:], {0x16: 10, 0x17: 22}[header[0]] if header[2] == 3 else 50)


@pytest.mark.parametrize("kind", [11, 13, 4, 20])
def test_a_server_takes_no_message_but_key_update(backend, kind):
    hand = Hand(backend)
    refused(hand.layer, hand.record(HANDSHAKE, bytes([kind])), 10)


def test_empty_records_that_data_interrupts(backend):
    hand = Hand(backend)
    for _ in range(4):
        hand.layer.feed(b"".join(hand.record(DATA, b"") for _ in range(MAX_EMPTY_RECORDS)) + hand.record(DATA, b"x"))
    assert plaintext(hand.layer.events()) == b"xxxx"


def test_bits_that_are_flipped(backend):
    """Each of a record's bits, header included: nothing is told, and the alert is one that fits."""
    hand = Hand(backend)
    record = hand.record(DATA, b"payload")
    state = hand.layer.export_state()
    for bit in range(8 * len(record)):
        layer = RecordLayer.import_state(state, backend=backend)
        bad = bytearray(record)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RemoteError) as refusal:
            layer.feed(bytes(bad))
            # A length that grew is waited for.
            layer.feed(bytes(40_000))
        assert refusal.value.code in {10, 20, 22, 50}
        assert layer.events() == []


def test_records_that_are_repeated_left_out_or_out_of_order(backend):
    hand = Hand(backend)
    one, two, three = (hand.record(DATA, text) for text in (b"one", b"two", b"three"))
    state = hand.layer.export_state()
    for data, good in ((one + one, b"one"), (two + one, b""), (one + three, b"one"), (one + two[:-1] + three, b"one")):
        layer = RecordLayer.import_state(state, backend=backend)
        with pytest.raises(RemoteError) as refusal:
            layer.feed(data)
        assert refusal.value.code == 20
        assert plaintext(layer.events()) == good


def test_a_record_that_is_cut_off(backend):
    hand = Hand(backend)
    hand.layer.feed(hand.record(DATA, b"whole") + hand.record(DATA, b"cut off")[:-1])
    assert hand.layer.events() == [PlaintextReceived(b"whole")]
    with pytest.raises(RemoteError, match="without close_notify"):
        hand.layer.feed_eof()


# ---------------------------------------------------------------------- tickets


def test_a_ticket_in_many_records(backend):
    hand = Hand(backend, is_server=False)
    message = ticket_message(b"T" * 300, extensions=b"\x0a\x0a\0\1x\0\x2a\0\4\0\0\x40\0")
    hand.layer.feed(b"".join(hand.record(HANDSHAKE, message[at : at + 7]) for at in range(0, len(message), 7)))
    assert hand.layer.events() == [SessionTicketReceived(b"T" * 300, b"\1", 7200, 7, 16384)]


def test_two_tickets_and_a_part_in_one_record(backend):
    hand = Hand(backend, is_server=False)
    message = ticket_message()
    hand.layer.feed(hand.record(HANDSHAKE, message + message + message[:9]))
    assert len(hand.layer.events()) == 2
    hand.layer.feed(hand.record(HANDSHAKE, message[9:]) + hand.record(DATA, b"on"))
    (data, ticket) = hand.layer.events()
    assert data == PlaintextReceived(b"on")
    assert isinstance(ticket, SessionTicketReceived)


BAD_TICKETS = {
    "no ticket": (ticket_message(b""), 50),
    "a lifetime of years": (ticket_message(lifetime=604_801), 47),
    "an extension twice": (ticket_message(extensions=b"\0\1\0\0\0\1\0\0"), 47),
    "an extension cut off": (ticket_message(extensions=b"\0\1\0\5x"), 50),
    "an extension without a length": (ticket_message(extensions=b"\0\1\0"), 50),
    "early data of 3 bytes": (ticket_message(extensions=b"\0\x2a\0\3\0\0\0"), 50),
    "a short body": (b"\x04\0\0\x05\0\0\0\0\0", 50),
    "an end inside the ticket": (b"\x04\0\0\x0d" + bytes(8) + b"\0\0\x09xx", 50),
    "bytes behind the extensions": (b"\x04\0\0\x0f" + bytes(8) + b"\0\0\1x\0\0yy", 50),
    "a long one": (b"\x04\0\x40\x01", 47),
}


@pytest.mark.parametrize(("message", "code"), BAD_TICKETS.values(), ids=BAD_TICKETS)
def test_a_bad_ticket(backend, message, code):
    hand = Hand(backend, is_server=False)
    refused(hand.layer, hand.record(HANDSHAKE, message), code, "NewSessionTicket")
    assert hand.said() == [(ALERT, bytes([2, code]))]


def test_tickets_without_end(backend):
    hand = Hand(backend, is_server=False)
    hand.layer.feed(b"".join(hand.record(HANDSHAKE, ticket_message()) for _ in range(32)))
    assert len(hand.layer.events()) == 32
    refused(hand.layer, hand.record(HANDSHAKE, ticket_message()), 10, "control messages")


# ---------------------------------------------------------------------- key updates


@pytest.mark.parametrize("suite", SUITE_IDS, ids=SUITES_BY_NAME)
def test_an_update_that_is_asked_for_is_answered(backend, suite):
    hand = Hand(backend, suite)
    hand.layer.feed(hand.record(HANDSHAKE, UPDATE_PLEASE))
    hand.rekey()
    assert hand.said() == [(HANDSHAKE, UPDATE)]
    hand.layer.encrypt(b"under the next key")
    assert hand.said() == [(DATA, b"under the next key")]
    hand.layer.feed(hand.record(DATA, b"heard"))
    assert plaintext(hand.layer.events()) == b"heard"


def test_an_update_is_not_answered_unasked(backend):
    hand = Hand(backend)
    hand.layer.feed(hand.record(HANDSHAKE, UPDATE))
    assert hand.said() == []


def test_one_answer_to_many_requests_and_before_data(backend):
    hand = Hand(backend)
    for _ in range(5):
        hand.layer.feed(hand.record(HANDSHAKE, UPDATE_PLEASE))
        hand.rekey()
    hand.layer.encrypt(b"data")
    assert hand.said() == [(HANDSHAKE, UPDATE), (DATA, b"data")]


def test_an_update_in_pieces(backend):
    hand = Hand(backend)
    hand.layer.feed(b"".join(hand.record(HANDSHAKE, UPDATE_PLEASE[at : at + 1]) for at in range(5)))
    hand.rekey()
    hand.layer.feed(hand.record(DATA, b"on"))
    assert plaintext(hand.layer.events()) == b"on"
    assert hand.said() == [(HANDSHAKE, UPDATE)]


def test_no_answer_after_close_notify(backend):
    hand = Hand(backend)
    hand.layer.close()
    hand.layer.feed(hand.record(HANDSHAKE, UPDATE_PLEASE))
    assert hand.said() == [(ALERT, b"\1\0")]


def test_an_answer_that_is_due_goes_before_close_notify(backend):
    hand = Hand(backend)
    hand.layer.feed(hand.record(HANDSHAKE, UPDATE_PLEASE))
    hand.layer.close()
    assert hand.said() == [(HANDSHAKE, UPDATE), (ALERT, b"\1\0")]


def test_updates_without_data_are_a_flood(backend):
    hand = Hand(backend, limits=RecordLimits(control_messages=3))
    for _ in range(6):
        # Data pays for one.
        hand.layer.feed(hand.record(HANDSHAKE, UPDATE_PLEASE))
        hand.rekey()
        hand.layer.feed(hand.record(DATA, b"x"))
    for _ in range(3):
        hand.layer.feed(hand.record(HANDSHAKE, UPDATE_PLEASE))
        hand.rekey()
    hand.said()
    refused(hand.layer, hand.record(HANDSHAKE, UPDATE_PLEASE), 10, "3 control messages")
    assert hand.said() == [(ALERT, b"\2\x0a")]


def test_we_update_our_key_before_it_is_worn_out(backend):
    hand = Hand(backend, limits=RecordLimits(rekey_after=4))
    for number in range(9):
        hand.layer.encrypt(bytes([number]))
    kinds = [kind for kind, _ in hand.said()]
    assert kinds == [DATA] * 4 + [HANDSHAKE] + [DATA] * 4 + [HANDSHAKE] + [DATA]


def test_a_large_plaintext_over_several_keys(backend):
    hand = Hand(backend, limits=RecordLimits(rekey_after=3))
    hand.layer.encrypt(b"a")
    data = os.urandom(16384 * 7 + 5)
    hand.layer.encrypt(data)
    said = hand.said()
    assert b"".join(content for kind, content in said if kind == DATA) == b"a" + data
    assert [kind for kind, _ in said] == ([DATA] * 3 + [HANDSHAKE]) * 2 + [DATA] * 3


def test_we_ask_for_an_update_of_the_peers_key_once(backend):
    hand = Hand(backend, limits=RecordLimits(rekey_after=4, records_per_key=8))
    for _ in range(7):
        hand.layer.feed(hand.record(DATA, b"x"))
    assert hand.said() == [(HANDSHAKE, UPDATE_PLEASE)]
    hand.layer.feed(hand.record(HANDSHAKE, UPDATE))
    hand.rekey()
    for _ in range(5):
        hand.layer.feed(hand.record(DATA, b"y"))
    assert hand.said() == [(HANDSHAKE, UPDATE_PLEASE)]


def test_a_key_of_the_peer_that_is_worn_out(backend):
    hand = Hand(backend, limits=RecordLimits(rekey_after=4, records_per_key=8))
    for _ in range(8):
        hand.layer.feed(hand.record(DATA, b"x"))
    refused(hand.layer, hand.record(DATA, b"x"), 10, "8 records under one key")


def test_the_default_limits_are_those_of_the_rfc():
    limits = RecordLimits()
    assert limits.rekey_after < 1 << 24
    assert limits.records_per_key**2 <= 2**49 < (limits.records_per_key + 1) ** 2


def test_sequence_numbers_enter_the_nonce_whole(backend):
    """Records 2**47 and on: every byte of the number counts."""
    start = (1 << 47) + 0x0102030405
    limits = RecordLimits(rekey_after=1 << 60, records_per_key=1 << 60)
    hand = Hand(backend, limits=limits, read_sequence=start, write_sequence=start)
    hand.layer.feed(hand.record(DATA, b"x") + hand.record(DATA, b"y"))
    assert plaintext(hand.layer.events()) == b"xy"
    hand.layer.encrypt(b"z")
    assert hand.said() == [(DATA, b"z")]


# ---------------------------------------------------------------------- the twins


def test_resting_changes_nothing(backend):
    server, client = pair(backend)
    for number in range(3):
        client.encrypt(bytes([number]))
        server.feed(client.to_send())
        server._reader.rest()
        client._writer.rest()
    assert plaintext(server.events()) == b"\0\1\2"


def test_few_are_awake_at_a_time(backend):
    """More connections than ciphers: each still goes on when its turn comes, and those that are gone keep nothing."""
    suite = SUITES[0x1301]
    secret = os.urandom(32)
    for _ in range(2):
        sealers = [backend.make_sealer(suite, secret, 0) for _ in range(MAX_AWAKE + 100)]
        assert not any(sealer.awake for sealer in sealers)
        records = {sealer.seal(DATA, b"same") for sealer in sealers}
        assert len(records) == 1
        assert [sealer.awake for sealer in sealers] == [False] * 100 + [True] * MAX_AWAKE
        expected = backend.make_sealer(suite, secret, 1).seal(DATA, b"next")
        assert {sealer.seal(DATA, b"next") for sealer in sealers} == {expected}
        assert sum(sealer.awake for sealer in sealers) <= MAX_AWAKE


def test_one_that_rested_has_the_place_of_its_last_waking(backend):
    suite = SUITES[0x1301]
    one, *others = (backend.make_sealer(suite, os.urandom(32), 0) for _ in range(MAX_AWAKE))
    for _ in range(2):
        one.rest()
        one.seal(DATA, b"x")
    for sealer in others:
        sealer.seal(DATA, b"x")
    assert one.awake
    backend.make_sealer(suite, os.urandom(32), 0).seal(DATA, b"x")
    assert not one.awake


@settings(max_examples=40, deadline=None)
@given(
    suite=st.sampled_from(SUITE_IDS),
    steps=st.lists(st.tuples(st.booleans(), st.binary(max_size=20_000), st.booleans()), max_size=8),
)
def test_the_twins_write_the_same_bytes(suite, steps):
    native = backend_or_skip("libcrypto")
    one = Hand(get_backend("cryptography"), suite)
    two = RecordLayer.import_state(state := one.layer.export_state(), backend=native)
    one = RecordLayer.import_state(state, backend=get_backend("cryptography"))
    for close, data, rest in steps:
        for layer in (one, two):
            if close:
                layer.close()
            else:
                try:
                    layer.encrypt(data)
                except LocalError:
                    assert layer._closed
            if rest:
                layer._writer.rest()
        assert one.to_send() == two.to_send()
    assert one.export_state() == two.export_state()


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_the_twins_read_the_same_from_hostile_bytes(seed):
    """Records in order, then faults: the same events, the same refusal, the same answer."""
    native = backend_or_skip("libcrypto")
    pick = random.Random(seed)
    hand = Hand(get_backend("cryptography"), pick.choice(SUITE_IDS), is_server=pick.random() < 0.5)
    state = hand.layer.export_state()
    data = bytearray()
    for _ in range(pick.randrange(1, 6)):
        kind = pick.choice((DATA, DATA, DATA, HANDSHAKE, ALERT, pick.randrange(1, 256)))
        content = pick.choice(
            (b"", UPDATE, UPDATE_PLEASE, ticket_message(), pick.randbytes(pick.randrange(300)), b"\1\0")
        )
        data += hand.record(kind, content, padding=pick.choice((0, 0, 0, 5)))
        if (kind, content[:1]) == (HANDSHAKE, b"\x18"):
            hand.rekey()
    if pick.random() < 0.5:
        data[pick.randrange(len(data))] ^= 1 << pick.randrange(8)
    cuts = sorted(pick.randrange(len(data) + 1) for _ in range(pick.randrange(4)))
    told = []
    for backend in (get_backend("cryptography"), native):
        layer = RecordLayer.import_state(state, backend=backend)
        found = []
        try:
            for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
                layer.feed(bytes(data[begin:end]))
        except RemoteError as error:
            found += [error.code, str(error)]
        found += [layer.events(), layer.to_send()]
        if len(found) == 2:
            found.append(layer.export_state())
        told.append(found)
    assert told[0] == told[1]


def test_what_a_twin_refuses(backend):
    suite = SUITES[0x1301]
    sealer = backend.make_sealer(suite, bytes(32), 7)
    opener = backend.make_opener(suite, bytes(32), 7)
    assert (sealer.sequence, opener.sequence) == (7, 7)
    assert sealer.secret() == bytes(32)
    for direction in (sealer, opener):
        direction.wipe()
        direction.rest()
        assert direction.sequence == 0
        with pytest.raises(ValueError, match="wiped"):
            direction.secret()
    with pytest.raises(ValueError, match="wiped"):
        sealer.seal(DATA, b"x")
    with pytest.raises(ValueError, match="wiped"):
        opener.open(b"", 0, False)
