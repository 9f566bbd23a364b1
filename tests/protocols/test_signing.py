"""The protocol between gateway and signer: round trips, every split, hostile bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.signing import (
    BUSY,
    ECDSA_DIGEST,
    MALFORMED,
    MAX_DATA,
    MAX_KEYS,
    RSA_BLOCK,
    WRONG_VERSION,
    GatewayGreeted,
    KeysOffered,
    SignatureMade,
    SignatureRefused,
    SignatureRequested,
    SigningConnection,
)

KEY = "ab" * 32
OTHER = "cd" * 32


def greeted() -> tuple[SigningConnection, SigningConnection]:
    gateway, signer = SigningConnection(signer=False), SigningConnection(signer=True)
    gateway.hello()
    signer.hello(frozenset({KEY}))
    signer.receive(gateway.to_send())
    gateway.receive(signer.to_send())
    return gateway, signer


def test_both_sides_greet_and_the_signer_names_its_keys() -> None:
    gateway, signer = SigningConnection(signer=False), SigningConnection(signer=True)
    gateway.hello()
    signer.hello(frozenset({KEY, OTHER}))
    hello = gateway.to_send()
    assert hello == bytes.fromhex("0006 01 61677773 01")
    assert signer.receive(hello) == [GatewayGreeted()]
    assert gateway.receive(signer.to_send()) == [KeysOffered(frozenset({KEY, OTHER}))]
    assert gateway.to_send() == b""
    signer.hello(frozenset({OTHER}))
    assert gateway.receive(signer.to_send()) == [KeysOffered(frozenset({OTHER}))]


def test_the_vector_of_a_request_and_of_its_answers() -> None:
    gateway, signer = greeted()
    gateway.request(7, KEY, ECDSA_DIGEST, b"digest")
    wire = gateway.to_send()
    assert wire == bytes.fromhex("002c 03 00000007" + KEY + "02") + b"digest"
    assert signer.receive(wire) == [SignatureRequested(7, KEY, ECDSA_DIGEST, b"digest")]
    signer.signature(7, b"made")
    signer.refuse(8, BUSY, "zu viel")
    wire = signer.to_send()
    assert wire == bytes.fromhex("0009 04 00000007") + b"made" + bytes.fromhex("000d 05 00000008 03") + b"zu viel"
    assert gateway.receive(wire) == [SignatureMade(7, b"made"), SignatureRefused(8, BUSY, "zu viel")]


@given(
    requests=st.lists(
        st.tuples(
            st.integers(0, 2**32 - 1),
            st.sampled_from([RSA_BLOCK, ECDSA_DIGEST]),
            st.binary(min_size=1, max_size=MAX_DATA),
        ),
        max_size=4,
    ),
    cuts=st.lists(st.integers(1, 400), min_size=1),
)
def test_requests_survive_every_split(requests, cuts) -> None:
    gateway, signer = SigningConnection(signer=False), SigningConnection(signer=True)
    gateway.hello()
    for id, algorithm, data in requests:
        gateway.request(id, KEY, algorithm, data)
    wire, found, turn = gateway.to_send(), [], 0
    while wire:
        size = cuts[turn % len(cuts)]
        turn += 1
        found += signer.receive(wire[:size])
        wire = wire[size:]
    assert found == [GatewayGreeted(), *(SignatureRequested(id, KEY, kind, data) for id, kind, data in requests)]


@given(data=st.binary(max_size=200), is_signer=st.booleans(), after_hello=st.booleans())
def test_hostile_bytes_raise_nothing_but_remote_errors(data, is_signer, after_hello) -> None:
    gateway, signer = greeted() if after_hello else (SigningConnection(signer=False), SigningConnection(signer=True))
    side = signer if is_signer else gateway
    try:
        side.receive(data)
    except RemoteError as error:
        assert error.code in (MALFORMED, WRONG_VERSION)


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        ("0000", None),
        ("0006 01 61677773 02", WRONG_VERSION),
        ("0006 01 61677774 01", MALFORMED),
        ("0026 01 61677773 01" + KEY, MALFORMED),  # a gateway with a key
        ("0027 03 00000007" + KEY + "0200", MALFORMED),  # before HELLO
        ("ffff 03", MALFORMED),
    ],
)
def test_a_signer_refuses(wire, code) -> None:
    signer = SigningConnection(signer=True)
    if code is None:
        assert signer.receive(bytes.fromhex(wire)) == []  # not whole yet
        with pytest.raises(RemoteError):
            signer.receive(b"\x01")
        return
    with pytest.raises(RemoteError) as caught:
        signer.receive(bytes.fromhex(wire))
    assert caught.value.code == code


def test_a_gateway_refuses_requests_and_keys_that_are_none() -> None:
    for wire in ("0026 03 00000007" + KEY + "02", "0003 02 abcd", "0005 04 00000001"):
        gateway, _ = greeted()
        with pytest.raises(RemoteError):
            gateway.receive(bytes.fromhex(wire))


def test_our_own_mistakes_are_told_to_us() -> None:
    gateway = SigningConnection(signer=False)
    with pytest.raises(LocalError):
        gateway.request(1, KEY, RSA_BLOCK, b"x")  # before hello()
    gateway.hello()
    for arguments in ((1, "ab", RSA_BLOCK, b"x"), (1, KEY, 9, b"x"), (1, KEY, RSA_BLOCK, b""), (1, "zz", 1, b"x")):
        with pytest.raises(LocalError):
            gateway.request(*arguments)
    with pytest.raises(LocalError):
        gateway.request(1, KEY, RSA_BLOCK, bytes(MAX_DATA + 1))
    with pytest.raises(LocalError):
        gateway.hello()
    with pytest.raises(LocalError):
        SigningConnection(signer=True).hello(frozenset(f"{number:064x}" for number in range(MAX_KEYS + 1)))
