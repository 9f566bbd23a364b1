"""Digests of tables, header states, dictionaries and bundles: what they are, and how they are read."""

from __future__ import annotations

from hashlib import sha256

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.fields import expect_end
from protocols.mmtp.statuses import Status

DIGEST_SIZE = 8


def digest_of(content: bytes) -> bytes:
    """What names a content on the wire, or verifies it: the first 8 bytes of its SHA-256."""
    return sha256(content).digest()[:DIGEST_SIZE]


def checked_digest(digest: bytes) -> bytes:
    """`digest`, to be sent. Raises LocalError for another size."""
    if len(digest) != DIGEST_SIZE:
        raise LocalError(f"digest: expected {DIGEST_SIZE} bytes, got {len(digest)}")
    return digest


def read_digest(data: bytes, pos: int, end: int) -> tuple[bytes, int]:
    """The digest at `pos`, and the position after it. Raises RemoteError(PROTOCOL)."""
    if pos + DIGEST_SIZE > end:
        raise RemoteError(Status.PROTOCOL, f"digest: expected {DIGEST_SIZE} bytes, got {end - pos}")
    return data[pos : pos + DIGEST_SIZE], pos + DIGEST_SIZE


def whole_digest(data: bytes, pos: int, end: int) -> bytes:
    """A digest and nothing else. Raises RemoteError(PROTOCOL)."""
    digest, pos = read_digest(data, pos, end)
    expect_end(pos, end)
    return digest
