"""Tickets and early data of the SDK at a running gateway, and what a recorded first flight does there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from accessgw.client.aio import Client, Note
from tests.protocols.tls.tls_links import Issuer
from tests.system.gateway_process import PATIENCE, ROOT, Gateway
from tests.system.replays import make_old_register
from tests.system.upstream import Upstream


@pytest.fixture
def early_gateway(make_gateway: Callable[..., Gateway], upstream: Upstream) -> Gateway:
    return with_early_data(make_gateway(upstream=upstream.url)).start()


def with_early_data(gateway: Gateway) -> Gateway:
    text = gateway.config.read_text()
    gateway.config.write_text(text.replace('transport = "tls"\n', 'transport = "tls"\nearly_data = 16384\n', 1))
    make_old_register(gateway)
    return gateway


class Device:
    """A device whose application starts again and again."""

    def __init__(self, gateway: Gateway, directory: Path, port: int = 0, name: str = "phone1") -> None:
        self.gateway = gateway
        self.directory = directory
        self.port = port or gateway.tls
        self.name = name
        self.own: dict[str, Path] = {}
        """Its certificate and key."""
        self.notes: list[str] = []

    @contextlib.asynccontextmanager
    async def started(self) -> AsyncIterator[Client]:
        client = Client(
            f"mmtps://127.0.0.1:{self.port}", self.name, "device-token", ca=self.gateway.ca, state_dir=self.directory, **self.own,
            on_note=self.note, patience=PATIENCE, backoff_initial=0.01, backoff_cap=0.05,
        )  # fmt: skip
        try:
            yield client
        finally:
            await client.close()

    def note(self, note: Note) -> None:
        if note.kind not in ("suspect", "goaway"):
            self.notes.append(f"{note.kind} {note.message}" if note.kind == "early_data" else note.kind)

    async def ask(self, operation: str = "query.balance", *, idempotent: bool = True) -> int:
        """Start, ask, end; how often the call was sent."""
        self.notes.clear()
        async with self.started() as client:
            reply = await client.call(operation, {"n": 1}, idempotent=idempotent, timeout=PATIENCE)
            assert reply.json()["device"] == self.name
            await client.connect()
            return reply.attempts

    async def ready(self) -> None:
        """Until the gateway has been up for so long that it takes early data."""
        for _ in range(400):
            if await self.ask() == 1 and self.notes == ["early_data accepted"]:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"no early data is taken: {self.notes}")


def test_calls_of_a_returning_device_ride_in_its_first_flight(
    early_gateway: Gateway, upstream: Upstream, tmp_path: Path
) -> None:
    async def run() -> None:
        device = Device(early_gateway, tmp_path / "device")
        assert await device.ask() == 1
        assert device.notes == []
        await device.ready()
        executed = len(upstream.executed)
        resumed = early_gateway.metric("accessgw_header_states_resumed_total")
        for _ in range(5):
            assert await device.ask() == 1
            assert device.notes == ["early_data accepted"]
        assert len(upstream.executed) == executed + 5
        # what HELLO names in early data holds after WELCOME
        assert early_gateway.metric("accessgw_header_states_resumed_total") >= resumed + 5
        # what may have an effect waits for the hand-shake: refused in early data, or not sent there at all
        assert await device.ask("pay", idempotent=True) == 2
        assert device.notes == ["early_data accepted"]
        assert await device.ask("pay", idempotent=False) == 1
        assert device.notes == []
        assert len(upstream.executed) == executed + 7

    asyncio.run(run())
    early_gateway.assert_sound()


def test_the_access_log_tells_resumption_early_data_and_wrong_clocks(
    make_gateway: Callable[..., Gateway], upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = make_gateway(upstream=upstream.url)
    gateway.log_accesses()
    with_early_data(gateway).start()
    device = Device(gateway, tmp_path / "device")

    def lines(event: str) -> list[dict[str, Any]]:
        return [row for row in gateway.accesses() if row["event"] == event and row["listener"] == "phones"]

    async def run() -> None:
        await device.ready()
        accepted = gateway.metric("accessgw_tls_early_data_accepted_total")
        now = time.time
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: now() - 60.0)  # of this process, not of the gateway
            assert await device.ask() == 2
        assert gateway.metric("accessgw_tls_early_data_accepted_total") == accepted + 1  # by the register

    asyncio.run(run())
    gateway.wait_until(lambda: bool(lines("early_refused")))
    (untimely,) = lines("early_refused")
    assert (untimely["reason"], untimely["device"]) == ("clock", "phone1")
    assert -61.0 < untimely["clock_ahead"] < -59.0
    first, *_ = opens = lines("open")
    assert not {"resumed", "early"} & first.keys()
    *_, last = [row for row in opens if row["connection_id"] <= untimely["connection_id"]]
    assert last["connection_id"] == untimely["connection_id"]
    assert (last["resumed"], last["early"], last["tls_version"]) == (True, True, "TLSv1.3")
    assert gateway.metric("accessgw_tls_early_data_refused_total", reason="clock") == 1
    gateway.assert_sound()


def test_the_line_of_the_manual_shows_early_data(
    make_gateway: Callable[..., Gateway], upstream: Upstream, tmp_path: Path
) -> None:
    (line,) = re.findall(r"^    (accessgw-client .*--idempotent)$", (ROOT / "docs/ops/tls.md").read_text(), re.M)
    _, *words = shlex.split(line)
    words[words.index("--state-dir") + 1] = str(tmp_path / "shell")
    operation = words[words.index("call") + 1]
    route = f'\n[[routes]]\noperation = "{operation}"\ncluster = "business"\nidempotent = true\n'
    gateway = with_early_data(make_gateway(upstream=upstream.url, extra=route)).start()
    asyncio.run(Device(gateway, tmp_path / "other", name="other").ready())
    where = ["--url", f"mmtps://127.0.0.1:{gateway.tls}", "--ca", str(gateway.ca), "--token", "device-token"]
    said = []
    upstream.executed.clear()
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "accessgw.client.cli", *where, *words],
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["device"] == words[words.index("--device") + 1]
        said.append(done.stderr)
    assert "early data" not in said[0]
    assert "-> HELLO" in said[0]
    assert "** early_data: accepted" in said[1]
    assert "-> in early data: HELLO" in said[1]
    assert "-> in early data: REQUEST" in said[1]
    assert "-> HELLO" not in said[1]
    assert [path for path, _ in upstream.executed] == [f"/{operation}"] * 2
    gateway.assert_sound()


def test_a_lost_key_store_is_one_full_hand_shake(
    make_gateway: Callable[..., Gateway], upstream: Upstream, tmp_path: Path
) -> None:
    gateway = with_early_data(make_gateway(upstream=upstream.url)).start()
    device = Device(gateway, tmp_path / "device")

    asyncio.run(device.ask())
    gateway.terminate()
    shutil.rmtree(gateway.directory / "state" / "keys")
    gateway.start()
    upstream.executed.clear()

    async def after() -> None:
        assert await device.ask() == 1  # TLS refused the early data: nobody had seen it
        assert device.notes == ["ticket_refused", "early_data refused"]
        assert len(upstream.executed) == 1
        await device.ask()
        assert device.notes == ["early_data accepted"]

    asyncio.run(after())


class FlightTap:
    """A relay that keeps the first thing that a device says on each connection."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.first: list[bytes] = []
        self.port = 0

    async def __aenter__(self) -> FlightTap:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ours, theirs = await asyncio.open_connection("127.0.0.1", self._target)
        self.first.append(b"")
        number = len(self.first) - 1

        async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter, up: bool) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    if up and not self.first[number]:
                        self.first[number] = data
                    target.write(data)
            target.close()

        await asyncio.gather(carry(reader, theirs, True), carry(ours, writer, False))


def replay(gateway: Gateway, flight: bytes) -> bool:
    """Whether the gateway sent its first flight, which it does when it has read the early data."""
    with (
        contextlib.suppress(ConnectionError),  # one address may not open connections without end
        socket.create_connection(("127.0.0.1", gateway.tls)) as sock,
    ):
        sock.settimeout(PATIENCE)
        sock.sendall(flight)
        return bool(sock.recv(65536))
    return False


async def show(gateway: Gateway, flight: bytes, times: int) -> None:
    """Until the gateway has read it so often."""
    answered = 0
    while answered < times:
        answered += sum(await asyncio.gather(*(asyncio.to_thread(replay, gateway, flight) for _ in range(8))))


def test_a_recorded_first_flight_takes_effect_once_and_leaves_the_session_alone(
    early_gateway: Gateway, upstream: Upstream, tmp_path: Path
) -> None:
    replays = 1000

    async def run() -> None:
        async with FlightTap(early_gateway.tls) as tap:
            device = Device(early_gateway, tmp_path / "device", tap.port)
            await device.ask()
            await device.ready()
            upstream.executed.clear()
            async with device.started() as client:
                device.notes.clear()
                assert (await client.call("query.balance", {"n": 1}, idempotent=True)).attempts == 1
                assert device.notes == ["early_data accepted"]
                assert len(upstream.executed) == 1
                await client.connect()
                flight, session, connections = tap.first[-1], client.session, len(tap.first)
                await show(early_gateway, flight, replays)
                refused = early_gateway.metric("accessgw_tls_early_data_refused_total", reason="replay")
                assert refused >= replays
                assert len(upstream.executed) == 1
                # the same connection, the same session, and pushes come
                early_gateway.push({"device": "phone1"}, {"n": 7})
                push = await asyncio.wait_for(anext(client.pushes()), PATIENCE)
                assert push.json() == {"n": 7}
                assert (await client.call("pay", {})).attempts == 1
                assert (client.session, len(tap.first)) == (session, connections)
            assert len(upstream.executed) == 2

    asyncio.run(run())
    early_gateway.assert_sound()


def test_two_processes_with_one_register_take_a_first_flight_once(
    make_gateway: Callable[..., Gateway], upstream: Upstream, tmp_path: Path
) -> None:
    shared = f'\n[tls]\nkey_store = "{tmp_path / "shared"}"\n'
    one, other = (with_early_data(make_gateway(upstream=upstream.url, extra=shared)).start() for _ in range(2))
    replays = 500

    async def run() -> None:
        async with FlightTap(one.tls) as tap:
            device = Device(one, tmp_path / "device", tap.port)
            await device.ask()
            await device.ready()
            upstream.executed.clear()
            async with device.started() as client:
                device.notes.clear()
                assert (await client.call("query.balance", {"n": 1}, idempotent=True)).attempts == 1
                assert device.notes == ["early_data accepted"]
                await client.connect()
                flight, session = tap.first[-1], client.session
                for gateway in (other, one):
                    before = gateway.metric("accessgw_tls_early_data_accepted_total")
                    await show(gateway, flight, replays)
                    assert gateway.metric("accessgw_tls_early_data_refused_total", reason="replay") >= replays
                    assert gateway.metric("accessgw_tls_early_data_accepted_total") == before
                assert len(upstream.executed) == 1
                one.push({"device": "phone1"}, {"n": 7})
                assert (await asyncio.wait_for(anext(client.pushes()), PATIENCE)).json() == {"n": 7}
                assert client.session == session

    asyncio.run(run())
    one.assert_sound()
    other.assert_sound()


def test_a_used_ticket_that_comes_back_costs_no_call(
    early_gateway: Gateway, upstream: Upstream, tmp_path: Path
) -> None:
    """As after a power failure: the file of tickets is not forced to the disk when one is taken out."""

    async def run() -> None:
        device = Device(early_gateway, tmp_path / "device")
        await device.ask()
        await device.ready()
        files = [path for path in (tmp_path / "device").rglob("*") if "ticket" in str(path) and path.is_file()]
        assert files
        kept = {path: path.read_bytes() for path in files}
        for _ in range(2):
            executed = len(upstream.executed)
            assert await device.ask() == 1
            assert device.notes == ["early_data accepted"]
            assert len(upstream.executed) == executed + 1
            assert any(path.read_bytes() != content for path, content in kept.items())
            for path, content in kept.items():
                path.write_bytes(content)

    asyncio.run(run())
    early_gateway.assert_sound()


def test_no_connection_fails_while_ticket_secrets_are_rotated(
    make_gateway: Callable[..., Gateway], upstream: Upstream, tmp_path: Path
) -> None:
    gateway = with_early_data(make_gateway(upstream=upstream.url)).start()

    async def run() -> None:
        devices = [Device(gateway, tmp_path / "state", name=f"phone{number}") for number in range(4)]
        for device in devices:
            await device.ask()

        def epochs() -> set[str]:
            """First bytes of the tickets that the devices hold: the secret that made them."""
            files = (tmp_path / "state" / "tickets").glob("*.json")
            return {ticket[0][:2] for file in files for ticket in json.loads(file.read_text())["tickets"]}

        async def load(device: Device) -> None:
            while not after:
                await device.ask()
                seen[device.name] += device.notes

        seen: dict[str, list[str]] = {device.name: [] for device in devices}
        after: set[str] = set()
        before = epochs()
        loads = [asyncio.create_task(load(device)) for device in devices]
        status, answer = await asyncio.to_thread(gateway.http, "POST", "/v1/keys/rotate", {}, "t-operate")
        assert status == 200, answer
        for _ in range(600):
            await asyncio.sleep(0.05)
            if not epochs() & before:  # all of the old ones were used
                break
        after = epochs()
        await asyncio.gather(*loads)
        assert after
        assert not after & before
        assert {note for notes in seen.values() for note in notes} == {"early_data accepted"}

    asyncio.run(run())
    gateway.assert_sound()


def test_a_revoked_device_connects_in_full(
    make_gateway: Callable[..., Gateway], upstream: Upstream, tmp_path: Path
) -> None:
    gateway = with_early_data(make_gateway(upstream=upstream.url)).start()
    device = Device(gateway, tmp_path / "device")

    async def run() -> None:
        await device.ask()
        status, answer = await asyncio.to_thread(
            gateway.http, "POST", "/v1/keys/revoke", {"device": "phone1"}, "t-operate"
        )
        assert status == 200, answer
        await device.ask()
        assert device.notes == ["early_data accepted", "ticket_refused"]

    asyncio.run(run())


def test_a_certificate_is_shown_once_and_stands_behind_the_tickets(
    make_gateway: Callable[..., Gateway], upstream: Upstream, tmp_path: Path
) -> None:
    authority = Issuer("devices")
    (tmp_path / "devices.pem").write_bytes(authority.pem)
    vault = '\n[[routes]]\noperation = "vault"\ncluster = "business"\nrequire = "certificate"\nidempotent = true\n'
    gateway = with_early_data(make_gateway(upstream=upstream.url, extra=vault))
    text = gateway.config.read_text()
    asks = f'client_certificates = "require"\nclient_ca = "{tmp_path / "devices.pem"}"\n'
    gateway.config.write_text(text.replace('transport = "tls"\n', f'transport = "tls"\n{asks}', 1))
    gateway.start()
    device = Device(gateway, tmp_path / "device")
    own = authority.issue("phone1")
    device.own = {"cert": tmp_path / "own.pem", "key": tmp_path / "own.key"}
    device.own["cert"].write_bytes(own.chain)
    device.own["key"].write_bytes(own.key)

    async def run() -> None:
        assert await device.ask("vault") == 1
        for _ in range(3):
            await device.ask("vault")
            assert device.notes == ["early_data accepted"]
        assert gateway.metric("accessgw_tls_handshakes_full_total") == 1

    asyncio.run(run())
    gateway.assert_sound()


def test_a_gateway_killed_between_an_early_call_and_its_answer(
    make_gateway: Callable[..., Gateway], upstream: Upstream, tmp_path: Path
) -> None:
    gateway = with_early_data(make_gateway(upstream=upstream.url)).start()
    device = Device(gateway, tmp_path / "device")

    async def run() -> None:
        await device.ask()
        await device.ready()
        upstream.executed.clear()
        while upstream.arrived.acquire(blocking=False):
            pass
        async with device.started() as client:
            call = asyncio.ensure_future(client.call("query.hold", {"n": 1}, idempotent=True, timeout=PATIENCE))
            await asyncio.to_thread(upstream.arrived.acquire)
            gateway.kill()
            upstream.release.set()
            await asyncio.to_thread(gateway.start)
            reply = await call
        assert reply.attempts >= 2
        assert {call_id for _, call_id in upstream.executed} == {upstream.executed[0][1]}

    asyncio.run(run())
