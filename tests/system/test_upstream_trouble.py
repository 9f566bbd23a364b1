"""Upstreams that are gone, silent or mad: the device has a status in time, and nobody else notices."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from protocols.mmtp import Status
from protocols.mmtp.events import CallReset, DataReceived, ResponseReceived
from tests.system import bad_upstreams as bad
from tests.system.device import Device
from tests.system.gateway_process import Gateway
from tests.system.upstream import Upstream

MakeGateway = Callable[..., Gateway]

TROUBLE: dict[str, tuple[Callable[[], AbstractContextManager[str]], int]] = {
    "dead": (bad.dead, Status.UPSTREAM_UNAVAILABLE),
    "black hole": (bad.black_hole, Status.UPSTREAM_UNAVAILABLE),
    "silent": (lambda: bad.misbehaving(bad.silence), Status.DEADLINE),
    "hangs up": (lambda: bad.misbehaving(bad.hang_up), Status.UPSTREAM_UNAVAILABLE),
    "no HTTP": (lambda: bad.misbehaving(bad.saying(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")), Status.UPSTREAM_UNAVAILABLE),
    "half a head": (lambda: bad.misbehaving(bad.saying(b"HTTP/1.1 200 OK\r\ncontent-le")), Status.DEADLINE),
    "cut head": (
        lambda: bad.misbehaving(bad.saying(b"HTTP/1.1 200 OK\r\ncontent-le", then_close=True)),
        Status.UPSTREAM_UNAVAILABLE,
    ),
    "endless head": (lambda: bad.misbehaving(bad.endless_head), Status.UPSTREAM_UNAVAILABLE),
    "two lengths": (
        lambda: bad.misbehaving(bad.saying(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab")),
        Status.UPSTREAM_UNAVAILABLE,
    ),
    "only 100s": (lambda: bad.misbehaving(bad.saying(b"HTTP/1.1 100 Continue\r\n\r\n" * 5)), Status.DEADLINE),
    "switches protocols": (
        lambda: bad.misbehaving(bad.saying(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n")),
        Status.UPSTREAM_UNAVAILABLE,
    ),
}
BOUND = 5.0
"""Seconds that a call may take here: what is refused before must be so on the busiest machine."""

MAD = """
[[clusters]]
name = "mad"
endpoints = ["{url}"]
connect_timeout = 1.0
eject_after = 1000

[[routes]]
operation = "mad.*"
cluster = "mad"
timeout = {bound}
idempotent = true
max_response_body = 300000

[[routes]]
operation = "mad.pay"
cluster = "mad"
timeout = {bound}
"""


def start(make_gateway: MakeGateway, url: str, healthy: Upstream) -> Gateway:
    return make_gateway(upstream=healthy.url, extra=MAD.format(url=url, bound=BOUND)).start()


def test_each_trouble_has_its_status_in_time(make_gateway: MakeGateway, upstream: Upstream) -> None:
    """One gateway meets every kind of trouble, on operation and HTTP routes, in turn."""
    tables = []
    opened = []
    try:
        for index, (make, _) in enumerate(TROUBLE.values()):
            context = make()
            url = context.__enter__()
            opened.append(context)
            tables.append(MAD.replace("mad", f"mad{index}").format(url=url, bound=BOUND))
        gateway = make_gateway(upstream=upstream.url, extra="".join(tables)).start()
        device = Device(gateway.plain).welcomed()
        numbers = {name: device.send(f"mad{index}.query") for index, name in enumerate(TROUBLE)}
        paid = {name: device.send(f"mad{index}.pay") for index, name in enumerate(TROUBLE)}
        assert device.call("echo").status == Status.OK, "the healthy upstream answers meanwhile"
        got = {name: device.answer(number).status for name, number in numbers.items()}
        assert got == {name: status for name, (_, status) in TROUBLE.items()}

        never_sent = {"dead", "black hole"}
        for name, number in paid.items():
            status = device.answer(number).status
            if name in never_sent:
                assert status == Status.UPSTREAM_UNAVAILABLE, name
            else:
                assert status in {Status.OUTCOME_UNKNOWN, Status.DEADLINE}, (name, status)
        gateway.wait_until(lambda: gateway.metric("accessgw_calls_open") == 0)
        for index, name in enumerate(TROUBLE):
            assert gateway.metric("accessgw_upstream_pending", cluster=f"mad{index}") == 0, name
        gateway.assert_sound()
    finally:
        for context in opened:
            context.__exit__(None, None, None)


def test_an_endless_answer_is_cut_off(make_gateway: MakeGateway, upstream: Upstream) -> None:
    with bad.misbehaving(bad.endless_body) as url:
        gateway = start(make_gateway, url, upstream)
        device = Device(gateway.plain).welcomed()
        number = device.send("mad.query")
        first = device.expect(ResponseReceived)
        assert first.more
        size = len(first.body)
        device.wire.consumed(number, first.wire_size)
        device.flush()
        while True:
            event = device.expect((DataReceived, CallReset))  # type: ignore[arg-type]
            assert event.call == number
            if isinstance(event, CallReset):
                break
            size += len(event.data)
            device.wire.consumed(number, event.wire_size)
            device.flush()
        assert event.status == Status.INTERNAL, size
        assert size <= 300_000
        assert device.call("echo").status == Status.OK
        gateway.assert_sound()


def test_a_body_cut_off_by_the_upstream_is_no_whole_answer(make_gateway: MakeGateway, upstream: Upstream) -> None:
    with bad.misbehaving(bad.saying(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", then_close=True)) as url:
        gateway = start(make_gateway, url, upstream)
        device = Device(gateway.plain).welcomed()
        number = device.send("mad.query")
        last = device.expect((ResponseReceived, CallReset))  # type: ignore[arg-type]
        if isinstance(last, ResponseReceived):
            assert last.more
            last = device.expect(CallReset)
        assert last.call == number
        assert last.status in {Status.UPSTREAM_UNAVAILABLE, Status.INTERNAL}
        gateway.assert_sound()


def test_more_calls_than_connections_wait_no_longer_than_their_time(
    make_gateway: MakeGateway, upstream: Upstream
) -> None:
    """Calls that queue for a connection of a silent upstream end with their deadlines, or are refused at once."""
    with bad.misbehaving(bad.silence) as url:
        extra = MAD.format(url=url, bound=BOUND).replace(
            "connect_timeout", "max_connections = 2\nmax_pending = 8\nconnect_timeout"
        )
        gateway = make_gateway(upstream=upstream.url, extra=extra).start()
        device = Device(gateway.plain).welcomed()
        numbers = [device.send("mad.query") for _ in range(30)]
        statuses = [device.answer(number).status for number in numbers]
        assert statuses.count(Status.DEADLINE) == 10
        assert statuses.count(Status.OVERLOAD) == 20
        assert device.call("echo").status == Status.OK
        assert gateway.metric("accessgw_upstream_pending", cluster="mad") == 0
        gateway.assert_sound()
