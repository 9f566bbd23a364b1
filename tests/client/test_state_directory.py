"""What is kept in a state directory follows from where the client connects to."""

from __future__ import annotations

from pathlib import Path

import pytest

from accessgw.client.cursors import Memory
from accessgw.client.settings import ClientSettings, addresses_of
from accessgw.client.state_directory import StateDirectory
from accessgw.client.tickets import TicketMemory
from accessgw.client.wirememory import WireMemory
from protocols.mmtp.handshake import StreamCursor

CURSORS = Memory(boot=7, cursors=[StreamCursor("device", "d1", "orders", 1, 5)])


def kept(directory: Path | None, url: str, device: str = "d1") -> StateDirectory:
    long, short = addresses_of([url])
    return StateDirectory(directory, ClientSettings(addresses=long, short_addresses=short, device=device))


@pytest.mark.parametrize(
    ("url", "wire", "tickets"),
    [
        ("mmtps://gw:7443", True, True),
        ("wss://gw:7443/mmtp", True, True),
        ("mmtp://gw:7000", True, False),
        ("https://gw:7443", False, False),
    ],
)
def test_each_way_keeps_what_it_can_use(tmp_path: Path, url: str, wire: bool, tickets: bool) -> None:
    one = kept(tmp_path, url)
    assert one.keeps_wire is wire
    one.store(CURSORS)
    one.store_wire(WireMemory(), frozenset())
    one.store_tickets(TicketMemory(skew=2.0))
    again = kept(tmp_path, url)
    assert again.memory() == CURSORS
    assert (again.wire_memory() is not None) is wire
    found = again.tickets()
    assert (found is not None and found.skew == 2.0) is tickets


def test_cursors_are_of_the_device_and_tickets_of_the_gateway_too(tmp_path: Path) -> None:
    one = kept(tmp_path, "mmtps://gw:7443")
    one.store(CURSORS)
    one.store_tickets(TicketMemory(skew=2.0))
    assert kept(tmp_path, "mmtps://gw:7443", "d2").memory() == Memory()
    elsewhere = kept(tmp_path, "mmtps://other:7443")
    assert elsewhere.memory() == CURSORS
    assert elsewhere.tickets() == TicketMemory()


def test_without_a_directory_nothing_is_kept() -> None:
    one = kept(None, "mmtps://gw:7443")
    one.store(CURSORS)
    one.store_tickets(TicketMemory(skew=2.0))
    assert not one.keeps_wire
    assert (one.memory(), one.wire_memory(), one.tickets()) == (Memory(), None, None)
