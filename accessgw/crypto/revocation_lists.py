"""Revocation lists of CAs (RFC 5280 section 5): read, verified, and read again when their file changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtensionOID
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.crypto.issuers import is_signed_by, issuers_of
from accessgw.crypto.pem import CertificateError, read_file
from accessgw.crypto.serials import issuer_of, number_of
from accessgw.crypto.services import Run
from accessgw.crypto.watched_files import Stamps, WatchedFiles
from accessgw.model.identity import Serial
from accessgw.model.words import counted

log = Logger()

_PEM = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)
_UNDERSTOOD = frozenset((ExtensionOID.AUTHORITY_KEY_IDENTIFIER, ExtensionOID.CRL_NUMBER))
_REMIND = 3600.0
"""Seconds after which it is said again that a list has expired."""


class UsesLists(Protocol):
    """See crypto.revocations.RevocationStore."""

    def use_list(self, name: str, serials: frozenset[Serial], now: float) -> None: ...


@dataclass(slots=True, frozen=True)
class LoadedLists:
    """What a file of revocation lists says."""

    serials: frozenset[Serial]
    """Of each revoked certificate."""
    expires_at: float
    """Wall-clock second at which the first of the lists should have been replaced."""


def load_lists(path: str, authorities: Sequence[x509.Certificate]) -> LoadedLists:
    """All lists of a PEM file. Each must be complete (no delta, no partition) and signed by one of `authorities`.
    Raises CertificateError. Whether they have expired is for the caller to see."""
    found = _PEM.findall(read_file(path))
    if not found:
        raise CertificateError(path, "expected PEM revocation lists, got none")
    serials: set[Serial] = set()
    expires_at = float("inf")
    for number, pem in enumerate(found, 1):
        try:
            one = x509.load_pem_x509_crl(pem)
            _refuse_unsound(path, one, authorities)
            issuer = issuer_of(one.issuer)
            serials.update((issuer, number_of(revoked.serial_number)) for revoked in one)
            if one.next_update_utc is not None:
                expires_at = min(expires_at, one.next_update_utc.timestamp())
        except (ValueError, UnsupportedAlgorithm) as error:
            # parts of it are read only when they are asked for
            raise CertificateError(path, f"list {number} cannot be read: {error}") from error
    return LoadedLists(frozenset(serials), expires_at)


def _refuse_unsound(path: str, one: x509.CertificateRevocationList, authorities: Sequence[x509.Certificate]) -> None:
    name = one.issuer.rfc4514_string()
    for extension in one.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            kind = getattr(extension.oid, "_name", extension.oid.dotted_string)
            raise CertificateError(path, f"expected complete lists, that of {name} has a critical {kind}")
    if not any(_may_sign(ca) and _signed(one, ca) for ca in issuers_of(one.issuer, authorities)):
        raise CertificateError(path, f"expected lists signed by the CAs of clients, that of {name} is not")


class RevocationLists:
    """The lists of one file in force. Loading and writing happen where `run` does them."""

    def __init__(
        self,
        path: str,
        authorities: Callable[[], Sequence[x509.Certificate]],
        store: UsesLists,
        *,
        run: Run,
        now: float,
    ) -> None:
        """Loads the file; `authorities` gives the CAs of the present, and may raise CertificateError. Raises
        CertificateError: without a list that can be used nobody may come in. An expired one is used, there is no
        better, and said to be."""
        self.path = path
        self._authorities = authorities
        self._store = store
        self._run = run
        self._watched = WatchedFiles([path])
        self._loading = False
        self._again = False
        """The CAs may have changed since the load under way has read them."""
        self._owed = False
        """The last load came to no end, and the file may be the same: what has to be read under other CAs must be."""
        self._refusal = ""
        """The last in the log: what is tried again every second is said once."""
        self._said_at = float("-inf")
        self._loaded = load_lists(path, authorities())
        store.use_list(path, self._loaded.serials, now)
        self._remind(now)

    @property
    def expires_at(self) -> float:
        """Wall-clock second at which a newer list should be there; infinite when it does not say."""
        return self._loaded.expires_at

    def poll(self, now: float) -> Deferred[None] | None:
        """Look whether the file has changed; on the reactor's thread, every second. The Deferred fires when a change has
        been dealt with."""
        self._remind(now)
        if self._loading:
            return None
        stamps = self._watched.changed()
        if stamps is None and self._owed:
            stamps = self._watched.stamps()
        return None if stamps is None else self._load(now, stamps)

    def reload(self, now: float) -> Deferred[None] | None:
        """Read it whether it has changed or not: the CAs may have. While it is being read, that is done once more
        after."""
        self._again = self._loading
        return None if self._loading else self._load(now, self._watched.stamps())

    def _load(self, now: float, stamps: Stamps) -> Deferred[None]:
        self._loading = True
        self._owed = False

        def load() -> LoadedLists:
            loaded = load_lists(self.path, self._authorities())
            if loaded.expires_at <= now:
                raise CertificateError(self.path, f"expired at {_shown(loaded.expires_at)}")
            self._store.use_list(self.path, loaded.serials, now)
            return loaded

        def used(loaded: LoadedLists) -> None:
            self._loaded, self._refusal = loaded, ""
            self._watched.take(stamps)
            log.info(
                "revocation list {path} loaded: {what}",
                path=self.path,
                what=counted(len(loaded.serials), "certificate"),
            )

        def refused(failure: Failure) -> None:
            if failure.check(CertificateError):
                self._watched.take(stamps)
            else:
                self._owed = True
            why = failure.getErrorMessage()
            if failure.check(CertificateError) or why != self._refusal:
                self._refusal = why
                log.error("REVOCATION LIST REFUSED, the one read before stays in force: {why}", why=why)

        def done(_: None) -> Deferred[None] | None:
            self._loading = False
            return self.reload(now) if self._again else None

        return self._run(load).addCallbacks(used, refused).addCallback(done)

    def _remind(self, now: float) -> None:
        if self._loaded.expires_at <= now and now - self._said_at >= _REMIND:
            self._said_at = now
            log.error(
                "REVOCATION LIST EXPIRED: {path} should have been replaced before {when}; it stays in force",
                path=self.path,
                when=_shown(self._loaded.expires_at),
            )


def _signed(one: x509.CertificateRevocationList, ca: x509.Certificate) -> bool:
    return is_signed_by(ca, one.signature, one.tbs_certlist_bytes, one.signature_hash_algorithm)


def _may_sign(ca: x509.Certificate) -> bool:
    try:
        return ca.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True


def _shown(second: float) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat(timespec="seconds")
