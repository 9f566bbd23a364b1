"""Pieces of transport tests: a reactor by hand, services with a recording hook, an echo binding, blocking clients in threads."""

from __future__ import annotations

import random
import select
import socket
import traceback
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread

from accessgw.core.timers import TimingWheel
from accessgw.model.counters import TransportCounters
from accessgw.model.listener_settings import ListenerSettings, TransportLimits
from accessgw.transports.build import build_listener
from accessgw.transports.services import TransportServices


@dataclass
class Journal:
    """What happened, for assertions."""

    opened: list = field(default_factory=list)
    closed: list = field(default_factory=list)
    """(reason, detail, bytes in, bytes out, seconds)."""
    infos: list = field(default_factory=list)
    """Of those that were closed."""
    bindings: list = field(default_factory=list)
    waiters: list = field(default_factory=list)

    def on_close(self, info, *rest):
        self.closed.append(rest)
        self.infos.append(info)
        for count, deferred in list(self.waiters):
            if len(self.closed) >= count:
                self.waiters.remove((count, deferred))
                deferred.callback(None)

    def all_closed(self, count=1):
        """Fires when `count` connections have ended."""
        deferred = Deferred()
        if len(self.closed) >= count:
            deferred.callback(None)
        else:
            self.waiters.append((count, deferred))
        return deferred

    @property
    def reasons(self):
        return [str(entry[0]) for entry in self.closed]


class Echo:
    """A binding that sends back what it gets and remembers what was called."""

    def __init__(self, connection, journal=None, name="echo"):
        self.connection = connection
        self.calls: list = []
        self.received = b""
        self.name = name
        if journal is not None:
            journal.bindings.append(self)

    def data_received(self, data):
        self.connection.established()
        self.received += data
        self.calls.append("data")
        if data == b"raise":
            raise ValueError("as asked")
        self.connection.write(data)

    def drained(self):
        self.calls.append("drained")

    def aged(self):
        self.calls.append("aged")

    def late(self):
        self.calls.append("late")

    def expired(self):
        self.calls.append("expired")

    def connection_lost(self, reason, detail):
        self.calls.append(("lost", str(reason)))


class HandReactor(Clock):
    """Descriptors are served when a test says so."""

    def __init__(self):
        super().__init__()
        self.readers = set()
        self.writers = set()
        self.addReader, self.removeReader = self.readers.add, self.readers.discard
        self.addWriter, self.removeWriter = self.writers.add, self.writers.discard

    def turn(self):
        """One look at all descriptors, then what is due."""
        readable, writable, _ = select.select(list(self.readers), list(self.writers), [], 0)
        for descriptor in readable:
            if descriptor in self.readers:
                descriptor.doRead()
        for descriptor in writable:
            if descriptor in self.writers:
                descriptor.doWrite()
        self.advance(0)

    def wait(self, seconds, step=0.25):
        for _ in range(round(seconds / step)):
            self.advance(step)


class HeldTime:
    """A running reactor whose time passes when a test says so: a machine that is slow makes nobody late. What is due at
    once is the reactor's."""

    def __init__(self, reactor):
        self._reactor = reactor
        self._clock = Clock()
        self.seconds = self._clock.seconds

    def callLater(self, delay, *call, **more):
        return (self._clock if delay > 0 else self._reactor).callLater(delay, *call, **more)

    def wait(self, seconds, step=0.25):
        for _ in range(round(seconds / step)):
            self._clock.advance(step)

    def __getattr__(self, name):
        return getattr(self._reactor, name)


async def until(reactor, true):
    """Let the reactor turn until it is so; bounded by the time of the whole test."""
    while not true():
        await deferLater(reactor, 0.005, lambda: None)


def make_services(reactor, journal=None, **limits) -> TransportServices:
    journal = journal or Journal()
    return TransportServices(
        reactor=reactor,
        timers=TimingWheel(reactor),
        limits=TransportLimits(**limits),
        counters=TransportCounters(),
        random=random.Random(1).random,
        on_open=journal.opened.append,
        on_close=journal.on_close,
    )


def echo_factories(journal, protocols=("mmtp/1", "http/1.1")):
    return {
        protocol: (lambda connection, protocol=protocol: Echo(connection, journal, protocol)) for protocol in protocols
    }


def listen(services, journal, contexts=None, factories=None, **settings):
    """A started listener of echo bindings on a port of the kernel's choice."""
    settings.setdefault("name", "test")
    listener = build_listener(ListenerSettings(**settings), services, factories or echo_factories(journal), contexts)
    listener.start()
    return listener


async def play(scenarios):
    """Run the coroutines of a dict one after the other: name -> (True, result) or (False, traceback).

    A child process with a reactor costs most of a second, so the scenarios of a file share one.
    """
    results = {}
    for name, scenario in scenarios.items():
        try:
            results[name] = True, await scenario
        except Exception:
            results[name] = False, traceback.format_exc()
    return results


def outcome(played, name):
    """The result of one scenario; AssertionError with its traceback when it failed."""
    good, result = played[name]
    assert good, result
    return result


def dialogue(port, *steps, address="127.0.0.1", path=None):
    """In a thread: connect; send each bytes step, for each int read that many; then read to the end.

    Returns what was read. A step `"fin"` ends our side.
    """
    return deferToThread(_dialogue, port, steps, address, path)


def _dialogue(port, steps, address, path):
    if path is None:
        sock = socket.create_connection((address, port), timeout=10)
    else:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
        sock.connect(path)
    got = b""
    with sock:
        try:
            for step in steps:
                if step == "fin":
                    sock.shutdown(socket.SHUT_WR)
                elif isinstance(step, int):
                    while len(got) < step:
                        data = sock.recv(step - len(got))
                        if not data:
                            return got
                        got += data
                else:
                    sock.sendall(step)
            while data := sock.recv(65536):
                got += data
        except ConnectionError:
            pass
    return got
