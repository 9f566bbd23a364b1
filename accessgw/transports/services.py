"""What every listener and connection of a worker shares: time, limits, counters, the table, hooks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from twisted.logger import Logger

from accessgw.core.interfaces.clock import DescriptorReactor, Timers
from accessgw.core.interfaces.connections import Connection
from accessgw.core.interfaces.tls import ReplayGuard
from accessgw.model.counters import TlsCounters, TransportCounters
from accessgw.model.identity import ConnectionInfo
from accessgw.model.listener_settings import TransportLimits
from accessgw.model.reasons import CloseReason
from accessgw.transports.addresses import AddressLimits
from accessgw.transports.handshakes import HandshakePool, PinnedHandshakes

log = Logger()

CloseHook = Callable[[ConnectionInfo, CloseReason, str, int, int, float], None]
"""(info, reason, detail, bytes in, bytes out, seconds it lived)."""


PAGE_BITS = 10
"""A page has the connections whose numbers differ in these bits only."""


class OpenConnections:
    """The ConnectionTable of a worker, and its ConnectionPages: every open connection, in the order of accepting.

    One table of a million would stop the reactor whenever it grows.
    """

    def __init__(self) -> None:
        self._pages: dict[int, dict[int, Connection]] = {}
        """None is empty."""
        self._count = 0
        self._last_id = 0

    def __len__(self) -> int:
        return self._count

    def snapshot(self) -> list[Connection]:
        return [connection for page in self._pages.values() for connection in page.values()]

    def pages(self) -> list[int]:
        return sorted(self._pages)

    def page(self, number: int) -> list[Connection]:
        return list(self._pages.get(number, {}).values())

    def next_id(self) -> int:
        """A number that no other connection of this worker has or had."""
        self._last_id += 1
        return self._last_id

    def add(self, connection: Connection) -> None:
        number = connection.info.id
        page = self._pages.get(number >> PAGE_BITS)
        if page is None:
            page = self._pages[number >> PAGE_BITS] = {}
        self._count += number not in page
        page[number] = connection

    def discard(self, connection: Connection) -> None:
        number = connection.info.id
        page = self._pages.get(number >> PAGE_BITS)
        if page is not None and page.pop(number, None) is not None:
            self._count -= 1
            if not page:
                del self._pages[number >> PAGE_BITS]


def _no_open(info: ConnectionInfo) -> None:
    pass


def _no_close(*closed: object) -> None:
    pass


def _no_threads() -> HandshakePool:
    return HandshakePool(TlsCounters())


class Gathering(Protocol):
    """Whoever has bindings wait with their answers for the end of a turn."""

    gathering: bool
    """Set while what they write is sent together anyway: none should wait."""


@dataclass(slots=True)
class NoneWait:
    """The Gathering of bindings that write at once."""

    gathering: bool = False


@dataclass(slots=True)
class TransportServices:
    """Given to every listener. `limits` may be replaced while running: connections read it when they need it."""

    reactor: DescriptorReactor
    timers: Timers
    limits: TransportLimits
    counters: TransportCounters
    random: Callable[[], float]
    """Uniform in [0, 1), for the spread of ages."""
    table: OpenConnections = field(default_factory=OpenConnections)
    addresses: AddressLimits = field(default_factory=AddressLimits)
    wall: Callable[[], float] = time.time
    """Wall-clock seconds, for logs."""
    on_open: Callable[[ConnectionInfo], None] = _no_open
    """A binding was made: the peer is known and, for TLS, the hand-shake is done."""
    on_close: CloseHook = _no_close
    """Any accepted connection has ended, whether on_open was called or not."""
    tls: TlsCounters = field(default_factory=TlsCounters)
    handshakes: HandshakePool | PinnedHandshakes = field(default_factory=_no_threads)
    """Where TLS hand-shakes are made; without threads, on the reactor's."""
    replays: ReplayGuard | None = None
    """The register of first flights with early data; without one all of it counts as replayed."""
    answers: Gathering = field(default_factory=NoneWait)
    forget: Callable[[Any], None] = field(init=False)
    """Takes a descriptor that is about to be closed out of the reactor."""
    _at_turn_end: Callable[[Callable[[], None]], object] = field(init=False)
    _ended: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.forget = getattr(self.reactor, "forget", self._remove)
        self._at_turn_end = getattr(self.reactor, "at_turn_end", partial(self.reactor.callLater, 0))

    def _remove(self, descriptor: Any) -> None:
        self.reactor.removeReader(descriptor)
        self.reactor.removeWriter(descriptor)

    def tell_later(self, tell: Callable[[], None]) -> None:
        """Call it at the end of this turn of the reactor, or in a later one: once for all that end in this one."""
        if not self._ended:
            self._at_turn_end(self._tell)
        self._ended.append(tell)

    def _tell(self) -> None:
        ended, self._ended = self._ended, []
        for tell in ended:
            try:
                tell()
            except Exception:
                log.failure("Telling of the end of a connection failed")

    def refuse(self, reason: str) -> None:
        """Count a connection that was not taken."""
        refused = self.counters.refused
        refused[reason] = refused.get(reason, 0) + 1
