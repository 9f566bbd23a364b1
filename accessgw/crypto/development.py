"""A certificate authority of this checkout, so that TLS works on the first run with nothing to set up."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_LIFETIME = timedelta(days=3650)
SERVER_LIFETIME = timedelta(days=90)
RENEW_BEFORE = timedelta(days=30)
"""A certificate that ends sooner is made anew."""
_SKEW = timedelta(hours=1)
"""How far clocks of clients may be behind."""
_ADDRESSES = ("127.0.0.1", "::1")


class DevelopmentFiles(NamedTuple):
    """Paths of what was made."""

    ca: str
    """The authority's certificate: what clients have to trust."""
    chain: str
    key: str


class _Authority(NamedTuple):
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def ensure_development_certificate(state_dir: str, now: float, hostname: str = "") -> DevelopmentFiles:
    """Make, or renew when near expiry, `ca.pem` and a server certificate signed by it in `state_dir`.

    The certificate is for localhost, 127.0.0.1, ::1 and `hostname` (this host's when empty). `now`
    is wall-clock seconds. Keys are P-256, files of keys have mode 0600, every file is replaced
    atomically, and processes that start together wait for each other. Raises OSError.
    """
    directory = Path(state_dir)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = DevelopmentFiles(*(str(directory / name) for name in ("ca.pem", "server.pem", "server-key.pem")))
    moment = datetime.fromtimestamp(now, UTC)
    names = sorted({"localhost", hostname or socket.gethostname()})
    with _locked(directory / ".development.lock"):
        authority = _ensure_authority(Path(files.ca), directory / "ca-key.pem", moment)
        if not _is_usable(files, authority.certificate, names, moment):
            _issue(files, authority, names, moment)
    return files


def _ensure_authority(certificate_path: Path, key_path: Path, now: datetime) -> _Authority:
    loaded = _load(certificate_path, key_path)
    if loaded is not None and _lasts(loaded.certificate, now):
        return loaded
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "accessgw development CA")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        _builder(name, name, key, now, CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    _store(key_path, _private(key), 0o600)
    _store(certificate_path, certificate.public_bytes(Encoding.PEM), 0o644)
    return _Authority(certificate, key)


def _issue(files: DevelopmentFiles, authority: _Authority, names: list[str], now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "accessgw development server")])
    addresses = [x509.IPAddress(ip_address(address)) for address in _ADDRESSES]
    certificate = (
        _builder(subject, authority.certificate.subject, key, now, SERVER_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([*map(x509.DNSName, names), *addresses]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    _store(Path(files.key), _private(key), 0o600)
    _store(Path(files.chain), certificate.public_bytes(Encoding.PEM), 0o644)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + lifetime)
    )


def _is_usable(files: DevelopmentFiles, ca: x509.Certificate, names: list[str], now: datetime) -> bool:
    loaded = _load(Path(files.chain), Path(files.key))
    if loaded is None or not _lasts(loaded.certificate, now):
        return False
    try:
        loaded.certificate.verify_directly_issued_by(ca)
        stated = loaded.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return set(names) <= set(stated.get_values_for_type(x509.DNSName))


def _lasts(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - RENEW_BEFORE


def _load(certificate: Path, key: Path) -> _Authority | None:
    """A certificate with its key; None when they are not there, damaged, or not of each other."""
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = load_pem_private_key(key.read_bytes(), password=None)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != loaded.public_key():
        return None
    return _Authority(loaded, private)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _store(path: Path, content: bytes, mode: int) -> None:
    """Replace a file at once: readers see the old or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
