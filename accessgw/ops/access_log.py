"""The access log: JSON lines of calls and connections, written by a thread so that the reactor never waits.

A line costs the reactor one append to a bounded queue. The thread looks at the queue several times a
second, encodes a few lines at a time (it holds the interpreter for well under a millisecond) and
writes them. When the queue is full, or the disk, lines are dropped and counted, and nothing else happens.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from twisted.logger import Logger

from accessgw.model.calls import CallRecord
from accessgw.model.identity import ConnectionInfo
from accessgw.model.reasons import CloseReason
from accessgw.model.settings import LogSettings
from protocols.tls.described import described

INTERVAL = 0.1
"""Seconds between two looks at the queue."""
SLICE = 64
"""Lines encoded and written at a time."""
REFUSALS = frozenset({CloseReason.HANDSHAKE_FAILED, CloseReason.AUTH_FAILED, CloseReason.REVOKED})
"""Close reasons whose lines say what the peer had shown."""

log = Logger()


class AccessLog:
    """Takes CallRecords (`call`) and connections (`opened`, `closed`) on the reactor's thread.

    `wall` tells wall-clock seconds. `start` raises OSError when the file cannot be opened; after that
    no error of the file reaches the caller.
    """

    def __init__(self, settings: LogSettings, wall: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._wall = wall
        self._queue: deque[tuple[float, Any]] = deque()
        self._stopping = threading.Event()
        self._reopen = threading.Event()
        self._thread: threading.Thread | None = None
        self._file = -1
        self._torn = False
        self.written = 0
        """Lines in the file."""
        self.dropped = 0
        """Lines lost because the queue was full."""
        self.errors = 0
        """Lines lost because they could not be written."""

    @property
    def pending(self) -> int:
        """Lines waiting for the thread."""
        return len(self._queue)

    def start(self) -> None:
        """Open the file (its directory is made when missing) and start the thread; nothing without a file."""
        if self._settings.access:
            self._open()
            self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
            self._thread.start()

    def reconfigure(self, settings: LogSettings) -> None:
        """Log calls and connections, or not, from now on; file and queue stay."""
        self._settings = settings

    def reopen(self) -> None:
        """Write to a file newly opened under the name (after logrotate moved the old one)."""
        self._reopen.set()

    def stop(self, timeout: float = 5.0) -> None:
        """Write what is queued and close; waits for the thread, at most `timeout` seconds."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping.set()
            thread.join(timeout)

    # ------------------------------------------------------------------ the reactor's side

    def call(self, record: CallRecord) -> None:
        """A call has ended."""
        if self._settings.calls:
            self._put(record)

    def opened(self, info: ConnectionInfo) -> None:
        """A connection was accepted (and its TLS hand-shake is done, or early data has come)."""
        if self._settings.connections and self._thread is not None:
            # which it may be no more when the thread comes to it
            self._put((info, info.early))

    def closed(  # noqa: PLR0917  # the shape of the transports' close hook
        self, info: ConnectionInfo, reason: CloseReason, detail: str, bytes_in: int, bytes_out: int, seconds: float
    ) -> None:
        """A connection has ended; `seconds` is how long it lived."""
        if self._settings.connections and self._thread is not None:
            self._put((info, (reason.value, detail, bytes_in, bytes_out, seconds)))

    def untimely(self, info: ConnectionInfo, device: str, ahead: float | None) -> None:
        """A first flight was refused since the device's clock is so many seconds off; None: it did not say its time."""
        if self._settings.connections and self._thread is not None:
            self._put((info, _Untimely(device, ahead)))

    def _put(self, item: Any) -> None:
        if self._thread is None:
            return
        if len(self._queue) >= self._settings.queue:
            self.dropped += 1
        else:
            self._queue.append((self._wall(), item))

    # ------------------------------------------------------------------ the thread's side

    def _run(self) -> None:
        told = 0
        while True:
            stopping = self._stopping.wait(INTERVAL)
            if self._reopen.is_set():
                self._reopen.clear()
                self._close()
            while self._queue:
                self._write([self._queue.popleft() for _ in range(min(SLICE, len(self._queue)))])
            if self.dropped > told and self._send(
                _line({"time": self._wall(), "event": "dropped", "lines": self.dropped - told})
            ):
                told = self.dropped
            if stopping and not self._queue:
                self._close()
                return

    def _write(self, items: list[tuple[float, Any]]) -> None:
        lines = b"".join([_line(_fields(at, item)) for at, item in items])
        if self._send(lines):
            self.written += len(items)
        else:
            self.errors += len(items)

    def _send(self, data: bytes) -> bool:
        """Write all of it; a line torn by an error is ended before the next one."""
        try:
            if self._file < 0:
                self._open()
            if self._torn:
                data = b"\n" + data
            while data:
                sent = os.write(self._file, data)
                self._torn = data[sent - 1 : sent] != b"\n"
                data = data[sent:]
        except OSError as error:
            if not self.errors:
                why = error.strerror or error
                log.error("access log {file}: {why}; lines are dropped", file=self._settings.access, why=why)
            self._close()
            return False
        return True

    def _open(self) -> None:
        if self._settings.access == "-":
            self._file = os.dup(1)
            return
        path = Path(self._settings.access)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class _Untimely(NamedTuple):
    device: str
    ahead: float | None


def _line(fields: dict[str, Any]) -> bytes:
    return msgspec.json.encode(fields) + b"\n"


def _fields(at: float, item: Any) -> dict[str, Any]:
    """One line; names are stable. Of connections empty ones are left out, of calls `reason` and `detail`."""
    time_ = round(at, 3)
    if isinstance(item, CallRecord):
        fields: dict[str, Any] = msgspec.to_builtins(item)
        fields["call_id"] = f"{item.call_id:016x}"
        fields["duration"] = round(item.duration, 6)
        if not item.reason:
            del fields["reason"], fields["detail"]
        return {"time": time_, "event": "call", **fields}
    info, closed = item
    opened, untimely = isinstance(closed, bool), isinstance(closed, _Untimely)
    fields = {
        "time": time_,
        "event": "open" if opened else "early_refused" if untimely else "close",
        "connection_id": info.id,
        "listener": info.listener,
        "transport": info.transport,
        "peer": info.peer,
        "peer_port": info.peer_port,
    }
    more: dict[str, Any]
    if opened:
        more = {"alpn": info.alpn, "tls_version": info.tls_version, "server_name": info.server_name}
        more |= {"resumed": info.resumed, "early": closed}
    elif untimely:
        fields["reason"] = "clock"
        more = {"device": closed.device, "clock_ahead": None if closed.ahead is None else round(closed.ahead, 3)}
    else:
        reason, detail, bytes_in, bytes_out, seconds = closed
        fields |= {"reason": reason, "bytes_in": bytes_in, "bytes_out": bytes_out, "duration": round(seconds, 3)}
        more = {"device": info.device, "user": info.user, "protocol": info.protocol}
        more |= {"websocket": info.websocket, "detail": detail}
        if reason in REFUSALS:
            more |= _shown(info)
    return fields | {name: value for name, value in more.items() if value}


def _shown(info: ConnectionInfo) -> dict[str, Any]:
    """What a peer that was refused had shown; not all of it need be true."""
    shown: dict[str, Any] = {"tls_version": info.tls_version, "server_name": info.server_name}
    fingerprint = info.fingerprint
    if info.certificate:
        fingerprint = fingerprint or sha256(info.certificate).digest()
        shown |= described(info.certificate)
    return shown | {"fingerprint": fingerprint.hex()}
