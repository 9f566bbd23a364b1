"""Upstreams against real servers: the standard library's, and ones that misbehave."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from accessgw.core.interfaces.upstreams import UpstreamRequest
from accessgw.model.route_settings import ClusterSettings
from accessgw.upstreams.client import HttpUpstreams
from tests.reactor_loop import run
from tests.upstreams import hostile_servers as servers
from tests.upstreams.upstream_fakes import Sink, Waiting


class Client:
    """Upstreams with one cluster per name."""

    def __init__(self, reactor: Any, **clusters: Any) -> None:
        settings = [
            ClusterSettings(name=name, **(given if isinstance(given, dict) else {"endpoints": (given,)}))
            for name, given in clusters.items()
        ]
        self.reactor = reactor
        self.counters: dict[str, Any] = {}
        self.upstreams = HttpUpstreams(reactor, settings, random=random.Random(1).random, counters=self.counters)
        self.upstreams.start()

    def begin(
        self, cluster: str, method: str = "GET", target: str = "/", timeout: float = 10.0, **more: Any
    ) -> tuple[Any, Waiting]:
        sink = Waiting()
        deadline = self.reactor.seconds() + timeout
        request = UpstreamRequest(method, target, more.pop("headers", []), deadline=deadline, **more)
        return self.upstreams.request(cluster, request, sink), sink

    def ask(self, cluster: str, method: str = "GET", target: str = "/", **more: Any) -> Deferred[Sink]:
        return self.begin(cluster, method, target, **more)[1].done


async def kind_servers(reactor: Any) -> dict[str, Any]:
    endpoint, _ = servers.http_server()
    old, _ = servers.http_server(servers.OldHandler)
    with tempfile.TemporaryDirectory() as folder:
        unix = servers.unix_server(f"{folder}/s")
        client = Client(
            reactor, tcp=endpoint, old=old, unix=unix,
            dns={"dns": endpoint.removeprefix("http://").replace("127.0.0.1", "localhost")},
        )  # fmt: skip
        seen: dict[str, Any] = {}
        seen["get"] = (await client.ask("tcp", target="/a?b")).body
        seen["post"] = (await client.ask("tcp", "POST", body=b"x" * 3_000_000)).body == b"x" * 3_000_000
        head = await client.ask("tcp", "HEAD")
        seen["head"] = (head.status, head.body, dict(head.headers)["content-length"])
        stream = await client.ask("tcp", target="/stream")
        seen["stream"] = stream.body == b"".join(bytes([at]) * 5000 for at in range(200))
        seen["unix"] = (await client.ask("unix", "POST", body=b"over unix")).body
        seen["old"] = [len((await client.ask("old")).body) for _ in range(2)]
        named = await client.ask("dns", target="/named")
        seen["dns"] = (named.body, dict(named.headers)["x-host"].partition(":")[0])
        many = await gatherResults([client.ask("tcp", target=f"/{at}") for at in range(100)])
        seen["many"] = [sink.body for sink in many] == [b"/%d" % at for at in range(100)]
        seen["connections"] = client.counters["tcp"].connections <= 100
        before = client.counters["tcp"].connections
        for at in range(50):
            await client.ask("tcp", target=f"/{at}")
        seen["reused"] = client.counters["tcp"].connections == before

        exchange, sink = client.begin("tcp", "PUT", more=True, body=b"\x01")
        for at in range(100):
            exchange.data(b"\x01" * 20_000, at < 99)
        seen["upload"] = ((await sink.done).body, sink.sent)

        exchange, sink = client.begin("tcp", target="/stream")
        exchange.pause()
        nothing: Deferred[None] = Deferred()
        reactor.callLater(0.1, nothing.callback, None)
        await nothing
        seen["paused"] = len(sink.body)
        exchange.resume()
        seen["resumed"] = len((await sink.done).body)
        client.upstreams.stop()
    return seen


def test_servers_that_behave() -> None:
    seen = run(kind_servers)
    assert seen == {
        "get": b"/a?b",
        "post": True,
        "head": (200, b"", "12345"),
        "stream": True,
        "unix": b"over unix",
        "old": [100_000, 100_000],
        "dns": (b"/named", "localhost"),
        "many": True,
        "connections": True,
        "reused": True,
        "upload": (b"2000001 2000001", 2_000_001),
        "paused": 0,
        "resumed": 1_000_000,
    }


def _silent(connection: Any, number: int) -> None:
    servers.read_head(connection)


def _garbage(connection: Any, number: int) -> None:
    connection.sendall(b"\x00\x01\x02 what is this\r\n\r\n" * 10)


def _resets_in_the_middle(connection: Any, number: int) -> None:
    servers.read_head(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc")
    servers.read_head(connection) if number == 0 else servers.reset(connection)


def _ends_in_the_middle(connection: Any, number: int) -> None:
    servers.read_head(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    connection.shutdown(2)


def _trickles(connection: Any, number: int) -> None:
    servers.read_head(connection)
    for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 10_000:
        connection.sendall(bytes((byte,)))
        threading_wait(0.02)


def _endless(connection: Any, number: int) -> None:
    servers.read_head(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65536)


def _endless_head(connection: Any, number: int) -> None:
    servers.read_head(connection)
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


def _once_per_connection(connection: Any, number: int) -> None:
    """Says nothing of closing, and closes."""
    servers.read_head(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    connection.close()


def threading_wait(seconds: float) -> None:
    import threading

    threading.Event().wait(seconds)


async def unkind_servers(reactor: Any) -> dict[str, Any]:
    hole, keep = servers.black_hole()
    client = Client(
        reactor,
        refused=servers.refused(),
        hole={"endpoints": (hole,), "connect_timeout": 0.3},
        silent=servers.raw_server(_silent),
        garbage=servers.raw_server(_garbage),
        middle=servers.raw_server(_resets_in_the_middle),
        cut=servers.raw_server(_ends_in_the_middle),
        trickle=servers.raw_server(_trickles),
        endless=servers.raw_server(_endless),
        interim=servers.raw_server(_endless_head),
        once=servers.raw_server(_once_per_connection),
        missing="unix:/nonexistent/socket",
        mixed={"endpoints": (servers.refused(), servers.refused(), servers.http_server()[0]), "max_ejected": 0.5},
    )
    client.begin("middle", timeout=0.2)
    names = ("refused", "hole", "silent", "garbage", "middle", "cut", "trickle", "endless", "interim", "missing")
    sinks = await gatherResults(
        [client.ask(name, "POST", body=b"x", timeout=3.0, max_response_body=1_000_000) for name in names]
    )
    seen: dict[str, Any] = {}
    for name, sink in zip(names, sinks, strict=True):
        assert sink.failure is not None, name
        seen[name] = (sink.failure.kind, sink.failure.executed, sink.status)
    mixed = await gatherResults([client.ask("mixed", "POST", body=b"%d" % at) for at in range(30)])
    seen["mixed"] = [sink.body for sink in mixed] == [b"%d" % at for at in range(30)]
    once = [await client.ask("once", retries=1, idempotent=True) for _ in range(20)]
    seen["once"] = {sink.body for sink in once}
    busy = [state for state in client.upstreams.snapshot() if state["outstanding"]]
    seen["outstanding"] = [state["cluster"] for state in busy]
    client.upstreams.stop()
    for each in keep:
        each.close()
    return seen


def test_servers_that_do_not_behave_fail_in_time() -> None:
    seen = run(unkind_servers)
    assert seen == {
        "refused": ("connect", False, 0),
        "hole": ("connect", False, 0),
        "silent": ("timeout", True, 0),
        "garbage": ("protocol", True, 0),
        "middle": ("reset", True, 200),
        "cut": ("reset", True, 200),
        "trickle": ("timeout", True, 0),
        "endless": ("too_large", True, 200),
        "interim": ("protocol", True, 0),
        "missing": ("connect", False, 0),
        "mixed": True,
        "once": {b"ok"},
        "outstanding": [],
    }


DYING = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
connection.recv(65536)
connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 100\\r\\n\\r\\nhalf")
connection.recv(1)
"""


async def killed_server(reactor: Any) -> dict[str, Any]:
    process = subprocess.Popen([sys.executable, "-c", DYING], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    client = Client(reactor, dying=f"http://127.0.0.1:{int(process.stdout.readline())}")

    class Killing(Waiting):
        def data(self, data: bytes) -> None:
            super().data(data)
            process.kill()

    sink = Killing()
    request = UpstreamRequest("GET", "/", [], deadline=reactor.seconds() + 10, retries=3, idempotent=True)
    client.upstreams.request("dying", request, sink)
    await sink.done
    process.wait()
    after = await client.ask("dying")
    client.upstreams.stop()
    assert sink.failure is not None and after.failure is not None
    return {
        "body": sink.body,
        "during": (sink.kind, sink.failure.executed),
        "after": (after.kind, after.failure.executed),
    }


def test_a_server_that_is_killed_in_the_middle_of_its_answer() -> None:
    seen = run(killed_server)
    assert seen == {"body": b"half", "during": ("reset", True), "after": ("connect", False)}
