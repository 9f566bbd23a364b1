"""One connection on a stream socket: its phases, its time-outs, its binding and its one end."""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.interfaces.clock import Timer
from accessgw.core.interfaces.connections import Binding, BindingFactory
from accessgw.model.identity import ConnectionInfo
from accessgw.model.reasons import CloseReason
from accessgw.transports.addresses import counted_as
from accessgw.transports.descriptor import StreamDescriptor
from accessgw.transports.services import TransportServices

_log = Logger()

READ_SIZE = 65536
AGED_GRACE = 30.0
"""Seconds between telling a binding that its connection has aged and closing it."""

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER value with which close() sends a reset and forgets what was unsent."""

# Phases of a connection, in order. Writing is possible below FLUSHING.
HANDSHAKE = 0
HELLO = 1
ESTABLISHED = 2
FLUSHING = 3
"""close() was called, bytes still wait for the kernel."""
LINGERING = 4
"""Our FIN is sent; reading on, so that unread input does not turn it into a reset that would take
the last bytes with it (RFC 9112 9.6)."""
CLOSED = 5


class StreamConnection(StreamDescriptor):
    """A Connection over TCP or a Unix socket; TlsConnection builds on it.

    Lives as: `begin(receiver)` with whatever looks at the first bytes -> `bind(factory)` ->
    binding's life -> exactly one `connection_lost`.
    """

    __slots__ = (
        "_address", "_ages_at", "_aging", "_binding", "_detail", "_eof", "_farewell", "_heard_at", "_idle",
        "_opened_at", "_paused", "_phase", "_reason", "_receiver", "_services", "_timer", "bytes_in", "info",
    )  # fmt: skip

    def __init__(
        self, sock: socket.SocketType, info: ConnectionInfo, services: TransportServices, address: str
    ) -> None:
        """`sock` is non-blocking; `address` is the key that AddressLimits counted it under, or empty."""
        StreamDescriptor.__init__(self, sock, services.reactor, services.counters)
        self.info = info
        self.bytes_in = 0
        self._services = services
        self._address = address
        self._binding: Binding | None = None
        self._receiver: Callable[[bytes], None] = ignore
        self._phase = HELLO
        self._paused = False
        self._eof = False
        self._reason: CloseReason | None = None
        self._detail = ""
        self._farewell: Callable[[CloseReason], bytes] | None = None
        self._idle = 0.0
        self._heard_at = -math.inf
        """When something came that keeps it from being idle: the timer looks at it when it is due, so that a read need
        not move the timer."""
        self._timer: Timer | None = None
        self._ages_at = math.inf
        """When it is to be told that it has aged, and then, when it is closed for it."""
        self._aging = False
        self._opened_at = services.reactor.seconds()
        services.counters.accepted += 1
        services.counters.open += 1
        services.table.add(self)

    # ------------------------------------------------------------------ before the binding

    def begin(self, receiver: Callable[[bytes], None]) -> None:
        """Start reading; the first bytes go to `receiver`, within handshake_timeout or hello_timeout."""
        services = self._services
        limits = services.limits
        self._receiver = receiver
        delay = limits.handshake_timeout if self._phase == HANDSHAKE else limits.hello_timeout
        if delay:
            self._timer = services.timers.schedule(delay, self._timed_out)
        self._reactor.addReader(self)

    def receive_with(self, receiver: Callable[[bytes], None]) -> None:
        """Hand what comes from now on to `receiver`."""
        self._receiver = receiver

    def rename_peer(self, peer: str, port: int, local: str, local_port: int) -> bool:
        """A trusted PROXY header named the peer: limits count by that address from now on.

        False, with the connection refused, when that address has too many.
        """
        self.info.peer, self.info.peer_port = peer, port
        self.info.local, self.info.local_port = local, local_port
        self.info.loopback = is_loopback(peer)
        services = self._services
        key = counted_as(peer)
        refusal = services.addresses.admit(key, services.reactor.seconds(), services.limits)
        if refusal:
            services.refuse(refusal)
            self.abort(CloseReason.OVERLOAD, f"{refusal} of {peer}")
            return False
        self._address = key
        return True

    def bind(self, factory: BindingFactory, rest: bytes = b"") -> None:
        """Make the binding; `rest` are bytes that came before it was chosen."""
        binding = self._start_binding(factory)
        if binding is not None:
            self._receiver = binding.data_received
            if rest:
                binding.data_received(rest)

    def _start_binding(self, factory: BindingFactory) -> Binding | None:
        """The binding, or None when its factory closed the connection."""
        services = self._services
        limits = services.limits
        self._binding = binding = factory(self)
        services.on_open(self.info)
        if self._phase >= FLUSHING:
            return None
        if limits.max_age:
            age = limits.max_age * (1.0 - limits.max_age_spread * services.random())
            self._ages_at = services.reactor.seconds() + age
            if self._timer is not None:
                self._timer.bound(self._ages_at)
            else:
                self._arm(0.0)
        return binding

    # ------------------------------------------------------------------ Connection

    def write(self, data: bytes) -> None:
        if self._phase < FLUSHING:
            self._send(data)

    def close(self, reason: CloseReason, detail: str = "") -> None:
        if self._phase >= FLUSHING:
            return
        self._reason, self._detail = reason, detail
        farewell, self._farewell = self._farewell, None
        if farewell is not None:
            self.write(farewell(reason))
        self._say_goodbye()
        self._send_held()
        if self._phase == CLOSED:
            return
        if self._eof and self._out is None:
            self._lost(reason, detail)
            return
        self._phase = FLUSHING
        self._receiver = ignore
        self._ages_at = math.inf
        if self._timer is not None:
            self._timer.bound(math.inf)
        if self._paused and not self._eof:
            self._paused = False
            self._reactor.addReader(self)
        self._arm(self._services.limits.close_timeout)
        if self._out is None:
            self._end_writing()

    def finish(self, reason: CloseReason, detail: str = "") -> None:
        if self._phase < FLUSHING and self._out is None and self._farewell is None:
            self._lost(reason, detail)
        else:
            self.close(reason, detail)

    def abort(self, reason: CloseReason, detail: str = "") -> None:
        if self._phase == CLOSED:
            return
        if self._sock.family != socket.AF_UNIX:
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            except OSError as error:
                _log.debug("SO_LINGER: {error}", error=error)
        self._lost(reason, detail)

    def pause(self) -> None:
        if not self._paused and self._phase < FLUSHING:
            self._paused = True
            self._reactor.removeReader(self)

    def resume(self) -> None:
        if self._paused and self._phase < FLUSHING:
            self._paused = False
            self._reactor.addReader(self)
            if self._phase == ESTABLISHED:
                self._arm(self._idle)

    def established(self) -> None:
        if self._phase < ESTABLISHED:
            self.set_idle(self._services.limits.idle_timeout)

    def set_idle(self, seconds: float) -> None:
        if self._phase < FLUSHING:
            self._phase = ESTABLISHED
            self._idle = seconds
            if seconds and self._timer is not None:
                self._timer.touch(seconds)
            else:
                self._arm(seconds)

    def await_hello(self) -> None:
        if self._phase < FLUSHING:
            self._phase = HELLO
            self._arm(self._services.limits.hello_timeout)

    def hand_over(self, binding: Binding, farewell: Callable[[CloseReason], bytes]) -> None:
        if self._phase < FLUSHING:
            self._binding = binding
            self._farewell = farewell
            self._receiver = binding.data_received

    def touch(self) -> None:
        if self._phase == ESTABLISHED:
            self._heard_at = self._reactor.seconds()

    # ------------------------------------------------------------------ StreamDescriptor

    def doRead(self) -> None:
        try:
            data = self._sock.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._broken(error.errno or 0)
            return
        if not data:
            self._end_of_input()
            return
        size = len(data)
        self.bytes_in += size
        self._counters.bytes_in += size
        established = self._phase == ESTABLISHED
        try:
            self._receiver(data)
        except Exception:
            self._failed("received data")
        if established and self._farewell is None:
            self._heard_at = self._reactor.seconds()

    def _emptied(self) -> None:
        if self._phase == FLUSHING:
            self._end_writing()
        elif self._binding is not None:
            try:
                self._binding.drained()
            except Exception:
                self._failed("drained")

    def _grown(self) -> None:
        if self.buffered > self._services.limits.write_buffer:
            self._counters.write_overflows += 1
            self.abort(CloseReason.SLOW_READER, f"{self.buffered} bytes wait for the peer")

    # ------------------------------------------------------------------ inside

    def _say_goodbye(self) -> None:
        """Queue what the layer says at an orderly end (TLS: close_notify)."""

    def _end_of_input(self) -> None:
        self._eof = True
        self._reactor.removeReader(self)
        if self._phase < FLUSHING:
            self._peer_finished()
        elif self._phase == LINGERING:
            self._lost(CloseReason.PEER_CLOSED, "")

    def _peer_finished(self) -> None:
        """FIN while open. There is no half-close: what we have written is flushed, then it is over."""
        self.close(CloseReason.PEER_CLOSED)

    def _end_writing(self) -> None:
        if self._eof:
            self._lost(CloseReason.PEER_CLOSED, "")
            return
        self._phase = LINGERING
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._broken(error.errno or 0)

    def _failed(self, doing: str) -> None:
        """A binding raised: our defect, this connection's end, nobody else's trouble."""
        failure = Failure()
        _log.failure(
            "The binding of connection {id} on {listener} raised at {doing}",
            failure, id=self.info.id, listener=self.info.listener, doing=doing,
        )  # fmt: skip
        self.close(CloseReason.INTERNAL, f"{failure.type.__name__ if failure.type else 'error'} at {doing}")

    def _arm(self, delay: float) -> None:
        timer, ages_at = self._timer, self._ages_at
        if not delay and ages_at != math.inf:
            delay = max(0.0, ages_at - self._services.reactor.seconds())
        elif not delay:
            if timer is not None:
                timer.cancel()
                self._timer = None
            return
        if timer is not None:
            timer.touch(delay)
            return
        self._timer = timer = self._services.timers.schedule(delay, self._timed_out)
        if ages_at != math.inf:
            timer.bound(ages_at)

    def _timed_out(self) -> None:
        self._timer = None
        phase = self._phase
        if self._ages_at <= self._services.reactor.seconds():
            self._aged()
        elif phase == HANDSHAKE:
            self.abort(CloseReason.HANDSHAKE_TIMEOUT)
        elif phase == HELLO:
            self._too_late()
        elif phase == ESTABLISHED:
            quiet = self._services.reactor.seconds() - self._heard_at
            if self._paused:
                self._arm(self._idle)
            elif quiet < self._idle:
                self._arm(self._idle - quiet)
            else:
                self._expired()
        else:
            self.abort(self._reason or CloseReason.INTERNAL)

    def _expired(self) -> None:
        if self._binding is not None:
            try:
                self._binding.expired()
            except Exception:
                self._failed("expired")
        self.close(CloseReason.IDLE)

    def _too_late(self) -> None:
        if self._binding is not None:
            try:
                self._binding.late()
            except Exception:
                self._failed("late")
        if self._phase < FLUSHING:
            self.abort(CloseReason.HELLO_TIMEOUT)

    def retire(self) -> None:
        if self._binding is None:
            self.close(CloseReason.DRAINING)
        elif self._phase < FLUSHING:
            self._tell_aged()

    def _aged(self) -> None:
        if self._aging:
            self.close(CloseReason.MAX_AGE)
            return
        self._aging = True
        self._ages_at = self._services.reactor.seconds() + AGED_GRACE
        self._arm(self._idle if self._phase == ESTABLISHED else self._services.limits.hello_timeout)
        self._tell_aged()

    def _tell_aged(self) -> None:
        if self._binding is not None:
            try:
                self._binding.aged()
            except Exception:
                self._failed("aged")

    def _lost(self, reason: CloseReason, detail: str) -> None:
        """The end of the socket. The reason of an earlier close() stays."""
        if self._phase == CLOSED:
            return
        if self._reason is None:
            self._reason, self._detail = reason, detail
        self._phase = CLOSED
        services = self._services
        self._close_socket(services.forget)
        self._receiver = ignore
        self._farewell = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._address:
            services.addresses.release(self._address)
        services.table.discard(self)
        counters = services.counters
        counters.open -= 1
        counters.closed[self._reason] = counters.closed.get(self._reason, 0) + 1
        services.tell_later(self._tell_lost)

    def _tell_lost(self) -> None:
        binding, self._binding = self._binding, None
        reason: Any = self._reason
        if binding is not None:
            try:
                binding.connection_lost(reason, self._detail)
            except Exception:
                _log.failure("The binding of connection {id} raised at connection_lost", id=self.info.id)
        services = self._services
        lived = services.reactor.seconds() - self._opened_at
        services.on_close(self.info, reason, self._detail, self.bytes_in, self.bytes_out, lived)


def ignore(data: bytes) -> None:
    """Receives what comes after the end."""


def is_loopback(address: str) -> bool:
    """Whether an address is this host's own (a Unix socket has no address and counts as such)."""
    return address.startswith("127.") or address in {"::1", "unix"}
