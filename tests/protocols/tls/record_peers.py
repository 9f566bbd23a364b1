"""Two record layers that share secrets, and a hand that seals what a record layer would not."""

from __future__ import annotations

import contextlib
import os

import pytest

from protocols.tls.engine import PlaintextReceived
from protocols.tls.key_schedule import SUITES, SUITES_BY_NAME, next_secret
from protocols.tls.record_backends import get_backend
from protocols.tls.record_state import DetachedState
from protocols.tls.records import RecordLayer, RecordLimits

BACKENDS = ("cryptography", "libcrypto")
IDS = list(SUITES_BY_NAME)


def backends_here():
    """The names of those that this machine has."""
    found = []
    for name in BACKENDS:
        with contextlib.suppress(ImportError):
            found.append(get_backend(name).name)
    return found


def backend_or_skip(name):
    try:
        return get_backend(name)
    except ImportError as missing:
        pytest.skip(f"{name}: {missing}")


def states(suite=0x1301, randbytes=os.urandom):
    """The server's state and the client's."""
    size = SUITES[suite].secret_size
    mine, theirs = randbytes(size), randbytes(size)
    return DetachedState(suite, True, theirs, mine), DetachedState(suite, False, mine, theirs)


def pair(backend, suite=0x1301, limits=None, peer=None):
    """A server and a client that have just made a hand-shake."""
    server, client = states(suite)
    limits = limits or RecordLimits()
    return RecordLayer(server, limits=limits, backend=backend), RecordLayer(
        client, limits=limits, backend=peer or backend
    )


class Hand:
    """Seals records for a layer under test, in order or not."""

    def __init__(self, backend, suite=0x1301, is_server=True, limits=None, randbytes=os.urandom, **more):
        state, other = states(suite, randbytes)
        state.is_server = is_server
        for name, value in more.items():
            setattr(state, name, value)
        self.suite = SUITES[suite]
        self.layer = RecordLayer(state, limits=limits or RecordLimits(), backend=backend)
        pure = get_backend("cryptography")
        self._to_layer = pure.make_sealer(self.suite, other.write_secret, state.read_sequence)
        self._from_layer = pure.make_opener(self.suite, other.read_secret, state.write_sequence)

    def record(self, kind, content, padding=0):
        """One record; its content may be of any size that the header can tell."""
        inner = content + bytes([kind]) + bytes(padding)
        return self.inner(inner)

    def inner(self, inner):
        """A record with this whole TLSInnerPlaintext."""
        sealer = self._to_layer
        header = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
        nonce = (sealer._iv ^ sealer.sequence).to_bytes(12, "big")
        sealer.sequence += 1
        return header + sealer._aead_of().encrypt(nonce, inner, header)

    def rekey(self, direction=None):
        """The key after our own KeyUpdate, or after the layer's when it is given."""
        direction = direction or self._to_layer
        secret = next_secret(self.suite, direction.secret())
        fresh = get_backend("cryptography").make_sealer(self.suite, secret, 0)
        direction.rekey(secret, bytes(fresh._keys[len(secret) :]), fresh._iv.to_bytes(12, "big"))

    def said(self):
        """(content type, content) of each record that the layer has to send."""
        data, at, found = self.layer.to_send(), 0, []
        while at < len(data):
            _, at, kind, content = self._from_layer.open(data, at, True)
            assert kind > 0, kind
            found.append((kind, content))
            if (kind, content[:1]) == (22, b"\x18"):
                self.rekey(self._from_layer)
        return found


def plaintext(events):
    return b"".join(event.data for event in events if isinstance(event, PlaintextReceived))


def damaged(record):
    """The record with one bit of its tag changed."""
    return record[:-1] + bytes([record[-1] ^ 1])
