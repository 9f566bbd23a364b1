"""A ticket of WELCOME is all that a thief has: what it opens at a gateway that asks for client certificates."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from accessgw.client.aio import Client
from accessgw.client.ticket_file import TicketFile
from accessgw.client.tickets import HeldTicket
from loadtest.free_ports import free_ports
from protocols.tls.client_context import ClientContext, ClientOptions
from protocols.tls.engine import PlaintextReceived
from protocols.tls.psk import ExternalPsk
from tests.crypto.authority import Authority
from tests.system.attacker import Attacker, hello_of
from tests.system.gateway_process import PATIENCE, Gateway
from tests.system.test_tls_abuse import Peer

ASKS = 'client_certificates = "require"\nclient_ca = "{ca}"\nearly_data = 16384\n'
SECOND = """
[[listeners]]
name = "second"
transport = "tls"
port = {port}
protocols = ["mmtp/1", "http/1.1"]
client_certificates = "require"
client_ca = "{ca}"
"""
REQUESTS = {
    "http/1.1": b"GET /.well-known/accessgw HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    "mqtt": bytes.fromhex("101000044d51545405020000000003633432"),
}
REQUESTS[""] = REQUESTS["http/1.1"]


class House:
    """A gateway whose listeners ask for certificates, and its devices."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.devices = Authority(directory, "devices")
        (self.second,) = free_ports(1)
        self.gateway = gateway = Gateway(directory, extra=SECOND.format(port=self.second, ca=self.devices.file))
        gateway.log_accesses()
        text = gateway.config.read_text().replace('["mmtp/1", "http/1.1"]', '["mmtp/1", "http/1.1", "mqtt"]', 1)
        asks = ASKS.format(ca=self.devices.file)
        gateway.config.write_text(text.replace('transport = "tls"\n', f'transport = "tls"\n{asks}', 1))
        gateway.start()

    def ticket(self, name: str) -> HeldTicket:
        """One that this device was given and has not used."""
        own = self.devices.issue(name)
        port = self.gateway.tls

        async def connect() -> None:
            client = Client(
                f"mmtps://127.0.0.1:{port}", name, "device-token",
                ca=self.gateway.ca, state_dir=self.directory / "client", cert=own.chain, key=own.key,
            )  # fmt: skip
            try:
                await client.connect()
            finally:
                await client.close()

        asyncio.run(connect())
        memory = TicketFile(self.directory / "client", gateway=f"127.0.0.1:{port}", device=name).load()
        return memory.tickets[-1]

    def thief(self, ticket: HeldTicket, alpn: str = "mmtp/1", *, port: int = 0, early: bytes = b"") -> Peer:
        """Has the ticket and no certificate."""
        attacker = Attacker(self.gateway)
        attacker.socket.close()
        attacker.socket = socket.create_connection(("127.0.0.1", port or self.gateway.tls), PATIENCE)
        attacker.port = attacker.socket.getsockname()[1]
        context = ClientContext(ClientOptions(verify=False, alpn=[alpn] if alpn else []))
        psk = ExternalPsk(ticket.identity, ticket.key, len(early), "mmtp/1" if alpn == "mmtp/1" else "")
        engine = context.engine("localhost", psk=psk)
        if early:
            engine.early(early)
        return Peer(attacker, engine)

    def refused(self, reason: str) -> float:
        return self.gateway.metric("accessgw_tls_tickets_refused_total", reason=reason)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    place = House(tmp_path_factory.mktemp("house"))
    yield place
    place.gateway.assert_sound()
    place.gateway.close()


@pytest.mark.parametrize("alpn", REQUESTS)
def test_a_ticket_is_worth_nothing_over_other_protocols(house: House, alpn: str) -> None:
    """Only HELLO holds it against its device and the revocations; no other protocol would know whom it is for."""
    ticket = house.ticket("phone1")
    before = house.refused("other_protocol")
    thief = house.thief(ticket, alpn).shaken()
    thief.engine.encrypt(REQUESTS[alpn])
    thief.say()
    thief.ended()
    assert thief.heard == b""
    closed = thief.attacker.closed_as()
    assert closed["reason"] == "handshake_failed"
    assert "(no_application_protocol): expected a ticket over mmtp/1" in closed["detail"]
    assert house.refused("other_protocol") == before + 1


@pytest.mark.parametrize("early", [False, True])
def test_another_device_gets_nothing_for_it(house: House, early: bool) -> None:
    ticket = house.ticket("phone1")
    hello = hello_of("phone2", boot=1, time=time.time(), certificate=ticket.certificate)
    before = house.refused("other_device")
    thief = house.thief(ticket, early=hello if early else b"").shaken()
    if not early:
        thief.engine.encrypt(hello)
        thief.say()
    thief.ended()
    assert thief.attacker.closed_as()["reason"] == "auth_failed"
    assert house.refused("other_device") == before + 1


def test_another_listener_does_not_know_it(house: House) -> None:
    ticket = house.ticket("phone1")
    before = house.refused("unknown")
    thief = house.thief(ticket, port=house.second).shaken()
    thief.ended()
    assert "(certificate_required)" in thief.attacker.closed_as()["detail"]
    assert house.refused("unknown") == before + 1


def test_a_ticket_shown_twice_at_once_is_one_session(house: House) -> None:
    """Who has the ticket is the device; what is not to be is two of it."""
    ticket = house.ticket("phone1")
    peers = [house.thief(ticket) for _ in range(2)]
    for number, peer in enumerate(peers):
        peer.shaken().engine.encrypt(hello_of("phone1", boot=2, counter=number, certificate=ticket.certificate))
        peer.say()
        while not peer.heard:
            peer.engine.feed(peer.attacker.socket.recv(65536))
            peer.heard = b"".join(event.data for event in peer.engine.events() if isinstance(event, PlaintextReceived))
    assert peers[0].ended().attacker.closed_as()["reason"] == "replaced"
    peers[1].attacker.socket.close()
