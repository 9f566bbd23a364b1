"""Signatures of a hand-shake that are made outside of it: what is asked, and of which engines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from protocols.tls.engine import TlsEngine


@dataclass(slots=True, frozen=True)
class SigningNeeded:
    """The hand-shake has stopped until signed() or sign_failed() is called with `number`."""

    number: int
    """Never the same twice in a process."""
    key: str
    """SHA-256 of the public key (SubjectPublicKeyInfo) in hexadecimal digits."""
    algorithm: int
    """protocols.signing.RSA_BLOCK or ECDSA_DIGEST."""
    data: bytes = field(repr=False)
    """RSA_BLOCK: as long as the modulus, and padded (PSS, or PKCS #1 over TLS 1.2). ECDSA_DIGEST: the digest."""


class SigningEngine(TlsEngine, Protocol):
    """A TlsEngine whose private keys may be elsewhere."""

    def pending_signature(self) -> SigningNeeded | None:
        """What the hand-shake waits for, after feed()."""

    def signed(self, number: int, signature: bytes) -> None:
        """Go on with the hand-shake, as feed() does. LocalError on another thread than that of the feed() which
        stopped. Without effect when nothing of that number is wanted."""

    def sign_failed(self, number: int, reason: str) -> None:
        """End the hand-shake with the alert internal_error: raises RemoteError with the reason. As signed()."""
