"""What every MMTP connection of a worker shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

from accessgw.core import tracing as traces
from accessgw.core.codings import Codings
from accessgw.core.interfaces.calls import CallService
from accessgw.core.interfaces.clock import Clock, Timers
from accessgw.core.interfaces.pushes import PushService
from accessgw.core.mmtp_tickets import TicketOffice, TicketProof
from accessgw.core.registry import DeviceSession
from accessgw.core.sessions import SessionManager
from accessgw.core.turns import TurnFlusher
from accessgw.model.identity import ConnectionInfo
from accessgw.model.mmtp_settings import MmtpSettings
from protocols.mmtp.bodies import ZSTD_CAPABILITY
from protocols.mmtp.handshake import Hello, Welcome
from protocols.mmtp.settings import Limits
from protocols.mmtp.tickets import GrantedTickets


def wire_limits(settings: MmtpSettings, hello_timeout: float) -> Limits:
    """The limits of the wire from the configuration."""
    same = {field.name: getattr(settings, field.name) for field in fields(Limits) if field.name != "hello_timeout"}
    return Limits(**same, hello_timeout=hello_timeout)


LogUntimely = Callable[[ConnectionInfo, str, "float | None"], None]
"""Takes a connection, the device that its HELLO names, and the seconds by which its clock is ahead."""


def _untold(info: ConnectionInfo, device: str, ahead: float | None) -> None:
    pass


def _nothing_is_secret(name: str) -> bool:
    return False


@dataclass(slots=True)
class MmtpRoom:
    """See mmtp_binding.MmtpServices, which makes bindings."""

    settings: MmtpSettings
    limits: Limits
    sessions: SessionManager
    calls: CallService
    pushes: PushService
    timers: Timers
    clock: Clock
    wall: Callable[[], float]
    flusher: TurnFlusher
    tracing: traces.Tracing
    zone: str
    addresses: tuple[str, ...] = ()
    addresses_valid: float = 3600.0
    idle_timeout: float = 0.0
    """Told to the device; the transport enforces it."""
    compress_from: int = 256
    push_buffer: int = 256 * 1024
    """Unsent bytes of a connection past which no push is added, however large the device's window is."""
    draining: bool = False
    """The worker is being emptied: connections that end do so for that reason."""
    leave_for: str = ""
    """host:port told to devices that are asked to leave; empty: the same one."""
    codings: Codings | None = None
    """None: neither application tables nor dictionaries nor histories."""
    is_secret: Callable[[str], bool] = _nothing_is_secret
    """Whether bodies of an operation or biz travel raw."""
    leave_spread: float = 0.0
    """Seconds over which those devices should spread their return."""
    tickets: Mapping[str, TicketOffice] = field(default_factory=dict)
    """By the name of the listener; without one it gives no tickets, and takes no early data."""
    log_untimely: LogUntimely = _untold
    """Is told of first flights that are refused since the device's clock is off."""

    def takes_early_data(self, info: ConnectionInfo) -> bool:
        """See EarlyBindingFactory: calls are for who has a ticket of ours, which is a device."""
        office = self.tickets.get(info.listener)
        return office is not None and office.max_early_data > 0 and bool(info.ticket)

    def check_ticket(self, info: ConnectionInfo, hello: Hello, before: TicketProof | None = None) -> TicketProof | None:
        """See TicketOffice.check."""
        office = self.tickets.get(info.listener)
        return None if office is None else office.check(info, hello, before)

    def grant_tickets(self, info: ConnectionInfo, proof: TicketProof | None, wanted: int) -> GrantedTickets | None:
        """See TicketOffice.grant."""
        office = self.tickets.get(info.listener)
        return None if office is None else office.grant(proof, wanted)

    def welcome(self, session: DeviceSession, hello: Hello) -> Welcome:
        """What a device is told when it was admitted; the session remembers which codings it takes."""
        capabilities = hello.capabilities & {ZSTD_CAPABILITY}
        session.zstd = ZSTD_CAPABILITY in capabilities
        return Welcome(
            session=session.id,
            mac_key=session.mac_key,
            time=self.wall(),
            capabilities=capabilities,
            heartbeat=self.settings.heartbeat_hint,
            idle_timeout=self.idle_timeout,
            zone=self.zone,
            addresses=list(self.addresses),
            addresses_valid=self.addresses_valid if self.addresses else 0.0,
        )
