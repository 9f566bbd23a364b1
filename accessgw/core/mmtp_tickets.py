"""Tickets as MMTP gives and takes them (specification, section 4.5): for whom one is, and how many a WELCOME brings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from accessgw.core.authentication import AdmissionRefused
from accessgw.core.interfaces.tls import TICKET_PROTOCOL, OpenedTicket, Revocations, TicketBinding, TicketKeys
from accessgw.model.counters import TlsCounters
from accessgw.model.identity import ConnectionInfo
from accessgw.model.reasons import CloseReason
from protocols.mmtp.handshake import Hello
from protocols.mmtp.statuses import Status
from protocols.mmtp.tickets import DeviceTicket, GrantedTickets

_ENDED = "the ticket has ended since the TLS hand-shake"


@dataclass(slots=True, frozen=True)
class TicketProof:
    """Whom the next tickets are for, as TLS and HELLO together proved it."""

    binding: TicketBinding
    days: int
    """Since the last full TLS hand-shake."""
    opened: OpenedTicket | None = None
    """By which the connection came; None without one."""


@dataclass(slots=True)
class TicketOffice:
    """Of one listener."""

    keys: TicketKeys
    count: int
    """Most tickets of a WELCOME."""
    max_early_data: int
    """Bytes of early data under one; 0: none is taken."""
    replay_window: float
    """Seconds by which the time in HELLO may be off where calls in early data are executed."""
    wall: Callable[[], float]
    counters: TlsCounters
    end_of: Callable[[bytes], float]
    """Wall-clock second of notAfter of a certificate (DER)."""
    revocations: Revocations | None = None

    def check(self, info: ConnectionInfo, hello: Hello, before: TicketProof | None = None) -> TicketProof | None:
        """Hold the connection's ticket, if it came with one, against HELLO; None: no ticket may be given on it. `before`:
        what came of it when the same HELLO was in early data; what may have changed since is looked at again.

        After a ticket of a client certificate `info.certificate_identity` is what that named. AdmissionRefused (AUTH):
        the device has to connect in full.
        """
        if info.ticket:
            return self._check_ticket(info, hello, before)
        if info.alpn != TICKET_PROTOCOL:
            # In WebSocket, for instance: nobody would take it there.
            return None
        if info.resumed or bool(info.certificate) != bool(info.certificate_identity):
            # OpenSSL's own tickets do not say since when; and a certificate that names nobody proves no device.
            return None
        if info.certificate:
            end = int(self.end_of(info.certificate))
            binding = TicketBinding(hello.device, "certificate", sha256(info.certificate).digest(), end)
        else:
            binding = TicketBinding(hello.device)
        return TicketProof(binding, 0)

    def _check_ticket(self, info: ConnectionInfo, hello: Hello, before: TicketProof | None) -> TicketProof:
        now = self.wall()
        opened = None if before is None else before.opened
        if before is None or opened is None or opened.identity != info.ticket:
            proof = self._open_ticket(info, hello, now)
        elif self.keys.is_open(opened, now):
            proof = before
        else:
            raise self._refused(info, "expired", _ENDED)
        opened, binding = proof.opened, proof.binding
        assert opened is not None
        if binding.fingerprint and binding.not_after <= now:
            raise self._refused(info, "expired", "the certificate of the ticket has ended")
        if self.revocations is not None and self.revocations.is_revoked(binding, opened.issued):
            raise self._refused(info, "revoked", "the ticket was revoked")
        info.proved_at = opened.issued
        if binding.fingerprint:
            info.certificate_identity = hello.device
            info.fingerprint = binding.fingerprint
            if self.revocations is not None:
                info.serials = self.revocations.serials_of(binding.fingerprint)
        days = opened.days_at(now)
        return proof if days == proof.days else TicketProof(binding, days, opened)

    def _open_ticket(self, info: ConnectionInfo, hello: Hello, now: float) -> TicketProof:
        """Look into the ticket, and whether it was made for who says HELLO."""
        opened = self.keys.open(info.ticket, now)
        if opened is None:
            raise self._refused(info, "expired", _ENDED)
        shown, binding = hello.certificate, TicketBinding(hello.device)
        if shown is not None:
            # A device that has a certificate does not know whether TLS has ever asked for it.
            certified = TicketBinding(hello.device, "certificate", shown.fingerprint, shown.not_after)
            if self.keys.matches(opened, certified):
                binding = certified
        if not binding.fingerprint and not self.keys.matches(opened, binding):
            raise self._refused(info, "other_device", "the ticket is not for this device")
        return TicketProof(binding, opened.days_at(now), opened)

    def ahead(self, hello: Hello) -> float | None:
        """Seconds by which the device's idea of the time is ahead of ours; None when it says none."""
        return None if hello.time is None else hello.time - self.wall()

    def timely(self, ahead: float | None) -> bool:
        """Whether that says that the first flight is new."""
        return ahead is not None and abs(ahead) <= self.replay_window

    def grant(self, proof: TicketProof | None, wanted: int) -> GrantedTickets | None:
        """Tickets for WELCOME; None where there are none to give."""
        count = min(wanted, self.count)
        if proof is None or count <= 0 or proof.days >= self.keys.full_authentication_days:
            return None
        now, binding = self.wall(), proof.binding
        minted = [self.keys.mint(now, binding, proof.days) for _ in range(count)]
        end = min(ticket.ends for ticket in minted)
        if binding.not_after:
            end = min(end, binding.not_after)
        if end - now < 1:
            return None
        self.counters.tickets_minted += count
        tickets = tuple(DeviceTicket(ticket.identity, ticket.key) for ticket in minted)
        return GrantedTickets(int(end - now), self.max_early_data, tickets)

    def refuse_early(self, reason: str) -> None:
        """Early data reached MMTP, and its calls are not executed now."""
        refused = self.counters.early_refused
        refused[reason] = refused.get(reason, 0) + 1

    def _refused(self, info: ConnectionInfo, reason: str, why: str) -> AdmissionRefused:
        if not info.early:  # of early data it is said again at the admission
            refused = self.counters.psk_refused
            refused[reason] = refused.get(reason, 0) + 1
        return AdmissionRefused(Status.AUTH, CloseReason.AUTH_FAILED, why)
