"""The signer that the settings ask for, with the process behind it where it is ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.logger import Logger

from accessgw.core.interfaces.tls import Signer
from accessgw.crypto.pem import CertificateError, read_file
from accessgw.crypto.signers.backend import SoftwareBackend
from accessgw.crypto.signers.child import SignerChild
from accessgw.crypto.signers.fallback import FallbackSigner
from accessgw.crypto.signers.libcrypto import LibcryptoError, PublicKey
from accessgw.crypto.signers.process import ProcessSigner
from accessgw.crypto.signers.threads import ThreadSigner
from accessgw.crypto.watched_files import WatchedFiles
from accessgw.model.counters import TlsCounters
from accessgw.model.listener_settings import CertificateSettings
from accessgw.model.tls_settings import TlsSettings
from protocols.tls.engines import PURE, WHY_NOT_NATIVE

_log = Logger()

SOCKET = "signer.sock"
"""In the state directory: of the process that a gateway starts."""
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
        if WHY_NOT_NATIVE or settings.engine == PURE:
            reason = WHY_NOT_NATIVE or 'tls.engine is "pure"'
            raise SignerUnusable(
                f'tls.signer: "{settings.signer}" needs the native TLS engine, which is not available: {reason}'
            )
        self._certificates = tuple(certificates)
        own = settings.signer == "process"
        self.path = os.path.join(state_dir, SOCKET) if own else settings.signer.removeprefix("unix:")
        if len(os.fsencode(self.path)) > _LONGEST_PATH:
            raise SignerUnusable(f"tls.signer: expected a path of at most {_LONGEST_PATH} bytes, got {self.path}")
        self.process = ProcessSigner(
            self.path,
            public_keys(self._certificates),
            counters,
            reactor,
            timeout=settings.signer_timeout,
            waiting=settings.handshake_queue,
            patient=not settings.signer_fallback,
            grace=settings.signer_timeout if own else 0.0,
        )
        self.child: SignerChild | None = None
        files = dict.fromkeys(certificate.key for certificate in self._certificates)
        self._key_files = WatchedFiles(files if own else ())
        if own:
            options = [part for file in files for part in ("--key", os.path.abspath(file))]
            self.child = SignerChild(["--listen", os.path.abspath(self.path), *options], reactor)
        self.signer: Signer = self.process
        self._software: ThreadSigner | None = None
        if settings.signer_fallback:
            self._software = self._fallback(counters, reactor)
            self.signer = FallbackSigner(
                self.process, self._software, counters, reactor, timeout=settings.signer_timeout
            )

    def start(self) -> None:
        """Start the process, if it is ours, and connect to it."""
        if self.child is not None:
            self.child.start()
        self.process.start()

    def reload(self) -> None:
        """The certificates have been loaded again. A process that is not ours has to be told by others (SIGHUP)."""
        try:
            self.process.replace_keys(public_keys(self._certificates))
        except CertificateError as error:
            # Replaced again a moment after it was loaded: whoever looks at the files comes back to it.
            _log.error("the signer's keys are not known anew: {why}", why=str(error))
        if self.child is not None:
            self.child.reload()

    def poll(self) -> None:
        """Look whether a process of ours can have a key now that it lacks: the chain was replaced first, and the key only
        a while later. On the reactor's thread, every second."""
        stamps = self._key_files.changed()
        if stamps is None:
            return
        self._key_files.take(stamps)
        # A key that comes before its chain is loaded with that one: until then hand-shakes need the one before.
        if self.child is not None and self.process.lacks_keys:
            self.child.reload()

    def stop(self) -> None:
        """No hand-shake is left."""
        self.process.stop()
        if self.child is not None:
            self.child.stop()
        if self._software is not None:
            self._software.stop()

    def _fallback(self, counters: TlsCounters, reactor: Any) -> ThreadSigner:
        try:
            backend = SoftwareBackend.of_files([certificate.key for certificate in self._certificates])
        except LibcryptoError as error:
            raise SignerUnusable(f"tls.signer_fallback: {error}") from error
        return ThreadSigner(backend, counters, reactor.callFromThread)


def public_keys(certificates: Sequence[CertificateSettings]) -> dict[str, PublicKey]:
    """By key id, of the leaves of these chains. Raises CertificateError for one that no signer can have."""
    found: dict[str, PublicKey] = {}
    for certificate in certificates:
        try:
            public = x509.load_pem_x509_certificate(read_file(certificate.chain)).public_key()
        except ValueError as error:
            raise CertificateError(certificate.chain, "expected a PEM certificate chain, leaf first") from error
        if not isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
            raise CertificateError(certificate.chain, f"signers have RSA and EC keys, this is {type(public).__name__}")
        der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        try:
            key = PublicKey(der, certificate.chain)
        except LibcryptoError as error:
            raise CertificateError(certificate.chain, f"OpenSSL refuses its key: {error}") from error
        found[key.id] = key
    return found
