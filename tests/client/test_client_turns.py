"""What an application asks for in one turn of its event loop leaves in one write, in one TLS record: on both faces."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from accessgw.client import Client as TwistedClient
from accessgw.client import commands as c
from accessgw.client.aio import Client
from accessgw.client.model import CallFailed
from protocols.mmtp.statuses import Status
from tests.client import tls_files
from tests.client.driver import Driver
from tests.client.fake_gateway import FakeGateway
from tests.client.patience import patience
from tests.client.test_aio_face import bounded, server_context, serving
from tests.client.test_twisted_face import listen
from tests.reactor_loop import run
from tests.tls_tap import TlsTap

STREAM = ("device", "d1", "orders")
ANSWERS = [b"echo:0", b"echo:1", b"echo:2"]


def test_asyncio_three_calls_and_an_acknowledgement_are_one_record(tmp_path: Path) -> None:
    ca, context = server_context(tmp_path)

    async def test() -> None:
        gateway = FakeGateway()
        gateway.log[STREAM] = [b"1", b"2"]
        async with serving(gateway, context) as server:
            with TlsTap(server.port) as tap:
                url = f"mmtps://127.0.0.1:{tap.port}"
                async with Client(url, "d1", "t", ca=ca) as client:
                    pushes = client.pushes("orders")
                    first = await anext(pushes)
                    await client.call("echo", b"before")  # all that the hand-shake brought about has left
                    for acknowledged, ack_first in ((1, True), (2, False)):
                        tap.mark()
                        if ack_first:
                            first.ack()
                        calls = [asyncio.ensure_future(client.call("echo", b"%d" % n)) for n in range(3)]
                        if not ack_first:
                            calls.append(asyncio.ensure_future(anext(pushes)))  # acknowledges when it asks for the next
                            await asyncio.sleep(0)
                        replies = await asyncio.gather(*calls[:3])
                        assert [reply.body for reply in replies] == ANSWERS
                        assert len(tap.records("up")) == 1
                        if ack_first:
                            assert gateway.links[-1].acked == [(STREAM, acknowledged)]
                            await anext(pushes)
                        else:
                            assert gateway.links[-1].acked == [(STREAM, 1), (STREAM, acknowledged)]
                            calls[3].cancel()

    with patience():
        bounded(test)


async def twisted(reactor: Any, ca: str, chain: str, key: str) -> list[Any]:
    with patience():
        return await records_of_turns(reactor, ca, chain, key)


async def records_of_turns(reactor: Any, ca: str, chain: str, key: str) -> list[Any]:
    gateway = FakeGateway()
    gateway.log[STREAM] = [b"1"]
    port, _ = listen(reactor, gateway, chain, key)
    seen: list[Any] = []
    with TlsTap(port.getHost().port) as tap:
        client = TwistedClient(f"mmtps://127.0.0.1:{tap.port}", "d1", "t", reactor=reactor, ca=ca)
        await client.connect()
        push = await anext(client.pushes("orders"))
        await client.call("echo", b"before")
        tap.mark()
        calls = [client.call("echo", b"0"), client.call("echo", b"1")]
        push.ack()
        calls.append(client.call("echo", b"2"))
        replies = await gatherResults(calls)
        seen += [[reply.body for reply in replies], len(tap.records("up")), gateway.links[-1].acked]

        # what callbacks ask for when an answer comes leaves in one record as well, at once
        tap.mark()
        more: Deferred[Any] = client.call("echo", b"x")
        more.addCallback(lambda _: gatherResults([client.call("echo", b"%d" % n) for n in range(3)]))
        seen += [[reply.body for reply in await more], len(tap.records("up"))]

        # the last wishes leave before the connection does
        last = client.call("echo", b"last")
        last.addErrback(lambda failure: failure.trap(CallFailed))
        await client.close()
        seen.append(b"last" in gateway.executed.values())
    seen.append([call for call in reactor.getDelayedCalls() if "Client" in repr(call)])
    await port.stopListening()
    return seen


def test_twisted_three_calls_and_an_acknowledgement_are_one_record(tmp_path: Path) -> None:
    ca, chain, key = tls_files.write(tmp_path)
    seen = run(twisted, str(ca), str(chain), str(key), timeout=90)
    assert seen == [ANSWERS, 1, [(STREAM, 1)], ANSWERS, 2, True, []]


def test_asyncio_wishes_of_the_turn_of_close_leave_before_it() -> None:
    async def test() -> None:
        gateway = FakeGateway(hold={"slow"})
        async with serving(gateway) as server:
            client = Client(f"mmtp://127.0.0.1:{server.port}", "d1", "t")
            await client.connect()
            call = asyncio.ensure_future(client.call("slow", b"last"))
            await asyncio.sleep(0)
            assert client.core.unsettled
            await client.close()
            assert isinstance(call.exception(), CallFailed)
            while b"last" not in gateway.executed.values():
                await asyncio.sleep(0.01)

    bounded(test)


def test_a_call_that_is_cancelled_in_its_turn_never_leaves() -> None:
    driver = Driver()
    before = len(driver.kinds(c.Write))
    key = driver.core.call("echo", [], b"x", timeout=5.0, idempotent=False, now=driver.now)
    driver.core.cancel(key, driver.now)
    driver.run()
    outcome = driver.outcomes[key]
    assert isinstance(outcome, CallFailed)
    assert outcome.status == Status.CANCELLED
    assert len(driver.kinds(c.Write)) == before
    assert driver.gateway.executed == {}


def test_a_call_whose_connection_is_lost_in_its_turn_goes_over_the_next() -> None:
    driver = Driver()
    key = driver.core.call("echo", [], b"x", timeout=5.0, idempotent=False, now=driver.now)
    driver.lose()
    driver.advance(2.0)
    outcome = driver.outcomes[key]
    assert not isinstance(outcome, CallFailed)
    assert (outcome.body, outcome.attempts) == (b"echo:x", 1)


def test_a_call_counts_its_time_from_its_wish() -> None:
    driver = Driver()
    driver.black_hole = True
    key = driver.core.call("echo", [], b"x", timeout=0.5, idempotent=False, now=driver.now)
    assert driver.core.calls.next_timer() == driver.now + 0.5
    driver.advance(0.5)
    outcome = driver.outcomes[key]
    assert isinstance(outcome, CallFailed)
    assert outcome.status == Status.DEADLINE
