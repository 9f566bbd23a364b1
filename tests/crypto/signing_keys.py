"""Keys of each kind, what a hand-shake would have signed with them, and a check of the signature."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from protocols.signing import ECDSA_DIGEST, RSA_BLOCK


@dataclass(slots=True, frozen=True)
class SigningKey:
    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def id(self) -> str:
        return hashlib.sha256(self.public).hexdigest()

    @property
    def pem(self) -> bytes:
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def algorithm(self) -> int:
        return RSA_BLOCK if isinstance(self.private, rsa.RSAPrivateKey) else ECDSA_DIGEST

    def data(self, seed: int = 0) -> bytes:
        """What OpenSSL would leave to the key."""
        digest = hashlib.sha256(seed.to_bytes(4, "big")).digest()
        if self.algorithm == ECDSA_DIGEST:
            return digest
        return b"\x00\x01" + b"\xff" * (self.private.key_size // 8 - 3 - len(digest)) + b"\x00" + digest

    def verify(self, signature: bytes, data: bytes) -> None:
        """AssertionError or InvalidSignature when it is not right."""
        if isinstance(self.private, rsa.RSAPrivateKey):
            numbers = self.private.public_key().public_numbers()
            opened = pow(int.from_bytes(signature, "big"), numbers.e, numbers.n)
            assert opened == int.from_bytes(data, "big")
        else:
            self.private.public_key().verify(signature, data, ec.ECDSA(utils.Prehashed(hashes.SHA256())))

    def write(self, directory: Path, name: str) -> str:
        path = directory / f"{name}.pem"
        path.write_bytes(self.pem)
        return str(path)


@cache
def rsa_key() -> SigningKey:
    return SigningKey(rsa.generate_private_key(65537, 2048))


@cache
def ec_key() -> SigningKey:
    return SigningKey(ec.generate_private_key(ec.SECP256R1()))
