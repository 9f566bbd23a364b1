"""HELLO and calls in TLS early data (specification, section 6.5): answered before the device is admitted.

What comes here may have been sent before by the device itself, or be shown to us again by somebody else. So nothing
of it takes anything over: HELLO says whose the calls are, and only calls of idempotent routes are executed. What is
left when the hand-shake is complete goes through the admission as if it had come then.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.authentication import AdmissionRefused
from accessgw.core.introductions import introduction_of, is_device_id
from accessgw.core.mmtp_room import MmtpRoom
from accessgw.core.mmtp_tickets import TicketProof
from accessgw.model.identity import Identity
from protocols.errors import LocalError
from protocols.mmtp import events
from protocols.mmtp.handshake import Hello
from protocols.mmtp.statuses import Status

if TYPE_CHECKING:
    from accessgw.core.mmtp_binding import MmtpBinding

log = Logger()

KEPT = 1.0
"""Seconds for which the admission takes over who the device is: authenticators may come to know better."""


class EarlyCalls:
    """Made at the first early data, gone when the hand-shake is complete."""

    __slots__ = (
        "_asked", "_authenticators", "_binding", "_identity", "_known_at", "_refusing", "_services",
        "held", "hello", "proof",
    )  # fmt: skip

    def __init__(self, binding: MmtpBinding, services: MmtpRoom, *, replayed: bool) -> None:
        self._binding = binding
        self._services = services
        self._refusing = replayed
        """Calls are refused: they may have been executed before."""
        self._identity: Identity | None = None
        self._known_at = 0.0
        self._authenticators: object = None
        """Those that have said so."""
        self._asked: Deferred[Identity] | None = None
        self.proof: TicketProof | None = None
        """What came of the ticket."""
        self.hello: Hello | None = None
        self.held: list[events.Event] = []
        """For after the hand-shake; the limit of early data bounds it."""

    def handle(self, event: events.Event) -> None:
        """An event of the wire."""
        match event:
            case events.HelloReceived():
                self._introduced(event.hello)
            case events.RequestReceived() if self._refusing:
                with suppress(LocalError):
                    self._binding.wire.reset(event.call, Status.EARLY_DATA_REFUSED)
            case events.RequestReceived() if self._identity is not None:
                self._binding.request(event, self._identity, early=True)
            case events.DataReceived() if self._binding.has_call(event.call):
                self._binding.data(event)
            case events.CallReset() if self._binding.has_call(event.call):
                self._binding.cancel(event)
            case events.PingReceived():
                pass
            case _:
                self.held.append(event)

    def over(self) -> None:
        """The hand-shake is complete, or the connection is gone."""
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.cancel()

    def proven(self) -> Identity | None:
        """Who the device is, when that was found a moment ago and holds: the admission need not ask. The filters, and
        whether something was revoked, it asks as ever."""
        identity, services = self._identity, self._services
        if identity is None or services.clock.seconds() - self._known_at > KEPT:
            return None
        return identity if services.sessions.is_proven(identity, self._authenticators) else None

    def _introduced(self, hello: Hello) -> None:
        self.hello = hello
        info = self._binding.info
        office = self._services.tickets.get(info.listener)
        if office is None:
            self._refusing = True
            return
        if self._refusing:
            return
        ahead = office.ahead(hello)
        if not office.timely(ahead):
            office.refuse_early("clock")
            self._services.log_untimely(info, hello.device if is_device_id(hello.device) else "", ahead)
            self._refusing = True
            return
        try:
            self.proof = office.check(info, hello)
        except AdmissionRefused:
            # The admission says so, to whom can hear it; whoever replays cannot.
            office.refuse_early("ticket")
            return
        sessions = self._services.sessions
        self._authenticators = sessions.authenticators
        try:
            asked = sessions.identify(introduction_of(hello, info), info)
        except Exception:
            self._unknown(Failure())
            return
        if isinstance(asked, Identity):
            self._identified(asked)
            return
        self._asked = asked
        asked.addCallbacks(self._identified, self._unknown)
        asked.addErrback(self._binding.defect)

    def _identified(self, identity: Identity) -> None:
        self._asked = None
        self._identity = identity
        self._known_at = self._services.clock.seconds()
        held, self.held = self.held, []
        for event in held:
            self.handle(event)

    def _unknown(self, failure: Failure) -> None:
        self._asked = None
        if failure.check(CancelledError, AdmissionRefused) is None:
            log.failure("early data of {device}", failure=failure, device=self.hello and self.hello.device)
