"""The key schedule against RFC 8448 section 3, and exported keying material against OpenSSL (test_records_openssl)."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.tls.key_schedule import SUITES, SUITES_BY_NAME, hkdf_expand_label, next_secret, traffic_keys
from protocols.tls.record_backends import get_backend

AES_128 = SUITES[0x1301]
SECRETS = {
    "server handshake": (
        "b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38",
        "3fce516009c21727d0f2e4e86ee403bc",
        "5d313eb2671276ee13000b30",
    ),
    "client handshake": (
        "b3eddb126e067f35a780b3abf45e2d8f3b1a950738f52e9600746a0e27a55a21",
        "dbfaa693d1762c5b666af5d950258d01",
        "5bd3c71b836e0b76bb73265f",
    ),
    "server application": (
        "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643",
        "9f02283b6c9c07efc26bb9f2ac92e356",
        "cf782b88dd83549aadf1e984",
    ),
    "client application": (
        "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5",
        "17422dda596ed5d9acd890e3c63f5051",
        "5b78923dee08579033e523d9",
    ),
}
MASTER = bytes.fromhex("18df06843d13a08bf2a449844c5f8a478001bc4d4c627984d5a41da8d0402919")
TO_SERVER_FINISHED = bytes.fromhex("9608102a0f1ccc6db6250b7b7e417b1a000eaada3daae4777a7686c9ff83df13")


@pytest.mark.parametrize(("secret", "key", "iv"), SECRETS.values(), ids=SECRETS)
def test_traffic_keys_of_rfc_8448(secret, key, iv):
    assert traffic_keys(AES_128, bytes.fromhex(secret)) == (bytes.fromhex(key), bytes.fromhex(iv))


@pytest.mark.parametrize(
    ("label", "secret"),
    [
        (b"c ap traffic", SECRETS["client application"][0]),
        (b"s ap traffic", SECRETS["server application"][0]),
        (b"exp master", "fe22f881176eda18eb8f44529e6792c50c9a3f89452f68d8ae311b4309d3cf50"),
    ],
)
def test_secrets_of_rfc_8448(label, secret):
    assert hkdf_expand_label("sha256", MASTER, label, TO_SERVER_FINISHED, 32).hex() == secret


def test_the_key_of_a_ticket_of_rfc_8448():
    resumption = bytes.fromhex("7df235f2031d2a051287d02b0241b0bfdaf86cc856231f2d5aba46c434ec196c")
    key = hkdf_expand_label("sha256", resumption, b"resumption", b"\0\0", 32)
    assert key.hex() == "4ecd0eb6ec3b4d87f5d6028f922ca4c5851a277fd41311c9e62d2c9492e1c4f3"


@pytest.mark.parametrize("size", [1, 32, 33, 64, 100, 8160])
def test_expansion_over_several_blocks(size):
    """As RFC 5869 section 2.3 defines it, written out again."""
    info = size.to_bytes(2, "big") + b"\x0btls13 label\x02ab"
    block = whole = b""
    for number in range(1, (size + 31) // 32 + 1):
        block = hmac.new(b"secret", block + info + bytes([number]), hashlib.sha256).digest()
        whole += block
    assert hkdf_expand_label("sha256", b"secret", b"label", b"ab", size) == whole[:size]


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES_BY_NAME)
def test_the_next_secret_is_another_of_the_same_size(suite):
    secret = bytes(suite.secret_size)
    following = next_secret(suite, secret)
    assert len(following) == suite.secret_size == hashlib.new(suite.hash).digest_size
    assert following != secret
    key, iv = traffic_keys(suite, bytearray(following))
    assert (len(key), len(iv)) == (suite.key_size, 12)


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES_BY_NAME)
@given(st.data())
def test_the_twin_in_c_makes_the_same_keys(suite, data):
    try:
        native = get_backend("libcrypto")
    except ImportError as error:
        pytest.skip(str(error))
    secret = data.draw(st.binary(min_size=suite.secret_size, max_size=suite.secret_size))
    assert native.keys(suite.id, secret) == traffic_keys(suite, secret)
    with pytest.raises(ValueError, match="expected a cipher suite"):
        native.keys(suite.id, secret[1:])
    with pytest.raises(ValueError, match="expected a cipher suite"):
        native.keys(0x1304, secret)
