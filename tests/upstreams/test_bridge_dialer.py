"""Connections to other brokers over real sockets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

from accessgw.model.mqtt_settings import BridgeSettings
from accessgw.upstreams.dialer import BridgeDialer
from loadtest.free_ports import free_ports
from tests.crypto.authority import Authority
from tests.reactor_loop import run
from tests.upstreams.dial_user import User


class Server(Protocol):
    """Keeps what it gets, and reads when it may."""

    def connectionMade(self) -> None:
        self.factory.connections.append(self)  # type: ignore[union-attr]
        self.got = b""
        self.ended = False
        if self.factory.lazy:  # type: ignore[union-attr]
            self.transport.pauseProducing()  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        self.got += data
        if data == b"hello":
            self.transport.write(b"welcome")  # type: ignore[union-attr]

    def connectionLost(self, reason: Any = None) -> None:
        self.ended = True


def listen(reactor: Any, lazy: bool = False) -> tuple[Any, Any]:
    factory = Factory.forProtocol(Server)
    factory.connections, factory.lazy = [], lazy  # type: ignore[attr-defined]
    return reactor.listenTCP(0, factory, interface="127.0.0.1"), factory


def bridge(port: int, **more: Any) -> BridgeSettings:
    return BridgeSettings(name="b", address=f"localhost:{port}", topics=(), **more)


async def later(reactor: Any, true: Any) -> None:
    while not true():
        turn: Deferred[None] = Deferred()
        reactor.callLater(0.005, turn.callback, None)
        await turn


async def talk(reactor: Any) -> list[Any]:
    port, factory = listen(reactor)
    user = User()
    connection = BridgeDialer(reactor).dial(bridge(port.getHost().port), user)
    assert user.told == []
    await user.until(lambda told: "connected" in told)
    connection.write(b"hello")
    await user.until(lambda told: b"welcome" in told)
    server = factory.connections[0]
    connection.write(b"x" * 1_000_000)
    connection.close()
    connection.write(b"after the end")
    await later(reactor, lambda: server.ended)
    assert server.got == b"hello" + b"x" * 1_000_000
    second = User()
    connection = BridgeDialer(reactor).dial(bridge(port.getHost().port), second)
    await second.until(lambda told: "connected" in told)
    await later(reactor, lambda: len(factory.connections) == 2)
    factory.connections[1].transport.loseConnection()
    await second.until(lambda told: len(told) == 2)
    await port.stopListening()
    return [user.told, second.told]


def test_it_talks_writes_all_before_it_closes_and_tells_of_an_end() -> None:
    first, second = run(talk)
    assert first == ["connected", b"welcome"]
    assert second == ["connected", ("lost", "the other side closed the connection")]


async def slow_reader(reactor: Any) -> None:
    port, factory = listen(reactor, lazy=True)
    user = User()
    connection = BridgeDialer(reactor).dial(bridge(port.getHost().port), user)
    await user.until(lambda told: "connected" in told)
    assert connection.buffered == 0
    written = 0
    while not connection.buffered:
        connection.write(b"x" * 65536)
        written += 65536
        assert written < 1 << 26
    before = connection.buffered
    connection.write(b"x" * 1000)
    assert connection.buffered == before + 1000
    assert "drained" not in user.told
    await later(reactor, lambda: factory.connections)
    factory.connections[0].transport.resumeProducing()
    await user.until(lambda told: "drained" in told)
    assert connection.buffered == 0
    await later(reactor, lambda: len(factory.connections[0].got) == written + 1000)
    connection.abort()
    await later(reactor, lambda: factory.connections[0].ended)
    assert user.told == ["connected", "drained"]
    await port.stopListening()


def test_it_says_how_much_waits_and_when_no_more_does() -> None:
    run(slow_reader)


async def failures(reactor: Any, directory: str) -> list[Any]:
    (number,) = free_ports(1)
    found = []
    Path(directory, "empty.pem").write_text("")
    authority = Authority(Path(directory), "ca")
    for settings in (
        bridge(number),
        bridge(number, tls=True, ca=f"{directory}/missing.pem"),
        bridge(number, tls=True, ca=f"{directory}/empty.pem"),
        bridge(number, tls=True, ca=authority.file, certificate=authority.file, key=authority.file),
    ):
        user = User()
        BridgeDialer(reactor).dial(settings, user)
        await user.until(bool)
        found.append(user.told)
    silent = User()
    BridgeDialer(reactor).dial(bridge(number), silent).abort()
    user = User()
    BridgeDialer(reactor).dial(bridge(number), user)
    await user.until(bool)
    return [*found, silent.told]


def test_what_cannot_be_opened_is_told_in_one_line(tmp_path: Path) -> None:
    refused, missing, empty, no_key, silent = run(failures, str(tmp_path))
    for told in (refused, missing, empty, no_key):
        ((kind, error),) = told
        assert kind == "lost"
        assert "\n" not in error
    assert "refused" in refused[0][1]
    assert "missing.pem" in missing[0][1]
    assert "expected a PEM certificate" in empty[0][1]
    assert silent == []
