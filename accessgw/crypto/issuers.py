"""Who signed it: of certificates, revocation lists and OCSP responses."""

from __future__ import annotations

from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import HashAlgorithm


def is_signed_by(signer: x509.Certificate, signature: bytes, data: bytes, algorithm: HashAlgorithm | None) -> bool:
    """Whether the key of `signer` made `signature`; RSA with PKCS #1 v1.5, ECDSA or EdDSA."""
    try:
        key = signer.public_key()
        if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            key.verify(signature, data)
        elif isinstance(key, rsa.RSAPublicKey) and algorithm is not None:
            key.verify(signature, data, padding.PKCS1v15(), algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm is not None:
            key.verify(signature, data, ec.ECDSA(algorithm))
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


def issuers_of(name: x509.Name, candidates: Iterable[x509.Certificate]) -> list[x509.Certificate]:
    """Of the candidates those of that name; several when a CA has got a new key."""
    return [one for one in candidates if one.subject == name]
