"""TLS of the SDK without a network: whom it believes, what it shows, and round trips until an answer."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from accessgw.client.addresses import Address
from accessgw.client.tickets import NO_FLIGHT, Flight, HeldTicket
from accessgw.client.tls import ClientTls, TlsConnection
from accessgw.core.interfaces.tls import TicketBinding
from protocols.tls.engine import EarlyDataReceived, HandshakeCompleted, PlaintextReceived
from protocols.tls.psk import ExternalPsk
from protocols.tls.records import RecordLayer
from protocols.tls.server_context import ClientVerification, ServerContext
from tests.client.test_client_tickets import Phone
from tests.core.early_world import Place
from tests.core.gateway_fakes import WALL, FakeConnection
from tests.protocols.tls.tls_links import Issuer, issuer, localhost, server

ADDRESS = Address("mmtps", "localhost", 7443)


@pytest.fixture
def trusting(tmp_path: Path) -> ClientTls:
    return client(tmp_path)


def client(directory: Path, *, ca: bytes = b"", insecure: bool = False, own: Any = None) -> ClientTls:
    path = directory / "ca.pem"
    path.write_bytes(ca or issuer().pem)
    cert = key = None
    if own is not None:
        cert, key = directory / "own.pem", directory / "own.key"
        cert.write_bytes(own.chain)
        key.write_bytes(own.key)
    return ClientTls(ca=None if insecure else path, cert=cert, key=key, insecure=insecure)


def shake_hands(device: TlsConnection, context: ServerContext) -> Any:
    """The server's engine and HandshakeCompleted, after as many flights as are needed."""
    engine = context.engine(detachable=True)
    found: list[Any] = []
    for _ in range(4):
        engine.feed(device.to_send())
        found += engine.events()
        device.receive(engine.to_send())
    completed = [event for event in found if isinstance(event, HandshakeCompleted)]
    return engine, completed[0] if completed else None


def test_a_server_of_the_right_name_is_believed_and_records_leave_openssl(trusting: ClientTls) -> None:
    device = trusting.connection(ADDRESS, NO_FLIGHT)
    engine, completed = shake_hands(device, server())
    assert completed.alpn == "mmtp/1"
    assert device.handshaken is not None
    assert not device.handshaken.resumed
    assert isinstance(device._records, RecordLayer)
    engine.detach()
    device.send(b"up")
    assert device.to_send()


@pytest.mark.parametrize("name", ["elsewhere", "127.0.0.1", "localhost.evil", "LOCALHOSTX"])
def test_a_server_of_another_name_is_not(trusting: ClientTls, name: str) -> None:
    device = trusting.connection(Address("mmtps", name, 7443), NO_FLIGHT)
    shake_hands(device, server())
    assert device.handshaken is None
    assert f"expected a certificate for {name}" in str(device.failure)
    assert device.receive(b"more") == b""


def test_and_learns_neither_the_client_certificate_nor_a_byte(tmp_path: Path) -> None:
    tls = client(tmp_path, own=issuer().issue("phone1"))
    device = tls.connection(Address("mmtps", "elsewhere", 7443), NO_FLIGHT)
    engine = server(clients=ClientVerification("request", issuer().pem), tickets=False).engine()
    engine.feed(device.to_send())
    device.receive(engine.to_send())
    assert device.failure is not None
    device.send(b"token")
    device.close()
    assert device.to_send() == b""


def test_nor_one_of_another_ca_unless_everybody_is_believed(tmp_path: Path) -> None:
    device = client(tmp_path, ca=Issuer("other").pem).connection(ADDRESS, NO_FLIGHT)
    context = server()
    engine = context.engine()
    engine.feed(device.to_send())
    device.receive(engine.to_send())
    assert device.handshaken is None
    assert device.failure is not None
    assert device.to_send()  # an alert
    insecure = client(tmp_path, insecure=True).connection(Address("mmtps", "anything", 1), NO_FLIGHT)
    shake_hands(insecure, context)
    assert insecure.handshaken is not None


def test_another_protocol_is_refused(tmp_path: Path) -> None:
    device = client(tmp_path).connection(Address("wss", "localhost", 1), NO_FLIGHT)
    _, completed = shake_hands(device, server(alpn=["http/1.1"]))
    assert completed.alpn == "http/1.1"
    assert device.handshaken is not None
    device = client(tmp_path).connection(ADDRESS, NO_FLIGHT)
    shake_hands(device, server(alpn=[]))
    assert device.handshaken is None
    assert "expected ALPN mmtp/1, the server chose 'none'" in str(device.failure)


def test_a_client_certificate_is_shown_and_named(tmp_path: Path) -> None:
    own = issuer().issue("phone1")
    tls = client(tmp_path, own=own)
    device = tls.connection(ADDRESS, NO_FLIGHT)
    context = server(clients=ClientVerification("request", issuer().pem), tickets=False)
    _, completed = shake_hands(device, context)
    assert completed.peer_certificate
    assert device.handshaken is not None
    shown = device.handshaken.certificate
    assert shown is not None
    assert shown.fingerprint == sha256(completed.peer_certificate).digest()
    assert shown.not_after > WALL


def test_a_client_certificate_that_is_refused_afterwards_tells_the_alert(tmp_path: Path) -> None:
    device = client(tmp_path, own=issuer().issue("phone1")).connection(ADDRESS, NO_FLIGHT)
    engine, _ = shake_hands(device, server(clients=ClientVerification("request", issuer().pem), tickets=False))
    layer = RecordLayer(engine.detach())
    layer.refuse(44)
    device.receive(engine.to_send() + layer.to_send())
    assert device.handshaken is not None
    assert str(device.failure) == "TLS: the peer sent alert 44 (certificate_revoked)"


@pytest.mark.parametrize("what", ["ca", "cert", "key"])
def test_files_that_cannot_be_used_are_told(tmp_path: Path, what: str) -> None:
    tls = client(tmp_path, own=issuer().issue("phone1"))
    names = {"ca": "ca.pem", "cert": "own.pem", "key": "own.key"}
    (tmp_path / names[what]).unlink()
    with pytest.raises(ValueError, match=names[what]):
        tls.connection(ADDRESS, NO_FLIGHT)
    (tmp_path / names[what]).write_text("nothing")
    with pytest.raises(ValueError, match=names[what]):
        tls.connection(ADDRESS, NO_FLIGHT)


# --- round trips


class Wires:
    """A phone's core in TLS, a server's engine and the gateway's binding; every crossing of the link is counted."""

    def __init__(self, directory: Path, *, forget: bool = False) -> None:
        self.place = Place(directory)
        keys, gateway = self.place.keys, self.place.gateway

        def find(identity: bytes) -> ExternalPsk | None:
            opened = None if forget else keys.open(identity, gateway.wall())
            key = None if opened is None else keys.key(opened)
            return None if key is None else ExternalPsk(identity, key, 16384, "mmtp/1")

        minted = keys.mint(gateway.wall(), TicketBinding("d1"), 0)
        self.phone = Phone(HeldTicket(minted.identity, minted.key, gateway.wall() + 1000, 16384), token="ok")
        self.phone.core._greeting.clock_offset = gateway.wall() - self.phone.now
        self.tls = client(directory)
        self.engine = server(certificates=[localhost()], find_psk=find).engine()
        self.connection = FakeConnection()
        self.binding: Any = None
        self.trips = 0
        self.device: TlsConnection | None = None
        self._opened = False

    def begin(self) -> None:
        self.device = self.tls.connection(ADDRESS, self.phone.reach())

    def round_trip(self) -> None:
        """What the device has to say reaches the gateway, and what the gateway has to say the device."""
        device = self.device
        assert device is not None
        self.trips += 1
        said = self.phone.said()
        if said:
            device.send(said)
        self.engine.feed(device.to_send())
        for event in self.engine.events():
            self.server(event)
        self.place.gateway.clock.advance(0)
        for exchange in self.place.gateway.upstreams.exchanges:
            if exchange.sink is not None:
                exchange.answer(200, b"12")
                exchange.sink = None
        self.place.gateway.clock.advance(0)
        written, self.connection.written = b"".join(self.connection.written), []
        if written:
            self.engine.encrypt(written)
        plaintext = device.receive(self.engine.to_send())
        assert device.failure is None
        if device.handshaken is not None and not self._opened:
            self._opened = True
            self.phone.connect(device.handshaken)
        if plaintext:
            self.phone.core.received(self.phone.attempts[-1], plaintext, self.phone.now)
            self.phone.run()

    def server(self, event: Any) -> None:
        info = self.connection.info
        match event:
            case EarlyDataReceived():
                info.early, info.ticket, info.resumed = True, event.identity, True
                assert self.place.gateway.services.takes_early_data(info)
                self.binding = self.binding or self.place.gateway.services(self.connection)
                self.binding.early_data_received(event.data, replayed=False)
            case HandshakeCompleted():
                info.early, info.resumed = False, event.resumed
                info.ticket = event.psk_identity
                if self.binding is None:
                    self.binding = self.place.gateway.services(self.connection)
                else:
                    self.binding.handshake_completed()
            case PlaintextReceived():
                self.binding.data_received(event.data)
            case _:
                pass


def test_an_early_call_is_answered_in_the_first_flight_of_the_gateway(tmp_path: Path) -> None:
    wires = Wires(tmp_path)
    key = wires.phone.call("balance")
    wires.begin()
    wires.round_trip()
    assert wires.phone.outcomes[key].attempts == 1  # type: ignore[union-attr]  # a Reply
    assert wires.trips == 1
    assert not wires.place.gateway.presence.log
    wires.round_trip()
    assert wires.phone.core.session
    assert wires.place.gateway.presence.log == [("connect", "d1", "")]
    memory = wires.phone.core.ticket_memory()
    assert memory is not None
    assert len(memory.tickets) == 3
    assert wires.phone.kinds() == ["accepted"]


def test_without_early_data_it_takes_a_round_trip_more(tmp_path: Path) -> None:
    wires = Wires(tmp_path)
    key = wires.phone.call("balance", idempotent=False)
    wires.begin()
    wires.round_trip()
    assert key not in wires.phone.outcomes
    wires.round_trip()
    assert key in wires.phone.outcomes
    assert wires.trips == 2


def test_an_early_call_with_an_effect_takes_the_same_and_is_executed_once(tmp_path: Path) -> None:
    wires = Wires(tmp_path)
    key = wires.phone.call("pay")
    wires.begin()
    wires.round_trip()
    assert key not in wires.phone.outcomes
    assert not wires.place.gateway.upstreams.exchanges
    wires.round_trip()
    assert wires.phone.outcomes[key].attempts == 2  # type: ignore[union-attr]  # a Reply
    assert len(wires.place.gateway.upstreams.exchanges) == 1


def test_a_gateway_that_lost_its_keys_costs_a_full_hand_shake_and_no_round_trip(tmp_path: Path) -> None:
    wires = Wires(tmp_path, forget=True)
    key = wires.phone.call("balance")
    wires.begin()
    wires.round_trip()
    wires.round_trip()
    assert wires.phone.outcomes[key].attempts == 1  # type: ignore[union-attr]  # a Reply
    assert wires.trips == 2
    assert wires.phone.kinds() == ["ticket_refused", "refused"]
    assert len(wires.place.gateway.upstreams.exchanges) == 1


def test_the_first_flight_of_a_ticket_is_small(tmp_path: Path) -> None:
    wires = Wires(tmp_path)
    device = wires.tls.connection(ADDRESS, Flight())
    full = len(device.to_send())
    wires.phone.call("balance")
    flight = wires.phone.reach()
    device = wires.tls.connection(ADDRESS, flight)
    # identity of 17 bytes, binder, three extensions, and the records of early data around HELLO and the call
    assert len(device.to_send()) - len(flight.early) - full < 130
