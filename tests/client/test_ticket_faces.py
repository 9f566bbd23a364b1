"""Both faces come back with tickets: calls in early data, what is kept on the disk, and gateways that do not take them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from accessgw.client import Client as TwistedClient
from accessgw.client.aio import Client as AsyncioClient
from tests.client.patience import patience
from tests.client.ticket_gateway import TicketServer
from tests.reactor_loop import run

Told = list[tuple[int, list[str]]]
ACCEPTED = "early_data accepted"


async def come_back(make: Callable[..., Any], times: int, **calls: Any) -> Told:
    """Start, ask, end, so many times; how often each call was sent, and what the client told."""
    seen: Told = []
    for number in range(times):
        notes: list[str] = []
        client = make(on_note=lambda note, notes=notes: notes.append(_told(note)))
        try:
            reply = await client.call("echo", b"%d" % number, timeout=15.0, **calls)
            assert reply.body == b"echo:%d" % number
            await client.connect(15.0)
        finally:
            await client.close()
        seen.append((reply.attempts, notes))
    return seen


async def stay(make: Callable[..., Any], times: int, **calls: Any) -> Told:
    """One client that asks so often."""
    seen: Told = []
    notes: list[str] = []
    client = make(on_note=lambda note: notes.append(_told(note)))
    for number in range(times):
        reply = await client.call("echo", b"%d" % number, timeout=15.0, **calls)
        assert reply.body == b"echo:%d" % number
        await client.connect(15.0)
        seen.append((reply.attempts, notes.copy()))
        notes.clear()
    await client.close()
    return seen


def _told(note: Any) -> str:
    return f"{note.kind} {note.message}" if note.kind == "early_data" else str(note.kind)


async def on_twisted(reactor: Any, life: str, url: str, times: int, calls: dict[str, Any], options: Any) -> Told:
    lives = {"come_back": come_back, "stay": stay}
    with patience():
        return await lives[life](partial(TwistedClient, url, "d1", "t", reactor=reactor, **options), times, **calls)


Live = Callable[..., Told]


@pytest.fixture(params=["asyncio", "twisted"])
def live(request: pytest.FixtureRequest) -> Live:
    """Lead the life of a device on one of the faces."""

    def on_face(life: Any, server: TicketServer, times: int, calls: dict[str, Any], **more: Any) -> Told:
        options = {"ca": str(server.ca), "backoff_initial": 0.01, "backoff_cap": 0.05, **more}
        if request.param == "twisted":
            told: Told = run(on_twisted, life.__name__, server.url, times, calls, options, timeout=90)
            return told
        with patience():
            return asyncio.run(life(partial(AsyncioClient, server.url, "d1", "t", **options), times, **calls))

    return on_face


def test_calls_ride_in_the_first_flights_of_later_runs(live: Live, tmp_path: Path) -> None:
    states = tmp_path / "states"
    with TicketServer(tmp_path, states=states) as server:
        told = live(come_back, server, 5, {"idempotent": True}, state_dir=str(states))
    assert told == [(1, []), *[(1, [ACCEPTED])] * 4]
    assert server.completed == [(False, ""), *[(True, "accepted")] * 4]
    # each ticket once, and gone from the disk before it is used
    assert len(set(server.shown)) == 4
    assert server.kept == []
    assert [hello.tickets for hello in server.gateway.hellos] == [3, 1, 1, 1, 1]
    assert len(server.gateway.executed) == 5


def test_what_may_have_an_effect_waits_for_the_hand_shake(live: Live, tmp_path: Path) -> None:
    states = tmp_path / "states"
    with TicketServer(tmp_path, states=states) as server:
        told = live(come_back, server, 2, {"idempotent": False}, state_dir=str(states))
    assert told == [(1, []), (1, [])]
    assert server.completed == [(False, ""), (True, "")]


def test_a_gateway_that_knows_no_ticket_costs_a_full_hand_shake(live: Live, tmp_path: Path) -> None:
    states = tmp_path / "states"
    with TicketServer(tmp_path, states=states) as server:
        server.unknown = {1}
        told = live(come_back, server, 3, {"idempotent": True}, state_dir=str(states))
    assert told == [(1, []), (1, ["ticket_refused", "early_data refused"]), (1, [ACCEPTED])]
    assert server.completed == [(False, ""), (False, "refused"), (True, "accepted")]
    assert [hello.tickets for hello in server.gateway.hellos] == [3, 3, 1]


def test_tickets_whose_keys_are_others_are_forgotten_and_the_device_connects_in_full(
    live: Live, tmp_path: Path
) -> None:
    states = tmp_path / "states"
    with TicketServer(tmp_path, states=states) as server:
        server.spoilt = {1}
        told = live(come_back, server, 3, {"idempotent": True}, state_dir=str(states))
    # the call may have been seen, for all that the device knows: it is sent again as a repetition
    assert told == [(1, []), (2, ["ticket_refused"]), (1, [ACCEPTED])]
    assert len(server.gateway.resent) == 1
    # the connection in between came to nothing
    assert server.completed == [(False, ""), (False, ""), (True, "accepted")]
    assert len(server.gateway.executed) == 3


def test_without_a_directory_a_lost_connection_is_resumed_from_memory(live: Live, tmp_path: Path) -> None:
    with TicketServer(tmp_path, states=tmp_path / "none") as server:
        server.dropped = {0}
        told = live(stay, server, 2, {"idempotent": True})
    assert len(told) == 2
    assert [resumed for resumed, _ in server.completed] == [False, True]
    assert len(server.gateway.executed) == 2


def test_the_command_line_shows_what_was_sent_in_early_data(tmp_path: Path) -> None:
    states = tmp_path / "states"
    told = []
    with TicketServer(tmp_path, states=states) as server:
        server.unknown = {2}
        for _ in range(3):
            done = subprocess.run(
                [
                    sys.executable, "-m", "accessgw.client.cli", "--url", server.url, "--ca", server.ca, "--device", "d1",
                    "--token", "secret", "--state-dir", states, "-v", "call", "echo", '{"n":1}', "--idempotent",
                ],
                capture_output=True, text=True, timeout=30, check=False,
            )  # fmt: skip
            assert (done.returncode, done.stdout) == (0, 'echo:{"n":1}\n')
            assert b"secret".hex(" ") not in done.stderr
            sent = [line for line in done.stderr.splitlines() if line.startswith(("->", "** early"))]
            told.append([line.split(",")[0].split("  ")[0] for line in sent])
    early = ["-> in early data: HELLO", "-> in early data: REQUEST"]
    assert told[0][:2] == ["-> HELLO", "-> REQUEST"]
    assert told[1][:3] == [*early, "** early_data: accepted"]
    assert "-> HELLO" not in told[1]
    # where nobody has seen it, it is sent again
    assert told[2][:5] == [*early, "** early_data: refused", "-> HELLO", "-> REQUEST"]
