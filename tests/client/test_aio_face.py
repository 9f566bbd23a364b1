"""The asyncio face on real sockets, plain and TLS, against the fake gateway."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from accessgw.client.aio import CallFailed, CannotConnect, Client, Note, State
from accessgw.client.rtt import TCP_INFO_SIZE
from protocols.mmtp.handshake import Welcome
from protocols.mmtp.statuses import Status
from tests.client import tls_files
from tests.client.fake_gateway import FakeGateway, FakePost
from tests.client.patience import patience


class Server:
    """The fake gateway behind a port; `http/1.1` by ALPN, or by the first byte on a plain one."""

    def __init__(self, gateway: FakeGateway) -> None:
        self.gateway = gateway
        self.port = 0
        self.swallowing = False
        self.writers: list[asyncio.StreamWriter] = []
        self.accepted = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.writers.append(writer)
        tls = writer.get_extra_info("ssl_object")
        short = tls is not None and tls.selected_alpn_protocol() == "http/1.1"
        speaks: Any = FakePost(self.gateway) if short else self.gateway.accept(time.monotonic())
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if short:
                    answer = speaks.receive(data)
                elif self.swallowing:
                    continue
                else:
                    answer = speaks.receive(data, time.monotonic())
                writer.write(answer)
        writer.close()

    def deliver(self) -> None:
        link = self.gateway.links[-1]
        link.deliver()
        self.writers[-1].write(link.connection.to_send(time.monotonic()))


@contextlib.asynccontextmanager
async def serving(gateway: FakeGateway, context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(gateway)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for writer in server.writers:
            writer.transport.abort()
        await asyncio.sleep(0)


def bounded(test: Callable[[], Awaitable[None]]) -> None:
    async def inner() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(inner())


def server_context(directory: Path) -> tuple[Path, ssl.SSLContext]:
    ca, chain, key = tls_files.write(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    context.set_alpn_protocols(["mmtp/1", "http/1.1"])
    return ca, context


def test_calls_failures_and_topics() -> None:
    async def test() -> None:
        gateway = FakeGateway(statuses={"bad": 70})
        async with serving(gateway) as server, Client(f"mmtp://127.0.0.1:{server.port}", "d1", "t") as client:
            reply = await client.call("echo", {"名": 1}, headers={"X-Lang": "zh"})
            assert reply.body == b'echo:{"\xe5\x90\x8d":1}'
            assert client.state is State.CONNECTED
            assert client.round_trip is not None
            with pytest.raises(CallFailed, match="application 70") as caught:
                await client.call("bad")
            assert caught.value.reply is not None
            assert await client.subscriptions() == ["news/sport"]
            await client.subscribe("a", "b")
            assert json.loads(list(gateway.executed.values())[-1]) == {"topics": ["a", "b"]}
            gateway.hold.add("slow")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.call("slow"), 0.05)
            many = await asyncio.gather(*(client.call("echo", b"%d" % n) for n in range(200)))
            assert [r.body for r in many] == [b"echo:%d" % n for n in range(200)]
        assert client.state is State.CLOSED
        with pytest.raises(CallFailed):
            await client.call("echo")

    bounded(test)


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="the system has no clock that goes on in suspend")
def test_what_it_knows_of_the_gateways_clock_holds_after_the_device_has_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    asleep, read = [0.0], time.clock_gettime
    monkeypatch.setattr(
        time, "clock_gettime", lambda clock: read(clock) + (asleep[0] if clock == time.CLOCK_BOOTTIME else 0.0)
    )

    async def test() -> None:
        gateway = FakeGateway()
        async with serving(gateway) as server, Client(f"mmtp://127.0.0.1:{server.port}", "d1", "t") as client:
            await client.call("echo")
            asleep[0] = 3600.0
            server.writers[0].transport.abort()
            await client.call("echo")
            slept = gateway.hellos[-1].time - gateway.welcome.time
            assert 3600.0 <= slept < 3660.0

    bounded(test)


def test_pushes_are_acknowledged_when_the_next_is_asked_for(tmp_path: Path) -> None:
    async def test() -> None:
        gateway = FakeGateway()
        stream = ("device", "d1", "orders")
        gateway.log[stream] = [b"%d" % n for n in range(100)]
        async with serving(gateway) as server:
            url = f"mmtp://127.0.0.1:{server.port}"
            async with Client(url, "d1", "t", state_dir=tmp_path) as client:
                got = []
                async for push in client.pushes("orders"):
                    got.append(push.seq)
                    if push.seq == 90:
                        break
                assert got == list(range(1, 91))
                while client.core._pushes.hello_cursors()[0].seq < 89:
                    await asyncio.sleep(0.01)
            # another process of the same device goes on behind what was processed
            async with Client(url, "d1", "t", state_dir=tmp_path) as client:
                got = []
                async for push in client.pushes():
                    got.append(push.seq)
                    push.ack()
                    if push.seq == 100:
                        break
                assert got == list(range(90, 101))
        assert gateway.hellos[1].boot > gateway.hellos[0].boot

    bounded(test)


def test_an_interrupted_wait_loses_no_push() -> None:
    async def test() -> None:
        gateway = FakeGateway()
        async with serving(gateway) as server, Client(f"mmtp://127.0.0.1:{server.port}", "d1") as client:
            pushes = client.pushes()
            for seq in range(1, 20):
                waiting = asyncio.ensure_future(anext(pushes))
                await asyncio.sleep(0)
                gateway.push(("device", "d1", "x"), b"%d" % seq)
                server.deliver()
                await asyncio.sleep(0.002 if seq % 2 else 0)
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await waiting
                    continue
                assert (await anext(pushes)).seq == seq
            assert set(gateway.cursors.values()) <= set(range(20))

    bounded(test)


def test_streams_up_and_down_beyond_every_window() -> None:
    async def test() -> None:
        gateway = FakeGateway()
        chunk = bytes(range(256)) * 100
        sent = 0

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal sent
            for _ in range(40):
                sent += 1
                yield chunk

        async with serving(gateway) as server, Client(f"mmtp://127.0.0.1:{server.port}", "d1") as client:
            reply = await client.call_stream("stream.echo", chunks())
            assert (reply.ok, reply.headers) == (True, [("kind", "echo")])
            await client.call("echo")
            assert sent < 20, "what nobody takes holds the sender back"
            size = 0
            async for part in reply:
                size += len(part)
            assert size == 40 * len(chunk)
            # without a body, and an error
            gateway.statuses["bad"] = 404
            reply = await client.call_stream("bad")
            assert (reply.status, [part async for part in reply]) == (404, [b"bad:"])
            gateway.hold.add("slow")
            with pytest.raises(CallFailed, match="deadline"):
                await client.call_stream("slow", timeout=0.05)
            broken = client.call_stream("stream.echo", chunks())
            reply = await broken
            server.writers[-1].transport.abort()
            with pytest.raises(CallFailed, match="outcome_unknown"):
                async for _ in reply:
                    pass

    bounded(test)


def test_a_lost_connection_comes_back_with_its_calls() -> None:
    async def test() -> None:
        gateway = FakeGateway(hold={"slow"})
        async with serving(gateway) as server:
            async with Client(f"mmtp://127.0.0.1:{server.port}", "d1", backoff_initial=0.05) as client:
                slow = asyncio.ensure_future(client.call("slow"))
                while not gateway.executed:
                    await asyncio.sleep(0.005)
                gateway.hold.clear()
                server.writers[0].transport.abort()
                reply = await slow
                assert (reply.attempts, reply.via) == (2, "long")
            assert len(gateway.executed) == 1

    bounded(test)


def test_tls_verifies_and_short_connections_bridge_a_silent_one(tmp_path: Path) -> None:
    async def test() -> None:
        ca, context = server_context(tmp_path)
        gateway = FakeGateway()
        notes: list[Note] = []
        async with serving(gateway, context) as server:
            url = f"mmtps://127.0.0.1:{server.port}"
            async with Client(url, "d1", "t", ca=ca, on_note=notes.append) as client:
                with patience():
                    assert (await client.call("echo", b"1")).via == "long"
                assert len(client._tcp_info(1)) == TCP_INFO_SIZE
                server.swallowing = True
                reply = await client.call("echo", b"2")
                assert (reply.via, reply.body) == ("short", b"echo:2")
                assert "suspect" in {note.kind for note in notes}
                assert len(gateway.executed) == 2

    bounded(test)


@pytest.mark.parametrize("case", ["unknown authority", "another name", "no mmtp"])
def test_tls_refuses_what_it_cannot_trust(tmp_path: Path, case: str) -> None:
    async def test() -> None:
        ca, context = server_context(tmp_path)
        if case == "no mmtp":
            context.set_alpn_protocols(["http/1.1"])
        waiting = asyncio.Event()
        said: list[str] = []

        def state(state: State, status: int, message: str) -> None:
            said.append(message)
            if state is State.WAITING:
                waiting.set()

        gateway = FakeGateway()
        async with serving(gateway, context) as server:
            host = "localhost" if case == "another name" else "127.0.0.1"
            trusted = None if case == "unknown authority" else ca
            client = Client(f"mmtps://{host}:{server.port}", "d1", "secret", ca=trusted, on_state=state)
            connecting = asyncio.ensure_future(client.connect())
            await waiting.wait()
            await client.close()
            with pytest.raises(CannotConnect):
                await connecting
        assert not gateway.hellos, "no credentials before the server is known"
        assert ("ALPN" if case == "no mmtp" else "certificate") in "".join(said)

    bounded(test)


def test_insecure_must_be_asked_for(tmp_path: Path) -> None:
    async def test() -> None:
        _, context = server_context(tmp_path)
        gateway = FakeGateway()
        async with (
            serving(gateway, context) as server,
            Client(f"mmtps://localhost:{server.port}", "d1", insecure=True) as client,
        ):
            assert (await client.call("echo")).ok

    bounded(test)


def test_a_token_is_asked_for_when_the_gateway_refuses() -> None:
    async def test() -> None:
        gateway = FakeGateway(welcome=Welcome(result=Status.AUTH, message="expired"))

        async def fresh() -> str:
            gateway.welcome = Welcome(session="s")
            return "fresh"

        async with serving(gateway) as server:
            url = f"mmtp://127.0.0.1:{server.port}"
            async with Client(url, "d1", "stale", on_token=fresh) as client:
                assert (await client.call("echo")).ok
            assert [hello.token for hello in gateway.hellos] == ["stale", "fresh"]
            gateway.welcome = Welcome(result=Status.AUTH, message="expired")
            client = Client(url, "d1", "stale")
            with pytest.raises(CannotConnect, match="auth"):
                await client.connect()

    bounded(test)


def test_the_command_line() -> None:
    async def test() -> None:
        gateway = FakeGateway(statuses={"bad": Status.UPSTREAM_UNAVAILABLE})

        async def run(*args: str) -> tuple[int, str, str]:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "accessgw.client.cli", *args,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            out, err = await process.communicate()
            assert process.returncode is not None
            return process.returncode, out.decode(), err.decode()

        gateway.log[("device", "d1", "orders")] = ['{"文":1}'.encode(), b"\xff"]
        async with serving(gateway) as server:
            url = f"mmtp://127.0.0.1:{server.port}"
            codes = await asyncio.gather(
                run("call", "echo", '{"b":1}', "--url", url, "--device", "d1"),
                run("--url", url, "-v", "call", "bad"),
                run("listen", "--url", url, "--count", "2", "--biz", "orders", "--device", "d1"),
                run("call", "echo", "--url", "mmtp://127.0.0.1:1"),
                run("call", "echo", "{"),
            )
        assert [code for code, _, _ in codes] == [0, 1, 0, 3, 2]
        echo, bad, listen, nowhere, usage = codes
        assert echo[1] == 'echo:{"b":1}\n'
        assert "upstream_unavailable (19)" in bad[2]
        assert "-> HELLO" in bad[2]
        pushes = [json.loads(line) for line in listen[1].splitlines()]
        assert [push.get("payload", push.get("payload_hex")) for push in pushes] == [{"文": 1}, "ff"]
        assert nowhere[2].startswith("cannot connect to mmtp://127.0.0.1:1: ") and nowhere[2].count("mmtp://") == 1
        assert "expected JSON" in usage[2]

    bounded(test)


def test_connect_gives_up_waiting_and_says_what_was_wrong() -> None:
    async def late() -> CannotConnect:
        async with serving(FakeGateway()) as server:
            port = server.port
        refused = asyncio.Event()

        def on_state(state: State, status: int, message: str) -> None:
            if message:
                refused.set()

        client = Client(f"mmtp://127.0.0.1:{port}", device="d1", token="t", on_state=on_state)
        first = asyncio.ensure_future(client.connect(timeout=60.0))
        await refused.wait()
        try:
            with pytest.raises(CannotConnect) as caught:
                await client.connect(timeout=0.01)
            return caught.value
        finally:
            await client.close()
            with pytest.raises(CannotConnect):
                await first

    error = asyncio.run(late())
    assert error.status == Status.DEADLINE
    assert "127.0.0.1" in error.message
