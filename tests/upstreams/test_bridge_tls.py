"""Bridges over TLS: hand-shakes on other threads than the reactor's, whatever happens meanwhile."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from accessgw.model.counters import TlsCounters
from accessgw.model.mqtt_settings import BridgeSettings
from accessgw.model.route_settings import UpstreamTlsSettings
from accessgw.transports.handshakes import HandshakePool
from accessgw.upstreams.bridge_connection import FULL
from accessgw.upstreams.dialer import BridgeDialer
from accessgw.upstreams.handshake import HELD
from accessgw.upstreams.tls import LOOK_AFTER, ClusterTls
from accessgw.upstreams.tls_bridge import HANDSHAKE_TIMEOUT, TlsBridgeConnection
from tests.crypto.authority import Authority
from tests.reactor_loop import run
from tests.upstreams.dial_user import User
from tests.upstreams.handshakes_by_hand import ByHand, WhoFeeds
from tests.upstreams.tls_servers import certificate, replace_files, serving
from tests.upstreams.tls_wire import Server


class Far(StringTransport):
    """The transport, and the other side of it."""

    def __init__(self, connection: TlsBridgeConnection) -> None:
        super().__init__()
        self.connection = connection
        self.closed = ""

    def setTcpNoDelay(self, enabled: bool) -> None:
        assert enabled

    def loseConnection(self) -> None:
        self.closed = self.closed or "close"

    def abortConnection(self) -> None:
        self.closed = self.closed or "abort"

    def taken(self) -> bytes:
        data = bytes(self.value())
        self.clear()
        return data

    def answer(self, data: bytes) -> None:
        self.connection.dataReceived(data)

    def end(self, error: Exception) -> None:
        self.connection.connectionLost(Failure(error))


class House:
    """A bridge in the middle of its hand-shake: the other broker's flight has come, and no thread took it."""

    def __init__(self, folder: Path, name: str = "10.0.0.1") -> None:
        authority = Authority(folder, "ca")
        self.hands, self.user, self.clock = ByHand(), User(), Clock()
        tls = ClusterTls(UpstreamTlsSettings(ca=authority.file), self.clock.seconds, alpn=())
        self.connection = TlsBridgeConnection(self.user, self.hands, self.clock)
        tls.prepare(lambda: self.connection.begin(tls.open("e", name)))
        self.far = Far(self.connection)
        self.connection.makeConnection(self.far)  # type: ignore[arg-type]
        assert not self.hands.waiting, "the first flight is made at once"
        self.server = Server(authority, self.far)  # type: ignore[arg-type]
        assert self.server.turn() == b""
        assert len(self.hands.waiting) == 1 and not self.user.told

    def up(self) -> House:
        self.hands.all()
        assert self.server.turn() == b""
        assert self.user.told.pop(0) == "connected" and not self.user.told
        return self


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_the_user_is_told_when_a_thread_has_verified_the_other_broker(house: House) -> None:
    house.connection.write(b"too early")
    house.hands.run()
    assert not house.user.told and not house.far.value()
    house.hands.tell()
    assert house.user.told == ["connected"]
    house.connection.write(b"hello")
    assert house.server.turn() == b"hello"
    house.server.say(b"welcome")
    assert house.user.told == ["connected", b"welcome"]
    assert not house.hands.waiting and not house.clock.getDelayedCalls()
    house.connection.write(b"x" * 100_000)
    house.connection.close()
    received = house.server.turn()
    with pytest.raises(SSL.ZeroReturnError):
        while True:
            received += house.server.connection.recv(65536)
    assert received == b"x" * 100_000 and house.far.closed == "close"
    house.far.end(ConnectionDone())
    assert len(house.user.told) == 2, "nothing is heard after close()"


def test_another_name_is_refused(tmp_path: Path) -> None:
    house = House(tmp_path, "elsewhere.example")
    house.hands.all()
    assert house.user.error == "TLS: the certificate is not for elsewhere.example: it names 10.0.0.1"
    assert house.far.closed == "close" and not house.clock.getDelayedCalls()
    house.far.end(ConnectionDone())
    assert len(house.user.told) == 1


@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("how", ["time", "close", "abort", "nothing"])
def test_what_ends_while_a_step_runs(house: House, how: str, lost: bool, ran: bool) -> None:
    if ran:
        house.hands.run()
    if lost:
        house.far.end(ConnectionLost())
        assert not house.user.told, "what had come before may say why"
    if how == "time":
        house.clock.advance(HANDSHAKE_TIMEOUT)
        assert house.user.error == "TLS: no hand-shake within 10 s"
    elif how != "nothing":
        getattr(house.connection, how)()
    if how != "nothing":
        assert not house.clock.getDelayedCalls()
        assert house.far.closed == ("" if lost else "abort")
        if not lost:
            house.far.end(ConnectionDone())
    told = list(house.user.told)
    if not ran:
        house.hands.run()
    house.hands.tell()
    if how != "nothing":
        assert house.user.told == told and len(told) == (how == "time")
    elif lost:
        assert house.user.error.startswith("TLS: the connection ended in the hand-shake: ConnectionLost: ")
    else:
        assert house.user.told == ["connected"]
    assert not house.hands.waiting and not house.clock.getDelayedCalls()


def test_the_last_words_before_an_end_are_told(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    hands, user, clock = ByHand(), User(), Clock()
    tls = ClusterTls(UpstreamTlsSettings(ca=authority.file), clock.seconds, alpn=())
    connection = TlsBridgeConnection(user, hands, clock)
    tls.prepare(lambda: connection.begin(tls.open("e", "x")))
    far = Far(connection)
    connection.makeConnection(far)  # type: ignore[arg-type]
    far.answer(b"\x15\x03\x03\x00\x02\x02\x28")
    far.end(ConnectionDone())
    hands.all()
    assert "handshake failure" in user.error
    assert not clock.getDelayedCalls()


def test_records_behind_the_hand_shake_are_decrypted_by_the_reactor(house: House) -> None:
    house.hands.run()
    house.far.answer(b"\x17\x03\x03\x00\x20" + bytes(32))
    house.hands.tell()
    connected, (kind, error) = house.user.told
    assert (connected, kind) == ("connected", "lost") and "bad record mac" in error.lower()
    assert house.far.closed == "abort" and not house.hands.waiting


def test_a_broker_that_floods_is_not_read_until_the_step_is_over(house: House) -> None:
    house.far.answer(bytes(HELD))
    assert house.far.producerState == "producing"
    house.far.answer(b"\x00")
    assert house.far.producerState == "paused"
    house.hands.all()
    assert house.far.producerState == "producing"


@pytest.mark.parametrize("farewell", [True, False])
def test_an_end_without_close_notify_is_told(house: House, farewell: bool) -> None:
    house.up()
    if farewell:
        house.server.connection.shutdown()
        house.server.flush()
        assert house.far.closed == "close"
    house.far.end(ConnectionDone())
    words = "the other side closed the connection" if farewell else "the connection ended without close_notify"
    assert house.user.error.endswith(words)


def test_a_user_may_go_in_the_middle_of_what_came(house: House) -> None:
    house.up()
    house.user.received = lambda data: house.connection.abort()  # type: ignore[method-assign]
    house.server.say(b"one")
    house.server.say(b"two")
    assert house.far.closed == "abort" and not house.user.told


def test_a_user_may_answer_what_came_before_an_error(house: House) -> None:
    house.up()
    note = house.user.note

    def received(data: bytes) -> None:
        note(data)
        house.connection.write(b"answer")

    house.user.received = received  # type: ignore[method-assign]
    house.server.connection.send(b"one")
    house.far.answer(house.server.connection.bio_read(65536) + b"\x17\x03\x03\x00\x20" + bytes(32))
    one, (kind, error) = house.user.told
    assert (one, kind) == (b"one", "lost") and "bad record mac" in error.lower()
    assert house.far.closed == "abort"


def test_it_says_how_much_waits(house: House) -> None:
    house.up()
    assert house.connection.buffered == 0
    house.connection.pauseProducing()
    house.connection.write(b"x" * 1000)
    assert house.connection.buffered == FULL + 1000
    house.connection.resumeProducing()
    assert house.connection.buffered == 0 and house.user.told == ["drained"]
    house.connection.pause()
    assert house.far.producerState == "paused"
    house.connection.resume()
    assert house.far.producerState == "producing"


# ---------------------------------------------------------------------- real threads, real sockets


def bridge(port: int, **more: Any) -> BridgeSettings:
    return BridgeSettings(name="b", address=f"127.0.0.1:{port}", topics=(), tls=True, **more)


def threads_for(reactor: Any) -> HandshakePool:
    return HandshakePool(TlsCounters(), threads=2, waiting=100, call_from_thread=reactor.callFromThread)


def has_ended(told: list[Any]) -> bool:
    return bool(told) and told[-1][0] == "lost"


async def against_s_server(reactor: Any, folder: str, version: str) -> tuple[list[Any], list[str]]:
    authority = Authority(Path(folder), "ca")
    shown, ours = certificate(authority, "s", "127.0.0.1"), authority.intermediate("below").issue("gateway")
    command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", shown.chain, "-key", shown.key, "-rev",
               "-CAfile", authority.file, "-Verify", "2", "-verify_return_error", version]  # fmt: skip
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout is not None
        while not (line := server.stdout.readline()).startswith("ACCEPT"):
            assert line, "openssl s_server has ended"
        pool, user = threads_for(reactor), User()
        settings = bridge(int(line.rpartition(":")[2]), ca=authority.file, certificate=ours.chain, key=ours.key)
        with WhoFeeds() as who:
            connection = BridgeDialer(reactor, pool).dial(settings, user)
            await user.until(lambda told: "connected" in told)
            connection.write(b"abc\n")
            await user.until(lambda told: b"".join(part for part in told if isinstance(part, bytes)) == b"cba\n")
            connection.write(b"CLOSE\n")
            await user.until(has_ended)
        pool.stop()
        return user.told, who.threads
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_s_server_agrees_with_what_threads_make(tmp_path: Path, version: str) -> None:
    if not any(os.access(f"{place}/openssl", os.X_OK) for place in os.get_exec_path()):
        pytest.skip("there is no openssl command")
    told, threads = run(against_s_server, str(tmp_path), version)
    assert told[0] == "connected" and told[-1][0] == "lost"
    assert threads and all(thread.startswith("accessgw-handshakes-") for thread in threads), threads


async def files(reactor: Any, folder: str) -> dict[str, Any]:
    authority, stranger = Authority(Path(folder), "ca"), Authority(Path(folder), "stranger")
    server = serving(certificate(authority, "s", "127.0.0.1"), authority.file)
    first, second = authority.issue("first"), authority.issue("second")
    wrong = stranger.issue("wrong")
    pool = threads_for(reactor)
    dialer = BridgeDialer(reactor, pool)

    async def dial(**more: Any) -> Any:
        user = User()
        connection = dialer.dial(bridge(server.server_address[1], **more), user)
        await user.until(bool)
        if user.told == ["connected"]:
            connection.write(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            await user.until(has_ended)
        return user.told[-1][1], b"".join(part for part in user.told if isinstance(part, bytes))

    async def later() -> None:
        done: Deferred[None] = Deferred()
        reactor.callLater(LOOK_AFTER, done.callback, None)
        await done

    own = {"ca": authority.file, "certificate": first.chain, "key": first.key}
    seen: dict[str, Any] = {}
    with WhoFeeds() as who:
        seen["answers"] = [(await dial(**own))[1].endswith(b"/x")]
        replace_files(first, second)
        await later()
        seen["answers"].append((await dial(**own))[1].endswith(b"/x"))
        Path(first.key).write_bytes(b"broken")
        await later()
        seen["answers"].append((await dial(**own))[1].endswith(b"/x"))
        seen["clients"] = [common for _, _, common in server.seen]
        seen["wrong"] = (await dial(ca=authority.file, certificate=wrong.chain, key=wrong.key))[0]
        seen["ca"] = (await dial(ca=stranger.file))[0]
        seen["name"] = (await dial(**{**own, "key": second.key, "server_name": "elsewhere.example"}))[0]
    seen["threads"] = who.threads
    seen["reactor"] = threading.current_thread().name
    pool.stop()
    return seen


def test_certificates_are_renewed_without_a_reload_and_those_refused_are_told(tmp_path: Path) -> None:
    seen = run(files, str(tmp_path))
    assert seen["answers"] == [True, True, True]
    assert seen["clients"] == ["first", "second", "second"], "broken files leave those before in force"
    assert seen["wrong"].startswith("TLS: the other broker does not accept our certificate: ")
    assert "certificate verify failed" in seen["ca"]
    assert [seen[name].count("TLS") for name in ("wrong", "ca")] == [1, 1]
    assert "key" in seen["name"], "a new bridge with files that cannot be used has none from before"
    assert seen["threads"] and seen["reactor"] not in seen["threads"]
