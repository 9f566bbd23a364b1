"""Certificates as revocation lists name them: issuer and serial number, in the form of model.identity.Serial."""

from __future__ import annotations

from functools import lru_cache
from sys import intern

from cryptography import x509

from accessgw.model.identity import Serial


def issuer_of(name: x509.Name) -> str:
    """One string for all that have this issuer: a process may hold a million of them."""
    return intern(name.public_bytes().hex())


def number_of(serial: int) -> bytes:
    """RFC 5280 wants numbers of up to 20 bytes above zero; CAs that gave others are to be understood, too."""
    return serial.to_bytes(serial.bit_length() // 8 + 1, "big", signed=True)


def serial_of(certificate: bytes) -> Serial:
    """Of a certificate in DER. ValueError for what is none."""
    loaded = x509.load_der_x509_certificate(certificate)
    return issuer_of(loaded.issuer), number_of(loaded.serial_number)


serial_of_ca = lru_cache(maxsize=1024)(serial_of)
"""The same for the few that stand above many."""
