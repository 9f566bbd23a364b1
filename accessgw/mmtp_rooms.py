"""The composition of MMTP: what saves its connections bytes, and what makes their bindings; part of the composition
root."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from accessgw.core.app_tables import AppTables
from accessgw.core.codings import Codings
from accessgw.core.dictionaries.service import Dictionaries
from accessgw.core.header_states import HeaderStates
from accessgw.core.interfaces.calls import CallService
from accessgw.core.interfaces.clock import Timers
from accessgw.core.interfaces.pushes import PushService
from accessgw.core.interfaces.stores import HeaderStateStore
from accessgw.core.mmtp_binding import MmtpServices
from accessgw.core.mmtp_room import LogUntimely, wire_limits
from accessgw.core.mmtp_tickets import TicketOffice
from accessgw.core.rollout import Packs, Rollout
from accessgw.core.sessions import SessionManager
from accessgw.core.tracing import Tracing
from accessgw.core.turns import TurnFlusher
from accessgw.crypto.workers import Workers
from accessgw.model.counters import CodingCounters, HeaderCounters
from accessgw.model.settings import GatewaySettings


class MmtpRooms:
    """Everything of MMTP in one worker, built and wired, not started."""

    def __init__(
        self,
        settings: GatewaySettings,
        tables: AppTables,
        *,
        reactor: Any,
        store: HeaderStateStore,
        sessions: SessionManager,
        calls: CallService,
        pushes: PushService,
        dictionaries: Dictionaries,
        timers: Timers,
        flusher: TurnFlusher,
        tracing: Tracing,
        headers: HeaderCounters,
        counters: CodingCounters,
        tickets: Mapping[str, TicketOffice],
        log_untimely: LogUntimely,
    ) -> None:
        self._header_states = HeaderStates(settings.header_states, store, timers, time.time, headers)
        self._packers = Workers(reactor.callFromThread, threads=1)
        rollout = Rollout(reactor, time.perf_counter)
        self._codings = Codings(
            settings.mmtp,
            tables=tables,
            states=self._header_states,
            dictionaries=dictionaries,
            dictionaries_enabled=settings.dictionaries.enabled,
            rollout=rollout,
            packs=Packs(self._packers.run, rollout),
            timers=timers,
            counters=counters,
        )
        self.services = MmtpServices(
            settings.mmtp,
            wire_limits(settings.mmtp, settings.limits.hello_timeout),
            sessions,
            calls,
            pushes,
            timers,
            reactor,
            time.time,
            flusher,
            tracing,
            settings.zone,
            settings.alternate_addresses,
            idle_timeout=settings.limits.idle_timeout,
            compress_from=settings.pushes.compress_from,
            push_buffer=settings.limits.write_buffer // 2,
            codings=self._codings,
            is_secret=dictionaries.is_secret,
            tickets=tickets,
            log_untimely=log_untimely,
        )

    def start(self) -> None:
        """After the store was started: begin what repeats."""
        self._header_states.start()

    def stop(self) -> None:
        """No connection is left."""
        self._packers.stop()

    def reconfigure(self, settings: GatewaySettings, tables: AppTables) -> None:
        """Bring into force what a reload may change."""
        services = self.services
        services.settings = settings.mmtp
        services.limits = wire_limits(settings.mmtp, settings.limits.hello_timeout)
        services.idle_timeout = settings.limits.idle_timeout
        services.push_buffer = settings.limits.write_buffer // 2
        services.addresses = settings.alternate_addresses
        self._codings.reconfigure(settings.mmtp)
        self._codings.replace_tables(tables)

    def announce_leaving(self, address: str, spread: float) -> None:
        """The worker is being emptied: devices are told `address`, and to spread their return over seconds."""
        self.services.draining = True
        self.services.leave_for = address
        self.services.leave_spread = spread
