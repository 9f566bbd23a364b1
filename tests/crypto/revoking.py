"""Revocation lists and OCSP responses of a throw-away CA."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from accessgw.crypto.serials import serial_of
from tests.crypto.authority import Authority

ECDSA_WITH_SHA256 = bytes.fromhex("06082a8648ce3d040302")
"""Its object identifier in DER."""


def crl(authority, *revoked, days=1.0, began=-1.0, key=None, extensions=()) -> bytes:
    """PEM. `revoked`: certificates in DER; `days` from now until the next one; `key` instead of the CA's."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(now + timedelta(days=min(began, days - 1.0)))
        .next_update(now + timedelta(days=days))
    )
    for der in revoked:
        one = x509.RevokedCertificateBuilder().serial_number(x509.load_der_x509_certificate(der).serial_number)
        builder = builder.add_revoked_certificate(one.revocation_date(now - timedelta(days=1)).build())
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key or authority.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def are_listed(store, *chain) -> bool:
    """Whether a list in force names one of these certificates (DER)."""
    return store.are_listed(tuple(map(serial_of, chain)))


def write(path, content: bytes) -> str:
    """A new file in the place of the old one, at once."""
    new = Path(f"{path}.new")
    new.write_bytes(content)
    new.replace(path)
    return str(path)


def response(authority: Authority, issued, status=ocsp.OCSPCertStatus.GOOD, *, began=-1.0, days=1.0, by=None) -> bytes:
    """DER, for a certificate in DER. `by`: (certificate, key) of a responder that is not the CA."""
    now = datetime.now(UTC)
    certificate, key = by or (authority.certificate, authority.key)
    revoked = status == ocsp.OCSPCertStatus.REVOKED
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=x509.load_der_x509_certificate(issued),
            issuer=authority.certificate,
            algorithm=hashes.SHA256(),
            cert_status=status,
            this_update=now + timedelta(days=began),
            next_update=now + timedelta(days=days),
            revocation_time=now - timedelta(days=1) if revoked else None,
            revocation_reason=None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, certificate)
    )
    if by is not None:
        builder = builder.certificates([certificate])
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
