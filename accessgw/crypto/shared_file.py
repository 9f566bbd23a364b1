"""A small secret file that the processes of a node share: replaced whole, one writer at a time, read when it changes."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECK_INTERVAL = 1.0
"""Seconds between two looks at whether another process has replaced the file."""

PATIENCE = 10.0
"""Seconds to wait for another writer: one that is stopped must not stop the others."""
_RETRY = 0.01
"""Seconds between two tries: flock(2) has no time-out. Who waits is a start, or a thread that waits for the disk anyway."""

_Signature = tuple[int, int, int, int]
_ABSENT: _Signature = (0, 0, 0, 0)


class SharedFileError(Exception):
    """The file cannot be used; the message begins with its path. What the file holds is never in it."""


class SharedFile:
    """One file in a directory of its user alone (0700), itself 0600. Beside it, `NAME.lock` orders the writers.

    May be used from several threads. All errors are SharedFileError.
    """

    def __init__(self, path: Path, limit: int) -> None:
        """`limit`: bytes; a longer file is refused unread. Makes the directory."""
        self.path = path
        self._limit = limit
        self._signature: _Signature | None = None
        self._checked_at = float("-inf")
        self._checking = threading.Lock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_others(path.parent, path.parent.stat().st_mode, 0o700)
        except OSError as error:
            raise SharedFileError(f"{path.parent}: {error.strerror}") from None

    def changed(self, now: float) -> bool:
        """Whether the file is another one than at the last `read`. Looks at most once a second of `now`; between, and
        while another thread looks, False."""
        if abs(now - self._checked_at) < CHECK_INTERVAL or not self._checking.acquire(blocking=False):
            return False
        try:
            self._checked_at = now
            try:
                found = _signature(os.stat(self.path))
            except FileNotFoundError:
                found = _ABSENT
            except OSError as error:
                raise SharedFileError(f"{self.path}: {error.strerror}") from None
            return found != self._signature
        finally:
            self._checking.release()

    def read(self) -> bytes | None:
        """The content; None when there is no file. Refuses a file that others may read or write."""
        try:
            with open(self.path, "rb") as file:
                state = os.fstat(file.fileno())
                # noted first: a file that is refused is not looked at again until it changes
                self._signature = _signature(state)
                _refuse_others(self.path, state.st_mode, 0o600)
                content = file.read(self._limit + 1)
        except FileNotFoundError:
            self._signature = _ABSENT
            return None
        except OSError as error:
            raise SharedFileError(f"{self.path}: {error.strerror}") from None
        if len(content) > self._limit:
            raise SharedFileError(f"{self.path}: expected at most {self._limit} bytes, got more")
        return content

    def replace(self, content: bytes) -> None:
        """Readers see the old file or the new one, whole, and after a loss of power too. Only under `locked`."""
        # under the lock there is one writer, so what a killed one left behind is written over
        temporary = self.path.with_name(f".{self.path.name}.new")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o600)
                file.write(content)
                file.flush()
                os.fsync(descriptor)
                self._signature = _signature(os.fstat(descriptor))
            os.replace(temporary, self.path)
            _sync_directory(self.path.parent)
        except OSError as error:
            raise SharedFileError(f"{self.path}: {error.strerror}") from None

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[bool]:
        """Keep other writers out, of this process and of others; the kernel lets go when the process dies.
        False, without `wait`, when another one is writing; with it, SharedFileError after PATIENCE."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # a description of its own: threads of one process exclude each other, too
            descriptor = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SharedFileError(f"{self.path}.lock: {error.strerror}") from None
        try:
            held = _lock(descriptor)
            until = time.monotonic() + PATIENCE
            while wait and not held:
                if time.monotonic() >= until:
                    raise SharedFileError(f"{self.path}.lock: another process has held it for {PATIENCE:g} s")
                time.sleep(_RETRY)
                held = _lock(descriptor)
            yield held
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether the lock is ours now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _signature(state: os.stat_result) -> _Signature:
    # not the time of the change of the inode: renaming a new file into its place moves that
    return state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size


def _refuse_others(path: Path, mode: int, expected: int) -> None:
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SharedFileError(
            f"{path}: holds secrets; expected mode {expected:04o}, got {stat.S_IMODE(mode):04o} (chmod {expected:o} {path})"
        )


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
