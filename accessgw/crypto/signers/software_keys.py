"""Keys that the gateway has itself, for while its signer process does not sign (tls.signer_fallback)."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

from twisted.logger import Logger

from accessgw.crypto.pem import CertificateError
from accessgw.crypto.signers.backend import SoftwareBackend
from accessgw.crypto.signers.libcrypto import LibcryptoError
from accessgw.crypto.signers.overlap import KEEP, Overlap
from accessgw.crypto.signers.threads import ThreadSigner
from accessgw.model.counters import TlsCounters

_log = Logger()


class SoftwareKeys:
    """Of files, on threads; loaded again as those of the process are."""

    def __init__(self, files: Sequence[str], counters: TlsCounters, reactor: Any) -> None:
        """Raises CertificateError and LibcryptoError."""
        self._files = files
        self._reactor = reactor
        self._keys = Overlap(SoftwareBackend.of_files(files))
        self.signer = ThreadSigner(self._keys, counters, reactor.callFromThread)

    def has(self, keys: Set[str]) -> bool:
        """Whether it signs with all of them, by id."""
        return keys <= self._keys.keys()

    def reload(self) -> None:
        """Keys that were replaced stay for a while; all do where a file cannot be used."""
        try:
            newest = SoftwareBackend.of_files(self._files)
        except (CertificateError, LibcryptoError) as error:
            _log.error("keys of the fallback not loaded again, the old ones stay: {why}", why=str(error))
            return
        self._use(self._keys.replaced(newest, self._reactor.seconds() + KEEP))

    def drop_ended(self) -> None:
        """Forget those that were replaced long enough ago."""
        now = self._reactor.seconds()
        if self._keys.next_end <= now:
            self._use(self._keys.without_ended(now))

    def stop(self) -> None:
        """Finish what waits, and end."""
        self.signer.stop()

    def _use(self, keys: Overlap) -> None:
        self._keys = keys
        self.signer.use(keys)
