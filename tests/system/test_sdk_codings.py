"""The SDK on a running gateway: it goes on from its header states through cuts, kills, and runs at the shell."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import pytest

from accessgw.client.aio import Client, Note
from tests.system.gateway_process import PATIENCE, Gateway
from tests.system.test_codings import BODY, DICTIONARIES, in_force, row_of, train
from tests.system.test_start_and_stop import STOPPED
from tests.system.upstream import Upstream

HEADERS = {"x-shop": "north", "x-page": "cart", "app-version": "7.1.0"}


@contextlib.asynccontextmanager
async def cutting_proxy(port: int, seed: int) -> AsyncIterator[int]:
    """Its port; every connection ends in the middle of something, in one of its directions."""
    random = Random(seed)
    serving: set[asyncio.Task[None]] = set()

    async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        left = 60 + int(random.expovariate(1 / 2000))
        with contextlib.suppress(OSError):
            while left and (data := await source.read(min(left, 700))):
                left -= len(data)
                target.write(data)
                await target.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        ours, theirs = await asyncio.open_connection("127.0.0.1", port)
        ways = [asyncio.create_task(carry(reader, theirs)), asyncio.create_task(carry(ours, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            writer.transport.abort()
            theirs.transport.abort()
            serving.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(serving):
            task.cancel()


def test_connections_cut_at_any_byte_go_on_and_each_call_is_executed_once(
    gateway: Gateway, upstream: Upstream, tmp_path: Path
) -> None:
    calls = 400
    notes: list[Note] = []

    async def run() -> None:
        async with cutting_proxy(gateway.plain, seed=4) as port:
            client = Client(
                f"mmtp://127.0.0.1:{port}", "cut", "device-token", state_dir=tmp_path / "device",
                backoff_initial=0.005, backoff_cap=0.02, on_note=notes.append,
            )  # fmt: skip
            window = asyncio.Semaphore(4)

            async def one(number: int) -> None:
                async with window:
                    headers = {**HEADERS, "x-trace-id": f"{number:032x}"}
                    body = {"number": number, "state": "paid"}
                    assert (await client.call(f"pay.{number % 5}", body, headers=headers, timeout=2 * PATIENCE)).ok

            await asyncio.gather(*(one(number) for number in range(calls)))
            await client.close()

    asyncio.run(asyncio.wait_for(run(), 2 * PATIENCE))
    executed = Counter(call_id for _, call_id in upstream.executed)
    assert len(executed) == calls
    assert set(executed.values()) == {1}
    resumed = gateway.metric("accessgw_header_states_resumed_total")
    missed = gateway.metric("accessgw_header_states_missed_total")
    assert resumed > 20
    assert resumed >= 0.95 * (resumed + missed), f"{resumed} resumed, {missed} missed"
    assert not [note for note in notes if note.kind == "protocol_error"]
    gateway.assert_sound()


def test_a_gateway_that_was_killed_and_one_that_has_lost_its_store(
    gateway: Gateway, upstream: Upstream, tmp_path: Path
) -> None:
    async def run() -> None:
        async with Client(
            f"mmtp://127.0.0.1:{gateway.plain}", "kept", "device-token", state_dir=tmp_path / "device"
        ) as client:
            for _ in range(5):
                assert (await client.call("pay", {"n": 1}, headers=HEADERS)).attempts == 1

    asyncio.run(run())
    gateway.wait_until(lambda: gateway.metric("accessgw_header_states_committed_total") >= 2)
    assert gateway.terminate() in STOPPED
    gateway.start()
    asyncio.run(run())
    assert gateway.metric("accessgw_header_states_resumed_total") == 2
    gateway.kill()
    for file in (gateway.directory / "state").glob("store.sqlite*"):
        file.unlink()
    gateway.start()
    asyncio.run(run())
    assert gateway.metric("accessgw_header_states_resumed_total") == 0
    assert len(upstream.executed) == 15
    gateway.assert_sound()


def test_a_dictionary_is_taken_kept_and_named(
    make_gateway: Callable[..., Gateway], upstream: Upstream, tmp_path: Path
) -> None:
    gateway = make_gateway(upstream=upstream.url, extra=DICTIONARIES).start()

    def client(number: int) -> Client:
        url = f"mmtp://127.0.0.1:{gateway.plain}"
        return Client(url, f"d{number}", f"token-of-{number}", app="shop", state_dir=tmp_path / "device")

    async def feed() -> None:
        clients = [client(number) for number in range(6)]
        for number in range(120):
            assert (await clients[number % 6].call("pay", BODY % number, raw=True)).ok
        for one in clients:
            await one.close()

    async def fetch() -> None:
        async with client(1) as one:
            for number in range(400):
                assert (await one.call("pay", BODY % number, raw=True)).ok
                if one.core.wire.memory.dictionaries:
                    return
                await asyncio.sleep(0.01)
        raise AssertionError("no dictionary came")

    async def use() -> None:
        """The device that has it, and a new one of the same app, which finds it in the directory."""
        for number in (1, 9):
            async with client(number) as one:
                for n in range(20):
                    assert (await one.call("pay", BODY % n, raw=True)).attempts == 1
                assert [dictionary.id for dictionary in one.core.wire.memory.dictionaries] == [id]

    asyncio.run(feed())
    id = train(gateway)
    in_force(gateway, id)
    asyncio.run(fetch())
    asyncio.run(use())
    row = row_of(gateway, id)
    assert row["bodies"] >= 40, "from the first call on"
    assert row["ratio"] < 0.7
    assert row["errors"] == 0
    assert gateway.metric("accessgw_dictionary_bundles_total", outcome="known") >= 2
    gateway.assert_sound()


@pytest.mark.parametrize("options", [(), ("--profile", "h"), ("--no-dictionaries",)])
def test_runs_at_the_shell_go_on_from_each_other(gateway: Gateway, tmp_path: Path, options: tuple[str, ...]) -> None:
    def run() -> str:
        program = Path(sys.executable).with_name("accessgw-client")
        done = subprocess.run(
            [
                program, "call", "pay", '{"n": 1}', "--url", f"mmtp://127.0.0.1:{gateway.plain}", "--device", "shell",
                "--token", "device-token", "--state-dir", str(tmp_path / "device"), "-v", *options,
            ],
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stderr

    first, second = run(), run()
    if "h" in options:
        assert "TABLE" not in first + second
        return
    assert "-> TABLE  start of table 1, from the empty state" in first
    assert "<- TABLE  checkpoint 1" in first
    assert "TABLE  start" not in second
    assert gateway.metric("accessgw_header_states_resumed_total") == 2
    gateway.assert_sound()
