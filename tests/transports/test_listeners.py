"""Listeners on real sockets: echo, limits, PROXY headers, sniffing, Unix sockets."""

from __future__ import annotations

import os
import socket
import stat
import tempfile

import pytest
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.threads import blockingCallFromThread, deferToThread

from accessgw.model.http import BodyCollector
from accessgw.model.listener_settings import TransportLimits
from accessgw.model.reasons import CloseReason
from accessgw.transports.http import HttpBindingFactory
from protocols.proxyproto import encode_v1, encode_v2, encode_v2_local
from tests.reactor_loop import run
from tests.transports.support import HeldTime, Journal, dialogue, listen, make_services, outcome, play, until


async def echo(reactor):
    journal = Journal()
    services = make_services(reactor, journal)
    listener = listen(services, journal)
    got = await dialogue(listener.port, b"\x80hello", 6, "fin")
    await journal.all_closed()
    await listener.stop()
    counters = services.counters
    binding = journal.bindings[0]
    info = journal.opened[0]
    return (
        got, journal.reasons, counters.accepted, counters.open, counters.bytes_in, counters.bytes_out,
        counters.closed, binding.calls, info.peer, info.loopback, info.transport, len(services.table),
    )  # fmt: skip


def test_an_echo_and_its_accounts(played):
    assert outcome(played, "echo") == (
        b"\x80hello", ["peer_closed"], 1, 0, 6, 6,
        {"peer_closed": 1}, ["data", ("lost", "peer_closed")], "127.0.0.1", True, "tcp", 0,
    )  # fmt: skip


async def everyday_ends(reactor):
    journal = Journal()
    services = make_services(reactor, journal)
    listener = listen(services, journal)

    def reset():
        sock = socket.create_connection(("127.0.0.1", listener.port))
        sock.sendall(b"\x80a")
        sock.recv(2)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()

    await deferToThread(reset)
    await journal.all_closed(1)
    await dialogue(listener.port, b"raise")
    await journal.all_closed(2)
    journal.opened.clear()
    got = dialogue(listener.port, b"\x80", 1)
    while journal.bindings[-1].received != b"\x80":
        await deferToThread(lambda: None)
    journal.bindings[-1].connection.write(b"bye")
    journal.bindings[-1].connection.close(CloseReason.OPERATOR, "asked")
    journal.bindings[-1].connection.write(b"more")
    assert await got == b"\x80bye"
    await journal.all_closed(3)
    return journal.reasons, [entry[1] for entry in journal.closed]


def test_reset_defect_and_close_have_their_reasons(played):
    reasons, details = outcome(played, "everyday_ends")
    assert reasons == ["peer_reset", "internal", "operator"]
    assert "Connection reset" in details[0] and details[2] == "asked"
    assert "ValueError" in details[1]


async def limits(reactor):
    journal = Journal()
    services = make_services(
        reactor, journal, max_connections=5, max_connections_per_address=3, accept_burst_per_address=8,
        accepts_per_address_per_second=0.001,
    )  # fmt: skip
    listener = listen(services, journal)

    def connect(address, count):
        socks = []
        for _ in range(count):
            sock = socket.socket()
            sock.bind((address, 0))
            sock.settimeout(10)
            try:
                sock.connect(("127.0.0.1", listener.port))
                sock.sendall(b"\x80")
                alive = sock.recv(1) == b"\x80"
            except ConnectionError:
                alive = False
            socks.append((sock, alive))
        return socks

    first = await deferToThread(connect, "127.0.0.2", 5)
    second = await deferToThread(connect, "127.0.0.3", 4)
    after = dict(services.counters.refused)
    for sock, _alive in first + second:
        sock.close()
    await journal.all_closed(5)
    third = await deferToThread(connect, "127.0.0.2", 8)
    return (
        [alive for _, alive in first], [alive for _, alive in second], after,
        sum(alive for _, alive in third), services.counters.refused,
    )  # fmt: skip


def test_connections_beyond_the_limits_are_refused_and_counted(played):
    first, second, after, third, refused = outcome(played, "limits")
    assert first == [True] * 3 + [False] * 2
    assert second == [True] * 2 + [False] * 2
    assert after == {"per_address": 2, "max_connections": 2}
    assert third == 3  # slots are free again, three tokens of eight are left
    assert refused["accept_rate"] == 5


async def proxied(reactor, trusted, *openings):
    journal = Journal()
    services = make_services(reactor, journal, max_connections_per_address=1)
    listener = listen(services, journal, proxy_protocol_from=trusted)
    answers = []
    for number, opening in enumerate(openings, 1):
        answers.append(await dialogue(listener.port, *opening))
        await journal.all_closed(number)
    infos = [(info.peer, info.peer_port, info.local, info.local_port, info.loopback) for info in journal.opened]
    return answers, journal.reasons, infos


def test_a_proxy_header_is_believed_and_required_from_trusted_networks(played):
    answers, reasons, infos = outcome(played, "trusted")
    assert answers == [b"\x80a", b"\x80b", b"\x80c", b"\x80d", b"", b"", b""]
    assert reasons == ["peer_closed"] * 4 + ["proxy_header"] * 3
    assert infos[0] == ("203.0.113.7", 4711, "198.51.100.1", 443, False)
    assert infos[1] == ("2001:db8::7", 4712, "2001:db8::1", 443, False)
    assert infos[2][0] == "127.0.0.1" and infos[2][4] is True
    assert infos[3][0] == "127.0.0.1" and infos[3][4] is False


def test_a_proxy_header_from_anyone_else_closes(played):
    answers, reasons, infos = outcome(played, "untrusted")
    assert answers == [b"", b"", b"", b"POST / HTTP/1.1\r\n\r\n"]
    assert reasons == ["proxy_header"] * 3 + ["peer_closed"]
    assert len(infos) == 1


async def limits_by_named_address(reactor):
    journal = Journal()
    services = make_services(reactor, journal, max_connections_per_address=2)
    listener = listen(services, journal, proxy_protocol_from=("127.0.0.1",))

    def connect(name):
        sock = socket.create_connection(("127.0.0.1", listener.port), timeout=10)
        try:
            sock.sendall(encode_v1(name, 1, "198.51.100.1", 443) + b"\x80")
            return sock, sock.recv(1) == b"\x80"
        except ConnectionError:
            return sock, False

    held = []
    for name in ("203.0.113.1", "203.0.113.1", "203.0.113.1", "203.0.113.2"):
        held.append(await deferToThread(connect, name))
    return [alive for _, alive in held], services.counters.refused, journal.reasons


def test_limits_count_by_the_named_address(played):
    alive, refused, reasons = outcome(played, "limits_by_named_address")
    assert alive == [True, True, False, True]
    assert refused == {"per_address": 1}
    assert reasons == ["overload"]


async def sniffing(reactor):
    journal = Journal()
    services = make_services(reactor, journal)
    listener = listen(services, journal, protocols=("mmtp/1", "http/1.1"))
    for number, first in enumerate((b"\x80x", b"GET /", b"\x16\x03\x01"), 1):
        await dialogue(listener.port, first, "fin")
        await journal.all_closed(number)
    return [binding.name for binding in journal.bindings], journal.reasons, journal.closed[2][1]


def test_the_first_byte_chooses_the_protocol(played):
    names, reasons, detail = outcome(played, "sniffing")
    assert names == ["mmtp/1", "http/1.1"]
    assert reasons[2] == "protocol_error" and "ClientHello" in detail


async def unix_socket(reactor, path):
    journal = Journal()
    services = make_services(reactor, journal, max_connections_per_address=1)
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(path)
    stale.close()
    listener = listen(services, journal, transport="unix", path=path, mode=0o620)
    mode = stat.S_IMODE(os.stat(path).st_mode)
    got = await dialogue(0, b"\x80hi", 3, "fin", path=path)
    await journal.all_closed()
    try:
        listen(make_services(reactor), journal, transport="unix", path=path)
        taken = ""
    except CannotListenError as error:
        taken = str(error.socketError)
    await listener.stop()
    return got, mode, taken, os.path.exists(path), journal.opened[0].peer, journal.opened[0].loopback


def test_a_unix_socket_replaces_only_a_stale_file(played):
    got, mode, taken, left, peer, loopback = outcome(played, "unix_socket")
    assert got == b"\x80hi"
    assert mode == 0o620
    assert "somebody listens" in taken
    assert not left
    assert (peer, loopback) == ("unix", True)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(CannotListenError, match="not a socket"):
        listen(make_services(MemoryReactorClock()), Journal(), transport="unix", path=str(path))
    assert path.read_text() == "data"


def test_a_taken_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(CannotListenError, match=f"127.0.0.1:{port}"):
            listen(make_services(MemoryReactorClock()), Journal(), port=port)


async def stopped_while_connected(reactor):
    journal = Journal()
    services = make_services(reactor, journal)
    listener = listen(services, journal)

    def client():
        with socket.create_connection(("127.0.0.1", listener.port), timeout=10) as sock:
            sock.sendall(b"\x80")
            first = sock.recv(1)
            blockingCallFromThread(reactor, listener.stop)
            sock.sendall(b"still here")
            return first + sock.recv(100)

    got = await deferToThread(client)
    try:
        await dialogue(listener.port, b"\x80")
    except ConnectionRefusedError:
        return got, "refused"
    return got, "connected"


def test_stop_keeps_established_connections(played):
    assert outcome(played, "stopped_while_connected") == (b"\x80still here", "refused")


async def slow_heads(reactor):
    journal, held = Journal(), HeldTime(reactor)
    services = make_services(held, journal, hello_timeout=5)

    def handler(exchange):
        return BodyCollector(0, lambda body: exchange.respond(200, [], b""), lambda: None)

    factories = {"http/1.1": HttpBindingFactory(handler, services.limits)}
    listener = listen(services, journal, factories=factories, protocols=("http/1.1",))
    answers, sent = [], 0
    for steps in ((b"GET / HTTP/1.1\r\nhost: ",), (b"GET / HTTP/1.1\r\nhost: gw\r\n\r\n", 38, b"GET / HT")):
        answer = dialogue(listener.port, *steps)
        sent += sum(len(step) for step in steps if isinstance(step, bytes))
        await until(reactor, lambda sent=sent: services.counters.bytes_in == sent)
        held.wait(6)
        answers.append(await answer)
        await journal.all_closed(len(answers))
    return *answers, journal.reasons


def test_a_slow_request_head_is_cut_off_first_and_later(played):
    first, second, reasons = outcome(played, "slow_heads")
    assert first.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert second.startswith(b"HTTP/1.1 200 OK\r\n") and b"HTTP/1.1 408 " in second
    assert reasons == ["hello_timeout"] * 2


V1 = encode_v1("203.0.113.7", 4711, "198.51.100.1", 443)
V2 = encode_v2("2001:db8::7", 4712, "2001:db8::1", 443)


async def everything(reactor, directory):
    return await play(
        {
            "echo": echo(reactor),
            "everyday_ends": everyday_ends(reactor),
            "limits": limits(reactor),
            "trusted": proxied(
                reactor,
                ("127.0.0.0/8", "::1/128"),
                (V1 + b"\x80a", 2, "fin"),
                (*[V2[at : at + 1] for at in range(len(V2))], b"\x80b", 2, "fin"),
                (encode_v2_local() + b"\x80c", 2, "fin"),
                (b"PROXY UNKNOWN\r\n\x80d", 2, "fin"),
                (b"\x80no header",),
                (V1 + V1 + b"\x80x",),
                (b"PROXY TCP4 nonsense\r\n",),
            ),
            "untrusted": proxied(
                reactor,
                ("10.0.0.0/8",),
                (V1 + b"\x80a",),
                (V2 + b"\x80",),
                (b"PRO", b"XY T", b"CP4"),
                (b"P", b"OST / HTTP/1.1\r\n\r\n", 19, "fin"),
            ),
            "limits_by_named_address": limits_by_named_address(reactor),
            "sniffing": sniffing(reactor),
            "unix_socket": unix_socket(reactor, directory + "/socket"),
            "stopped_while_connected": stopped_while_connected(reactor),
            "slow_heads": slow_heads(reactor),
        }
    )


@pytest.fixture(scope="module")
def played():
    with tempfile.TemporaryDirectory() as directory:
        return run(everything, directory)


def test_listening_sockets_carry_the_user_timeout_in_force():
    """Accepted sockets inherit it from there."""
    services = make_services(MemoryReactorClock(), tcp_user_timeout=12.5)
    listener = listen(services, Journal())
    with socket.socket(fileno=os.dup(listener.fileno())) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 12500
        services.limits = TransportLimits(tcp_user_timeout=40.0)
        listener.apply_limits()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 40000
    listener.stop()
