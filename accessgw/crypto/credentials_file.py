"""A file of credentials that is read again when it changes; a damaged one leaves what was read before in force."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.crypto.services import AuthenticatorServices
from accessgw.model.words import counted, trouble
from protocols.passwords import MAX_FILE, LineError, parse_lines

log = Logger()

T = TypeVar("T")

CHECK_INTERVAL = 1.0
"""Seconds between looks at the file."""

Signature = tuple[int, int, int, int]
_ABSENT: Signature = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Table(Generic[T]):
    """What a file says, and how often it has been read with success: its version."""

    entries: Mapping[str, T]
    version: int
    users: list[str] = field(default_factory=list)


class CredentialsFile(Generic[T]):
    """`current()` is what the file says, at most a second late; parsing never happens on the reactor's thread,
    but for the first time."""

    def __init__(self, file: str, parse: Callable[[str], T], services: AuthenticatorServices, path: str) -> None:
        """`parse` makes an entry of what follows `user:`. Raises ValueError with `path`, file and line."""
        self.file = file
        self._parse = parse
        self._services = services
        self._checked_at = float("-inf")
        self._waiting: list[Deferred[Table[T]]] = []
        self._loading = False
        try:
            self._signature, entries = self._read()
        except LineError as error:
            raise ValueError(f"{path}: {file}:{error}") from None
        except OSError as error:
            raise ValueError(f"{path}: {file}: {error.strerror}") from None
        self._table = Table(entries, 1, list(entries))

    @property
    def table(self) -> Table[T]:
        """In force now."""
        return self._table

    def current(self) -> Deferred[Table[T]]:
        """The table in force, after a changed file was read: whoever was taken out of it must not come in once more."""
        now = self._services.seconds()
        changed: Signature | None = None
        if not self._loading and now - self._checked_at >= CHECK_INTERVAL:
            self._checked_at = now
            changed = self._changed()
        if not self._loading and changed is None:
            return succeed(self._table)
        waiting: Deferred[Table[T]] = Deferred()
        self._waiting.append(waiting)
        if changed is not None:
            self._loading = True
            loading = self._services.run(self._read)
            loading.addCallbacks(self._loaded, self._failed, errbackArgs=(changed,))
            loading.addBoth(self._release)
        return waiting

    def _changed(self) -> Signature | None:
        """The signature of a file that has not been seen yet."""
        try:
            signature = _signature(os.stat(self.file))
        except OSError as error:
            self._complain(_ABSENT, str(error.strerror))
            return None
        return None if signature == self._signature else signature

    def _read(self) -> tuple[Signature, dict[str, T]]:
        with Path(self.file).open("rb") as file:
            signature = _signature(os.fstat(file.fileno()))
            return signature, parse_lines(file.read(MAX_FILE + 1), self._parse)

    def _loaded(self, result: tuple[Signature, dict[str, T]]) -> None:
        self._signature, entries = result
        self._table = Table(entries, self._table.version + 1, list(entries))
        log.info("{file} was read again: {what}", file=self.file, what=counted(len(entries), "user"))

    def _failed(self, failure: Failure, seen: Signature) -> Failure | None:
        if failure.check(LineError):
            self._complain(seen, f"line {failure.getErrorMessage()}")
        elif isinstance(failure.value, OSError):
            self._complain(seen, failure.value.strerror or trouble(failure.value))
        else:
            # Not read at all: who waits cannot be judged by a table that may be out of date.
            self._checked_at = float("-inf")
            return failure
        return None

    def _complain(self, seen: Signature, message: str) -> None:
        if seen != self._signature:
            log.error("{file}: {message}; what was read before stays in force", file=self.file, message=message)
        self._signature = seen

    def _release(self, result: Failure | None) -> None:
        self._loading = False
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if one.called:
                continue  # cancelled meanwhile: its time was over
            if isinstance(result, Failure):
                one.errback(result)
            else:
                one.callback(self._table)


def _signature(stat: os.stat_result) -> Signature:
    return stat.st_ino, stat.st_dev, stat.st_mtime_ns, stat.st_size
