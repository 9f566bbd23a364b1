"""What makes signatures: the interface of the back ends, and the one in software."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from accessgw.crypto.pem import read_file
from accessgw.crypto.signers.libcrypto import LibcryptoError, PrivateKey
from protocols.signing import BAD_REQUEST, ECDSA_DIGEST, FAILED, RSA_BLOCK, UNKNOWN_KEY

RSA, EC = "rsa", "ec"
_MAX_DIGEST = 64
_PSS_TRAILER = 0xBC


@dataclass(slots=True, frozen=True)
class Job:
    """A signature that is wanted; see core.interfaces.tls.Signer for the fields."""

    key: str
    algorithm: int
    data: bytes


class Refused(Exception):
    """A job that cannot be done; `code` is one of protocols.signing."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Backend(Protocol):
    """Signs on the threads that call it, several at once."""

    name: str
    """For counters and the log."""
    batch: int
    """Jobs that are worth doing together."""
    linger: float
    """Seconds for which the first of a batch may wait for others."""

    def keys(self) -> frozenset[str]:
        """The keys that it has."""

    def sign(self, jobs: Sequence[Job]) -> list[bytes | Refused]:
        """A result for each job, in order. Does not raise."""


class SoftwareBackend:
    """OpenSSL, one after another."""

    name = "software"
    batch = 8
    linger = 0.0

    def __init__(self, keys: Sequence[PrivateKey] = ()) -> None:
        self._keys: dict[str, PrivateKey] = {}
        self.add(keys)

    @classmethod
    def of_files(cls, paths: Sequence[str]) -> SoftwareBackend:
        """Of PEM files. Raises CertificateError or LibcryptoError, with the path."""
        return cls([PrivateKey.from_pem(read_file(path), path) for path in paths])

    def add(self, keys: Sequence[PrivateKey]) -> None:
        """Before it signs."""
        self._keys.update((key.id, key) for key in keys)

    def keys(self) -> frozenset[str]:
        return frozenset(self._keys)

    def sign(self, jobs: Sequence[Job]) -> list[bytes | Refused]:
        return [self._sign(job) for job in jobs]

    def _sign(self, job: Job) -> bytes | Refused:
        key = self._keys.get(job.key)
        refused = unfit(job, key.kind if key else "", key.size if key else 0)
        if refused is not None or key is None:
            return refused or Refused(UNKNOWN_KEY, "no such key")
        try:
            return key.sign(job.data)
        except LibcryptoError as error:
            return Refused(FAILED, str(error))


def unfit(job: Job, kind: str, size: int) -> Refused | None:
    """Why a key of that kind and size (bytes) does not do the job; an empty kind for an unknown key.

    A block must look like the padding of a signature (RFC 8017 9.1.1 and 9.2): decryption is nothing that a gateway
    asks for.
    """
    if not kind:
        return Refused(UNKNOWN_KEY, f"no key {job.key[:16]}")
    if job.algorithm == RSA_BLOCK and kind == RSA:
        data = job.data
        if len(data) != size:
            return Refused(BAD_REQUEST, f"expected a block of {size} bytes, got {len(data)}")
        if data[-1] != _PSS_TRAILER and not data.startswith(b"\x00\x01\xff"):
            return Refused(BAD_REQUEST, "expected a block that is padded for a signature")
        return None
    if job.algorithm == ECDSA_DIGEST and kind == EC:
        if not 20 <= len(job.data) <= _MAX_DIGEST:
            return Refused(BAD_REQUEST, f"expected a digest of 20 to {_MAX_DIGEST} bytes, got {len(job.data)}")
        return None
    return Refused(BAD_REQUEST, f"algorithm {job.algorithm} is not one of a key of kind {kind}")
