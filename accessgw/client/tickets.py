"""Tickets of TLS that the gateway gave (specification, section 4.5), each for one connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from protocols.mmtp.tickets import GrantedTickets, ShownCertificate

WANTED = 3
"""Held at most, and asked for in HELLO where fewer are there."""


@dataclass(slots=True, frozen=True)
class HeldTicket:
    """One that was not used yet."""

    identity: bytes
    key: bytes = field(repr=False)
    expires: float
    """Second of the gateway's wall clock, as far as we know it."""
    max_early_data: int
    certificate: ShownCertificate | None = None
    """Ours, which it stands for."""


@dataclass(slots=True, frozen=True)
class TicketMemory:
    """What is stored; immutable."""

    tickets: tuple[HeldTicket, ...] = ()
    skew: float = 0.0
    """Seconds from this device's wall clock to the gateway's: early data of a clock that is off is refused."""


@dataclass(slots=True, frozen=True)
class Flight:
    """What a TLS hand-shake begins with."""

    ticket: HeldTicket | None = None
    early: bytes = b""


@dataclass(slots=True, frozen=True)
class Handshaken:
    """How a TLS hand-shake ended well."""

    resumed: bool = False
    """By the ticket of the flight."""
    early_accepted: bool = False
    certificate: ShownCertificate | None = None
    """What we are configured to show."""


NO_FLIGHT = Flight()
NOT_TLS = Handshaken()


class Tickets:
    """Those at hand, the oldest first; `changed` when they are not as they were stored."""

    __slots__ = ("_held", "changed")

    def __init__(self, held: Iterable[HeldTicket] = ()) -> None:
        self._held = deque(held, maxlen=WANTED)
        self.changed = False

    @property
    def held(self) -> tuple[HeldTicket, ...]:
        """All of them."""
        return tuple(self._held)

    def wanted(self, wall: float) -> int:
        """How many to ask for."""
        self._expire(wall)
        return WANTED - len(self._held)

    def take(self, wall: float) -> HeldTicket | None:
        """One to use now; it is gone with that, whatever comes of it."""
        self._expire(wall)
        if not self._held:
            return None
        self.changed = True
        return self._held.popleft()

    def add(self, granted: GrantedTickets, certificate: ShownCertificate | None, wall: float) -> None:
        """What WELCOME brought."""
        for ticket in granted.tickets:
            self._held.append(
                HeldTicket(
                    ticket.identity, ticket.key, wall + granted.lifetime, granted.max_early_data, certificate
                )
            )  # fmt: skip
            self.changed = True

    def clear(self) -> None:
        """The gateway does not take them."""
        if self._held:
            self._held.clear()
            self.changed = True

    def _expire(self, wall: float) -> None:
        while self._held and self._held[0].expires <= wall:
            self._held.popleft()
            self.changed = True
