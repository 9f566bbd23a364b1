"""A disk that takes no more: the API answers an error, nothing that it acknowledged is lost, live traffic goes on.

The limit is RLIMIT_FSIZE, set on the running gateway with prlimit: it needs no privileges and no file system of its
own, and it can be lifted again. The kernel then refuses to let any file grow past it, as a full disk would.
"""

from __future__ import annotations

import resource
from typing import Any

import pytest

from protocols.mmtp import Status, StreamCursor
from tests.system.device import Device
from tests.system.gateway_process import Gateway
from tests.system.upstream import Upstream

ROOM = 512 * 1024
"""Bytes that a file may have, above what a new store needs."""
PAYLOAD = "x" * 40_000


def limit_files(gateway: Gateway, size: int) -> None:
    assert gateway.process is not None
    _, hard = resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (size, hard))


def push(gateway: Gateway, device: str, payload: Any, key: str = "") -> tuple[int, Any]:
    item = {"to": {"device": device}, "biz": "orders", "payload": payload}
    return gateway.http("POST", "/v1/push", item, "t-push", {"Idempotency-Key": key} if key else None)


@pytest.fixture
def full(gateway: Gateway) -> tuple[Gateway, list[int]]:
    """A gateway whose disk has just become full, and the numbers that it answered for d1."""
    limit_files(gateway, ROOM)
    answered = []
    for payload in (PAYLOAD, "last crumbs"):
        status = 200
        while status == 200:
            status, answer = push(gateway, "d1", payload)
            if status == 200:
                answered.append(answer["seq"])
        assert status == 503, answer
        assert answer["error"]["code"] == "store_unavailable"
    assert len(answered) > 1
    return gateway, answered


def test_nothing_that_was_answered_is_lost(full: tuple[Gateway, list[int]]) -> None:
    gateway, answered = full
    assert push(gateway, "d1", PAYLOAD, key="again")[0] == 503
    assert gateway.metric("accessgw_push_append_errors_total") >= 2
    assert gateway.metric("accessgw_store_errors_total") >= 2
    device = Device(gateway.plain).welcomed()
    assert [device.next_push().seq for _ in answered[:1]] == answered[:1]
    device.cut()

    limit_files(gateway, resource.RLIM_INFINITY)
    status, after = push(gateway, "d1", "after", key="again")
    assert status == 200, "the refused one left no trace under its key"
    assert after["seq"] == answered[-1] + 1
    gateway.kill()
    gateway.start()
    again = Device(
        gateway.plain, boot=2, cursors=[StreamCursor("device", "d1", "orders", after["epoch"], 0)]
    ).welcomed()
    seen = []
    while not seen or seen[-1] < after["seq"]:
        seen.append(again.next_push().seq)
        again.ack_now()
    assert seen == [*answered, after["seq"]]


def test_live_traffic_goes_on(full: tuple[Gateway, list[int]], upstream: Upstream) -> None:
    gateway, answered = full
    device = Device(gateway.plain, "fresh").welcomed()
    assert device.call("query.balance").status == Status.OK, "an idempotent route needs no claim on disk"
    assert device.call("gw.time").status == Status.OK
    # A claim is smaller than any push: a few of them still fit.
    paid = 0
    while (status := device.call("pay").status) == Status.OK:
        paid += 1
    assert status == Status.OVERLOAD
    assert len(upstream.executed) == 1 + paid, "what cannot be claimed durably is not executed"
    assert device.call("gw.subscribe", b'{"topics": ["t"]}').status == Status.OVERLOAD

    reader = Device(gateway.plain, "d1").welcomed()
    for seq in answered:
        assert reader.next_push().seq == seq, "what is in the streams is still delivered"
        reader.ack_now()

    limit_files(gateway, resource.RLIM_INFINITY)
    assert device.call("pay").status == Status.OK
    gateway.push({"device": "fresh"}, 1)
    assert device.next_push().body == b"1"
    gateway.assert_sound()
