"""Client certificates of a listener: asking for them, verifying them, and whom they name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

from accessgw.crypto.pem import CertificateError, read_file

MAX_IDENTITY = 256
"""Characters; a longer name is none."""

_KINDS: dict[str, type[x509.DNSName] | type[x509.UniformResourceIdentifier] | type[x509.RFC822Name]] = {
    "san_dns": x509.DNSName,
    "san_uri": x509.UniformResourceIdentifier,
    "san_email": x509.RFC822Name,
}


@dataclass(slots=True, frozen=True)
class ClientCertificates:
    """What a listener wants of them; see the settings of the same names."""

    mode: str = "off"
    """off | request | require."""
    ca: str = ""
    """PEM file of the trusted CAs."""
    identity: str = "cn"
    """cn | san_dns | san_uri | san_email."""


NO_CLIENT_CERTIFICATES = ClientCertificates()


def authorities_of(clients: ClientCertificates) -> bytes:
    """PEM of the CAs, empty when no certificates are asked for. CertificateError for the file."""
    if clients.mode == "off":
        return b""
    pem = read_file(clients.ca)
    try:
        x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise CertificateError(clients.ca, "expected PEM certificates of CAs", "client_ca") from error
    return pem


def authorities_in(files: Iterable[str]) -> list[x509.Certificate]:
    """The CAs of several files. Raises CertificateError."""
    return [
        one
        for file in files
        for one in x509.load_pem_x509_certificates(authorities_of(ClientCertificates("request", file)))
    ]


def identity_in(certificate: bytes, rule: str) -> str:
    """The name in a DER certificate by `rule`, empty when there is none, or no single one where it has to be."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        if rule == "cn":
            names = [str(name.value) for name in parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
            if len(names) != 1:
                return ""
        else:
            extension = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            names = [str(name) for name in extension.value.get_values_for_type(_KINDS[rule])]
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return ""
    return names[0] if names and names[0].isprintable() and len(names[0]) <= MAX_IDENTITY else ""


def end_of(certificate: bytes) -> float:
    """Wall-clock second of notAfter of a certificate (DER)."""
    return x509.load_der_x509_certificate(certificate).not_valid_after_utc.timestamp()
