"""PEM files of a client's TLS, read and looked through: what cannot be used is told with the file that is at fault."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from OpenSSL import crypto

PathLike = str | os.PathLike[str]

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"


@dataclass(slots=True, frozen=True)
class OwnCertificate:
    """What a client shows, and how it proves that."""

    chain: bytes
    """PEM, leaf first."""
    key: bytes = field(repr=False)
    """PEM, not encrypted."""
    leaf: crypto.X509


def own_certificate(cert: PathLike, key: PathLike) -> OwnCertificate:
    """The certificate, and the key that must be its own; both may be in one file. Raises ValueError."""
    chain, private = _read(cert), _read(key)
    leaf = _certificates(cert, chain)[0][1]
    try:
        # An empty passphrase: with none OpenSSL would ask for one on the terminal.
        loaded = crypto.load_privatekey(crypto.FILETYPE_PEM, private, b"")
    except crypto.Error as error:
        also = " beside the certificate, as no other file is named for it" if key == cert else ""
        raise ValueError(f"{os.fspath(key)}: expected an unencrypted PEM private key{also}") from error
    if _public(loaded) != _public(leaf.get_pubkey()):
        raise ValueError(f"{os.fspath(key)}: is not the key of {os.fspath(cert)}")
    return OwnCertificate(chain, private, leaf)


def authorities_in(path: PathLike) -> list[bytes]:
    """The certificates in a file of authorities, PEM. Raises ValueError when there is none, or one is damaged."""
    return [pem for pem, _ in _certificates(path, _read(path))]


def _certificates(path: PathLike, text: bytes) -> list[tuple[bytes, crypto.X509]]:
    """Each as it is in the file, and loaded; at least one."""
    parts = [_BEGIN + part.partition(_END)[0] + _END + b"\n" for part in text.split(_BEGIN)[1:]]
    if not parts:
        raise ValueError(f"{os.fspath(path)}: expected PEM certificates, found none")
    try:
        return [(part, crypto.load_certificate(crypto.FILETYPE_PEM, part)) for part in parts]
    except crypto.Error as error:
        raise ValueError(f"{os.fspath(path)}: expected PEM certificates, one is damaged") from error


def _read(path: PathLike) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{os.fspath(path)}: {error.strerror}") from error


def _public(key: crypto.PKey) -> bytes:
    return crypto.dump_publickey(crypto.FILETYPE_ASN1, key)
