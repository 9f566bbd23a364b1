"""An MMTP connection between HELLO and WELCOME: admission, then the header states that the device named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core import tracing as traces
from accessgw.core.authentication import AdmissionRefused
from accessgw.core.interfaces.connections import Connection
from accessgw.core.introductions import introduction_of
from accessgw.core.mmtp_room import MmtpRoom
from accessgw.core.mmtp_tickets import TicketProof
from accessgw.core.registry import DeviceSession
from accessgw.model.identity import Identity
from accessgw.model.reasons import CloseReason
from protocols.mmtp import events
from protocols.mmtp.gateway_exchange import FoundStates
from protocols.mmtp.handshake import Hello, Welcome
from protocols.mmtp.statuses import Status

if TYPE_CHECKING:
    from accessgw.core.mmtp_binding import MmtpBinding

log = Logger()

MAX_HELD_EVENTS = 512
"""Events of a device that did not wait for WELCOME; credit bounds their bodies already."""


class Handshake:
    """Made at HELLO, gone with WELCOME or a refusal. The session is in force from its admission on: another connection
    of the device may take it over while the store is read."""

    __slots__ = ("_admission", "_binding", "_proven", "_services", "held", "hello", "proof", "session")

    def __init__(
        self,
        binding: MmtpBinding,
        services: MmtpRoom,
        hello: Hello,
        held: list[events.Event],
        *,
        proof: TicketProof | None = None,
        proven: Identity | None = None,
    ) -> None:
        """Where HELLO came in early data: `held` came with it and waits for WELCOME, `proof` is what came of its ticket
        then, `proven` who it is, if nobody need be asked again."""
        self._binding = binding
        self._services = services
        self.hello = hello
        self.session: DeviceSession | None = None
        self.proof = proof
        self._proven = proven
        self.held = held
        """What came before WELCOME; nothing of it runs before the device is known."""
        self._admission: Deferred[DeviceSession] | None = None

    def begin(self, connection: Connection) -> None:
        """Ask whether the device may come in; the binding's `welcome` or `refuse` follows, or nothing when the
        connection is lost first."""
        try:
            self.proof = self._services.check_ticket(connection.info, self.hello, self.proof)
        except AdmissionRefused as error:
            self._binding.refuse(error)
            return
        introduction = introduction_of(self.hello, connection.info)
        introduction.proven = self._proven
        try:
            entered = self._services.sessions.enter(introduction, self._binding)
        except Exception:
            self._refused(Failure())
            return
        if isinstance(entered, DeviceSession):
            self._admitted(entered)
            return
        self._admission = entered
        entered.addCallbacks(self._admitted, self._refused)
        entered.addErrback(self._binding.defect)

    def hold(self, event: events.Event) -> None:
        """Keep what came until WELCOME has left."""
        if len(self.held) >= MAX_HELD_EVENTS:
            self._binding.close(CloseReason.OVERLOAD, Status.OVERLOAD)
        else:
            self.held.append(event)

    def lost(self, reason: CloseReason) -> None:
        """The connection is gone."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.cancel()
        if self.session is not None:
            self._services.sessions.disconnected(self.session, self._binding, reason)
        self.held = []

    def _admitted(self, session: DeviceSession) -> None:
        self._admission = None
        self.session = session
        codings = self._services.codings
        if codings is None:
            self._binding.welcome(self, session, FoundStates())
            return
        finding = codings.find(self.hello, session.identity)
        if isinstance(finding, FoundStates):
            self._binding.welcome(self, session, finding)
        else:
            finding.addCallback(lambda found: self._binding.welcome(self, session, found))
            finding.addErrback(self._binding.defect)

    def _refused(self, failure: Failure) -> None:
        self._admission = None
        error = failure.value
        if isinstance(error, CancelledError):
            return
        if not isinstance(error, AdmissionRefused):
            log.failure("admission failed", failure=failure)
            error = AdmissionRefused(Status.INTERNAL, CloseReason.INTERNAL, "the gateway failed")
        self._binding.refuse(error)


def refusal_of(error: AdmissionRefused) -> tuple[Welcome, dict[str, object]]:
    """The WELCOME that refuses, and what a trace shows of it."""
    welcome = Welcome(result=error.status, message=str(error), retry_after=error.retry_after)
    return welcome, traces.sent("welcome", {"result": error.status, "message": str(error)})
