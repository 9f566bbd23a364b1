"""External pre-shared keys of TLS 1.3 (RFC 8446 4.2.11), and the form in which OpenSSL takes one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

MAX_IDENTITY = 256
MAX_KEY = 64
MAX_EARLY_DATA = 1 << 14
"""Bytes; a server of OpenSSL takes no more unless it is told by a call that the binding lacks."""

TLS_AES_128_GCM_SHA256 = 0x1301
_TLS_1_3 = 0x0304
_FORMAT = 1
_ANY_LIFETIME = 1 << 30
"""Seconds. OpenSSL counts them from when it was given the key; how long a key lives is not for it to judge."""


@dataclass(slots=True, frozen=True)
class ExternalPsk:
    """A key that both sides hold, and the name that the client gives it on the wire, in the clear."""

    identity: bytes
    """1 to 256 bytes."""
    key: bytes = field(repr=False)
    """1 to 64 bytes."""
    max_early_data: int = 0
    """Bytes of 0-RTT data that may be sent under it; 0 when none may."""
    alpn: str = ""
    """The protocol that early data is in: if another one is negotiated, early data is refused."""
    suite: int = TLS_AES_128_GCM_SHA256
    """Early data is sealed with it; the connection may negotiate another suite of the same hash."""

    def __post_init__(self) -> None:
        if not 0 < len(self.identity) <= MAX_IDENTITY:
            raise ValueError(f"expected an identity of 1 to {MAX_IDENTITY} bytes, got {len(self.identity)}")
        if not 0 < len(self.key) <= MAX_KEY:
            raise ValueError(f"expected a key of 1 to {MAX_KEY} bytes, got {len(self.key)}")
        if not 0 <= self.max_early_data <= MAX_EARLY_DATA:
            raise ValueError(f"expected at most {MAX_EARLY_DATA} bytes of early data, got {self.max_early_data}")


FindPsk = Callable[[bytes], ExternalPsk | None]
"""A server's look-up by identity. Runs on the thread of the hand-shake: pure, quick and thread-safe."""


def session_der(psk: ExternalPsk, limit: int = MAX_EARLY_DATA) -> bytes:
    """The DER of OpenSSL's SSL_SESSION (ssl/ssl_asn1.c) with `psk` as its secret: the way to make one without a call.

    `limit`: bytes of early data, if that is less than the key's own. Without a time of its own the session begins
    when OpenSSL reads it.
    """
    before, after = _around_key(len(psk.key), psk.suite, min(psk.max_early_data, limit), psk.alpn)
    return before + psk.key + after


@lru_cache(maxsize=64)
def _around_key(size: int, suite: int, early: int, alpn: str) -> tuple[bytes, bytes]:
    """What stands before and behind a key of so many bytes: the same for most keys of a server."""
    before = [
        _integer(_FORMAT),
        _integer(_TLS_1_3),
        _tagged(0x04, suite.to_bytes(2, "big")),
        _tagged(0x04, b""),  # session id
        _head(0x04, size),
    ]
    after = [
        _tagged(0xA2, _integer(_ANY_LIFETIME)),
        _tagged(0xA4, _tagged(0x04, b"")),  # session id context: OpenSSL puts its own
    ]
    if early:
        after.append(_tagged(0xAF, _integer(early)))
    if alpn:
        after.append(_tagged(0xB0, _tagged(0x04, alpn.encode("ascii"))))
    first, last = b"".join(before), b"".join(after)
    return _head(0x30, len(first) + size + len(last)) + first, last


def _integer(value: int) -> bytes:
    # One bit more than the value needs: the sign.
    return _tagged(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _tagged(tag: int, content: bytes) -> bytes:
    return _head(tag, len(content)) + content


def _head(tag: int, size: int) -> bytes:
    if size < 0x80:
        return bytes((tag, size))
    return bytes((tag, 0x82)) + size.to_bytes(2, "big")
