"""The accept loop when the system runs out of things, and the accounts of addresses."""

from __future__ import annotations

import errno
import os
import resource
import socket

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from accessgw.model.listener_settings import TransportLimits
from accessgw.transports import addresses
from accessgw.transports.acceptor import ACCEPTS_PER_TURN, PAUSE, Acceptor
from accessgw.transports.addresses import AddressLimits, counted_as
from tests.reactor_loop import run
from tests.transports.support import Journal, dialogue, listen, make_services


class ScriptedSocket:
    """A listening socket whose accept() follows a script of errors; afterwards nobody waits."""

    family, type, proto = socket.AF_INET, socket.SOCK_STREAM, 0

    def __init__(self, *script):
        self.script = list(script)
        self.accepted = 0

    def fileno(self):
        return 1000

    def close(self):
        pass

    def _accept(self):
        sock, address = self.accept()
        return sock.detach(), address

    def accept(self):
        if not self.script:
            raise BlockingIOError
        step = self.script.pop(0)
        if step:
            raise OSError(step, os.strerror(step))
        self.accepted += 1
        return socket.socket(), ("192.0.2.1", 1)


class Readers(Clock):
    def __init__(self):
        super().__init__()
        self.readers = []
        self.addReader, self.removeReader = self.readers.append, self.readers.remove


def scripted(*script, accepted=None):
    reactor = Readers()
    services = make_services(reactor)
    sock = ScriptedSocket(*script)
    taken = []
    acceptor = Acceptor(
        "test", sock, services, accepted or (lambda sock, address: (taken.append(address), sock.close()))
    )
    return reactor, services, sock, taken, acceptor


def test_at_most_so_many_per_turn():
    _, _, _, taken, acceptor = scripted(*[0] * (ACCEPTS_PER_TURN + 2))
    acceptor.doRead()
    assert len(taken) == ACCEPTS_PER_TURN
    acceptor.doRead()
    assert len(taken) == ACCEPTS_PER_TURN + 2
    acceptor.stop()


def test_out_of_descriptors_drops_the_waiting_ones():
    reactor, services, sock, taken, acceptor = scripted(errno.EMFILE, 0, errno.ENFILE, 0, 0)
    acceptor.doRead()
    assert len(taken) == 1 and sock.accepted == 3
    assert services.counters.refused == {"descriptors": 2}
    assert acceptor in reactor.readers
    acceptor.stop()


def test_out_of_descriptors_with_nobody_waiting_is_no_refusal():
    reactor, services, _, _, acceptor = scripted(errno.EMFILE)
    acceptor.doRead()
    assert services.counters.refused == {} and acceptor in reactor.readers
    acceptor.stop()


def test_pauses_when_even_the_reserve_does_not_help():
    reactor, _, _, taken, acceptor = scripted(errno.EMFILE, errno.EMFILE, 0)
    acceptor.doRead()
    assert not taken and acceptor not in reactor.readers
    reactor.advance(PAUSE + 0.5)
    assert acceptor in reactor.readers
    acceptor.doRead()
    assert len(taken) == 1
    acceptor.stop()
    assert not reactor.readers


def test_pauses_without_memory_and_stops_while_paused():
    reactor, services, _, _, acceptor = scripted(errno.ENOBUFS, 0)
    acceptor.doRead()
    assert services.counters.refused == {"memory": 1} and not reactor.readers
    reactor.readers.append(acceptor)  # stop() takes a reader out in any case
    acceptor.stop()
    reactor.advance(PAUSE + 0.5)
    assert not reactor.readers


def test_an_error_of_one_connection_is_skipped():
    _, _, _, taken, acceptor = scripted(errno.ECONNABORTED, 0, errno.EPERM, errno.ENETDOWN, 0)
    acceptor.doRead()
    assert len(taken) == 2
    acceptor.stop()


def test_a_defect_of_ours_costs_one_connection():
    calls = []

    def accepted(sock, address):
        calls.append(sock)
        if len(calls) == 1:
            raise ValueError("defect")
        sock.close()

    _, _, _, _, acceptor = scripted(0, 0, accepted=accepted)
    acceptor.doRead()
    assert len(calls) == 2 and calls[0].fileno() == -1
    acceptor.stop()


async def descriptors_run_out(reactor):
    journal = Journal()
    services = make_services(reactor, journal)
    listener = listen(services, journal)
    clients = [socket.socket() for _ in range(20)]
    used = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fill = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 5, hard))
    try:
        while True:
            try:
                fill.append(os.dup(0))
            except OSError:
                break

        def connect():
            ended = 0
            for client in clients:
                client.settimeout(10)
                client.connect(("127.0.0.1", listener.port))
                try:
                    ended += client.recv(1) == b""
                except ConnectionError:
                    ended += 1
            return ended

        ended = await deferToThread(connect)
    finally:
        for descriptor in fill:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    refused = services.counters.refused["descriptors"]
    got = await dialogue(listener.port, b"\x80x", 2, "fin")
    return ended, refused, got


def test_peers_see_an_end_at_once_when_descriptors_run_out():
    ended, refused, got = run(descriptors_run_out)
    assert ended == 20
    assert refused == 20
    assert got == b"\x80x"


def test_ipv6_counts_by_subscriber():
    assert counted_as("192.0.2.1") == "192.0.2.1"
    assert counted_as("2001:db8:1:2::1") == counted_as("2001:db8:1:2:ffff::9") != counted_as("2001:db8:1:3::1")
    assert counted_as("::ffff:192.0.2.1") == "192.0.2.1"
    assert counted_as("fe80::1%eth0") == counted_as("fe80::2")


def test_the_bucket_fills_at_its_rate():
    limits = TransportLimits(accepts_per_address_per_second=2, accept_burst_per_address=3)
    accounts = AddressLimits()
    assert [accounts.admit("a", 0.0, limits) for _ in range(4)] == ["", "", "", "accept_rate"]
    assert [accounts.admit("a", 1.0, limits) for _ in range(3)] == ["", "", "accept_rate"]
    assert accounts.admit("b", 1.0, limits) == ""


def test_memory_for_addresses_is_bounded(monkeypatch):
    monkeypatch.setattr(addresses, "MAX_BUCKETS", 100)
    limits = TransportLimits()
    accounts = AddressLimits()
    for number in range(5000):
        accounts.admit(str(number), 0.0, limits)
        accounts.release(str(number))
    assert len(accounts._buckets) == 100 and not accounts._open


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_open_connections_are_never_more_than_allowed(steps):
    limits = TransportLimits(max_connections_per_address=4, accept_burst_per_address=1000)
    accounts = AddressLimits()
    count = dict.fromkeys("abc", 0)
    for key, connect in steps:
        if connect:
            refusal = accounts.admit(key, 0.0, limits)
            assert refusal == ("per_address" if count[key] == 4 else "")
            count[key] += not refusal
        elif count[key]:
            accounts.release(key)
            count[key] -= 1
