"""Chooses, once at import, who seals and opens TLS records: the twin in C on the system's libcrypto, or cryptography.

`ACCESSGW_ACCEL` is `auto` (C where the extension was built and libcrypto loads), `native` (C or an ImportError) or
`pure` (cryptography). The rules of a connection are in records.py, so that the two cannot disagree about them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from protocols.tls import record_protection
from protocols.tls.key_schedule import SUITES, Suite, traffic_keys
from protocols.tls.record_protection import Opened


class Direction(Protocol):
    """One direction of a connection. See record_protection for what the methods do."""

    @property
    def sequence(self) -> int: ...
    @property
    def awake(self) -> bool: ...
    def rekey(self, secret: bytes, key: bytes, iv: bytes) -> None: ...
    def secret(self) -> bytes: ...
    def rest(self) -> None: ...
    def wipe(self) -> None: ...


class Sealer(Direction, Protocol):
    """The writing direction."""

    def seal(self, content_type: int, data: bytes, /) -> bytes: ...


class Opener(Direction, Protocol):
    """The reading direction."""

    empty_records: int

    def open(self, data: bytes, at: int, single: bool, /) -> Opened: ...


@dataclass(frozen=True, slots=True)
class Backend:
    """A pair of directions; each is made of a suite's number, secret, key, iv and sequence number."""

    name: str
    sealer: Callable[[int, bytes, bytes, bytes, int], Sealer]
    opener: Callable[[int, bytes, bytes, bytes, int], Opener]
    keys: Callable[[int, bytes], tuple[bytes, bytes]]
    """key_schedule.traffic_keys, of a suite's number."""

    def make_sealer(
        self,
        suite: Suite,
        secret: bytes,
        sequence: int,
        made: record_protection.Sealer | None = None,
        keys: tuple[bytes, bytes] | None = None,
    ) -> Sealer:
        """The writing direction of a traffic secret. It may have been `made` already, for the twin in Python; or its
        `keys` were: key and IV."""
        if made is not None and self.sealer is record_protection.Sealer and made.sequence == sequence:
            return made
        key, iv = keys or self.keys(suite.id, secret)
        return self.sealer(suite.id, secret, key, iv, sequence)

    def make_opener(self, suite: Suite, secret: bytes, sequence: int) -> Opener:
        """The reading direction of a traffic secret."""
        return self.opener(suite.id, secret, *self.keys(suite.id, secret), sequence)


def _libcrypto() -> Backend:
    from protocols._native import tls_records

    tls_records.load(LIBCRYPTO)
    return Backend("libcrypto", tls_records.Sealer, tls_records.Opener, tls_records.traffic_keys)


def _cryptography() -> Backend:
    return Backend("cryptography", record_protection.Sealer, record_protection.Opener, _traffic_keys)


def _traffic_keys(suite: int, secret: bytes) -> tuple[bytes, bytes]:
    return traffic_keys(SUITES[suite], secret)


def _choose(wanted: str) -> Backend:
    if wanted == "pure":
        return _cryptography()
    if wanted == "native":
        return _libcrypto()
    if wanted != "auto":
        raise ImportError(f"ACCESSGW_ACCEL: expected auto, native or pure, got {wanted!r}")
    try:
        return _libcrypto()
    except ImportError:
        return _cryptography()


LIBCRYPTO = "libcrypto.so.3"
"""The ABI that the twin in C declares for itself."""

_chosen = _choose(os.environ.get("ACCESSGW_ACCEL", "auto"))

backend = _chosen.name
"""Name of the record protection in use: libcrypto or cryptography."""


def get_backend(library: str) -> Backend:
    """The record protection `auto` (the one chosen at import), `libcrypto` or `cryptography`; ImportError without it."""
    if library == "auto":
        return _chosen
    if library == "libcrypto":
        return _libcrypto()
    if library == "cryptography":
        return _cryptography()
    raise ValueError(f"expected auto, libcrypto or cryptography, got {library!r}")
