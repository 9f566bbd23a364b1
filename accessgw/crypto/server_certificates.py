"""Certificates of a listener: chain and key loaded, checked against each other, with what is stapled."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from accessgw.crypto.ocsp import OcspError, response_end
from accessgw.crypto.pem import CertificateError, read_file
from accessgw.model.listener_settings import CertificateSettings
from protocols.tls.engines import check_key
from protocols.tls.server_context import ServerCertificate

SM = "sm"
"""The profile whose keys are SM2."""
_SM2 = "1.2.156.10197.1.301"
"""The curve's object identifier, which errors of cryptography name."""

_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


class KeysElsewhere(Protocol):
    """Who has the private keys, where that is not the gateway."""

    def has_key_of(self, leaf: x509.Certificate, path: str) -> bool:
        """Whether it would sign for the certificate now. CertificateError, with that path, for a key that it cannot
        have."""


@dataclass(slots=True, frozen=True)
class LoadedCertificate:
    """A chain and its key, loaded and checked against each other."""

    settings: CertificateSettings
    chain: list[x509.Certificate]
    kind: type
    """Of the key: of two certificates for a name, the client's signature algorithms choose by it."""
    pem: ServerCertificate
    staple_end: float
    """Wall-clock second at which the stapled response ends."""
    unstapled: str
    """Why the response that the settings name is not stapled."""

    @property
    def names(self) -> list[str]:
        """The server names it is for: the configured ones, else its own."""
        if self.settings.names:
            return [name.lower() for name in self.settings.names]
        try:
            extension = self.chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            return []
        return [name.lower() for name in extension.value.get_values_for_type(x509.DNSName)]

    @property
    def ends(self) -> float:
        """Wall-clock second at which the first certificate of the chain ends."""
        return min(link.not_valid_after_utc.timestamp() for link in self.chain)

    @property
    def key_id(self) -> str:
        """What signers call its key: SHA-256 of the public half."""
        return hashlib.sha256(_public(self.chain[0])).hexdigest()

    def remarks(self, now: float) -> list[str]:
        """For the log once it is in force."""
        found = [self.unstapled] if self.unstapled else []
        begins = max(link.not_valid_before_utc.timestamp() for link in self.chain)
        if begins > now:
            path = self.settings.chain
            found.append(f"CERTIFICATE NOT YET VALID, clients refuse it: {path} begins at {moment(begins)}")
        return found

    def stapled_anew(self, now: float) -> LoadedCertificate:
        """With the response that is there now, if it is for this chain; else with its own, until that ends."""
        staple, end, unstapled = _staple(self.settings, self.chain, now)
        if unstapled and now < self.staple_end:
            return self
        return replace(self, pem=replace(self.pem, ocsp_response=staple), staple_end=end, unstapled=unstapled)


def by_name(
    loaded: Sequence[LoadedCertificate],
) -> tuple[list[ServerCertificate], dict[str, list[ServerCertificate]]]:
    """The certificates for names that are nobody's, and those of each name: of each kind of key the first."""
    chosen: dict[str, dict[type, ServerCertificate]] = {}
    for certificate in loaded:
        for name in certificate.names:
            chosen.setdefault(name, {}).setdefault(certificate.kind, certificate.pem)
    first = loaded[0]
    default = {first.kind: first.pem}
    for certificate in loaded:
        if set(certificate.names) == set(first.names):
            default.setdefault(certificate.kind, certificate.pem)
    return list(default.values()), {name: list(kinds.values()) for name, kinds in chosen.items()}


def load(
    settings: CertificateSettings, profile: str, now: float, elsewhere: KeysElsewhere | None, provider: str = ""
) -> LoadedCertificate:
    """Its files; the key is not read where it is elsewhere, and by OpenSSL alone where a provider may have it. Raises
    CertificateError, not for what cannot be stapled."""
    chain_pem, key_pem = read_file(settings.chain), b"" if elsewhere is not None else read_file(settings.key)
    try:
        chain = x509.load_pem_x509_certificates(chain_pem)
    except ValueError as error:
        raise CertificateError(settings.chain, "expected a PEM certificate chain, leaf first", "chain") from error
    _refuse_unreadable(settings, chain, profile)
    staple, end, unstapled = _staple(settings, chain, now)
    pem = ServerCertificate(chain_pem, key_pem, staple)
    if elsewhere is not None:
        return LoadedCertificate(settings, chain, type(chain[0].public_key()), pem, end, unstapled)
    if profile == SM:
        # cryptography knows no SM2 keys; OpenSSL compares the two when it takes them.
        return LoadedCertificate(settings, chain, object, pem, end, unstapled)
    if provider:
        try:
            check_key(pem, provider)
        except ValueError as error:
            raise CertificateError(settings.key, f"with the OpenSSL provider {provider}: {error}", "key") from error
        return LoadedCertificate(settings, chain, type(chain[0].public_key()), pem, end, unstapled)
    try:
        key = load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(settings.key, "expected an unencrypted PEM private key", "key") from error
    if not isinstance(key, _PrivateKey):
        raise CertificateError(settings.key, f"expected an EC, RSA or EdDSA key, got {type(key).__name__}", "key")
    if _public(key) != _public(chain[0]):
        raise CertificateError(settings.key, f"is not the key of {settings.chain}", "key")
    return LoadedCertificate(settings, chain, type(key), pem, end, unstapled)


def _refuse_unreadable(settings: CertificateSettings, chain: Sequence[x509.Certificate], profile: str) -> None:
    """What is read of a chain later, and of many parts only then: CertificateError for what cannot be."""
    try:
        for link in chain:
            _ = link.not_valid_before_utc, link.not_valid_after_utc
        _ = chain[0].extensions
        if profile != SM:
            _public(chain[0])
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        hint = ' (a certificate of SM2 needs profile = "sm")' if _SM2 in str(error) else ""
        raise CertificateError(settings.chain, f"a certificate in it cannot be used: {error}{hint}", "chain") from error


def _staple(settings: CertificateSettings, chain: Sequence[x509.Certificate], now: float) -> tuple[bytes, float, str]:
    """What is stapled and when it ends; nothing rather than what clients would refuse, and why."""
    if not settings.ocsp:
        return b"", float("inf"), ""
    try:
        response = read_file(settings.ocsp)
        return response, response_end(response, chain, now), ""
    except (CertificateError, OcspError) as error:
        shown = "" if isinstance(error, CertificateError) else f"{settings.ocsp}: "
        return b"", float("inf"), f"NO OCSP RESPONSE IS STAPLED for {settings.chain}: {shown}{error}"


def moment(second: float) -> str:
    """A wall-clock second for the log."""
    return datetime.fromtimestamp(second, UTC).isoformat(timespec="seconds")


def _public(holder: _PrivateKey | x509.Certificate) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
