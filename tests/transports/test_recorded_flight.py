"""A first flight of the SDK that somebody has recorded, at a listener whose time goes on: the parts of the product from the
socket to the sessions and their pushes, on one clock."""

from __future__ import annotations

import os

from accessgw.client.tickets import HeldTicket
from accessgw.core.interfaces.tls import TicketBinding
from accessgw.core.pushes import Pushes
from accessgw.crypto.contexts import ContextOptions, ServerContexts
from accessgw.crypto.replay_register import ReplayRegister
from accessgw.model.counters import PushCounters
from accessgw.model.listener_settings import CertificateSettings
from accessgw.model.pushes import PushRequest
from accessgw.model.settings import PushSettings
from protocols.mmtp.frames import FrameType
from protocols.mmtp.statuses import Status
from tests.client.test_client_tickets import Phone
from tests.client.test_client_tls import ADDRESS, client
from tests.core.early_world import Place
from tests.core.push_world import DEVICE, FakeBus, FakeStore, PassAll
from tests.protocols.tls.tls_links import localhost
from tests.transports.support import HandReactor
from tests.transports.tls_by_hand import Hand

WINDOW, DELAY = 10.0, 10.0
GENERATION = 2 * WINDOW + 1 + DELAY
"""Seconds for which the register writes into one of its two tables."""
REFUSED = bytes((FrameType.RESET << 4, 2, 0, Status.EARLY_DATA_REFUSED))
"""RESET of call 0."""


class Listened:
    """A connection as the binding sees it; notes what is written."""

    def __init__(self, connection, said):
        self._connection, self._said = connection, said

    def write(self, data):
        self._said.append(data)
        self._connection.write(data)

    def __getattr__(self, name):
        return getattr(self._connection, name)


class Listener:
    """Takes connections by hand. `said`: what the binding has written on each, in plaintext, which nobody but the device
    could read on the wire."""

    def __init__(self, directory):
        self.reactor = HandReactor()
        self.place = Place(directory, clock=self.reactor, make_pushes=_pushes)
        self.gateway = self.place.gateway
        self.register = ReplayRegister(
            directory / "seen", self.gateway.wall(), window=WINDOW, delay=DELAY, entries=1024, random_bytes=os.urandom
        )
        chain, key = directory / "chain.pem", directory / "key.pem"
        chain.write_bytes(localhost().chain)
        key.write_bytes(localhost().key)
        self.contexts = ServerContexts(
            [CertificateSettings(chain=str(chain), key=str(key))],
            ["mmtp/1"],
            options=ContextOptions(early_data=16384, tickets=self.place.keys),
            wall=self.gateway.wall,
        )
        self.said = []

    def accept(self):
        said = []
        self.said.append(said)
        services = self.gateway.services

        class Factory:
            takes_early_data = staticmethod(services.takes_early_data)

            def __call__(self, connection):
                return services(Listened(connection, said))

        hand = Hand(self.contexts, {"mmtp/1": Factory()}, reactor=self.reactor, handshake_timeout=DELAY)
        hand.info.listener = "t"
        hand.services.replays, hand.services.wall = self.register, self.gateway.wall
        hand.services.tls = self.place.counters
        return hand

    def show(self, flight):
        """Somebody who has recorded it opens a connection and sends it."""
        hand = self.accept()
        hand.send(flight)
        hand.pool.all()
        self.reactor.advance(0)
        return hand

    def push(self, body):
        self.gateway.pushes.append([PushRequest(DEVICE, body)])
        self.reactor.advance(0)


def _pushes(gateway):
    class Registry:
        """That of the sessions, which are made after the pushes."""

        def __getattr__(self, name):
            return getattr(gateway.sessions.registry, name)

    return Pushes(
        gateway.clock,
        gateway.wall,
        FakeStore(gateway.wall),
        FakeBus(),
        Registry(),
        settings=PushSettings(),
        counters=PushCounters(),
        filters=PassAll(),
        timers=gateway.timers,
    )


class LiveDevice:
    """The SDK's core and its TLS on one connection to the listener."""

    def __init__(self, listener, directory):
        self.listener, gateway = listener, listener.gateway
        minted = listener.place.keys.mint(gateway.wall(), TicketBinding("d1"), 0)
        self.phone = Phone(HeldTicket(minted.identity, minted.key, gateway.wall() + 1000, 16384), token="ok")
        self.phone.core._greeting.clock_offset = gateway.wall() - self.phone.now
        self.phone.call("balance")
        self.tls = client(directory).connection(ADDRESS, self.phone.reach())
        self.hand = listener.accept()
        self.flight = self.tls.to_send()
        """Its first one."""
        self._connected = False

    def turn(self, data=b""):
        """What the device has to say reaches the listener, and what that has to say the device."""
        said = self.phone.said()
        if said:
            self.tls.send(said)
        self.hand.send(data + self.tls.to_send())
        self.hand.pool.all()
        self.listener.reactor.advance(0)
        try:
            plaintext = self.tls.receive(self.hand.peer.recv(1 << 20))
        except BlockingIOError:
            plaintext = b""
        assert self.tls.failure is None
        if self.tls.handshaken is not None and not self._connected:
            self._connected = True
            self.phone.connect(self.tls.handshaken)
        if plaintext:
            self.phone.core.received(self.phone.attempts[-1], plaintext, self.phone.now)
            self.phone.run()

    def pass_time(self, seconds):
        for _ in range(round(seconds)):
            self.listener.reactor.advance(1)
            self.phone.advance(1)
            self.turn()


def test_a_recorded_flight_has_no_effect_even_when_the_register_has_forgotten_it(tmp_path):
    listener = Listener(tmp_path)
    gateway, counters = listener.gateway, listener.place.counters
    listener.reactor.advance(2 * WINDOW + 1)  # the register is new
    device = LiveDevice(listener, tmp_path)
    phone = device.phone
    device.turn(device.flight)
    gateway.upstreams.last.answer(200, b"12")
    for _ in range(3):
        device.turn()
    assert phone.kinds() == ["accepted"]
    assert [outcome.attempts for outcome in phone.outcomes.values()] == [1]
    session = gateway.sessions.registry.by_device("d1")
    link = session.link

    def nothing_has_happened(pushed):
        """And the session lives: its pushes come, and its calls are answered."""
        assert len(gateway.upstreams.exchanges) == pushed
        assert (session.link, gateway.presence.log) == (link, [("connect", "d1", "")])
        assert gateway.sessions.registry.by_device("d1") is session
        listener.push(b"%d" % pushed)
        device.turn()
        assert [push.body for push in phone.pushes] == [b"%d" % number for number in range(1, pushed + 1)]
        phone.call("balance")
        device.turn()
        gateway.upstreams.last.answer(200, b"13")
        device.turn()
        assert len(phone.outcomes) == pushed + 1
        assert {outcome.attempts for outcome in phone.outcomes.values()} == {1}
        assert device.hand.ended is None

    nothing_has_happened(1)
    # the register knows it
    first = listener.show(device.flight)
    assert listener.said[-1] == [REFUSED]
    assert (counters.early_accepted, counters.early_refused) == (1, {"replay": 1})
    nothing_has_happened(2)
    # both of its tables are of the past
    device.pass_time(2 * GENERATION + 1)
    assert first.ended[0] == "handshake_timeout"
    second = listener.show(device.flight)
    assert (counters.early_accepted, counters.early_refused) == (2, {"replay": 1, "clock": 1})
    assert listener.said[-1] == [REFUSED]
    nothing_has_happened(3)
    # the hand-shake of who has not the key comes to no end
    device.pass_time(DELAY + 1)
    assert second.ended[0] == "handshake_timeout"
    assert listener.said[-1] == [REFUSED]
    nothing_has_happened(4)
    assert (counters.resumed, counters.full) == (1, 0)
