"""The part of TLS 1.3's key schedule that goes on after the hand-shake (RFC 8446 sections 7.1 to 7.5)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

IV_SIZE = 12
"""Bytes of a nonce, for every suite here."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A cipher suite of TLS 1.3 (RFC 8446 appendix B.4)."""

    id: int
    name: str
    """As OpenSSL says it."""
    hash: str
    """As hashlib says it."""
    secret_size: int
    """Bytes of a traffic secret: the hash's size."""
    key_size: int


SUITES: dict[int, Suite] = {
    suite.id: suite
    for suite in (
        Suite(0x1301, "TLS_AES_128_GCM_SHA256", "sha256", 32, 16),
        Suite(0x1302, "TLS_AES_256_GCM_SHA384", "sha384", 48, 32),
        Suite(0x1303, "TLS_CHACHA20_POLY1305_SHA256", "sha256", 32, 32),
    )
}
"""The suites whose records can be taken over, by number."""
SUITES_BY_NAME: dict[str, Suite] = {suite.name: suite for suite in SUITES.values()}


def hkdf_expand_label(digest: str, secret: bytes | bytearray, label: bytes, context: bytes, size: int) -> bytes:
    """HKDF-Expand-Label (section 7.1): `size` bytes, at most 255 digests, from `secret`; `label` without "tls13 "."""
    label = b"tls13 " + label
    info = b"%b%c%b%c%b" % (size.to_bytes(2, "big"), len(label), label, len(context), context)
    block = out = hmac.digest(secret, info + b"\x01", digest)
    while len(out) < size:
        block = hmac.digest(secret, block + info + bytes([len(out) // len(block) + 1]), digest)
        out += block
    return out[:size]


def traffic_keys(suite: Suite, secret: bytes | bytearray) -> tuple[bytes, bytes]:
    """The key and the static IV of a traffic secret (section 7.3)."""
    return (
        hkdf_expand_label(suite.hash, secret, b"key", b"", suite.key_size),
        hkdf_expand_label(suite.hash, secret, b"iv", b"", IV_SIZE),
    )


def next_secret(suite: Suite, secret: bytes | bytearray) -> bytes:
    """The traffic secret after a KeyUpdate (section 7.2)."""
    return hkdf_expand_label(suite.hash, secret, b"traffic upd", b"", suite.secret_size)


def keying_material(suite: Suite, exporter: bytes | bytearray, label: bytes, context: bytes, size: int) -> bytes:
    """`size` bytes for another protocol from the exporter_master_secret (section 7.5)."""
    empty = hashlib.new(suite.hash).digest()
    secret = hkdf_expand_label(suite.hash, exporter, label, empty, suite.secret_size)
    return hkdf_expand_label(suite.hash, secret, b"exporter", hashlib.new(suite.hash, context).digest(), size)
