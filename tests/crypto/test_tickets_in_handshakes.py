"""Tickets as keys of real hand-shakes, and first flights that are recorded and shown again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from accessgw.core.interfaces.tls import Ticket, TicketBinding
from accessgw.crypto.key_store import LEAD, KeyStore
from accessgw.crypto.replay_register import ReplayRegister
from accessgw.crypto.ticket_keys import EpochTickets
from protocols.tls.engine import EarlyDataReceived
from protocols.tls.psk import ExternalPsk
from tests.protocols.tls.tls_links import Link, client, completed, early, server

NOW = 1_800_000_000.0
READY = NOW + 21
BINDING = TicketBinding("phone1")


class Process:
    """One of several that share a key store and a register; its clock stands until it is moved."""

    def __init__(self, directory: Path) -> None:
        self.now = NOW
        self.store = KeyStore(directory, NOW, rotation=28_800.0, random_bytes=os.urandom)
        self.tickets = EpochTickets(
            self.store,
            zone="z",
            listener="tls",
            transport="tls",
            lifetime=86_400.0,
            full_authentication_days=7,
            random_bytes=os.urandom,
        )
        self.register = ReplayRegister(
            directory / "seen", NOW, window=10.0, delay=10.0, entries=1024, random_bytes=os.urandom
        )
        self.context = server(find_psk=self._find)

    def _find(self, identity: bytes) -> ExternalPsk | None:
        opened = self.tickets.open(identity, self.now)
        key = None if opened is None else self.tickets.key(opened)
        return None if key is None else ExternalPsk(identity, key, 1000, "mmtp/1")

    def ticket(self) -> Ticket:
        return self.tickets.mint(self.now, BINDING, 0)

    def accept(self, flight: bytes) -> tuple[bytes, bool]:
        """The early data of a first flight, and whether it may take effect."""
        engine = self.context.engine()
        engine.feed(flight)
        received = [event for event in engine.events() if isinstance(event, EarlyDataReceived)]
        taken = [self.register.strike(one.identity, one.client_random, self.now) for one in received[:1]]
        return b"".join(one.data for one in received), any(taken)


@pytest.fixture
def processes(tmp_path: Path) -> list[Process]:
    return [Process(tmp_path / "keys") for _ in range(2)]


def connect(process: Process, ticket: Ticket) -> Link:
    device = client().engine("localhost", psk=ExternalPsk(ticket.identity, ticket.key, 1000, "mmtp/1"))
    device.early(b"a call")
    return Link(device, process.context.engine()).run()


def first_flight(ticket: Ticket) -> bytes:
    device = client().engine("localhost", psk=ExternalPsk(ticket.identity, ticket.key, 1000, "mmtp/1"))
    device.early(b"a call")
    device.start()
    return device.to_send()


def test_a_ticket_of_one_process_resumes_at_another_and_brings_early_data(processes: list[Process]) -> None:
    both = connect(processes[1], processes[0].ticket())
    seen = completed(both.gateway_events)
    assert (seen.resumed, seen.early, early(both.gateway_events)) == (True, "accepted", b"a call")
    assert len(seen.psk_identity) == 17


def test_zeroes_in_a_ticket_are_no_end_of_it(processes: list[Process]) -> None:
    minted = (processes[0].ticket() for _ in range(10_000))
    ticket = next(ticket for ticket in minted if 0 in ticket.identity[1:-1])
    assert completed(connect(processes[0], ticket).gateway_events).psk_identity == ticket.identity


def test_no_resumption_fails_across_rotations(processes: list[Process]) -> None:
    for second in range(40):
        for process in processes:
            process.now = NOW + second
        if second in (3, 20):
            processes[second % 2].store.rotate(NOW + second)
        ticket = processes[second % 2].ticket()
        for process in processes:
            assert completed(connect(process, ticket).gateway_events).resumed
    assert len(processes[0].store.epochs(NOW + 40)) == 3


def test_a_dropped_secret_and_a_lost_store_cost_one_full_handshake(processes: list[Process], tmp_path: Path) -> None:
    one, other = processes
    for lose in (lambda: one.store.drop(one.ticket().identity[0], one.now), (tmp_path / "keys" / "epochs").unlink):
        ticket = one.ticket()
        lose()
        for process in processes:
            process.now += LEAD
            one.store.maintain(one.now)
            seen = completed(connect(process, ticket).gateway_events)
            assert (seen.resumed, seen.early) == (False, "refused")
        assert completed(connect(other, one.ticket()).gateway_events).resumed


def test_a_first_flight_shown_a_thousand_times_takes_effect_once(processes: list[Process]) -> None:
    flight = first_flight(processes[0].ticket())
    effects = 0
    for turn in range(1000):
        process = processes[turn % 2]
        process.now = READY + turn * 0.02
        data, taken = process.accept(flight)
        assert data == b"a call"
        effects += taken
    assert effects == 1
    # Both generations have gone: from here on it is the time in HELLO that refuses it (transports/test_recorded_flight.py).
    processes[0].now = READY + 2 * 31 + 1
    assert processes[0].accept(flight) == (b"a call", True)


def test_a_flight_that_was_changed_on_the_way_is_not_noted(processes: list[Process]) -> None:
    flight = bytearray(first_flight(processes[0].ticket()))
    processes[0].now = READY
    random = flight[11:43]
    flight[12] ^= 1
    with pytest.raises(Exception, match="binder"):
        processes[0].accept(bytes(flight))
    flight[12] ^= 1
    assert bytes(flight[11:43]) == bytes(random)
    assert processes[0].accept(bytes(flight)) == (b"a call", True)
