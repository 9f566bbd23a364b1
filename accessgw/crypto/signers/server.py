"""The signer process: a Unix socket, back ends on threads, no reactor."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import stat
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from accessgw.crypto.signers.backend import Backend, Job, Refused
from accessgw.crypto.signers.batching import Results, SigningThreads
from accessgw.crypto.signers.overlap import Overlap
from accessgw.model.words import counted
from protocols.errors import RemoteError
from protocols.signing import BUSY, GatewayGreeted, SignatureRequested, SigningConnection, SigningEvent

MAX_UNSENT = 1 << 20
"""Bytes of answers that a gateway may leave unread before it is cut off."""
MAX_GATEWAYS = 64
LAST_ANSWERS = 2.0
"""Seconds after SIGTERM for what is at work."""

_CREDENTIALS = struct.Struct("3i")
_CHUNK = 1 << 16
_WAKE = b"\0"


class SocketTaken(Exception):
    """Another process listens there, or no socket can be made there."""


def listen(path: str, mode: int = 0o600) -> socket.socket:
    """A socket of that mode; a dead one at the path is replaced. Raises SocketTaken, and OSError for one that cannot
    be looked at. Never waits for who has the socket now."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise SocketTaken(f"{path}: something that is not a socket is there")
        with socket.socket(socket.AF_UNIX) as probe:
            # One that is stopped takes no connections, and once some have tried the next would wait for ever.
            probe.setblocking(False)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            except BlockingIOError as error:
                raise SocketTaken(f"{path}: another process listens there, and takes no connections") from error
            else:
                raise SocketTaken(f"{path}: another process listens there")
    listening = socket.socket(socket.AF_UNIX)
    # The mode is right from the first moment on.
    before = os.umask(0o777 & ~mode)
    try:
        listening.bind(path)
    except OSError as error:
        raise SocketTaken(f"{path}: {error.strerror or error}") from error
    finally:
        os.umask(before)
    listening.listen(MAX_GATEWAYS)
    listening.setblocking(False)
    return listening


@dataclass(slots=True, eq=False)
class _Gateway:
    socket: socket.socket
    wire: SigningConnection = field(default_factory=lambda: SigningConnection(signer=True))
    unsent: bytearray = field(default_factory=bytearray)


class SignerServer:
    """Serves gateways until SIGTERM or SIGINT; SIGHUP loads the keys again. The old ones stay if that fails, and for
    `keep` seconds if it does not."""

    def __init__(
        self,
        listening: socket.socket,
        backend: Backend,
        load: Callable[[], Backend],
        *,
        threads: int,
        waiting: int,
        users: Collection[int],
        log: Callable[[str], None],
        keep: float,
        until: int = -1,
    ) -> None:
        """`load` makes another back end at SIGHUP, and may raise. `users`: those whose processes are served. `until`:
        end when this descriptor does."""
        self._listening = listening
        self._load = load
        self._users = frozenset(users)
        self._log = log
        self._keep = keep
        self._until = until
        self._keys = Overlap(backend)
        self._threads: SigningThreads[tuple[_Gateway, int]] = SigningThreads(
            self._keys, self._done, threads=threads, waiting=waiting
        )
        self._finished: deque[Results[tuple[_Gateway, int]]] = deque()
        self._at_work = 0
        self._gateways: set[_Gateway] = set()
        self._wakes, self._wake = socket.socketpair()
        self._ending = 0.0
        """Monotonic second by which we are gone; 0 while we serve."""

    def run(self) -> None:
        """On the main thread, which gets the signals."""
        self._wakes.setblocking(False)
        self._wake.setblocking(False)
        # before the handlers: a signal between the two would be taken and forgotten
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _nothing)
        with selectors.DefaultSelector() as selector:
            self._selector = selector
            selector.register(self._listening, selectors.EVENT_READ, self._accept)
            selector.register(self._wakes, selectors.EVENT_READ, self._woken)
            if self._until >= 0:
                selector.register(self._until, selectors.EVENT_READ, self._parent_spoke)
            self._log(self._shown_keys("serving"))
            while not self._is_over():
                for key, mask in selector.select(self._longest_wait()):
                    if isinstance(key.data, _Gateway):
                        self._serve(key.data, mask)
                    else:
                        key.data()
                if self._keys.next_end <= time.monotonic():
                    self._offer(self._keys.without_ended(time.monotonic()), "replaced keys dropped")
        self._threads.stop(LAST_ANSWERS)
        for gateway in self._gateways:
            gateway.socket.close()

    def _longest_wait(self) -> float | None:
        if self._ending:
            return 0.1
        end = self._keys.next_end
        return None if end == float("inf") else max(0.0, end - time.monotonic())

    def _is_over(self) -> bool:
        if not self._ending:
            return False
        quiet = not self._at_work and not any(gateway.unsent for gateway in self._gateways)
        return quiet or time.monotonic() > self._ending

    # ---------------------------------------------------------------- what wakes us

    def _done(self, results: Results[tuple[_Gateway, int]]) -> None:
        """On a thread."""
        self._finished.append(results)
        with contextlib.suppress(BlockingIOError):  # it is full of wake-ups
            self._wake.send(_WAKE)

    def _woken(self) -> None:
        try:
            woken = self._wakes.recv(_CHUNK)
        except BlockingIOError:
            return
        touched: set[_Gateway] = set()
        while self._finished:
            for (gateway, id), result in self._finished.popleft():
                self._at_work -= 1
                if gateway not in self._gateways:
                    continue
                touched.add(gateway)
                if isinstance(result, Refused):
                    gateway.wire.refuse(id, result.code, str(result))
                else:
                    gateway.wire.signature(id, result)
        for gateway in touched:
            self._flush(gateway)
        if signal.SIGHUP in woken:
            self._reload()
        if signal.SIGTERM in woken or signal.SIGINT in woken:
            self._end()

    def _parent_spoke(self) -> None:
        if not os.read(self._until, _CHUNK):
            self._selector.unregister(self._until)
            self._end()

    def _end(self) -> None:
        if not self._ending:
            self._ending = time.monotonic() + LAST_ANSWERS
            self._selector.unregister(self._listening)
            # Whoever starts next may bind at once; who connects meanwhile is refused, and tries again.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._listening.getsockname())
            self._listening.close()

    def _reload(self) -> None:
        try:
            newest = self._load()
        except Exception as error:  # of a file, a token, a library: the old keys go on
            self._log(f"keys not loaded again, the old ones stay: {error}")
            return
        self._offer(self._keys.replaced(newest, time.monotonic() + self._keep), "loaded again")

    def _offer(self, keys: Overlap, what: str) -> None:
        """Sign with these from now on, and tell the gateways."""
        self._keys = self._threads.backend = keys
        self._log(self._shown_keys(what))
        for gateway in list(self._gateways):
            gateway.wire.hello(keys.keys())
            self._flush(gateway)

    def _shown_keys(self, what: str) -> str:
        keys = self._keys
        newest = keys.newest_keys()
        older = keys.keys() - newest
        kept = f"; replaced, for {self._keep:g} s: {_shown(older)}" if older else ""
        return f"{what}: {counted(len(newest), 'key')} by {keys.name}: {_shown(newest)}{kept}"

    # ---------------------------------------------------------------- gateways

    def _accept(self) -> None:
        try:
            accepted, _ = self._listening.accept()
        except OSError:
            return
        credentials = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        process, user, _ = _CREDENTIALS.unpack(credentials)
        if user not in self._users or len(self._gateways) >= MAX_GATEWAYS:
            reason = "its user is not allowed" if user not in self._users else f"{MAX_GATEWAYS} are connected"
            self._log(f"process {process} of user {user} is refused: {reason}")
            accepted.close()
            return
        accepted.setblocking(False)
        gateway = _Gateway(accepted)
        self._gateways.add(gateway)
        self._selector.register(accepted, selectors.EVENT_READ, gateway)
        gateway.wire.hello(self._keys.keys())
        self._flush(gateway)

    def _serve(self, gateway: _Gateway, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._flush(gateway)
        if not mask & selectors.EVENT_READ or gateway not in self._gateways:
            return
        try:
            data = gateway.socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(gateway)
            return
        try:
            events = gateway.wire.receive(data)
        except RemoteError as error:
            self._log(f"a gateway is cut off: {error}")
            self._drop(gateway)
            return
        for event in events:
            self._handle(gateway, event)
        self._flush(gateway)

    def _handle(self, gateway: _Gateway, event: SigningEvent) -> None:
        if isinstance(event, GatewayGreeted):
            return
        assert isinstance(event, SignatureRequested)
        if self._threads.submit((gateway, event.id), Job(event.key, event.algorithm, event.data)):
            self._at_work += 1
        else:
            gateway.wire.refuse(event.id, BUSY, "too many signatures wait")

    def _flush(self, gateway: _Gateway) -> None:
        if gateway not in self._gateways:
            return
        unsent = gateway.unsent
        unsent += gateway.wire.to_send()
        try:
            while unsent:
                del unsent[: gateway.socket.send(unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(gateway)
            return
        if len(unsent) > MAX_UNSENT:
            self._log("a gateway that does not read its answers is cut off")
            self._drop(gateway)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if unsent else 0)
        self._selector.modify(gateway.socket, wanted, gateway)

    def _drop(self, gateway: _Gateway) -> None:
        self._gateways.discard(gateway)
        self._selector.unregister(gateway.socket)
        gateway.socket.close()


def _shown(keys: Iterable[str]) -> str:
    return ", ".join(key[:16] for key in sorted(keys)) or "none"


def to_stderr(line: str) -> None:
    """A line of the signer's log."""
    print(f"accessgw-signer: {line}", file=sys.stderr, flush=True)


def _nothing(*_: object) -> None:
    """A handler, so that the signal is written to the wake-up descriptor and does nothing else."""
