"""Hand-shakes with services are made on other threads than the reactor's, whatever happens meanwhile."""

from __future__ import annotations

import os
import random
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher

from accessgw.core.interfaces.upstreams import UpstreamRequest
from accessgw.model.counters import TlsCounters
from accessgw.model.route_settings import ClusterSettings, UpstreamTlsSettings
from accessgw.transports.handshakes import HandshakePool
from accessgw.upstreams.client import HttpUpstreams
from accessgw.upstreams.exchange import Exchange
from accessgw.upstreams.handshake import HELD
from accessgw.upstreams.tls import ClientTls
from tests.crypto.authority import Authority
from tests.reactor_loop import run
from tests.upstreams.handshakes_by_hand import ByHand, WhoFeeds
from tests.upstreams.tls_servers import certificate, serving
from tests.upstreams.tls_wire import OK, Server
from tests.upstreams.upstream_fakes import Net, Sink, Waiting, Wire


class House:
    """One call to one service, in the middle of its hand-shake: the server's flight has come, and no thread took it."""

    def __init__(self, folder: Path, **request: Any) -> None:
        authority = Authority(folder, "ca")
        self.hands = ByHand()
        self.net = Net(
            "https://10.0.0.1:443",
            connect_timeout=2.0,
            tls=UpstreamTlsSettings(ca=authority.file),
            handshakes=self.hands,
        )
        _, self.sink = self.net.ask("GET", retries=0, **request)
        self.wire: Wire = self.net.accept()
        assert not self.hands.waiting, "the first flight is made at once"
        self.server = Server(authority, self.wire)
        assert self.server.turn() == b""
        assert len(self.hands.waiting) == 1

    def sent(self) -> bytes:
        return bytes(self.wire.value())

    def delayed(self) -> list[Any]:
        clock = self.net.clock
        return [call for call in clock.getDelayedCalls() if call.time > clock.seconds() + 0.1]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_nothing_leaves_before_a_thread_has_verified_the_server(house: House) -> None:
    assert house.sent() == b""
    house.hands.run()
    assert house.sent() == b"", "the reactor has not heard of it"
    house.hands.tell()
    assert house.server.turn().startswith(b"GET /p HTTP/1.1")
    house.server.say(OK)
    assert house.sink.complete and house.sink.body == b"ok"
    assert house.hands.begun == [True], "before those of devices that have not begun; records are the reactor's"


def test_a_server_that_is_another_is_refused_by_the_thread(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    hands = ByHand()
    tls = UpstreamTlsSettings(ca=authority.file, server_name="elsewhere.example")
    net = Net("https://10.0.0.1:443", tls=tls, handshakes=hands)
    _, sink = net.ask("GET", retries=0)
    wire = net.accept()
    Server(authority, wire).turn()
    hands.all()
    assert sink.failure is not None and sink.failure.kind == "connect" and not sink.failure.executed
    assert sink.failure.message.startswith("TLS: the certificate is not for elsewhere.example")
    assert b"GET" not in wire.value() and wire.closed == "close"


def test_what_comes_while_a_step_runs_waits_for_the_next(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    hands = ByHand()
    net = Net("https://10.0.0.1:443", tls=UpstreamTlsSettings(ca=authority.file), handshakes=hands)
    _, sink = net.ask("GET", retries=0)
    wire = net.accept()
    server = Server(authority, wire, pieces=7)
    server.turn()
    assert len(hands.waiting) == 1, "one step at a time"
    hands.run()
    hands.tell()
    assert len(hands.waiting) == 1 and not wire.value(), "all the rest in one"
    hands.all()
    assert server.turn().startswith(b"GET /p")
    server.say(OK)
    assert sink.complete


def test_records_behind_the_hand_shake_are_decrypted_by_the_reactor(house: House) -> None:
    house.hands.run()
    house.wire.answer(b"\x17\x03\x03\x00\x20" + bytes(32))
    house.hands.tell()
    assert not house.hands.waiting
    assert house.sink.kind == "reset"
    assert house.sink.failure is not None and "bad record mac" in house.sink.failure.message.lower()
    assert house.wire.closed == "abort"


def test_a_server_that_floods_is_not_read_until_the_step_is_over(house: House) -> None:
    house.wire.answer(bytes(HELD))
    assert house.wire.producerState == "producing"
    house.wire.answer(b"\x00")
    assert house.wire.producerState == "paused"
    house.hands.run()
    house.hands.tell()
    assert house.wire.producerState == "producing"
    assert house.sink.kind == "reset", "that was no record"


def test_the_last_words_before_an_end_are_told(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    hands = ByHand()
    net = Net("https://10.0.0.1:443", tls=UpstreamTlsSettings(ca=authority.file), handshakes=hands)
    _, sink = net.ask("GET", retries=0)
    wire = net.accept()
    wire.answer(b"\x15\x03\x03\x00\x02\x02\x28")
    wire.end()
    assert sink.failure is None and net.upstreams.snapshot()[0]["connections"] == 1
    hands.all()
    assert sink.kind == "connect" and sink.failure is not None
    assert "handshake failure" in sink.failure.message
    assert net.upstreams.snapshot()[0]["connections"] == 0


@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("end", ["end", "reset"])
def test_an_end_during_a_step_is_a_failure_to_connect_though_the_step_succeeds(
    house: House, end: str, ran: bool
) -> None:
    if ran:
        house.hands.run()
    getattr(house.wire, end)()
    if not ran:
        house.hands.run()
    house.hands.tell()
    assert house.sink.kind == "connect" and house.sink.failure is not None
    assert house.sink.failure.message.startswith("TLS: the connection ended in the hand-shake: ")
    assert house.sent() == b""
    assert house.net.upstreams.snapshot()[0]["connections"] == 0
    house.net.upstreams.stop()
    assert not house.delayed()


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("ran", [False, True])
def test_a_thread_that_takes_too_long_does_not_hold_the_call(house: House, ran: bool, lost: bool) -> None:
    if ran:
        house.hands.run()
    if lost:
        house.wire.end()
    house.net.clock.advance(2.0)
    assert house.sink.kind == "connect" and house.sink.failure is not None
    assert house.sink.failure.message == "TLS: no hand-shake within 2 s"
    house.net.clock.advance(0)
    assert house.net.upstreams.snapshot()[0]["connections"] == 0
    if not ran:
        house.hands.run()
    house.hands.tell()
    assert house.sent() == b"" and house.wire.closed == ("peer" if lost else "abort")
    assert house.sink.calls == 1 and not house.hands.waiting


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("ran", [False, True])
def test_it_may_be_stopped_while_a_step_runs(house: House, ran: bool, lost: bool) -> None:
    if ran:
        house.hands.run()
    if lost:
        house.wire.end()
    house.net.upstreams.stop()
    house.net.clock.advance(0)
    assert house.sink.kind == "cancelled"
    assert house.net.upstreams.snapshot()[0]["connections"] == 0
    assert not house.delayed()
    if not ran:
        house.hands.run()
    house.hands.tell()
    assert house.sent() == b"" and house.sink.calls == 1


def test_a_call_that_is_given_up_leaves_the_connection_to_the_next(tmp_path: Path) -> None:
    house = House(tmp_path, timeout=0.5)
    house.net.clock.advance(1.0)
    assert house.sink.kind == "timeout"
    house.hands.all()
    assert house.server.turn() == b""
    _, second = house.net.ask("GET")
    assert house.server.turn().startswith(b"GET /p")
    house.server.say(OK)
    assert second.complete and not house.net.connecting


def test_a_last_flight_that_cannot_be_sent_is_a_failure_to_connect(house: House) -> None:
    house.wire.send_error = BrokenPipeError()
    house.hands.all()
    assert house.sink.failure is None
    house.net.clock.advance(0)
    assert house.sink.kind == "connect" and house.sink.failure is not None and not house.sink.failure.executed
    assert "ended in the hand-shake" in house.sink.failure.message


def test_a_defect_is_logged_and_is_a_failure_to_connect(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(tls: ClientTls, data: bytes) -> list[bytes]:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(ClientTls, "shake", broken)
    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    try:
        house.hands.all()
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert house.sink.kind == "connect" and house.sink.failure is not None
    assert house.sink.failure.message == "TLS: internal error: ZeroDivisionError"
    assert any("log_failure" in event and event["log_failure"].check(ZeroDivisionError) for event in events)


def test_a_defect_of_who_has_the_connection_ends_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(exchange: Exchange, connection: Any) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(Exchange, "run", broken)
    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)  # type: ignore[arg-type]
    try:
        house.hands.all()
    finally:
        globalLogPublisher.removeObserver(events.append)  # type: ignore[arg-type]
    assert house.wire.closed == "abort", "as where dataReceived() raises"
    house.net.turn()
    assert house.net.upstreams.snapshot()[0]["connections"] == 0
    assert any("log_failure" in event and event["log_failure"].check(ZeroDivisionError) for event in events)


# ---------------------------------------------------------------------- real threads, real sockets


def threads_for(reactor: Any, threads: int = 2) -> HandshakePool:
    return HandshakePool(TlsCounters(), threads=threads, waiting=100, call_from_thread=reactor.callFromThread)


def upstreams_on(reactor: Any, pool: HandshakePool, *clusters: ClusterSettings) -> HttpUpstreams:
    return HttpUpstreams(reactor, clusters, random=random.Random(1).random, counters={}, handshakes=pool)


def ask(reactor: Any, upstreams: HttpUpstreams, cluster: str = "c", target: str = "/") -> Deferred[Sink]:
    sink = Waiting()
    upstreams.request(cluster, UpstreamRequest("GET", target, [], b"", deadline=reactor.seconds() + 10.0), sink)
    return sink.done


async def many(reactor: Any, folder: str) -> dict[str, Any]:
    authority, stranger = Authority(Path(folder), "ca"), Authority(Path(folder), "stranger")
    server = serving(certificate(authority, "s", "127.0.0.1"), authority.file)
    ours, theirs = authority.issue("gateway"), stranger.issue("theirs")
    good = UpstreamTlsSettings(ca=authority.file, certificate=ours.chain, key=ours.key)
    clusters = [
        *(
            ClusterSettings(name=str(at), endpoints=(server.endpoint,), tls=good, connect_timeout=20.0)
            for at in range(20)
        ),
        ClusterSettings(name="ca", endpoints=(server.endpoint,), tls=UpstreamTlsSettings(ca=stranger.file)),
        ClusterSettings(
            name="own",
            endpoints=(server.endpoint,),
            tls=UpstreamTlsSettings(ca=authority.file, certificate=theirs.chain, key=theirs.key),
        ),
    ]
    pool = threads_for(reactor)
    upstreams = upstreams_on(reactor, pool, *clusters)
    with WhoFeeds() as who:
        calls = [ask(reactor, upstreams, str(at), f"/{at}") for at in range(20)]
        bodies = [(await call).body for call in calls]
        refused = {name: (await ask(reactor, upstreams, name)).failure for name in ("ca", "own")}
    upstreams.stop()
    pool.stop()
    return {
        "bodies": bodies,
        "threads": who.threads,
        "refused": {name: failure and failure.message for name, failure in refused.items()},
        "reactor": threading.current_thread().name,
        "clients": {common for _, _, common in server.seen},
    }


def test_twenty_at_once_are_made_by_threads_alone(tmp_path: Path) -> None:
    seen = run(many, str(tmp_path))
    assert seen["bodies"] == [b"/%d" % at for at in range(20)]
    assert len(seen["threads"]) >= 20 and seen["reactor"] not in seen["threads"]
    assert "certificate verify failed" in seen["refused"]["ca"]
    assert "the server does not accept our certificate" in seen["refused"]["own"]
    assert "unknown ca" in seen["refused"]["own"]
    assert seen["clients"] == {"gateway"}


async def against_s_server(reactor: Any, folder: str, version: str) -> tuple[int, str, list[str], list[bool]]:
    authority = Authority(Path(folder), "ca")
    shown, ours = certificate(authority, "s", "127.0.0.1"), authority.intermediate("below").issue("gateway")
    command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", shown.chain, "-key", shown.key, "-www",
               "-CAfile", authority.file, "-Verify", "2", "-verify_return_error", version]  # fmt: skip
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout is not None
        while not (line := server.stdout.readline()).startswith("ACCEPT"):
            assert line, "openssl s_server has ended"
        tls = UpstreamTlsSettings(ca=authority.file, certificate=ours.chain, key=ours.key)
        address = "https://" + line.split()[1]
        pool = threads_for(reactor)
        upstreams = upstreams_on(reactor, pool, ClusterSettings(name="c", endpoints=(address,), tls=tls))
        resumed: list[bool] = []
        with WhoFeeds() as who:
            for _ in range(2):
                sink = await ask(reactor, upstreams)
                resumed.append("Reused, TLS" in sink.body.decode())
        upstreams.stop()
        pool.stop()
        return sink.status, sink.body.decode(), who.threads, resumed
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize(("version", "name"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
def test_openssl_s_server_agrees_with_what_threads_make(tmp_path: Path, version: str, name: str) -> None:
    if not any(os.access(f"{place}/openssl", os.X_OK) for place in os.get_exec_path()):
        pytest.skip("there is no openssl command")
    status, page, threads, resumed = run(against_s_server, str(tmp_path), version)
    assert status == 200 and name in page
    assert "CN = gateway" in page.replace("CN=gateway", "CN = gateway")
    assert threads and all(thread.startswith("accessgw-handshakes-") for thread in threads), threads
    assert resumed == [False, True], "sessions go from thread to thread"
