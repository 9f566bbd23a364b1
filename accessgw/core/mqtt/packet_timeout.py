"""How long a client may take for one packet: one timer for all connections, asked only where a read ends within one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Protocol

from accessgw.core.interfaces.clock import Timers
from protocols.mqtt.receiver import Receiver

BATCH = 200
"""Connections that one look ends, so that the reactor is not held."""


class Reading(Protocol):
    """A connection."""

    @property
    def wire(self) -> Receiver: ...

    @property
    def held_back(self) -> bool:
        """It is not read: what is missing may be there already."""

    def packet_late(self) -> None:
        """Its packet has taken too long. Ends the connection."""


class PacketTimeout:
    """Connections whose last read ended within a packet, by the time at which that has to be whole.

    Neither the keep alive, which any byte prolongs, nor its absence bounds that; meanwhile up to max_packet bytes are
    held. A packet that comes whole in one read costs nothing.
    """

    def __init__(self, timers: Timers, seconds: Callable[[], float], timeout: Callable[[], float]) -> None:
        """`timeout()` are seconds from the read that brought the beginning of a packet; 0: no bound."""
        self._timers = timers
        self._seconds = seconds
        self._timeout = timeout
        self._begun: dict[Reading, tuple[int, float]] = {}
        """Which packet (see Receiver.halves), and when it began; those that began first come first."""
        self._looking = False

    def begun(self, link: Reading) -> None:
        """A read has ended within a packet, its first or another one."""
        halves = link.wire.halves
        known = self._begun.get(link)
        if known is not None:
            if known[0] == halves:
                return
            del self._begun[link]
        if self._timeout() > 0:
            self._begun[link] = (halves, self._seconds())
            self._look_in(self._timeout())

    def resumed(self, link: Reading) -> None:
        """It is read again: while it was not, nothing could come."""
        begun = self._begun.pop(link, None)
        if begun is not None:
            self._begun[link] = (begun[0], self._seconds())

    def gone(self, link: Reading) -> None:
        """The connection is over."""
        self._begun.pop(link, None)

    def _look_in(self, delay: float) -> None:
        if not self._looking:
            self._looking = True
            self._timers.schedule(delay, self._look)

    def _look(self) -> None:
        self._looking = False
        now, timeout = self._seconds(), self._timeout()
        if timeout <= 0:
            # The bound was taken away meanwhile.
            self._begun.clear()
        # One pass: the first entry of a dict is dear to find when many before it were deleted.
        for link, (halves, began) in tuple(islice(self._begun.items(), BATCH)):
            if began + timeout > now:
                break
            if self._begun.pop(link, None) is None:
                continue  # the end of another was its end
            if not link.wire.within_packet or link.wire.halves != halves:
                continue
            if link.held_back:
                self._begun[link] = (halves, now)
            else:
                link.packet_late()
        if self._begun:
            began = next(iter(self._begun.values()))[1]
            self._look_in(max(0.0, began + timeout - now))
