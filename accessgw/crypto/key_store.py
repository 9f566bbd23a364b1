"""The secrets that make tickets, by epoch: three generations in one file, shared by the processes of a node.

A new epoch is published some seconds before it makes its first ticket, when every process has read it: no process is
shown a ticket whose epoch it does not know. The oldest generation goes when a new one is published, so with the longest
rotation no secret lives longer than a day.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from twisted.logger import Logger

from accessgw.crypto.shared_file import SharedFile, SharedFileError

log = Logger()

NAME = "epochs"
GENERATIONS = 3
LONGEST_LIFE = 86_400.0
"""Seconds after which a secret opens nothing any more, whatever the rotation: a stolen one lets the thief play both
sides of a connection."""
LEAD = 5.0
"""Seconds between the publication of an epoch and its first ticket: some times shared_file.CHECK_INTERVAL."""
SECRET_SIZE = 32

_HEAD = struct.Struct(">8sBB")
_MAGIC = b"agwkeys\x01"
_ENTRY = struct.Struct(">Bdd32s")
_DIGEST_SIZE = 32
_LARGEST = _HEAD.size + GENERATIONS * _ENTRY.size + _DIGEST_SIZE


@dataclass(slots=True, frozen=True)
class Epoch:
    """One generation. `secret` is in no representation."""

    number: int
    """0 to 255, in the clear in every ticket."""
    made: float
    """Wall-clock second."""
    mints_from: float
    """Wall-clock second of its first ticket."""
    secret: bytes = field(repr=False)


class KeyStore:
    """The epochs in force. Times are the wall clock's; all methods may be called from any thread.

    `current`, `find`, `epochs` and `is_due` never fail and look at the file at most once a second; the others write, so
    call them where a disk may be waited for.
    """

    def __init__(self, directory: Path, now: float, *, rotation: float, random_bytes: Callable[[int], bytes]) -> None:
        """Reads the store, or makes it where there is none. `rotation`: seconds for which an epoch makes tickets.
        Raises SharedFileError, also for a file that is damaged or not for its user alone."""
        self._file = SharedFile(directory / NAME, _LARGEST)
        self._rotation = rotation
        self._random_bytes = random_bytes
        self._epochs: tuple[Epoch, ...] = ()
        """Oldest first. Replaced whole, so that readers need no lock."""
        self._last = random_bytes(1)[0]
        """Number of the epoch that was made last: not given again while tickets of it may be about. A new store begins
        anywhere, so that tickets of a lost one are rarely taken for its own."""
        self._own: Epoch | None = None
        self._listeners: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        """Reading the file and taking over what it says are one."""
        with self._file.locked():
            self._load()
            if not self._alive(now):
                self._publish(now, now)

    def current(self, now: float) -> Epoch:
        """The one that makes tickets now."""
        self._look(now)
        epoch = _minting(self._epochs, now)
        if epoch is None and self.maintain(now):
            epoch = _minting(self._epochs, now)
        if epoch is None:
            # The store cannot be written: better tickets that only this process opens than no connections.
            epoch = self._own
            if epoch is None or not 0 <= now - epoch.made < LONGEST_LIFE:
                # a number that the store comes to last
                number = (self._last + 128) % 256
                epoch = self._own = Epoch(number, now, now, self._random_bytes(SECRET_SIZE))
        return epoch

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call it, on any thread, after other epochs have come into force; it must not ask for what reads the file."""
        self._listeners.append(listener)

    def has(self, secret: bytes) -> bool:
        """Whether an epoch that this process has read, or made for itself, has this secret."""
        own = self._own
        return any(epoch.secret == secret for epoch in self._epochs) or (own is not None and own.secret == secret)

    def find(self, number: int, now: float) -> Epoch | None:
        """The one with this number, if it may still open tickets."""
        self._look(now)
        epoch = self.known(number)
        return epoch if epoch is not None and now - epoch.made < LONGEST_LIFE else None

    def known(self, number: int) -> Epoch | None:
        """The one with this number, as far as this process has read."""
        for epoch in self._epochs:
            if epoch.number == number:
                return epoch
        own = self._own
        return own if own is not None and own.number == number else None

    def ends(self, epoch: Epoch, now: float) -> float:
        """Wall-clock second from which it opens nothing any more, if no rotation by hand and no `drop` comes before."""
        epochs, end = self._epochs, epoch.made + LONGEST_LIFE
        if epoch not in epochs:
            return end  # this process's own, which no rotation ends
        following = now if self._is_time(now) else epochs[-1].mints_from + self._rotation - LEAD
        newer = len(epochs) - 1 - epochs.index(epoch)
        return min(end, following + (GENERATIONS - 1 - newer) * self._rotation)

    def epochs(self, now: float) -> tuple[Epoch, ...]:
        """All that are in force, oldest first; the last one may be published and not in use yet."""
        self._look(now)
        return self._alive(now)

    def is_due(self, now: float) -> bool:
        """Whether `maintain` has something to do; cheap."""
        self._look(now)
        return self._is_time(now)

    def maintain(self, now: float) -> bool:
        """Publish a new epoch when it is time; True when this process did. Call it every few seconds in every process:
        one of them does it, and an error is logged and tried again."""
        if not self.is_due(now):
            return False
        try:
            with self._file.locked(wait=False) as held:
                if not held:
                    return False
                self._load()
                if not self._is_time(now):
                    return False
                self._publish(now, now + LEAD if _minting(self._epochs, now) is not None else now)
                return True
        except SharedFileError as error:
            log.error("ticket secrets were not rotated: {why}", why=str(error))
            return False

    def rotate(self, now: float) -> Epoch:
        """Publish a new epoch ahead of its time; the one that is published and not in use yet, when there is one.
        Raises SharedFileError."""
        with self._file.locked():
            self._load()
            if self._epochs and now < self._epochs[-1].mints_from <= now + LEAD:
                return self._epochs[-1]
            return self._publish(now, now + LEAD if _minting(self._epochs, now) is not None else now)

    def drop(self, number: int, now: float) -> bool:
        """Forget an epoch at once: its tickets are worthless within CHECK_INTERVAL in every process. False when there is
        none with that number. If it made tickets, a new one does. Raises SharedFileError."""
        with self._file.locked():
            self._load()
            kept = tuple(epoch for epoch in self._epochs if epoch.number != number)
            if len(kept) == len(self._epochs):
                return False
            minting = _minting(self._epochs, now)
            if minting is None or minting.number == number:
                new = self._new(now, now)
                self._write((*kept, new), new.number)
            else:
                self._write(kept, self._last)
            return True

    # ---------------------------------------------------------------- what is in force

    def _alive(self, now: float) -> tuple[Epoch, ...]:
        return tuple(epoch for epoch in self._epochs if now - epoch.made < LONGEST_LIFE)

    def _is_time(self, now: float) -> bool:
        if not self._epochs:
            return True
        newest = self._epochs[-1]
        # published far in the future: the clock has been put back, and nothing else would replace it
        return now >= newest.mints_from + self._rotation - LEAD or newest.mints_from > now + 2 * LEAD

    # ---------------------------------------------------------------- the file

    def _look(self, now: float) -> None:
        """Take over what another process wrote. What cannot be read leaves in force what was."""
        try:
            # a writer of this process takes over what it wrote itself, and nobody waits for its disk
            if self._file.changed(now) and self._lock.acquire(blocking=False):
                try:
                    self._take_over()
                finally:
                    self._lock.release()
        except SharedFileError as error:
            log.error("ticket secrets: {why}; those read before stay in force", why=str(error))

    def _load(self) -> None:
        with self._lock:
            self._take_over()

    def _take_over(self) -> None:
        content = self._file.read()
        self._last, epochs = (self._last, ()) if content is None else _parsed(self._file.path, content)
        self._use(epochs)

    def _publish(self, now: float, mints_from: float) -> Epoch:
        epoch = self._new(now, mints_from)
        self._write((*self._alive(now), epoch)[-GENERATIONS:], epoch.number)
        return epoch

    def _new(self, now: float, mints_from: float) -> Epoch:
        return Epoch((self._last + 1) % 256, now, mints_from, self._random_bytes(SECRET_SIZE))

    def _write(self, epochs: tuple[Epoch, ...], last: int) -> None:
        with self._lock:
            self._file.replace(_serialise(last, epochs))
            self._last = last
            self._use(epochs)

    def _use(self, epochs: tuple[Epoch, ...]) -> None:
        self._epochs = epochs
        for listener in self._listeners:
            listener()


def check_key_store(directory: Path) -> None:
    """Raises SharedFileError for a store that could not be read at a start. Makes none."""
    file = SharedFile(directory / NAME, _LARGEST)
    content = file.read()
    if content is not None:
        _parsed(file.path, content)


def _parsed(path: Path, content: bytes) -> tuple[int, tuple[Epoch, ...]]:
    try:
        return _parse(content)
    except ValueError as error:
        raise SharedFileError(
            f"{path}: {error} (remove the file to have a new one: devices connect in full once)"
        ) from None


def _minting(epochs: tuple[Epoch, ...], now: float) -> Epoch | None:
    for epoch in reversed(epochs):
        if epoch.mints_from <= now < epoch.made + LONGEST_LIFE:
            return epoch
    return None


def _serialise(last: int, epochs: tuple[Epoch, ...]) -> bytes:
    body = _HEAD.pack(_MAGIC, last, len(epochs)) + b"".join(
        _ENTRY.pack(epoch.number, epoch.made, epoch.mints_from, epoch.secret) for epoch in epochs
    )
    return body + hashlib.sha256(body).digest()


def _parse(content: bytes) -> tuple[int, tuple[Epoch, ...]]:
    """Raises ValueError, without anything of the content."""
    if len(content) < _HEAD.size + _DIGEST_SIZE or content[: len(_MAGIC)] != _MAGIC:
        raise ValueError("expected a store of ticket secrets, got something else")
    body, digest = content[:-_DIGEST_SIZE], content[-_DIGEST_SIZE:]
    _, last, count = _HEAD.unpack_from(body)
    if len(body) != _HEAD.size + count * _ENTRY.size or hashlib.sha256(body).digest() != digest:
        raise ValueError("is damaged: its digest is not that of its content")
    return last, tuple(Epoch(*entry) for entry in _ENTRY.iter_unpack(body[_HEAD.size :]))
