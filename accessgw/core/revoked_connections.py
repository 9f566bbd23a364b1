"""Ends connections that stand on what has been revoked: a device's proofs, or a client certificate."""

from __future__ import annotations

from bisect import bisect_left

from accessgw.core.interfaces.clock import Clock
from accessgw.core.interfaces.connections import Connection, ConnectionPages
from accessgw.core.interfaces.tls import Revocations, TicketBinding
from accessgw.model.counters import TlsCounters
from accessgw.model.identity import ConnectionInfo, Serials
from accessgw.model.reasons import CloseReason

SLICE = 0.002
"""Seconds of work in one turn of the reactor."""
PER_GLANCE = 64
"""Connections between two looks at the clock; one that is closed takes as long as many that stay."""


class RevokedConnections:
    """Looks at every connection after each change of the revocations, for a short time in each turn."""

    def __init__(
        self, clock: Clock, connections: ConnectionPages, revocations: Revocations, counters: TlsCounters
    ) -> None:
        self._clock = clock
        self._connections = connections
        self._revocations = revocations
        self._counters = counters
        self._pages: list[int] = []
        """The next one last."""
        self._page = 0
        self._waiting: list[Connection] = []
        """Of this page; the next one last."""
        self._looking = False
        revocations.on_change(self.look)

    def look(self) -> None:
        """Look at all that are there now, once more at those that this round has passed: later ones are held against the
        revocations when they come. Who takes over connections of another process calls it as well."""
        pages = self._connections.pages()
        # Go on from here, and around: changes that come faster than rounds end would leave the oldest out.
        here = bisect_left(pages, self._page) if self._looking else 0
        self._pages = pages[here:] + pages[:here]
        if not self._looking:
            self._looking = True
            self._go_on()

    def _go_on(self) -> None:
        seconds, glance = self._clock.seconds, PER_GLANCE
        began = seconds()
        try:
            while self._waiting or self._turn_page():
                connection = self._waiting.pop()
                glance -= 1
                why = self._revoked(connection.info)
                if why:
                    self._counters.revoked_closed += 1
                    connection.close(CloseReason.REVOKED, why)
                if why or not glance:
                    glance = PER_GLANCE
                    # a clock that was put back ends the slice, too
                    if not 0 <= seconds() - began < SLICE:
                        break
        finally:
            if self._waiting or self._pages:
                self._clock.callLater(0, self._go_on)
            else:
                self._looking = False

    def _turn_page(self) -> bool:
        while self._pages and not self._waiting:
            self._page = self._pages.pop()
            self._waiting = self._connections.page(self._page)
        return bool(self._waiting)

    def _revoked(self, info: ConnectionInfo) -> str:
        if not info.fingerprint and not info.device:
            return ""
        since = info.proved_at or info.accepted_at
        return why_revoked(self._revocations, info.device, info.fingerprint, info.serials, since)


def why_revoked(revocations: Revocations, device: str, fingerprint: bytes, serials: Serials, since: float) -> str:
    """Why a device, and the certificate that it has shown, if any, are worth nothing any more; empty when they are.

    `since`: wall-clock second up to which it has proved itself. `serials`: as in ConnectionInfo."""
    if revocations.is_locked_out(device, fingerprint, since):
        return (
            "the device was revoked" if revocations.is_locked_out(device, b"", since) else "its certificate was revoked"
        )
    if serials:
        if revocations.are_listed(serials):
            return "a revocation list names the client certificate, or a CA above it"
    elif fingerprint and revocations.is_revoked(TicketBinding(device, "certificate", fingerprint), since):
        return "a revocation list changed, and the certificate behind the ticket is on it or was not seen here"
    return ""
