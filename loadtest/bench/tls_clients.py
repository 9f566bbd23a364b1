"""Connections that make hand-shakes, or that made one and stay: the load of bench_tls, in a process of its own.

usage: python -m loadtest.bench.tls_clients ORDER       the fields of Order as JSON

Prints "ready"; then at each line it works, and prints a Tally as JSON. With `hold` it prints "ready" when all connections
are up. It ends with its input.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from protocols.mmtp import Connection, Hello, Limits, Role
from protocols.mmtp.events import WelcomeReceived
from protocols.tls.client_context import ClientContext, ClientOptions
from protocols.tls.engine import EARLY_ACCEPTED, HandshakeCompleted, PlaintextReceived
from protocols.tls.psk import ExternalPsk
from protocols.tls.pyopenssl_engine import PyOpenSSLEngine
from protocols.tls.records import RecordLayer

PATIENCE = 10.0  # seconds without a word


@dataclass
class Order:
    """What to do."""

    port: int
    alpn: str = "http/1.1"
    chain: str = ""
    """PEM file of the device's certificate, if it shows one, with its key in `key`."""
    key: str = ""
    resume: bool = False
    """By the ticket of the connection before."""
    device: bool = False
    """Speak MMTP: HELLO and WELCOME. With `resume` HELLO rides in the first flight, under a ticket of the WELCOME before."""
    hold: int = 0
    """So many connections stay open; nothing else is done."""
    count: int = 0
    """Hand-shakes to make; or, when 0, as many as fit into `seconds`."""
    seconds: float = 0.0
    width: int = 8
    """At a time."""
    idle: bool = False
    """Run only where nobody else wants a processor (sched(7), SCHED_IDLE): so many of these leave the processors to the
    server that they load, as those on other machines do."""


@dataclass
class Tally:
    """What came of it."""

    done: int = 0
    resumed: int = 0
    early: int = 0
    answered: int = 0
    ticket: int = 0
    """Bytes of the identity of a ticket in WELCOME."""
    seconds: float = 0.0
    failed: list[str] = field(default_factory=list)
    first_up: int = 0
    """Bytes of the ClientHello with what rides along."""
    first_down: int = 0
    """Bytes of the server before the client's second flight."""


class Shaker:
    """One connection: hand-shake, close_notify, the end."""

    def __init__(self, context: ClientContext, tally: Tally, held: Any = None) -> None:
        """`held` is what resumption() of an earlier one gave."""
        self.tally = tally
        self.over = False
        self.down = 0
        self.engine = self.make_engine(context, held)

    def connect(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.engine.start()
        self.tally.first_up = self.flush()

    def make_engine(self, context: ClientContext, held: Any) -> PyOpenSSLEngine:
        return context.engine("localhost", session=held)

    def flush(self) -> int:
        data = self.engine.to_send()
        if data:
            self.sock.sendall(data)
        return len(data)

    def readable(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            self.over = True
            return
        if not self.engine.handshaken:
            self.down += len(data)
        self.engine.feed(data)
        for event in self.engine.events():
            if isinstance(event, HandshakeCompleted):
                tally = self.tally
                tally.done += 1
                tally.resumed += event.resumed
                tally.early += event.early == EARLY_ACCEPTED
                tally.first_down = self.down
                self.completed(event)
            elif isinstance(event, PlaintextReceived):
                self.received(event.data)
        self.flush()

    def completed(self, event: HandshakeCompleted) -> None:
        self.engine.close()

    def received(self, data: bytes) -> None:
        pass

    def end(self) -> None:
        if not self.engine.handshaken:
            self.tally.failed.append("the connection ended during the hand-shake")
        self.sock.close()

    def resumption(self) -> Any:
        """What the next one may resume with, None when there is nothing."""
        return self.engine.session()


class Device(Shaker):
    """A device that says HELLO."""

    number = 0

    def make_engine(self, context: ClientContext, held: Any) -> PyOpenSSLEngine:
        Device.number += 1
        # A ticket is for the device that it was given to; without one each is another.
        self.name, psk = (f"bench-{self.number}", None) if held is None else held
        self.tickets: list[ExternalPsk] = []
        self.wire = Connection(Role.CLIENT, limits=Limits(), now=time.monotonic())
        self.wire.send_hello(
            Hello(
                device=self.name, token="bench-device", counter=self.number, time=time.time(),
                call_base=self.number << 20, tickets=1,
            )
        )  # fmt: skip
        engine = context.engine("localhost", psk=psk)
        self.said = self.wire.to_send(time.monotonic())
        if psk is not None:
            engine.early(self.said)
        return engine

    def completed(self, event: HandshakeCompleted) -> None:
        if event.early != EARLY_ACCEPTED:
            self.engine.encrypt(self.said)

    def received(self, data: bytes) -> None:
        now = time.monotonic()
        self.wire.receive(data, now)
        for event in self.wire.events():
            if isinstance(event, WelcomeReceived):
                if event.welcome.result:
                    self.tally.failed.append(f"refused: {event.welcome.result} {event.welcome.message}")
                granted = event.welcome.tickets
                if granted is not None:
                    self.tickets = [
                        ExternalPsk(ticket.identity, ticket.key, granted.max_early_data, "mmtp/1")
                        for ticket in granted.tickets
                    ]
                    self.tally.ticket = len(self.tickets[0].identity)
                self.tally.answered += event.welcome.result == 0
                self.engine.close()

    def resumption(self) -> Any:
        return (self.name, self.tickets[0]) if self.tickets else None


def shake(order: Order, context: ClientContext, held: deque[Any]) -> Tally:
    """Make the hand-shakes. `held` keeps what the next ones resume with, also for the next time."""
    tally = Tally()
    selector = selectors.DefaultSelector()
    make = Device if order.device else Shaker
    started = 0
    begun = time.monotonic()
    while True:
        elapsed = time.monotonic() - begun
        more = started < order.count if order.count else elapsed < order.seconds
        while more and len(selector.get_map()) < order.width:
            # A resumed one needs a ticket that nobody else has used; only the very first ones begin without.
            shaker = make(context, tally, held.popleft() if held else None)
            shaker.connect(order.port)
            started += 1
            selector.register(shaker.sock, selectors.EVENT_READ, shaker)
            more = started < order.count if order.count else True
        if not selector.get_map():
            break
        ready = selector.select(PATIENCE)
        if not ready:
            tally.failed.append(f"nothing came for {PATIENCE:.0f} s")
            break
        for key, _ in ready:
            shaker = key.data
            try:
                shaker.readable()
            except Exception as error:
                tally.failed.append(str(error))
                shaker.over = True
            if shaker.over:
                selector.unregister(shaker.sock)
                shaker.end()
                if order.resume and (found := shaker.resumption()) is not None:
                    held.append(found)
        if len(tally.failed) > 10:
            break
    tally.seconds = time.monotonic() - begun
    return tally


def hold(order: Order, context: ClientContext) -> list[tuple[socket.socket, RecordLayer]]:
    """Open connections, detached, so that they cost little here."""
    held = []
    for _ in range(order.hold):
        sock = socket.create_connection(("127.0.0.1", order.port), PATIENCE)
        engine = context.engine("localhost", detachable=True)
        engine.start()
        events: list[object] = []
        while not any(isinstance(event, HandshakeCompleted) for event in events):
            sock.sendall(engine.to_send())
            data = sock.recv(65536)
            if not data:
                raise ConnectionError("the server ended the connection during the hand-shake")
            engine.feed(data)
            events += engine.events()
        sock.sendall(engine.to_send())
        state = engine.detach()
        if state is None:
            raise RuntimeError("the connection was to leave OpenSSL")
        layer = RecordLayer(state)
        layer.start()
        held.append((sock, layer))
    return held


def main() -> None:
    order = Order(**json.loads(sys.argv[1]))
    if order.idle:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    chain = Path(order.chain).read_bytes() if order.chain else b""
    key = Path(order.key).read_bytes() if order.key else b""
    context = ClientContext(ClientOptions(verify=False, alpn=[order.alpn] if order.alpn else [], chain=chain, key=key))
    if order.hold:
        held = hold(order, context)
        print("ready", flush=True)
        sys.stdin.read()
        del held
        return
    print("ready", flush=True)
    resumable: deque[Any] = deque()
    for _line in sys.stdin:
        print(json.dumps(asdict(shake(order, context, resumable))), flush=True)


if __name__ == "__main__":
    main()
