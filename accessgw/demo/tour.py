"""The scripted tour of `make demo`: calls, pushes, a lost connection, a black hole, MQTT. Exit code 0: all of it happened.

    python -m accessgw.demo.tour [--gateway mmtps://127.0.0.1:7443]

Without --gateway it starts a gateway and the demo upstream as its own children, and ends them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from accessgw.client.addresses import parse
from accessgw.client.aio import Client
from accessgw.client.model import CallFailed, CannotConnect, Note, Push, Reply, State
from accessgw.demo.children import Http, NotRunning, free_ports, start_gateway, start_upstream
from accessgw.demo.mqtt_tour import MqttTour, available
from accessgw.demo.place import Failed, Place, expect
from accessgw.demo.relay import Relay

LIMIT = 60.0
"""Seconds for the whole tour."""
TOPIC = "tour/news"
BIZ = "tour"


class Tour:
    """The steps, in order; each raises Failed or prints its tick."""

    def __init__(self, place: Place, relay: Relay, client: Client, directory: Path, console: Console) -> None:
        self._place = place
        self._directory = directory
        self._relay = relay
        self._client = client
        self._console = console
        self._pushes: asyncio.Queue[Push] = asyncio.Queue()
        self._seen: list[tuple[str, str, str, int, int]] = []
        self._states: list[State] = []
        self._notes: list[str] = []
        self._paid: list[str] = []
        client.on_state = lambda state, status, message: self._states.append(state)
        client.on_note = self._note

    async def run(self) -> None:
        """All steps."""
        listening = asyncio.ensure_future(self._listen())
        try:
            await self._connect()
            await self._call()
            await self._push()
            await self._lose()
            await self._black_hole()
            await self._mqtt()
            await self._check_ledger()
        finally:
            listening.cancel()
            await self._client.close()
        self._tick("left in order")

    # --- steps

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(4):
                await self._client.connect()
        except TimeoutError:
            raise Failed(f"expected a connection to {self._place.url}, had none in 4 s") from None
        expect(self._client.state is State.CONNECTED, f"expected to be connected, is {self._client.state.value}")
        trip = (self._client.round_trip or 0.0) * 1000
        self._tick(f"connected to {self._place.url}, session {self._client.session}, round trip {trip:.1f} ms")

    async def _call(self) -> None:
        reply = await self._pay("first", 1880)
        self._tick(f"payments.pay: {reply.json()['text']['en']} / {reply.json()['text']['zh']}  (via {reply.via})")
        reply = await self._client.call("feed.list", {"size": 3}, idempotent=True)
        items = reply.json()["items"]
        expect(len(items) == 3, f"expected 3 items of the feed, got {len(items)}")
        self._tick("feed.list:")
        for item in items:
            self._console.print(
                f"      {item['title']['zh']}  {item['title']['en']}  [dim]{item['id']}[/dim]", highlight=False
            )
        try:
            await self._client.call("payments.query", {"payment": "P-none"}, idempotent=True)
        except CallFailed as failure:
            self._tick(f"payments.query of a payment that is not there: {failure.name}")
        else:
            raise Failed("expected payments.query of an unknown payment to fail")

    async def _push(self) -> None:
        await self._client.subscribe(TOPIC)
        targets: list[tuple[str, dict[str, Any], str]] = [
            ("device", {"device": self._client.core.settings.device}, "您的订单已发货 Your order has left"),
            ("topic", {"topic": TOPIC}, "比赛开始 Kick-off"),
            ("broadcast", {"broadcast": True}, "系统将于凌晨维护 Maintenance at night"),
        ]
        if self._place.user:
            targets.insert(1, ("user", {"user": self._place.user}, "韩梅梅,您好 Hello, Han Meimei"))
        for scope, to, text in targets:
            await self._send(to, text)
            (push,) = await self._receive(1)
            expect((push.scope, push.json()["text"]) == (scope, text), f"expected {text!r} for {scope}, got {push}")
            self._tick(f"push to the {scope}: {text}")

    async def _lose(self) -> None:
        sent = len(self._states)
        self._relay.refusing = True
        expect(self._relay.cut() > 0, "expected a connection to cut")
        await self._until(
            lambda: State.WAITING in self._states[sent:] or State.CONNECTING in self._states[sent:], "loss"
        )
        self._tick("the network cut the connection, and refuses new ones")
        texts = [f"错过的消息 missed message {n}" for n in (1, 2, 3)]
        for text in texts:
            await self._send({"device": self._client.core.settings.device}, text)
        paying = asyncio.ensure_future(self._pay("while away", 500))
        await asyncio.sleep(0)
        self._relay.refusing = False
        got = [push.json()["text"] for push in await self._receive(3)]
        expect(got == texts, f"expected the missed pushes once and in order, got {got}")
        reply = await paying
        self._tick(f"the network is back: 3 missed pushes came, each once and in order: {', '.join(got)}")
        self._tick(f"a payment made meanwhile went through: {reply.json()['payment']} (via {reply.via})")
        await self._until(lambda: self._client.state is State.CONNECTED, "reconnection")

    async def _black_hole(self) -> None:
        reply = await self._client.call("feed.list", {"size": 1}, idempotent=True)
        expect(self._relay.swallow() > 0, "expected a connection to swallow")
        self._tick("the network now swallows every byte of the long connection, and tells nobody")
        reply = await self._pay("in the black hole", 20)
        expect(reply.via == "short", f"expected the answer over a short connection, it came over the {reply.via}")
        expect(self._relay.swallowed > 0, "expected bytes to be swallowed")
        expect("suspect" in self._notes, "expected the client to notice")
        self._tick(
            f"payments.pay answered over a short connection after {reply.elapsed * 1000:.0f} ms,"
            f" while {self._relay.swallowed} bytes were swallowed: {reply.json()['text']['zh']}"
        )
        for _ in range(100):
            reply = await self._client.call("feed.list", {"size": 1}, idempotent=True)
            if reply.via == "long":
                break
            await asyncio.sleep(0.1)
        expect(reply.via == "long", "expected a new long connection")
        await self._send({"device": self._client.core.settings.device}, "一切恢复正常 All is well again")
        (push,) = await self._receive(1)
        self._tick(f"a new long connection serves calls and pushes: {push.json()['text']}")

    async def _mqtt(self) -> None:
        if self._place.mqtt:
            steps = MqttTour(self._place, self._directory, self._tick)
            await steps.run()
            self._paid += steps.paid

    async def _check_ledger(self) -> None:
        status, ledger = await asyncio.to_thread(self._place.upstream.request, "GET", "/ledger")
        expect(status == 200, f"expected the upstream's ledger, got {status} {ledger}")
        counts = {call: ledger["by_call"].get(call) for call in self._paid}
        expect(all(count == 1 for count in counts.values()), f"expected each payment to be executed once, got {counts}")
        self._tick(f"the upstream executed each of the {len(counts)} payments exactly once")

    # --- parts of steps

    async def _pay(self, order: str, amount: int) -> Reply:
        reply = await self._client.call("payments.pay", {"order": order, "amount": amount}, timeout=15)
        self._paid.append(reply.json()["call"])
        return reply

    async def _send(self, to: dict[str, Any], text: str) -> None:
        body = {"to": to, "biz": BIZ, "payload": {"text": text}}
        status, answer = await asyncio.to_thread(self._place.control.request, "POST", "/v1/push", body)
        expect(status == 200, f"expected 200 for a push, got {status} {answer}")

    async def _listen(self) -> None:
        async for push in self._client.pushes(BIZ):
            self._pushes.put_nowait(push)

    async def _receive(self, count: int) -> list[Push]:
        got: list[Push] = []
        try:
            async with asyncio.timeout(12):
                while len(got) < count:
                    push = await self._pushes.get()
                    place = (*push.stream, push.epoch, push.seq)
                    expect(place not in self._seen, f"a push came twice: {push}")
                    self._seen.append(place)
                    got.append(push)
        except TimeoutError:
            raise Failed(f"expected {count} pushes, got {len(got)}") from None
        return got

    async def _until(self, true: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(12):
                while not true():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise Failed(f"expected {what}, did not see it in 12 s") from None

    def _note(self, note: Note) -> None:
        self._notes.append(note.kind)

    def _tick(self, text: str) -> None:
        self._console.print(f"  [green]✓[/green] {text}", highlight=False)


async def prepare(args: argparse.Namespace, stack: AsyncExitStack, directory: Path, console: Console) -> Place:
    """The gateway that was named, or one of our own."""
    if args.gateway:
        control_api = Http(args.control, args.push_token)
        return Place(args.gateway, args.mqtt, args.token, args.ca, control_api, Http(args.upstream), args.user)
    tls, mqtt, control, upstream = free_ports(4)
    console.print("  starting the demo upstream and a gateway …", style="dim")
    service = start_upstream(directory, upstream)
    stack.push_async_callback(service.end)
    gateway = start_gateway(directory, tls=tls, mqtt=mqtt, control=control, upstream=upstream)
    stack.push_async_callback(gateway.end)
    place = Place(
        f"mmtps://127.0.0.1:{tls}",
        f"127.0.0.1:{mqtt}",
        "tour-device",
        str(directory / "state" / "ca.pem"),
        Http(f"http://127.0.0.1:{control}", "tour-push"),
        Http(f"http://127.0.0.1:{upstream}"),
        "hanmeimei",
        (service, gateway),
    )
    await service.until(lambda: place.upstream.ok("/health"))
    await gateway.until(lambda: place.control.ok("/health/ready"))
    return place


async def tour(args: argparse.Namespace, console: Console) -> str:
    """Everything; raises what went wrong. What was left out, if anything."""
    left_out = ""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="accessgw-tour-")))
        place = await prepare(args, stack, directory, console)
        if place.mqtt and not available():
            place.mqtt, left_out = "", "amqtt is not installed (the extra `demo`)"
        address = parse(place.url)
        relay = Relay(address.host, address.port)
        await relay.start()
        stack.push_async_callback(relay.stop)
        client = Client(
            f"{address.scheme}://127.0.0.1:{relay.port}",
            f"tour-{os.getpid()}",
            place.token,
            app="tour",
            app_version="1.0",
            ca=place.ca,
            state_dir=directory / "device",
        )
        try:
            await Tour(place, relay, client, directory, console).run()
        except BaseException:
            for child in place.children:
                console.print(f"  {child.name} said:\n{child.said()}", style="dim", markup=False, highlight=False)
            raise
    return left_out


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m accessgw.demo.tour", description="A scripted tour; exit code 0 if all of it happened."
    )
    parser.add_argument("--gateway", metavar="URL", help="use this gateway instead of one of its own")
    parser.add_argument(
        "--mqtt",
        default="127.0.0.1:1883",
        metavar="HOST:PORT",
        help="its plain MQTT listener; %(default)s, empty: without MQTT",
    )
    parser.add_argument("--token", default="dev-device", help="device token there; %(default)s")
    parser.add_argument("--user", default="", help="the user whom that token signs in, if any")
    parser.add_argument("--ca", default="var/ca.pem", help="its authority; %(default)s")
    parser.add_argument(
        "--control", default="http://127.0.0.1:7900", metavar="URL", help="its control API; %(default)s"
    )
    parser.add_argument("--push-token", default="dev-push", help="token of the control API; %(default)s")
    parser.add_argument(
        "--upstream", default="http://127.0.0.1:7800", metavar="URL", help="its demo upstream; %(default)s"
    )
    args = parser.parse_args(argv)
    console = Console(soft_wrap=True)

    async def bounded() -> str:
        async with asyncio.timeout(LIMIT):
            return await tour(args, console)

    try:
        left_out = asyncio.run(bounded())
    except TimeoutError:
        problem = f"the tour did not finish within {LIMIT:g} s"
    except (Failed, NotRunning, CallFailed, CannotConnect, OSError, ValueError) as error:
        problem = f"{error}"
    except KeyboardInterrupt:
        problem = "interrupted"
    else:
        if left_out:
            console.print(f"  [yellow]–[/yellow] no MQTT devices: {left_out}", highlight=False)
        console.print(f"All of it happened{', but for MQTT' if left_out else ''}.", style="bold green")
        return
    console.print(f"  [red]✗[/red] {problem}", highlight=False)
    sys.exit(1)


if __name__ == "__main__":
    main()
