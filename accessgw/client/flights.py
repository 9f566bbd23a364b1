"""First flights of TLS: which ticket an attempt to connect uses, and which calls it sends in early data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from accessgw.client.addresses import Address
from accessgw.client.commands import Command, Tell
from accessgw.client.link import Link
from accessgw.client.model import Note
from accessgw.client.tickets import NO_FLIGHT, Flight, Handshaken, HeldTicket, Tickets
from protocols.mmtp.tickets import ShownCertificate

EARLY_HELLO = 256
"""Bytes of early data below which it is not worth while: HELLO alone may take more."""


class FlightOwner(Protocol):
    """What first flights need of the client around them."""

    def emit(self, command: Command) -> None: ...

    def say_hello(self, link: Link, now: float, last_close: int, *, early: bool = False) -> None:
        """Begin the hand-shake of MMTP; `early`: in early data of TLS."""

    def send_early(self, link: Link, room: int, now: float) -> bool:
        """Send calls in early data of so many bytes. Whether there are any."""

    def unsend(self, link: Link) -> bool:
        """Nobody saw those calls. Whether all of them are to be sent again, before others."""

    def call_lost(self, key: int, now: float) -> None:
        """The connection that had the call is gone, or will not execute it."""

    @property
    def has_early(self) -> bool:
        """Some call may be sent in early data."""

    def wall(self, now: float) -> float:
        """The gateway's wall clock."""


@dataclass(slots=True, frozen=True)
class Landing:
    """What became of the first flight of the attempt that won."""

    link: Link | None = None
    """It goes on from its early data."""
    call_base: int | None = None
    """Otherwise: with this base it has to say the same again."""
    certificate: ShownCertificate | None = None
    """Ours, which the ticket stands for or TLS may have shown."""


class Flights:
    """Those of the attempts of one race. At most one sends early data, so that no call goes two ways at once."""

    def __init__(
        self,
        owner: FlightOwner,
        tickets: Tickets,
        *,
        make_link: Callable[[int, Address, float], Link],
        runs: Callable[[int], bool],
    ) -> None:
        """`make_link` is given the attempt, its address and the time; `runs`: whether an attempt is in the race."""
        self.tickets = tickets
        self.early: Link | None = None
        """Has sent HELLO and calls in early data, and is not connected yet."""
        self._owner = owner
        self._make_link = make_link
        self._runs = runs
        self._used: dict[int, HeldTicket] = {}

    def begin(self, attempt: int, address: Address, now: float, last_close: int, *, calls: bool) -> Flight:
        """The transport is about to begin TLS. `calls`: those that wait may be sent in early data."""
        if not address.ticketed:
            return NO_FLIGHT
        owner = self._owner
        ticket = self.tickets.take(owner.wall(now))
        if ticket is None:
            return NO_FLIGHT
        self._used[attempt] = ticket
        room = ticket.max_early_data
        if not calls or self.early is not None or room <= EARLY_HELLO or not owner.has_early:
            return Flight(ticket)
        link = self._make_link(attempt, address, now)
        link.ticketed, link.certificate = True, ticket.certificate
        owner.say_hello(link, now, last_close, early=True)
        hello = link.connection.to_send(now)
        if not owner.send_early(link, room - len(hello), now):
            return Flight(ticket)
        self.early = link
        return Flight(ticket, hello + link.connection.to_send(now))

    def land(self, attempt: int, tls: Handshaken, now: float) -> Landing:
        """The attempt has won the race, its hand-shake is complete."""
        ticket = self._used.get(attempt)
        self._used.clear()
        if ticket is not None and not tls.resumed:
            self.tickets.clear()
            self._tell("ticket_refused", "the gateway made a full hand-shake")
        early, self.early = self.early, None
        certificate = ticket.certificate if ticket is not None and tls.resumed else tls.certificate
        if early is None:
            return Landing(certificate=certificate)
        if early.attempt != attempt:
            self._lose(early, now)
            return Landing(certificate=certificate)
        self._tell("early_data", "accepted" if tls.early_accepted else "refused")
        if tls.early_accepted:
            return Landing(early)
        # a recorded first flight may yet be shown to another gateway: its ids must not come with other calls
        same = self._owner.unsend(early)
        return Landing(call_base=early.call_base if same else None, certificate=certificate)

    def failed(self, attempt: int, reason: str) -> bool:
        """TLS has failed. Whether a ticket of keys that are gone may be why."""
        if attempt not in self._used:
            return False
        self.tickets.clear()
        self._tell("ticket_refused", reason)
        return True

    def look(self, now: float) -> None:
        """Attempts may have been given up."""
        self._used = {attempt: ticket for attempt, ticket in self._used.items() if self._runs(attempt)}
        early = self.early
        if early is not None and not self._runs(early.attempt):
            self.early = None
            self._lose(early, now)

    def stop(self) -> None:
        """The race is over, and calls with it."""
        self.early = None
        self._used.clear()

    def _lose(self, early: Link, now: float) -> None:
        """Its calls may have been executed."""
        for key in early.calls.values():
            self._owner.call_lost(key, now)

    def _tell(self, kind: str, message: str) -> None:
        self._owner.emit(Tell(Note(kind, message)))
