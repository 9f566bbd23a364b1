"""The signer that the settings ask for, with the process behind it where it is ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.logger import Logger

from accessgw.core.interfaces.tls import Signer
from accessgw.crypto.pem import CertificateError, read_file
from accessgw.crypto.server_certificates import LoadedCertificate
from accessgw.crypto.signers.child import SignerChild
from accessgw.crypto.signers.fallback import FallbackSigner
from accessgw.crypto.signers.libcrypto import LibcryptoError, PublicKey
from accessgw.crypto.signers.process import ProcessSigner
from accessgw.crypto.signers.software_keys import SoftwareKeys
from accessgw.crypto.watched_files import WatchedFiles
from accessgw.model.counters import TlsCounters
from accessgw.model.listener_settings import CertificateSettings
from accessgw.model.tls_settings import TlsSettings
from protocols.tls.engines import PURE, WHY_NOT_NATIVE

_log = Logger()

SOCKET = "signer.sock"
"""In the state directory: of the process that a gateway starts."""
STARTING = 30.0
"""Seconds within which a process that we started serves; one that does not hangs."""
LOOKS = 3
"""Looks in a row that must find so: after a gateway itself was stopped for as long, the first comes before the process, which
may be well, is connected."""
_LONGEST_PATH = 107
"""Bytes of a path that a Unix socket may have (unix(7))."""


class SignerUnusable(Exception):
    """The signer that the settings name cannot be used here; the message begins with the setting."""


class Signing:
    """A signer outside of this process, and what it takes to have it."""

    def __init__(
        self,
        settings: TlsSettings,
        certificates: Sequence[CertificateSettings],
        *,
        state_dir: str,
        reactor: Any,
        counters: TlsCounters,
    ) -> None:
        """Of settings whose `signs_elsewhere` holds. Raises SignerUnusable, and CertificateError for a chain."""
        own = settings.signer == "process"
        self.path = socket_path(settings, state_dir)
        self.process = ProcessSigner(
            self.path,
            {key.id: key for key in map(public_key_of, certificates)},
            counters,
            reactor,
            timeout=settings.signer_timeout,
            waiting=settings.handshake_queue,
            patient=not settings.signer_fallback,
            grace=settings.signer_timeout if own else 0.0,
            hang_after=settings.signer_restart_after,
            hung=self._hung if own else None,
        )
        self.child: SignerChild | None = None
        files = list(dict.fromkeys(certificate.key for certificate in certificates))
        self._key_files = WatchedFiles(files if own or settings.signer_fallback else ())
        if own:
            options = [part for file in files for part in ("--key", os.path.abspath(file))]
            if settings.provider:
                options += ["--provider", settings.provider]
            self.child = SignerChild(["--listen", os.path.abspath(self.path), *options], reactor)
        self.signer: Signer = self.process
        self._absent = 0
        """Looks in a row that have found that it should have served long ago."""
        self._software: SoftwareKeys | None = None
        if settings.signer_fallback:
            try:
                self._software = SoftwareKeys(files, counters, reactor)
            except LibcryptoError as error:
                raise SignerUnusable(f"tls.signer_fallback: {error}") from error
            self.signer = FallbackSigner(
                self.process, self._software.signer, counters, reactor, timeout=settings.signer_timeout
            )

    def start(self) -> None:
        """Start the process, if it is ours, and connect to it."""
        if self.child is not None:
            self.child.start()
        self.process.start()

    def _hung(self) -> None:
        if self.child is not None:
            self.child.kill()

    def has_key_of(self, leaf: x509.Certificate, path: str) -> bool:
        """See server_certificates.KeysElsewhere."""
        key = _public_key(leaf, path).id
        return self.process.has(key) or (self._software is not None and self._software.has({key}))

    def reload(self, in_force: Sequence[LoadedCertificate], awaited: Sequence[LoadedCertificate]) -> None:
        """Other certificates have come into force, or wait for their keys. A process that is not ours has to be told by
        others (SIGHUP)."""
        new = {one.key_id: _public_key(one.chain[0], one.settings.chain) for one in awaited}
        keys = {one.key_id: _public_key(one.chain[0], one.settings.chain) for one in in_force}
        self.process.replace_keys({**new, **keys}, awaited=new.keys() - keys.keys())
        self._load_keys()

    def poll(self) -> None:
        """Look whether key files were replaced (the chain came first, and the key only a while later), and whether the
        process that was started serves. On the reactor's thread, every second."""
        if self._software is not None:
            self._software.drop_ended()
        if self.child is None or min(self.child.age, self.process.away) < STARTING:
            self._absent = 0
        elif (absent := self._absent + 1) < LOOKS:
            self._absent = absent
        else:
            self._absent = 0
            _log.error("the signer does not serve {seconds:g} s after its start, ending it", seconds=STARTING)
            self.child.kill()
        stamps = self._key_files.changed()
        if stamps is not None:
            self._key_files.take(stamps)
            self._load_keys()

    def _load_keys(self) -> None:
        """A key that comes before its chain is loaded with that one: until then hand-shakes need the one before."""
        if self.child is not None and self.process.lacks_keys:
            self.child.reload()
        if self._software is not None and not self._software.has(self.process.wanted):
            self._software.reload()

    def status(self) -> dict[str, Any]:
        """For people: of the process, and its pid where it is ours and runs."""
        pid = self.child.pid if self.child is not None else None
        return {**self.process.status(), **({} if pid is None else {"pid": pid})}

    def stop(self) -> None:
        """No hand-shake is left."""
        self.process.stop()
        if self.child is not None:
            self.child.stop()
        if self._software is not None:
            self._software.stop()


def socket_path(settings: TlsSettings, state_dir: str) -> str:
    """Where the signer is asked. Raises SignerUnusable."""
    if WHY_NOT_NATIVE or settings.engine == PURE:
        reason = WHY_NOT_NATIVE or 'tls.engine is "pure"'
        raise SignerUnusable(
            f'tls.signer: "{settings.signer}" needs the native TLS engine, which is not available: {reason}'
        )
    own = settings.signer == "process"
    path = os.path.join(state_dir, SOCKET) if own else settings.signer.removeprefix("unix:")
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise SignerUnusable(f"tls.signer: expected a path of at most {_LONGEST_PATH} bytes, got {path}")
    return path


def public_key_of(certificate: CertificateSettings) -> PublicKey:
    """Of the leaf in its chain file. Raises CertificateError for one that no signer can have."""
    try:
        leaf = x509.load_pem_x509_certificate(read_file(certificate.chain))
    except ValueError as error:
        raise CertificateError(certificate.chain, "expected a PEM certificate chain, leaf first") from error
    return _public_key(leaf, certificate.chain)


def _public_key(leaf: x509.Certificate, path: str) -> PublicKey:
    try:
        public = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(path, f"its key cannot be used: {error}") from error
    if not isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise CertificateError(path, f"signers have RSA and EC keys, this is {type(public).__name__}")
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        return PublicKey(der, path)
    except LibcryptoError as error:
        raise CertificateError(path, f"OpenSSL refuses its key: {error}") from error
