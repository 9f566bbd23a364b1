"""kill -9 at the worst moment: nothing acknowledged is lost, nothing is executed twice."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable

import pytest

from protocols.mmtp import Status, StreamCursor
from protocols.mmtp.events import PushReceived
from tests.system.device import Device, Gone
from tests.system.gateway_process import PATIENCE, Gateway
from tests.system.upstream import Upstream

DEVICES = 4
THREADS = 4


def test_a_push_storm_survives_kill_9(make_gateway: Callable[..., Gateway]) -> None:
    """What the API had answered arrives; after deduplication each number arrives exactly once."""
    gateway = make_gateway().start()
    answered: dict[str, dict[int, int]] = defaultdict(dict)
    lock = threading.Lock()
    enough = threading.Event()

    def storm(number: int) -> None:
        payload = 0
        while True:
            device = f"d{(number + payload) % DEVICES}"
            payload += 1
            value = number * 1_000_000 + payload
            try:
                place = gateway.push({"device": device}, value)
            except (OSError, AssertionError):
                return  # killed
            except Exception:
                return  # an answer that the kill cut off
            with lock:
                answered[device][place["seq"]] = value
                if sum(map(len, answered.values())) > 400:
                    enough.set()

    received: dict[str, list[PushReceived]] = {f"d{n}": [] for n in range(DEVICES)}

    def listen(name: str) -> None:
        device = Device(gateway.plain, name).welcomed()
        try:
            while True:
                received[name].append(device.next_push())
                if len(received[name]) % 3 == 0:
                    device.ack(2)  # always some that are unacknowledged
        except (Gone, OSError):
            pass

    threads = [threading.Thread(target=storm, args=(n,)) for n in range(THREADS)]
    threads += [threading.Thread(target=listen, args=(name,)) for name in received]
    for thread in threads:
        thread.start()
    assert enough.wait(PATIENCE)
    gateway.kill()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()

    gateway.start()
    for name, before in received.items():
        seen = {push.seq: push for push in before}
        assert len(seen) == len(before), "no number twice on one connection"
        head = gateway.http("GET", f"/v1/streams/device/{name}/orders", token="t-read")[1]["head"]
        assert head >= max(answered[name])
        # The device stored what it received, but it crashed as well: it knows a part only.
        known = sorted(seen)[: len(seen) // 2]
        cursors = [StreamCursor("device", name, "orders", seen[known[-1]].epoch, known[-1])] if known else []
        again = Device(gateway.plain, name, boot=2, cursors=cursors).welcomed()
        after: list[int] = []
        while not after or after[-1] < head:
            push = again.next_push()
            again.ack()
            after.append(push.seq)
            if push.seq in answered[name]:
                assert push.body == str(answered[name][push.seq]).encode()
        assert after == sorted(set(after)), "in order, each once"
        assert set(answered[name]) <= set(known) | set(after), "nothing that was answered is lost"
        assert not set(known) & set(after), "nothing acknowledged comes again"


@pytest.mark.parametrize(
    ("operation", "status", "times"), [("hold", Status.OUTCOME_UNKNOWN, 1), ("query.hold", Status.OK, 2)]
)
def test_kill_9_after_the_upstream_executed(
    make_gateway: Callable[..., Gateway], upstream: Upstream, operation: str, status: int, times: int
) -> None:
    """A repetition after the crash is not a second execution, unless the route is idempotent."""
    gateway = make_gateway(upstream=upstream.url).start()
    call_id = 0x1234_5678_9ABC_DEF0
    device = Device(gateway.plain, call_base=call_id).welcomed()
    device.send(operation, b'{"amount": 1}')
    assert upstream.arrived.acquire(timeout=PATIENCE)
    gateway.kill()
    upstream.release.set()

    gateway.start()
    again = Device(gateway.plain, boot=2).welcomed()
    assert again.call(operation, b'{"amount": 1}', call_id=call_id).status == status
    assert [entry for entry in upstream.executed if entry[1] == f"{call_id:016x}"] == [
        (f"/{operation}", f"{call_id:016x}")
    ] * times


def test_a_repetition_gets_the_kept_answer(gateway: Gateway, upstream: Upstream) -> None:
    call_id = 77
    first = Device(gateway.plain, call_base=call_id).welcomed()
    answer = first.call("pay", b"1")
    first.cut()
    again = Device(gateway.plain, boot=1, counter=1).welcomed()
    repeated = again.call("pay", b"1", call_id=call_id)
    assert (repeated.status, repeated.body) == (answer.status, answer.body) == (0, answer.body)
    assert again.call("pay", b"2", call_id=call_id).status == Status.DUPLICATE
    assert len(upstream.executed) == 1
