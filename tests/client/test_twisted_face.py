"""The Twisted face on a real reactor, in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol

from accessgw.client import CallFailed, CannotConnect, Client, State
from accessgw.client.rtt import TCP_INFO_SIZE
from loadtest.free_ports import free_ports
from protocols.mmtp.statuses import Status
from tests.client import tls_files
from tests.client.fake_gateway import FakeGateway, FakePost
from tests.client.patience import patience
from tests.reactor_loop import run


def listen(reactor: Any, gateway: FakeGateway, chain: str = "", key: str = "") -> tuple[Any, dict[str, Any]]:
    """A port of the fake gateway, and how it behaves."""
    how: dict[str, Any] = {"swallow": False, "open": []}

    class Server(Protocol):
        speaks: Any = None
        short = False

        def connectionMade(self) -> None:
            how["open"].append(self)

        def dataReceived(self, data: bytes) -> None:
            if self.speaks is None:
                self.short = getattr(self.transport, "negotiatedProtocol", None) == b"http/1.1"
                self.speaks = FakePost(gateway) if self.short else gateway.accept(reactor.seconds())
            if self.short:
                self.transport.write(self.speaks.receive(data))
            elif not how["swallow"]:
                self.transport.write(self.speaks.receive(data, reactor.seconds()))

    factory = Factory.forProtocol(Server)
    if not chain:
        return reactor.listenTCP(0, factory, interface="127.0.0.1"), how
    from twisted.internet.ssl import CertificateOptions, PrivateCertificate

    own = PrivateCertificate.loadPEM(Path(key).read_bytes() + Path(chain).read_bytes())
    options = CertificateOptions(
        privateKey=own.privateKey.original, certificate=own.original, acceptableProtocols=[b"mmtp/1", b"http/1.1"]
    )
    return reactor.listenSSL(0, factory, options, interface="127.0.0.1"), how


def later(reactor: Any, seconds: float) -> Deferred[None]:
    waited: Deferred[None] = Deferred()
    reactor.callLater(seconds, waited.callback, None)
    return waited


async def plain(reactor: Any, directory: str) -> list[Any]:
    gateway = FakeGateway(statuses={"bad": 404}, hold={"slow"})
    port, how = listen(reactor, gateway)
    url = f"mmtp://127.0.0.1:{port.getHost().port}"
    client = Client(url, "d1", "t", reactor=reactor, state_dir=directory, backoff_initial=0.05)
    seen: list[Any] = [(await client.call("echo", {"a": 1})).body]
    try:
        await client.call("bad")
    except CallFailed as failure:
        seen.append(failure.status)
    cancelled = client.call("slow", b"cancelled")
    cancelled.cancel()
    try:
        await cancelled
    except CancelledError:
        seen.append("cancelled")
    seen.append(await client.subscriptions())
    gateway.log[("device", "d1", "orders")] = [b"1", b"2", b"3"]
    gateway.push(("device", "d1", "orders"), b"4")
    await client.call("echo")
    async for push in client.pushes("orders"):
        seen.append(push.seq)
        if push.seq == 4:
            push.ack()
            break
    while gateway.cursors.get(("device", "d1", "orders")) != 4:
        await later(reactor, 0.01)
    slow = client.call("slow")
    while not any(body == b"" for body in list(gateway.executed.values())[-1:]):
        await later(reactor, 0.01)
    gateway.hold.clear()
    how["open"][0].transport.abortConnection()
    seen.append((await slow).attempts)
    seen.append(gateway.hellos[-1].cursors[0].seq if gateway.hellos[-1].cursors else gateway.cursors)
    await client.close()
    seen.append(client.state.value)
    await port.stopListening()
    return seen


def test_calls_pushes_and_losses(tmp_path: Path) -> None:
    seen = run(plain, str(tmp_path), timeout=90)
    assert seen == [b'echo:{"a":1}', 404, "cancelled", ["news/sport"], 1, 2, 3, 4, 2, 4, "closed"]
    (state,) = tmp_path.glob("*.json")
    assert '"orders",1,4' in state.read_text()


async def secure(reactor: Any, ca: str, chain: str, key: str) -> list[Any]:
    gateway = FakeGateway()
    port, how = listen(reactor, gateway, chain, key)
    number = port.getHost().port
    client = Client(f"mmtps://127.0.0.1:{number}", "d1", "t", reactor=reactor, ca=ca)
    await client.connect()
    with patience():
        seen: list[Any] = [(await client.call("echo", b"1")).via]
    assert len(client._tcp_info(1)) == TCP_INFO_SIZE
    how["swallow"] = True
    reply = await client.call("echo", b"2")
    seen += [reply.via, reply.body, len(gateway.executed)]
    await client.close()
    how["swallow"] = False
    before = len(gateway.hellos)
    for url, authority in ((f"mmtps://localhost:{number}", ca), (f"mmtps://127.0.0.1:{number}", None)):
        waiting: Deferred[str] = Deferred()

        def state(state: State, status: int, message: str, waiting: Deferred[str] = waiting) -> None:
            if state is State.WAITING and not waiting.called:
                waiting.callback(message)

        client = Client(url, "d1", "secret", reactor=reactor, ca=authority, on_state=state)
        connecting = client.connect()
        seen.append(await waiting)
        await client.close()
        try:
            await connecting
        except CannotConnect:
            seen.append("cannot connect")
    seen.append(len(gateway.hellos) - before)
    await port.stopListening()
    return seen


def test_tls_and_short_connections(tmp_path: Path) -> None:
    ca, chain, key = tls_files.write(tmp_path)
    seen = run(secure, str(ca), str(chain), str(key), timeout=90)
    assert seen[:4] == ["long", "short", b"echo:2", 2]
    assert seen[5] == seen[7] == "cannot connect"
    assert "VerificationError" in seen[4] or "certificate" in seen[4].lower()
    assert "certificate verify failed" in seen[6]
    assert seen[8] == 0, "no credentials before the server is known"


async def short_only(reactor: Any, ca: str, chain: str, key: str) -> list[Any]:
    gateway = FakeGateway()
    gateway.log[("user", "u", "chat")] = [b"hello"]
    port, _ = listen(reactor, gateway, chain, key)
    client = Client(f"https://127.0.0.1:{port.getHost().port}", "d1", "t", reactor=reactor, ca=ca)
    seen: list[Any] = [(await client.call("echo", b"%d" % n)).via for n in range(3)]
    async for push in client.pushes():
        seen.append(push.via)
        break
    await port.stopListening()
    try:
        await client.call("echo", timeout=1.0)
    except CallFailed as failure:
        seen.append(failure.name)
    await client.close()
    return seen


def test_short_connections_alone(tmp_path: Path) -> None:
    ca, chain, key = tls_files.write(tmp_path)
    seen = run(short_only, str(ca), str(chain), str(key), timeout=90)
    assert seen == ["short", "short", "short", "short", "deadline"]


async def nobody_there(reactor: Any) -> tuple[int, str]:
    (port,) = free_ports(1)
    refused: Deferred[None] = Deferred()

    def on_state(state: State, status: int, message: str) -> None:
        if message and not refused.called:
            refused.callback(None)

    client = Client(f"mmtp://127.0.0.1:{port}", device="d1", token="t", reactor=reactor, on_state=on_state)
    first = client.connect(timeout=60.0)
    first.addErrback(lambda failure: failure.trap(CannotConnect))
    await refused
    try:
        await client.connect(timeout=0.01)
    except CannotConnect as error:
        return error.status, error.message
    finally:
        await client.close()
    raise AssertionError("it connected")


def test_connect_gives_up_waiting_and_says_what_was_wrong() -> None:
    status, message = run(nobody_there)
    assert status == Status.DEADLINE
    assert "127.0.0.1" in message
