"""Which first flights with early data have been seen: one mapped file for all processes of a node.

Two generations of a hash table: each is written for the `life` of an entry, and read for as long again. A flight is
taken while the device's estimate of the time (MMTP's HELLO) is off by at most the window, and HELLO may come some time
after the strike. So a replay comes within twice the window and that time, where the register knows it; or later, where
its time gives it away. Of OpenSSL's own tickets the age gives it away.

One process writes at a time, under a lock of the kernel's that ends with the process. What a kill leaves half done is an
entry that was never answered for, or a state that does not count: the state is written in turn to two places, each with
its checksum. A strike costs 18 us, a replay 13 (CPython 3.11, 2 shared cores):

    python -m tests.crypto.strike_cost
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from twisted.logger import Logger

from accessgw.crypto.shared_file import CHECK_INTERVAL, SharedFile, SharedFileError

log = Logger()

TOLERANCE = 1.0
"""Seconds by which the clock may go back, or two processes' readings of it be out of order."""
TICKET_AGE = 11.0
"""Seconds by which OpenSSL lets the age of its own tickets be off (10, and one of rounding) for early data."""
PATIENCE = 0.005
"""Seconds for which a strike waits for another process; a stopped one must not stop the others."""
TELL_EVERY = 60.0
"""Seconds between two complaints about a register that cannot be used."""
PROBES = 128
"""Places in which a flight may stand. When all are taken the register is as good as full."""

_MAGIC = b"agwseen\x01"
_HEADER = struct.Struct("=8s36sQQdd32s")
"""Magic, boot, slots, entries, second of making, seconds of a generation, key of the digests; a checksum follows."""
_STATE = struct.Struct("=QQddQ")
_TURN_AND_CHECKSUM = struct.Struct("=Q32x4s")
_STATES = (256, 320)
_TABLES = 4096
_SLOT = 16
_DIGEST = 12

_LASTING = {
    "clock": "the clock was put back, and has not caught up yet",
    "unusable": "another process made it for a shorter tls.replay_window; restart the one with the older settings",
}
"""What does not pass by itself within seconds."""

_one_writer = threading.Lock()
"""The kernel's lock excludes processes, not threads."""


class _Header(NamedTuple):
    magic: bytes
    boot: bytes
    slots: int
    entries: int
    made: float
    life: float
    key: bytes


class _State(NamedTuple):
    turn: int
    """Grows with every write."""
    generation: int
    """From 1, so that a place of zeroes is free."""
    started: float
    latest: float
    """Latest reading of the clock at a strike."""
    used: int
    """Entries of this generation, or one less for each process that was killed at the wrong moment."""


def boot_id() -> bytes:
    """Names the run of the kernel; empty where it has no name for it."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()[:36]
    return b""


class ReplayRegister:
    """A ReplayGuard. Times are the wall clock's. Thread-safe; a process that forks must make its own."""

    def __init__(
        self,
        path: Path,
        now: float,
        *,
        window: float,
        delay: float,
        entries: int,
        random_bytes: Callable[[int], bytes],
        boot: bytes | None = None,
    ) -> None:
        """Joins the register that is there if it is of this run of the machine (`boot`) and of this size; else makes a
        new one, which refuses early data until what another one knew is stale: twice the window.

        `window`: seconds; `delay`: seconds in which the time of a flight is judged after its strike (the time-out of
        the hand-shake: who holds back the end of a HELLO must gain nothing); `entries`: of a generation. Raises
        SharedFileError."""
        self._file = SharedFile(path, 0)
        self._wait = max(2 * window, TICKET_AGE) + TOLERANCE
        self._life = self._wait + delay
        self._entries = entries
        self._random_bytes = random_bytes
        self._boot = (boot_id() if boot is None else boot).ljust(36, b"\0")
        self._descriptor = -1
        self._map: mmap.mmap | None = None
        self._closed = False
        self._told_at = float("-inf")
        self._named_at = float("-inf")
        """When the file was last seen under its name."""
        with _one_writer:
            self._join(now, starting=True)

    def close(self) -> None:
        """Let go of the file, which stays; every strike is refused from now on."""
        with _one_writer:
            self._leave()
            self._closed = True

    def ready(self, now: float) -> bool:
        return not self.problem(now)

    def problem(self, now: float) -> str:
        """Why early data is refused now: new (the file was made a moment ago) | clock (it has gone back) | full |
        unusable; empty when it is not."""
        with _one_writer:
            try:
                self._follow(now)
                problem = self._problem(self._state(), now)
            except (OSError, SharedFileError) as error:
                self._tell(now, str(error))
                return "unusable"
        if problem in _LASTING:
            self._tell(now, f"{self._file.path}: {_LASTING[problem]}")
        return problem

    def strike(self, identity: bytes, random: bytes, now: float) -> bool:
        """See ReplayGuard."""
        with _one_writer:
            try:
                self._follow(now)
                self._lock()
                try:
                    return self._strike(len(identity).to_bytes(2, "big") + identity + random, now)
                finally:
                    fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
            except (OSError, SharedFileError) as error:
                self._tell(now, str(error))
                return False

    def _tell(self, now: float, why: str) -> None:
        if not self._closed and abs(now - self._told_at) >= TELL_EVERY:
            self._told_at = now
            log.warn("early data is refused: {why}", why=why)

    # ---------------------------------------------------------------- the table

    def _strike(self, flight: bytes, now: float) -> bool:
        state = self._state()
        if self._problem(state, now):
            return False
        if now - state.started >= self._header.life:
            # After a long silence both tables are of the past.
            ahead = 2 if now - state.started >= 2 * self._header.life else 1
            state = state._replace(generation=state.generation + ahead, started=now, used=0)
            state = self._write(state)
        digest = hashlib.blake2b(flight, key=self._header.key, digest_size=_DIGEST).digest()
        # The first generation follows none, whose places would all look taken.
        if state.generation > 1 and self._find(digest, state.generation - 1) is None:
            return False
        place = self._find(digest, state.generation)
        if not place:
            return False
        assert self._map is not None
        self._map[place : place + _SLOT] = digest + _tag(state.generation)
        self._write(_State(state.turn, state.generation, state.started, max(now, state.latest), state.used + 1))
        return True

    def _find(self, digest: bytes, generation: int) -> int | None:
        """Where the flight can be entered; None when it is there, 0 when there is no room."""
        table, tag = self._map, _tag(generation)
        assert table is not None
        slots = self._header.slots
        first = int.from_bytes(digest[:8], "big") % slots
        start = _TABLES + ((generation & 1) * (slots + PROBES) + first) * _SLOT
        for place in range(start, start + PROBES * _SLOT, _SLOT):
            entry = table[place : place + _SLOT]
            if entry[_DIGEST:] != tag:
                return place
            if entry[:_DIGEST] == digest:
                return None
        return 0

    def _problem(self, state: _State, now: float) -> str:
        header = self._header
        if header.life < self._life:
            return "unusable"
        if now < max(state.latest, header.made) - TOLERANCE:
            return "clock"
        if now < header.made + self._wait:
            return "new"
        return "full" if state.used >= header.entries and now - state.started < header.life else ""

    # ---------------------------------------------------------------- the state

    def _state(self) -> _State:
        state = self._latest_state()
        if state is None:
            raise SharedFileError(f"{self._file.path}: is damaged (remove it to have a new one)")
        return state

    def _latest_state(self) -> _State | None:
        """The later one of the two that is whole; readable without the lock."""
        assert self._map is not None
        best, latest = b"", -1
        for place in _STATES:
            content = self._map[place : place + _STATE.size]
            turn, checksum = _TURN_AND_CHECKSUM.unpack_from(self._map, place)
            if turn > latest and zlib.crc32(content).to_bytes(4, "big") == checksum:
                best, latest = content, turn
        return _State(*_STATE.unpack(best)) if best else None

    def _write(self, state: _State) -> _State:
        """Over the older one, so that the other stays whole until this one is."""
        assert self._map is not None
        turn, generation, started, latest, used = state
        turn += 1
        content = _STATE.pack(turn, generation, started, latest, used)
        place = _STATES[turn & 1]
        self._map[place : place + _STATE.size + 4] = content + zlib.crc32(content).to_bytes(4, "big")
        return _State(turn, generation, started, latest, used)

    def _lock(self) -> None:
        """Keep other processes out, until the lock of the whole file is given back. OSError after PATIENCE."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                # of the process, not of the descriptor: a child that was forked meanwhile does not inherit it
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except (BlockingIOError, PermissionError):
                if time.monotonic() > until:
                    raise
                # A strike of another process takes some 20 us, and PATIENCE bounds what this one waits in all.
                time.sleep(0.0001)

    # ---------------------------------------------------------------- the file

    def _follow(self, now: float) -> None:
        """Go over to the file that has the name now: a process with another one would know nothing of its flights."""
        if self._map is not None and self._has_its_name(now):
            return
        if self._closed:
            raise SharedFileError(f"{self._file.path}: is closed")
        self._join(now, starting=False)

    def _has_its_name(self, now: float) -> bool:
        """A file that is removed, or that another one takes the name of, loses its only link, which is cheap to see. That
        somebody has moved it is seen within a second."""
        if abs(now - self._named_at) < CHECK_INTERVAL:
            return os.fstat(self._descriptor).st_nlink > 0
        with suppress(FileNotFoundError):
            state = os.stat(self._file.path)
            if (state.st_dev, state.st_ino) == self._inode:
                self._named_at = now
                return True
        return False

    def _join(self, now: float, *, starting: bool) -> None:
        """Only at the start a register of another size is replaced: it must not go to and fro between processes."""
        self._leave()
        try:
            # while the gateway serves, nobody is waited for
            with self._file.locked(wait=starting) as held:
                if not held:
                    raise SharedFileError(f"{self._file.path}: another process is making it")
                if not (self._open() and (not starting or self._fits())):
                    self._leave()
                    self._make(now)
                    if not self._open():
                        raise SharedFileError(f"{self._file.path}: cannot be read although it was just made")
        except OSError as error:
            self._leave()
            raise SharedFileError(f"{self._file.path}: {error.strerror}") from None

    def _leave(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._named_at = float("-inf")

    def _fits(self) -> bool:
        header = self._header
        return bool(self._boot.strip(b"\0")) and (header.entries, header.life) == (self._entries, self._life)

    def _open(self) -> bool:
        """Map the file; False when there is none, or no register of this run of the machine."""
        try:
            self._descriptor = os.open(self._file.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        state = os.fstat(self._descriptor)
        if state.st_size < _TABLES or state.st_mode & 0o077:
            return False
        self._map = mmap.mmap(self._descriptor, state.st_size)
        content = self._map[: _HEADER.size + 4]
        if zlib.crc32(content[:-4]).to_bytes(4, "big") != content[-4:]:
            return False
        self._header = _Header(*_HEADER.unpack(content[:-4]))
        self._inode = (state.st_dev, state.st_ino)
        sound = self._header.magic == _MAGIC and self._header.boot == self._boot
        return sound and state.st_size == _size(self._header.slots) and self._latest_state() is not None

    def _make(self, now: float) -> None:
        # at most two thirds of the places are taken
        slots = self._entries * 3 // 2
        header = _HEADER.pack(_MAGIC, self._boot, slots, self._entries, now, self._life, self._random_bytes(32))
        state = _STATE.pack(1, 1, now, now, 0)
        temporary = self._file.path.with_name(f".{self._file.path.name}.new")
        with suppress(FileNotFoundError):
            temporary.unlink()
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # All of it now: a disk that is full later would end the process at a write to the map.
            os.posix_fallocate(descriptor, 0, _size(slots))
            os.pwrite(descriptor, header + zlib.crc32(header).to_bytes(4, "big"), 0)
            os.pwrite(descriptor, state + zlib.crc32(state).to_bytes(4, "big"), _STATES[1])
            os.replace(temporary, self._file.path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)


def _tag(generation: int) -> bytes:
    return (generation & 0xFFFFFFFF).to_bytes(4, "big")


def _size(slots: int) -> int:
    return _TABLES + 2 * (slots + PROBES) * _SLOT
