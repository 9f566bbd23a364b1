"""The state of a connection in bytes: nothing is lost, the old side is dead and clean, and bad bytes are refused."""

from __future__ import annotations

import ctypes
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.tls.key_schedule import SUITES, SUITES_BY_NAME
from protocols.tls.record_backends import get_backend
from protocols.tls.record_state import DetachedState
from protocols.tls.records import RecordLayer
from tests.protocols.tls.record_peers import BACKENDS, Hand, backend_or_skip, backends_here, pair, plaintext

ALERT, HANDSHAKE, DATA = 21, 22, 23


@pytest.fixture(params=BACKENDS)
def backend(request):
    return backend_or_skip(request.param)


@st.composite
def any_state(draw):
    suite = SUITES[draw(st.sampled_from(list(SUITES)))]
    secret = st.binary(min_size=suite.secret_size, max_size=suite.secret_size)
    sequence = st.integers(0, (1 << 48) - 1)
    return DetachedState(
        suite.id,
        draw(st.booleans()),
        draw(secret),
        draw(secret),
        draw(sequence),
        draw(sequence),
        unread=draw(st.binary(max_size=50)),
        exporter_secret=draw(secret | st.just(b"")),
        unsent=draw(st.binary(max_size=50)),
        fragment=draw(st.binary(max_size=50)),
        closed=draw(st.booleans()),
        peer_closed=draw(st.booleans()),
        update_due=draw(st.booleans()),
        update_asked=draw(st.booleans()),
        control_messages=draw(st.integers(0, 65535)),
        empty_records=draw(st.integers(0, 255)),
    )


@given(state=any_state())
def test_state_round_trip(state):
    assert DetachedState.from_bytes(state.to_bytes()) == state


@settings(deadline=None)
@given(state=any_state(), name=st.sampled_from(backends_here()))
def test_a_layer_gives_the_state_that_it_was_made_of(state, name):
    layer = RecordLayer(state, backend=get_backend(name))
    assert DetachedState.from_bytes(layer.export_state()) == state


@pytest.mark.parametrize("suite", SUITES, ids=SUITES_BY_NAME)
def test_the_size_of_a_state(backend, suite):
    server, _ = pair(backend, suite)
    assert len(server.export_state()) == 39 + 2 * SUITES[suite].secret_size


def test_what_was_under_way_goes_on(backend):
    """A half-read record, a half-read message, an unsent record, an answer that is due, and who has closed."""
    hand = Hand(backend, is_server=False)
    hand.layer.encrypt(b"unsent")
    hand.layer.feed(hand.record(HANDSHAKE, b"\x18\0\0\x01\x01"))
    hand.rekey()
    ticket = b"\x04\0\0\x10" + bytes(8) + b"\0\0\3abc\0\0"
    hand.layer.feed(hand.record(HANDSHAKE, ticket[:9]))
    rest = hand.record(HANDSHAKE, ticket[9:]) + hand.record(ALERT, b"\1\0")
    hand.layer.feed(rest[:11])
    for _ in range(3):
        hand.layer = RecordLayer.import_state(hand.layer.export_state(), backend=backend)
    hand.layer.feed(rest[11:])
    assert [type(event).__name__ for event in hand.layer.events()] == ["SessionTicketReceived", "CloseNotifyReceived"]
    hand.layer.close()
    hand.layer = RecordLayer.import_state(hand.layer.export_state(), backend=backend)
    assert hand.said() == [(DATA, b"unsent"), (HANDSHAKE, b"\x18\0\0\x01\0"), (ALERT, b"\1\0")]
    hand.layer.feed_eof()
    with pytest.raises(LocalError):
        hand.layer.encrypt(b"after our close_notify")


def test_whole_records_that_were_not_read_come_with_start(backend):
    hand = Hand(backend)
    state = DetachedState.from_bytes(hand.layer.export_state())
    state.unread = hand.record(DATA, b"a" * 16384) * 1 + b"".join(hand.record(DATA, b"b") for _ in range(3))
    layer = RecordLayer(state, backend=backend)
    assert layer.events() == []
    layer.start()
    assert plaintext(layer.events()) == b"a" * 16384 + b"bbb"


def test_the_old_side_is_dead(backend):
    server, client = pair(backend)
    client.encrypt(b"x")
    record = client.to_send()
    server.export_state()
    uses = (
        server.start,
        lambda: server.feed(record),
        server.feed_eof,
        server.events,
        lambda: server.encrypt(b"x"),
        lambda: server.encrypt(b""),
        server.to_send,
        server.close,
        lambda: server.export_keying_material(b"label", 32),
        server.export_state,
    )
    for use in uses:
        with pytest.raises(LocalError, match="handed over"):
            use()


def test_the_keys_of_the_old_side_are_overwritten(backend):
    """Looked for in the memory of the objects that held them."""
    state = DetachedState(0x1302, True, os.urandom(48), os.urandom(48), exporter_secret=os.urandom(48))
    layer = RecordLayer(state, backend=backend)
    layer.encrypt(b"x")
    exporter = layer._exporter
    if backend.name == "cryptography":
        held = [direction._keys for direction in (layer._reader, layer._writer)]

        def memory():
            return b"".join(held)
    else:
        held = [layer._reader, layer._writer]

        def memory():
            return b"".join(ctypes.string_at(id(direction), direction.__sizeof__()) for direction in held)

    assert state.read_secret in memory()
    assert state.write_secret in memory()
    layer.export_state()
    for secret in (state.read_secret, state.write_secret):
        assert not any(secret[at : at + 4] in memory() for at in range(45))
    assert not any(exporter)


def test_the_keys_of_a_connection_that_failed_are_overwritten(backend):
    server, _ = pair(backend)
    with pytest.raises(RemoteError):
        server.feed(b"GET / HTTP/1.1\r\n\r\n")
    for direction in (server._reader, server._writer):
        with pytest.raises(ValueError, match="wiped"):
            direction.secret()
    with pytest.raises(LocalError, match="failed"):
        server.export_state()


def test_events_are_collected_first(backend):
    server, client = pair(backend)
    client.encrypt(b"x")
    server.feed(client.to_send())
    with pytest.raises(LocalError, match="collect the events"):
        server.export_state()
    assert plaintext(server.events()) == b"x"
    server.encrypt(b"still here")
    server.export_state()


def test_secrets_are_not_shown():
    secret = os.urandom(32)
    shown = repr(DetachedState(0x1301, True, secret, secret, exporter_secret=secret, unread=b"unread"))
    assert repr(secret) not in shown
    assert "unread" not in shown


BAD_STATES = {
    "nothing": (lambda data: b"", "a version"),
    "another version": (lambda data: b"\2" + data[1:], "version 1, got 2"),
    "a short head": (lambda data: data[:22], "head of 23 bytes, got 22"),
    "an unknown flag": (lambda data: data[:1] + b"\x20" + data[2:], "flags"),
    "an unknown suite": (lambda data: data[:2] + b"\x13\4" + data[4:], "got 0x1304"),
    "no secrets": (lambda data: data[:23], "exporter secret at byte 87"),
    "a sequence that cannot be": (lambda data: data[:7] + b"\0\1" + data[9:], "read sequence below"),
    "a short exporter secret": (
        lambda data: data[:87] + b"\0\0\0\1x" + data[91:],
        "exporter secret of 32 bytes or none",
    ),
    "a length that is too large": (lambda data: data[:-4] + b"\xff\xff\xff\xff", "4294967295 bytes of unsent"),
    "an end too early": (lambda data: data[:-1], "length of the unsent"),
    "bytes too many": (lambda data: data + b"x", "expected 103 bytes, got 104"),
}


@pytest.mark.parametrize(("change", "words"), BAD_STATES.values(), ids=BAD_STATES)
def test_a_bad_state(backend, change, words):
    server, _ = pair(backend)
    with pytest.raises(ValueError, match=words):
        RecordLayer.import_state(change(server.export_state()), backend=backend)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"suite": 0x1304}, "suite"),
        ({"read_secret": bytes(48)}, "read secret of 32"),
        ({"write_secret": b""}, "write secret of 32"),
        ({"write_sequence": 1 << 48}, "write sequence"),
        ({"read_sequence": -1}, "read sequence"),
        ({"exporter_secret": bytes(31)}, "exporter secret"),
    ],
)
def test_a_state_that_no_connection_can_be_in(backend, change, words):
    given = {"suite": 0x1301, "is_server": True, "read_secret": bytes(32), "write_secret": bytes(32), **change}
    with pytest.raises(ValueError, match=words):
        RecordLayer(DetachedState(**given), backend=backend)


@settings(max_examples=300, deadline=None)
@given(
    state=any_state(),
    changes=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4),
    cut=st.none() | st.integers(0, 300),
    name=st.sampled_from(backends_here()),
)
def test_hostile_states(state, changes, cut, name):
    """ValueError, or a connection that fails as connections do."""
    data = bytearray(state.to_bytes())
    for at, value in changes:
        data[at % len(data)] = value
    try:
        layer = RecordLayer.import_state(bytes(data[:cut]), backend=get_backend(name))
    except ValueError as error:
        assert str(error).startswith("TLS state: expected")
        return
    try:
        layer.start()
        layer.feed(bytes(100))
    except RemoteError:
        pass
    layer.events()
    layer.to_send()


@given(data=st.binary(max_size=300))
def test_random_bytes_are_no_state(data):
    with pytest.raises(ValueError, match="TLS state: expected"):
        DetachedState.from_bytes(data)
