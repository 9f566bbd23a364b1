"""The vectors of docs/spec/mmtp.md for tickets, recomputed with the standard library and held against OpenSSL.

Of OpenSSL's two sides the server has to take the first flight of the page, and the ClientHello that the client makes has
to give its own binder and early secret by the same computation.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocols.errors import RemoteError
from protocols.tls.client_hello import HelloReader
from protocols.tls.engine import EarlyDataReceived
from protocols.tls.psk import ExternalPsk
from tests.protocols.mmtp.dialogue import blocks
from tests.protocols.tls.tls_links import Link, client, completed, early, keys, records, server

VECTORS: list[dict[str, str]] = [json.loads(line) for block in blocks("ticket") for line in block.splitlines()]
OF_THE_DIALOGUE = "name: early data is answered before WELCOME, and WELCOME brings tickets"
ALPN, EARLY_DATA, MODES, PRE_SHARED_KEY = 16, 42, 45, 41


class Schedule(NamedTuple):
    """What section 16.7 lists, by the same names."""

    early_secret: bytes
    binder_key: bytes
    finished_key: bytes
    transcript_hash: bytes
    binder: bytes
    client_hello_hash: bytes
    client_early_traffic_secret: bytes
    write_key: bytes
    write_iv: bytes


def digest(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def expand_label(secret: bytes, label: bytes, context: bytes, size: int) -> bytes:
    """HKDF-Expand-Label of one block (RFC 8446 section 7.1)."""
    label = b"tls13 " + label
    info = size.to_bytes(2, "big") + bytes([len(label)]) + label + bytes([len(context)]) + context
    return digest(secret, info + b"\x01")[:size]


def schedule(key: bytes, hello: bytes) -> Schedule:
    """Of a ClientHello with one identity, whose last 35 bytes are the list of binders."""
    early_secret = digest(bytes(32), key)
    binder_key = expand_label(early_secret, b"ext binder", hashlib.sha256(b"").digest(), 32)
    finished_key = expand_label(binder_key, b"finished", b"", 32)
    transcript, whole = hashlib.sha256(hello[:-35]).digest(), hashlib.sha256(hello).digest()
    traffic = expand_label(early_secret, b"c e traffic", whole, 32)
    return Schedule(
        early_secret,
        binder_key,
        finished_key,
        transcript,
        digest(finished_key, transcript),
        whole,
        traffic,
        expand_label(traffic, b"key", b"", 16),
        expand_label(traffic, b"iv", b"", 12),
    )


def opened(record: bytes, computed: Schedule) -> bytes:
    """Plaintext and content type of the first record of early data."""
    return AESGCM(computed.write_key).decrypt(computed.write_iv, record[5:], record[:5])


def extensions(hello: bytes) -> list[tuple[int, bytes]]:
    """Those of a ClientHello, in their order."""
    at = 4 + 2 + 32
    at += 1 + hello[at]
    at += 2 + int.from_bytes(hello[at : at + 2], "big")
    at += 1 + hello[at] + 2
    found = []
    while at < len(hello):
        kind, size = (int.from_bytes(hello[at + by : at + by + 2], "big") for by in (0, 2))
        found.append((kind, hello[at + 4 : at + 4 + size]))
        at += 4 + size
    return found


def psk_of(vector: dict[str, str], **changes: bytes) -> ExternalPsk:
    key = changes.get("key", bytes.fromhex(vector["key"]))
    return ExternalPsk(bytes.fromhex(vector["identity"]), key, 16384, "mmtp/1")


def test_there_is_one() -> None:
    assert VECTORS


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_each_value_follows_from_the_key_and_the_hello(vector: dict[str, str]) -> None:
    hello, data = records(bytes.fromhex(vector["flight"]))
    computed = schedule(bytes.fromhex(vector["key"]), hello[5:])
    assert {name: value.hex() for name, value in computed._asdict().items()} == {
        name: vector[name] for name in Schedule._fields
    }
    assert hello[5:-35].hex() == vector["partial_client_hello"]
    assert hello[-35:].hex() == "002120" + vector["binder"]
    assert opened(data, computed).hex() == vector["early_data"] + "17"


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_its_hello_offers_what_the_specification_asks_for(vector: dict[str, str]) -> None:
    hello = records(bytes.fromhex(vector["flight"]))[0][5:]
    offered = extensions(hello)
    identity = bytes.fromhex(vector["identity"])
    assert dict(offered)[ALPN][2:] == b"\x06mmtp/1"
    assert dict(offered)[MODES] == b"\x01\x01"
    assert dict(offered)[EARLY_DATA] == b""
    kind, shared = offered[-1]
    assert (kind, shared[:-35]) == (PRE_SHARED_KEY, b"\0\x17\0\x11" + identity + bytes(4))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_its_early_data_is_that_of_the_dialogue(vector: dict[str, str]) -> None:
    (dialogue,) = (one for one in blocks("dialogue") if one.startswith(OF_THE_DIALOGUE))
    frames = [line.split()[1] for line in dialogue.splitlines() if line.startswith("C>")]
    assert vector["early_data"] == "".join(frames[:2])


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_openssl_takes_its_first_flight(vector: dict[str, str]) -> None:
    lines: list[bytes] = []
    gateway = server(find_psk=keys(psk_of(vector)), key_log=lines.append).engine()
    gateway.feed(bytes.fromhex(vector["flight"]))
    (event,) = gateway.events()
    random = bytes.fromhex(vector["partial_client_hello"])[6:38]
    assert event == EarlyDataReceived(
        bytes.fromhex(vector["early_data"]), bytes.fromhex(vector["identity"]), random, "mmtp/1", "gateway.example"
    )
    told = {line.split()[0]: line.split()[2].decode() for line in lines}
    assert told[b"CLIENT_EARLY_TRAFFIC_SECRET"] == vector["client_early_traffic_secret"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_openssl_refuses_another_binder_and_another_key(vector: dict[str, str]) -> None:
    flight = bytes.fromhex(vector["flight"])
    at = flight.index(bytes.fromhex(vector["binder"]))
    changed = flight[:at] + bytes([flight[at] ^ 1]) + flight[at + 1 :]
    for sent, psk in ((changed, psk_of(vector)), (flight, psk_of(vector, key=bytes(32)))):
        gateway = server(find_psk=keys(psk)).engine()
        with pytest.raises(RemoteError, match="binder"):
            gateway.feed(sent)
        assert early(gateway.events()) == b""


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_hello_of_openssl_gives_its_binder_by_the_same_computation(vector: dict[str, str]) -> None:
    lines: list[bytes] = []
    psk, data = psk_of(vector), bytes.fromhex(vector["early_data"])
    device = client(key_log=lines.append).engine("localhost", psk=psk)
    device.early(data)
    both = Link(device, server(find_psk=keys(psk)).engine()).run()
    hello, *others = records(both.up)
    message = hello[5:]
    computed = schedule(psk.key, message)
    assert message[-35:] == b"\0\x21\x20" + computed.binder
    offered = extensions(message)
    kind, shared = offered[-1]
    assert (kind, shared[:-35]) == (PRE_SHARED_KEY, b"\0\x17\0\x11" + psk.identity + bytes(4))
    assert dict(offered)[MODES] == b"\x01\x01"
    told = {line.split()[0]: line.split()[2].decode() for line in lines}
    assert told[b"CLIENT_EARLY_TRAFFIC_SECRET"] == computed.client_early_traffic_secret.hex()
    data_records = [record for record in others if record[0] == 23]
    assert opened(data_records[0], computed) == data + b"\x17"
    seen = completed(both.gateway_events)
    assert (seen.psk_identity, seen.early, early(both.gateway_events)) == (psk.identity, "accepted", data)
    assert HelloReader().feed(hello).identity == psk.identity


@pytest.mark.parametrize(
    ("suites", "resumed", "taken"),
    [
        (b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384", True, True),
        (b"TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384", True, True),
        (b"TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256", False, False),
    ],
)
def test_the_device_s_first_suite_decides_whether_its_ticket_is_taken(
    suites: bytes, resumed: bool, taken: bool
) -> None:
    psk = psk_of(VECTORS[0])
    device = client(suites=suites).engine("localhost", psk=psk)
    device.early(b"early")
    seen = completed(Link(device, server(find_psk=keys(psk)).engine()).run().gateway_events)
    assert (seen.resumed, seen.early == "accepted") == (resumed, taken)
