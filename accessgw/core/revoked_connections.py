"""Ends connections that stand on what has been revoked: a device's proofs, or a client certificate."""

from __future__ import annotations

from accessgw.core.interfaces.clock import Clock
from accessgw.core.interfaces.connections import Connection, ConnectionTable
from accessgw.core.interfaces.tls import Revocations, TicketBinding
from accessgw.model.counters import TlsCounters
from accessgw.model.identity import ConnectionInfo
from accessgw.model.reasons import CloseReason

PER_TURN = 64
"""Connections that are looked at in one turn of the reactor: a certificate takes some 20 us."""


class RevokedConnections:
    """Looks at every connection after each change of the revocations, a few in each turn."""

    def __init__(
        self, clock: Clock, connections: ConnectionTable, revocations: Revocations, counters: TlsCounters
    ) -> None:
        self._clock = clock
        self._connections = connections
        self._revocations = revocations
        self._counters = counters
        self._waiting: list[Connection] = []
        self._looking = False
        revocations.on_change(self.look)

    def look(self) -> None:
        """Begin, or begin anew, with those that are there now: later ones were held against the revocations when they
        came."""
        self._waiting = self._connections.snapshot()
        if not self._looking:
            self._looking = True
            self._go_on()

    def _go_on(self) -> None:
        here = self._waiting[-PER_TURN:]
        # in place: a copy of what is left would cost more in every turn than the look itself
        del self._waiting[-PER_TURN:]
        for connection in here:
            why = self._revoked(connection.info)
            if why:
                self._counters.revoked_closed += 1
                connection.close(CloseReason.REVOKED, why)
        if self._waiting:
            self._clock.callLater(0, self._go_on)
        else:
            self._looking = False

    def _revoked(self, info: ConnectionInfo) -> str:
        if not info.fingerprint and not info.device:
            return ""
        if info.certificate and self._revocations.serial_is_revoked(info.certificate):
            return "a revocation list names the client certificate"
        kind = "certificate" if info.fingerprint else "token"
        binding = TicketBinding(info.device, kind, info.fingerprint)
        if self._revocations.is_revoked(binding, info.proved_at or info.accepted_at):
            return "the device, or its certificate, was revoked"
        return ""
