"""The SDK through WebSocket: both faces against a running gateway, and what it does when the upgrade is refused."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from accessgw.client.aio import CannotConnect, Client, Note
from tests.reactor_loop import run
from tests.system.gateway_process import PATIENCE, Gateway


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_asyncio(gateway: Gateway, scheme: str) -> None:
    port = gateway.tls if scheme == "wss" else gateway.plain

    async def device() -> tuple[Any, Any]:
        client = Client(f"{scheme}://localhost:{port}/mmtp", "aio", "alice-token", ca=gateway.ca)
        try:
            await client.connect(timeout=PATIENCE)
            reply = await client.call("gw.subscriptions", idempotent=True)
            iterator = aiter(client.pushes("orders"))
            waiting = asyncio.ensure_future(anext(iterator))
            await asyncio.to_thread(gateway.push, {"device": "aio"}, {"number": 1})
            return reply.json(), (await asyncio.wait_for(waiting, PATIENCE)).json()
        finally:
            await client.close()

    assert asyncio.run(device()) == ({"topics": []}, {"number": 1})
    gateway.wait_until(lambda: gateway.metric("accessgw_sessions_connected") == 0)
    gateway.assert_sound()


async def twisted_device(reactor: Any, url: str, ca: Path) -> Any:
    from accessgw.client import Client as TwistedClient

    client = TwistedClient(url, "tx", "alice-token", ca=ca, reactor=reactor)
    await client.connect(timeout=PATIENCE)
    reply = await client.call("gw.subscriptions", idempotent=True)
    await client.close()
    return reply.json()


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_twisted(gateway: Gateway, scheme: str) -> None:
    port = gateway.tls if scheme == "wss" else gateway.plain
    assert run(twisted_device, f"{scheme}://localhost:{port}", gateway.ca) == {"topics": []}
    gateway.assert_sound()


def test_a_refused_upgrade_is_told(gateway: Gateway) -> None:
    notes: list[Note] = []

    async def device() -> None:
        url = f"ws://localhost:{gateway.plain}/elsewhere"
        client = Client(url, "lost", "alice-token", on_note=notes.append)
        try:
            await client.connect(timeout=5)
        finally:
            await client.close()

    with pytest.raises(CannotConnect, match="answered the upgrade with 404"):
        asyncio.run(device())
    assert any("404" in note.message for note in notes)


@pytest.mark.parametrize("scheme", ["ws", "wss", "mmtps"])
def test_the_command_line_shows_the_frames_inside(gateway: Gateway, scheme: str) -> None:
    url = f"{scheme}://localhost:{gateway.plain if scheme == 'ws' else gateway.tls}"
    done = subprocess.run(
        [
            sys.executable, "-m", "accessgw.client.cli", "--url", url, "--ca", gateway.ca, "--device", "shown",
            "--token", "alice-token", "-v", "call", "gw.subscriptions",
        ],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    arrows = [line for line in done.stderr.splitlines() if line.startswith(("->", "<-"))]
    assert not [line for line in arrows if "not a frame" in line]
    names = [" ".join(line.split()[:2]) for line in arrows]
    assert names[0] == "-> HELLO"
    assert names.index("<- WELCOME") < names.index("<- RESPONSE")
    assert names.count("-> REQUEST") == names.count("<- RESPONSE") == 1
    gateway.assert_sound()
