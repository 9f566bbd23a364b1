"""Private RSA keys in the parts that signers.multibuffer signs with. A signer that has no use for them is without the
package cryptography."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from accessgw.crypto.pem import CertificateError, read_file
from accessgw.crypto.signers.libcrypto import PublicKey
from accessgw.crypto.signers.multibuffer import SIZES


@dataclass(slots=True, frozen=True)
class RsaParts:
    """A private key as the Chinese remainder theorem wants it (RFC 8017 3.2, second representation)."""

    bits: int
    public: PublicKey
    p: int = field(repr=False)
    q: int = field(repr=False)
    dp: int = field(repr=False)
    dq: int = field(repr=False)
    inverse: int = field(repr=False)
    """Of q modulo p."""

    @classmethod
    def of(cls, key: rsa.RSAPrivateKey) -> RsaParts:
        numbers = key.private_numbers()
        public = PublicKey(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        return cls(key.key_size, public, numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp)


def rsa_parts(paths: Sequence[str]) -> dict[str, RsaParts]:
    """By key id, of those PEM files that hold RSA keys of a size in SIZES. Raises CertificateError."""
    found: dict[str, RsaParts] = {}
    for path in paths:
        try:
            key = load_pem_private_key(read_file(path), None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise CertificateError(path, f"expected an unencrypted private key in PEM: {error}") from error
        if isinstance(key, rsa.RSAPrivateKey) and key.key_size in SIZES:
            parts = RsaParts.of(key)
            found[parts.public.id] = parts
    return found
