"""A gateway that gives tickets, and devices that come with them and with early data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from accessgw.core.interfaces.tls import TicketBinding
from accessgw.core.mmtp_tickets import TicketOffice
from accessgw.crypto.key_store import KeyStore
from accessgw.crypto.ticket_keys import EpochTickets
from accessgw.model.counters import TlsCounters
from accessgw.model.identity import Serials
from accessgw.model.route_settings import RouteSettings
from protocols.mmtp import events
from tests.core.gateway_fakes import WALL, Device, FakeConnection, Gateway

DAY = 86_400
ROTATION = 20_000
CERTIFICATE = b"a certificate in DER"
END = int(WALL) + 1000
ROUTES = (
    RouteSettings(operation="balance", cluster="c", idempotent=True),
    RouteSettings(operation="*", cluster="c"),
)


class Revoked:
    """Revocations of which a test says what they answer."""

    def __init__(self) -> None:
        self.answer = False
        self.known: dict[bytes, Serials] = {}

    def is_revoked(self, binding: TicketBinding, issued: float) -> bool:
        return self.answer

    def is_locked_out(self, device: str, fingerprint: bytes, since: float) -> bool:
        return self.answer

    def are_listed(self, serials: Serials) -> bool:
        return self.answer

    def certificate_is_revoked(self, fingerprint: bytes, serials: Serials) -> bool:
        return self.answer

    def serials_of(self, fingerprint: bytes) -> Serials:
        return self.known.get(fingerprint, ())

    def on_change(self, listener: Any) -> None: ...


class Place:
    """A gateway whose listener gives tickets."""

    def __init__(self, directory: Path, **more: Any) -> None:
        self.gateway = gateway = Gateway(*ROUTES, **more)
        self.store = KeyStore(directory / "keys", gateway.wall(), rotation=ROTATION, random_bytes=os.urandom)
        self.keys = EpochTickets(
            self.store,
            zone="z",
            listener="t",
            transport="tls",
            lifetime=DAY,
            full_authentication_days=7,
            random_bytes=os.urandom,
        )
        self.counters = TlsCounters()
        self.revoked = Revoked()
        self.office = TicketOffice(
            self.keys,
            count=3,
            max_early_data=16384,
            replay_window=10,
            wall=gateway.wall,
            counters=self.counters,
            end_of=lambda certificate: float(END),
            revocations=self.revoked,
        )
        gateway.services.tickets = {"t": self.office}

    def ticket(self, device: str = "d1", days: int = 0, **more: Any) -> bytes:
        return self.keys.mint(self.gateway.wall(), TicketBinding(device, **more), days).identity

    def device(self, **info: Any) -> EarlyDevice:
        return EarlyDevice(self, **info)


class EarlyDevice(Device):
    """Its TLS hand-shake is complete when `complete` says so."""

    def __init__(self, place: Place, *, replayed: bool = False, **info: Any) -> None:
        super().__init__(place.gateway)
        info = {"alpn": "mmtp/1", **info}
        self.connection = FakeConnection(resumed="ticket" in info, early=bool(info.get("ticket")), **info)
        self.binding = place.gateway.services(self.connection)
        self.replayed = replayed

    def send(self) -> None:
        data = self.wire.to_send(self.gateway.clock.seconds())
        if data and self.connection.info.early:
            self.binding.early_data_received(data, self.replayed)
        elif data:
            self.binding.data_received(data)
        self.listen()

    def hello(self, device: str = "d1", token: str = "ok", **more: Any) -> EarlyDevice:
        super().hello(device, token, **{"time": self.gateway.wall(), "tickets": 3, "call_base": 100, **more})
        return self

    def complete(self) -> EarlyDevice:
        self.connection.info.early = False
        self.binding.handshake_completed()
        self.listen()
        return self

    def welcome(self) -> Any:
        (event,) = self.take(events.WelcomeReceived)
        return event.welcome

    def refusals(self) -> list[int]:
        return [event.status for event in self.take(events.CallReset)] + [
            event.status for event in self.take(events.ResponseReceived) if event.status
        ]
