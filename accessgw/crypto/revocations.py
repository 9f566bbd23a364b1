"""Devices and certificates that were revoked: in one file for the processes of a node, beside revocation lists of CAs."""

from __future__ import annotations

import hashlib
import struct
import threading
from collections.abc import Callable, Set
from pathlib import Path

import msgspec
from twisted.logger import Logger

from accessgw.core.interfaces.tls import TicketBinding
from accessgw.crypto.shared_file import SharedFile, SharedFileError
from accessgw.model.identity import Serial, Serials

log = Logger()

NAME = "revoked.json"
MOST = 65_536
"""Devices, and certificates, that can be revoked here; more belong on a revocation list."""
KEPT = 172_800.0
"""Seconds after which the revocation of a device is forgotten: twice the life of the longest-lived ticket. What began
before has been ended, and nothing of then opens any more."""
SEEN = 65_536
"""Certificates of which the serials are remembered, for their tickets."""
_LARGEST = 1 << 26


class TooManyRevocations(Exception):
    """The list is full."""


class _List(msgspec.Struct, frozen=True):
    digest: str
    changed: float


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of the file. Replaced whole, so that hand-shake threads need no lock."""

    devices: dict[str, float] = {}
    """Device -> wall-clock second of its revocation."""
    certificates: dict[str, float] = {}
    """SHA-256 of the DER in hexadecimal digits -> the same."""
    lists: dict[str, _List] = {}
    """What a revocation list said when a process read it last, and since when."""


class RevocationStore:
    """The Revocations of a node. Times are the wall clock's.

    Who asks is on the reactor's thread and touches no file; what other processes revoke is seen at the next `poll`. Those
    that tell write: call them on any thread, where a disk may be waited for. They raise SharedFileError.
    """

    def __init__(self, directory: Path) -> None:
        """Raises SharedFileError, also for a damaged file: without the list, who was locked out would come in."""
        self._file = SharedFile(directory / NAME, _LARGEST)
        self._lock = threading.Lock()
        """Reading the file, or writing it, and taking over what it says are one."""
        self._content = self._told = self._load()
        self._serials: dict[str, frozenset[Serial]] = {}
        self._digests: dict[str, str] = {}
        """Of the lists in `_serials`."""
        self._seen: dict[bytes, Serials] = {}
        self._lists_changed = max((known.changed for known in self._content.lists.values()), default=0.0)
        self._listeners: list[Callable[[], None]] = []

    # ---------------------------------------------------------------- who asks

    def is_revoked(self, binding: TicketBinding, issued: float) -> bool:
        """See Revocations. A ticket says only the minute of its birth, and is taken to be of its beginning.

        Of a certificate that this process has not seen (the device came with a ticket) nobody knows the number: after a
        change of the revocation lists its tickets are void, and the device connects in full, where the list is asked.
        """
        fingerprint = binding.fingerprint
        if self.is_locked_out(binding.device, fingerprint, issued):
            return True
        if not fingerprint:
            return False
        serials = self._seen.get(fingerprint)
        return issued <= self._lists_changed if serials is None else self.are_listed(serials)

    def is_locked_out(self, device: str, fingerprint: bytes, since: float) -> bool:
        content = self._content
        at = content.devices.get(device)
        if at is not None and since <= at:
            return True
        return bool(fingerprint and content.certificates) and fingerprint.hex() in content.certificates

    def are_listed(self, serials: Serials) -> bool:
        for listed in self._serials.values():  # noqa: SIM110  # a generator would take as long as the look-up
            if not listed.isdisjoint(serials):
                return True
        return False

    def certificate_is_revoked(self, fingerprint: bytes, serials: Serials) -> bool:
        seen = self._seen
        seen.pop(fingerprint, None)  # so that the last shown are the last to be forgotten
        seen[fingerprint] = serials
        if len(seen) > SEEN:
            del seen[next(iter(seen))]
        return self.are_listed(serials) or self.is_locked_out("", fingerprint, 0.0)

    def serials_of(self, fingerprint: bytes) -> Serials:
        return self._seen.get(fingerprint, ())

    def on_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def count(self) -> dict[str, int]:
        """How many are revoked: devices, certificates, and those on lists."""
        content = self._content
        return {
            "devices": len(content.devices),
            "certificates": len(content.certificates),
            "listed": sum(map(len, self._serials.values())),
        }

    # ---------------------------------------------------------------- who tells

    def poll(self, now: float) -> None:
        """Take over what other processes revoked, and tell the listeners of every change since the last time. On the
        reactor's thread, every second."""
        try:
            if self._file.changed(now) and self._lock.acquire(blocking=False):
                try:
                    self._content = self._load()
                finally:
                    self._lock.release()
        except SharedFileError as error:
            log.error("revocations: {why}; those read before stay in force", why=str(error))
        if self._told is not self._content:
            self._told = self._content
            self._lists_changed = max([self._lists_changed, *(one.changed for one in self._content.lists.values())])
            for listener in list(self._listeners):
                try:
                    listener()
                except Exception:
                    # each ends connections of its own: the others' must end all the same
                    log.failure("a change of the revocations was not dealt with")

    def revoke_device(self, device: str, now: float) -> None:
        """What it proved up to now proves nothing more. Raises TooManyRevocations."""
        self._add("devices", device, now)

    def revoke_certificate(self, fingerprint: bytes, now: float) -> None:
        """Never take it again. `fingerprint`: SHA-256 of its DER. Raises TooManyRevocations."""
        self._add("certificates", fingerprint.hex(), now)

    def use_list(self, name: str, serials: Set[Serial], now: float) -> None:
        """What a revocation list says now; `name` is the same at every start (its file). An empty one is one, too."""
        digest = hashlib.sha256()
        for issuer, number in sorted(serials):
            digest.update(struct.pack(">II", len(issuer), len(number)) + issuer.encode() + number)
        with self._file.locked(), self._lock:
            content = self._load()
            known, told = content.lists.get(name), digest.hexdigest()
            # Another process may have read it before this one, which went on giving tickets until now.
            if known is None or known.digest != told or self._digests.get(name, told) != told:
                lists = {**content.lists, name: _List(told, now)}
                content = msgspec.structs.replace(content, lists=lists)
                self._file.replace(msgspec.json.encode(content))
            # before the time of the change: who asks in between is refused, not let in
            self._lists_changed = max(self._lists_changed, content.lists[name].changed)
            self._serials = {**self._serials, name: frozenset(serials)}
            self._digests[name] = told
            self._content = content

    # ---------------------------------------------------------------- inside

    def _add(self, kind: str, name: str, now: float) -> None:
        with self._file.locked(), self._lock:
            content = self._load()
            devices = {device: at for device, at in content.devices.items() if now - at < KEPT}
            content = msgspec.structs.replace(content, devices=devices)
            entries = {**getattr(content, kind), name: now}
            if len(entries) > MOST:
                raise TooManyRevocations(f"expected at most {MOST} revoked {kind}, and they are there already")
            content = msgspec.structs.replace(content, **{kind: entries})
            self._file.replace(msgspec.json.encode(content))
            self._content = content

    def _load(self) -> _Content:
        content = self._file.read()
        if content is None:
            return _Content()
        try:
            return msgspec.json.decode(content, type=_Content)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SharedFileError(f"{self._file.path}: is damaged: {error}") from None
