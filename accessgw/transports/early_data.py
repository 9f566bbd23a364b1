"""0-RTT data of a connection, from its first byte to the end of the hand-shake (RFC 8446 section 2.3, RFC 8470)."""

from __future__ import annotations

from typing import cast

from accessgw.core.interfaces.connections import Binding, BindingFactory, EarlyBinding, EarlyBindingFactory
from accessgw.model.identity import ConnectionInfo
from accessgw.model.reasons import CloseReason
from accessgw.transports.services import TransportServices


class EarlyPhase:
    """What a connection keeps while its hand-shake is not complete and early data has come.

    A binding that takes early data gets it at once. For others it is held until the hand-shake is complete, which that of a
    replay never is; the engine bounds how much it can be. hello_timeout and idle_timeout begin after the hand-shake,
    whose own time-out rules till then, and so does the end of the connection.
    """

    __slots__ = ("_services", "binding", "closing", "held", "idle", "replayed")

    def __init__(self, services: TransportServices) -> None:
        self._services = services
        self.binding: Binding | None = None
        """Where one takes early data."""
        self.replayed = True
        """Someone may have sent the same before; or nobody can say."""
        self.held: list[bytes] = []
        self.idle: float | None = None
        """What the binding has set for the time after the hand-shake; None: it waits for its HELLO or request."""
        self.closing: tuple[CloseReason, str] | None = None
        """What the binding wants once the hand-shake is complete."""

    @staticmethod
    def may_begin(factory: BindingFactory, info: ConnectionInfo) -> bool:
        """Whether its bindings take early data of such a connection."""
        takes = getattr(factory, "takes_early_data", None)
        return takes is not None and cast("EarlyBindingFactory", factory).takes_early_data(info)

    def strike(self, identity: bytes, client_random: bytes) -> None:
        """Note the first flight in the register of replays; before any byte of it has an effect."""
        services = self._services
        guard, tls, now = services.replays, services.tls, services.wall()
        if guard is not None and guard.strike(identity, client_random, now):
            self.replayed = False
            tls.early_accepted += 1
            return
        reason = "replay" if guard is not None and guard.ready(now) else "not_ready"
        tls.early_refused[reason] = tls.early_refused.get(reason, 0) + 1

    def received(self, data: bytes) -> None:
        """The next bytes of it."""
        if self.binding is None:
            self.held.append(data)
        elif self.closing is None:
            cast("EarlyBinding", self.binding).early_data_received(data, self.replayed)

    def close(self, reason: CloseReason, detail: str) -> None:
        """The binding wants the connection to end, which it does after the hand-shake. The first reason stays."""
        if self.closing is None:
            self.closing = reason, detail

    def complete(self) -> None:
        """Tell the binding that the hand-shake is complete."""
        cast("EarlyBinding", self.binding).handshake_completed()
