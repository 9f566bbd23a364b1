"""One TLS connection by hand: a socket pair, a clock that stands still, steps of the hand-shake when a test says so."""

from __future__ import annotations

import select
import socket
from functools import cache

from accessgw.model.counters import TlsCounters
from accessgw.model.identity import ConnectionInfo
from accessgw.transports.handshake_crew import HandshakeCrew
from accessgw.transports.tls import TlsConnection
from protocols.tls.engines import make_crew
from tests.protocols.tls.tls_links import client, server
from tests.transports.support import Echo, HandReactor, Journal, make_services


class ManualPool:
    """A HandshakePool whose steps run when a test says so; those of a crew run by themselves, and are told then."""

    def __init__(self, crew=None):
        self.full = False
        self.steps = []
        self.signer = None
        self.crew = crew
        self.unfinished = 0

    def lane(self):
        return self

    def begun(self):
        self.unfinished += 1

    def finished(self):
        self.unfinished -= 1

    def submit(self, step, begun):
        self.steps.append((step, begun))

    def submit_last(self, step):
        self.steps.append((step, "last"))

    def run(self):
        """Run the first step; not told yet."""
        if self.steps:
            self.steps[0][0].run()
        else:
            assert select.select([self.crew.bell], [], [], 30)[0], "the crew has done nothing"

    def tell(self):
        if self.steps:
            self.steps.pop(0)[0].done()
        else:
            self.crew.bell.doRead()

    def all(self):
        while self.steps or (self.crew is not None and self.crew.busy):
            self.run()
            self.tell()


class ManualCrew(HandshakeCrew):
    """A HandshakeCrew whose bell is heard when a test says so."""

    def __init__(self, threads=1):
        self.counters = TlsCounters()
        super().__init__(make_crew(), self.counters, HandReactor(), threads=threads, at_turn_end=lambda call: call())

    @property
    def bell(self):
        return self._bell

    @property
    def busy(self):
        return self.counters.pool_waiting > 0


@cache
def the_crew():
    """One for all tests: its thread waits when they are over."""
    return ManualCrew()


class Contexts:
    """A TlsContexts of certificates in memory."""

    offloaded = False

    def __init__(self, **options):
        self.served = server(**options)
        self.made = 0
        self.tickets = set()

    def engine(self):
        self.made += 1
        return self.served.engine(detachable=True)

    def identify(self, certificate, chain):
        return "", ()

    def is_own_ticket(self, identity):
        return identity in self.tickets


class Guard:
    """A ReplayGuard."""

    def __init__(self):
        self.is_ready = True
        self.seen = set()

    def ready(self, now):
        return self.is_ready

    def strike(self, identity, random, now):
        if not self.is_ready:
            return False
        new = (identity, random) not in self.seen
        self.seen.add((identity, random))
        return new


class EarlyEcho(Echo):
    """Takes early data, and answers it."""

    def early_data_received(self, data, replayed):
        self.calls.append(("early", data, replayed, self.connection.info.early))
        if not replayed:
            self.connection.write(b"early:" + data)

    def handshake_completed(self):
        self.calls.append("completed")


class EarlyFactory:
    def __init__(self, journal, binding=EarlyEcho, takes=True):
        self.journal, self.binding, self.takes = journal, binding, takes

    def __call__(self, connection):
        return self.binding(connection, self.journal)

    def takes_early_data(self, info):
        return self.takes


class Hand:
    """The connection, and an engine as its client."""

    def __init__(self, contexts=None, factories=None, device=None, reactor=None, crew=None, **limits):
        self.reactor = reactor or HandReactor()
        self.journal = Journal()
        self.services = make_services(self.reactor, self.journal, **limits)
        self.contexts = contexts or Contexts()
        if crew is None and self.contexts.offloaded:
            crew = the_crew()
        self.pool = self.services.handshakes = ManualPool(crew)
        self.guard = self.services.replays = Guard()
        self.peer, ours = socket.socketpair()
        for end in (self.peer, ours):
            end.setblocking(False)
        info = ConnectionInfo(id=1, listener="test", transport="tls", peer="127.0.0.1")
        if factories is None:
            factories = {"mmtp/1": lambda connection: Echo(connection, self.journal)}
        self.connection = TlsConnection(ours, info, self.services, "", factories, self.contexts)
        self.connection.begin(self.connection.begin_tls)
        self.device = device or client().engine("localhost")
        self.events = []

    @property
    def binding(self):
        return self.journal.bindings[0]

    @property
    def info(self):
        return self.connection.info

    @property
    def ended(self):
        """Reason and detail, once it is over."""
        self.reactor.advance(0)
        return None if not self.journal.closed else (str(self.journal.closed[0][0]), self.journal.closed[0][1])

    def send(self, data=None):
        """Bytes of the peer (else those of its engine) arrive, and are read."""
        data = self.device.to_send() if data is None else data
        while data:
            sent = self.peer.send(data)
            data = data[sent:]
            while self.connection in self.reactor.readers and select.select([self.connection], [], [], 0)[0]:
                self.reactor.turn()

    def receive(self):
        """What has been sent to the peer reaches its engine."""
        got = b""
        try:
            while data := self.peer.recv(1 << 20):
                got += data
        except BlockingIOError:
            pass
        if got:
            self.device.feed(got)
            self.events += self.device.events()
        return got

    def turn(self):
        self.send()
        self.pool.all()
        self.receive()

    def shake_hands(self):
        self.device.start()
        for _ in range(4):
            self.turn()
        return self

    def plaintext(self):
        return b"".join(event.data for event in self.events if hasattr(event, "data"))

    def say(self, data):
        self.device.encrypt(data)
        self.send()
