"""A throw-away CA that issues client certificates, made with the cryptography package."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass
class Issued:
    """PEM files of a certificate (with its intermediates) and its key."""

    chain: str
    key: str
    der: bytes


def _name(*common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in common])


class Authority:
    """`file` is the PEM file of the CA; `intermediate()` makes one below it."""

    def __init__(self, directory: Path, name: str, parent: Authority | None = None) -> None:
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        issuer = parent or self
        self.parent = parent
        self.subject = _name(name)
        now = datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(issuer.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=10))
            .not_valid_after(now + timedelta(days=10))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(issuer.key, hashes.SHA256())
        )
        self.file = str(directory / f"{name}.pem")
        Path(self.file).write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def intermediate(self, name: str) -> Authority:
        return Authority(self.directory, name, self)

    def issue(
        self, name: str, *, common=None, names=(), usage=ExtendedKeyUsageOID.CLIENT_AUTH, days=1.0, after=None
    ) -> Issued:
        """`common`: common names, `name` alone when None; `names`: subject alternative names; `days` of validity."""
        key = ec.generate_private_key(ec.SECP256R1())
        start = datetime.now(UTC) - timedelta(days=2) if after is None else after
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(*((name,) if common is None else common)))
            .issuer_name(self.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(datetime.now(UTC) + timedelta(days=days))
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(names)), critical=False)
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        chain, private = self.directory / f"{name}.pem", self.directory / f"{name}-key.pem"
        links = certificate.public_bytes(Encoding.PEM)
        if self.parent is not None:
            links += self.certificate.public_bytes(Encoding.PEM)
        chain.write_bytes(links)
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return Issued(str(chain), str(private), certificate.public_bytes(Encoding.DER))
