"""Both faces keep header states, tables and dictionaries in the state directory, and begin with them the next time."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from accessgw.client import Client as TwistedClient
from accessgw.client.aio import Client, Note
from accessgw.client.cache import FOLDER
from protocols.mmtp.bundles import Bundle
from tests.client.patience import patience
from tests.client.test_aio_face import bounded, serving
from tests.client.test_twisted_face import later, listen
from tests.client.wire_gateway import ORDERS, TABLE, WireGateway
from tests.reactor_loop import run

HEADERS = {"x-shop": "north", "x-page": "cart"}
BODY = {"order": "202601", "state": "paid", "amount": "17.00", "currency": "CNY"}


def gateway_with_all() -> WireGateway:
    return WireGateway(offers=[ORDERS], offered_table=TABLE)


def check(gateway: WireGateway) -> None:
    """Of three runs the second began with table and dictionary, the third with header states, too."""
    first, second, third = gateway.hellos
    assert first.headers is None
    assert not first.bundle
    assert second.headers is not None
    assert (second.headers.table_digest, second.headers.up) == (TABLE.digest, 0)
    assert second.bundle == third.bundle == Bundle([ORDERS]).digest
    assert third.headers is not None
    assert third.headers.up
    assert third.headers.down
    assert (gateway.named, gateway.resumed, gateway.bundles_in_force) == (2, 2, 2)
    assert first.boot < second.boot < third.boot


def test_asyncio_runs_go_on_from_each_other(tmp_path: Path) -> None:
    async def test() -> None:
        gateway = gateway_with_all()
        async with serving(gateway) as server:
            for _ in range(3):
                url = f"mmtp://127.0.0.1:{server.port}"
                async with Client(url, "d1", "t", state_dir=tmp_path) as client:
                    for _ in range(3):
                        assert (await client.call("echo", BODY, headers=HEADERS)).attempts == 1
                    while not (gateway.held and gateway.tables_held):
                        await asyncio.sleep(0.005)
        check(gateway)

    bounded(test)
    assert len(list((tmp_path / FOLDER).iterdir())) == 3


async def twisted_runs(reactor: Any, directory: str) -> str:
    gateway = gateway_with_all()
    port, _ = listen(reactor, gateway)
    for _ in range(3):
        client = TwistedClient(
            f"mmtp://127.0.0.1:{port.getHost().port}", "d1", "t", reactor=reactor, state_dir=directory
        )
        await client.connect()
        for _ in range(3):
            assert (await client.call("echo", BODY, headers=HEADERS)).attempts == 1
        while not (gateway.held and gateway.tables_held):
            await later(reactor, 0.005)
        await client.close()
    await port.stopListening()
    check(gateway)
    return "checked"


def test_twisted_runs_go_on_from_each_other(tmp_path: Path) -> None:
    assert run(twisted_runs, str(tmp_path), timeout=90) == "checked"


def test_a_full_disk_is_told_and_costs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[Note] = []
    replace = os.replace

    def full(source: str, target: str) -> None:
        if FOLDER in Path(target).parts:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)

    async def test() -> None:
        gateway = gateway_with_all()
        async with serving(gateway) as server:
            url = f"mmtp://127.0.0.1:{server.port}"
            async with Client(url, "d1", "t", state_dir=tmp_path, on_note=notes.append) as client:
                for _ in range(3):
                    assert (await client.call("echo", BODY, headers=HEADERS)).ok
                while not (gateway.held and gateway.tables_held):
                    await asyncio.sleep(0.005)
        assert not list((tmp_path / FOLDER).iterdir())

    with patience():
        bounded(test)
    assert [note.kind for note in notes] == ["cache_failed"]


def test_without_a_directory_a_reconnection_goes_on_from_memory() -> None:
    async def test() -> None:
        gateway = WireGateway(offers=[ORDERS])
        async with serving(gateway) as server:
            url = f"mmtp://127.0.0.1:{server.port}"
            async with Client(url, "d1", "t", backoff_initial=0.01) as client:
                for _ in range(3):
                    await client.call("echo", BODY, headers=HEADERS)
                while not gateway.held:
                    await asyncio.sleep(0.005)
                server.writers[-1].transport.abort()
                end = time.monotonic() + 10
                while len(gateway.hellos) < 2 and time.monotonic() < end:
                    await asyncio.sleep(0.005)
                assert (await client.call("echo", BODY, headers=HEADERS)).ok
                assert (gateway.named, gateway.resumed, gateway.bundles_in_force) == (2, 2, 1)

    bounded(test)


def test_secret_and_metered_are_there_on_both_faces() -> None:
    async def test() -> None:
        gateway = gateway_with_all()
        sent: list[bytes] = []
        async with serving(gateway) as server:
            client = Client(f"mmtp://127.0.0.1:{server.port}", "d1", "t", metered=True)
            client.on_trace = lambda kind, data: sent.append(data) if kind == "send" else None
            assert client.metered
            await client.connect()
            long = "the same again and again " * 40
            await client.call("echo", long, secret=True)
            assert any(long.encode() in data for data in sent)
            sent.clear()
            await client.call("echo", long)
            assert not any(long.encode() in data for data in sent)
            assert not gateway.held
            client.metered = False
            assert not client.metered
            await client.close()

    bounded(test)
    client = TwistedClient("mmtp://127.0.0.1:1", "d1", "t", reactor=object.__new__(_Stopped), metered=True)
    assert client.metered


class _Stopped:
    """A reactor of which only the time is asked."""

    def seconds(self) -> float:
        return 0.0
