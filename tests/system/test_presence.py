"""Presence events at a real receiver: signed, in order per device, and none lost, whatever ends or hangs meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from protocols.mmtp import Status
from protocols.mmtp.events import GoawayReceived
from tests.system.device import Device
from tests.system.gateway_process import Gateway
from tests.system.webhook import Webhook

MakeGateway = Callable[..., Gateway]


@pytest.fixture
def hook() -> Iterator[Webhook]:
    server = Webhook()
    yield server
    server.stop()


@pytest.fixture
def watched(make_gateway: MakeGateway, hook: Webhook) -> Gateway:
    """A gateway that tells `hook`."""
    return make_gateway(extra=hook.config).start()


def metric(gateway: Gateway, name: str) -> float:
    text = gateway.http("GET", "/metrics", token="t-read")[1]
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name)


def come_and_go(gateway: Gateway, device: str, times: int) -> None:
    """So many connections of one device, one after the other; each is closed when the gateway has noticed the end."""
    for boot in range(times):
        before = metric(gateway, "accessgw_connections_closed_total")
        Device(gateway.plain, device, boot=boot + 1).welcomed().cut()
        gateway.wait_until(lambda before=before: metric(gateway, "accessgw_connections_closed_total") > before)


def assert_in_order(hook: Webhook, device: str, times: int) -> None:
    events = hook.of(device)
    assert [event["event"] for event in events] == ["connect", "disconnect"] * times
    seqs = [event["seq"] for event in events]
    assert seqs == sorted(set(seqs))


def test_events_are_signed_and_tell_who_when_and_why(watched: Gateway, hook: Webhook) -> None:
    device = Device(watched.plain, "phone", token="alice-token").welcomed()
    hook.wait(lambda: hook.told("phone") == ["connect"])
    watched.http("POST", "/v1/devices/phone/close", None, "t-operate")
    assert device.expect(GoawayReceived).goaway.status == Status.DRAINING
    device.cut()
    hook.wait(lambda: len(hook.of("phone")) == 2)
    Device(watched.plain, "phone", token="alice-token", boot=2).welcomed().cut()
    hook.wait(lambda: len(hook.of("phone")) == 4)
    assert hook.told("phone") == ["connect", "disconnect operator", "connect", "disconnect peer_closed"]
    for event in hook.of("phone"):
        assert event.keys() == {"id", "seq", "device", "user", "event", "at", "reason"}
        assert event["user"] == "alice"
    at = [event["at"] for event in hook.of("phone")]
    assert at == sorted(at)


def test_a_takeover_is_a_disconnect_before_the_connect(watched: Gateway, hook: Webhook) -> None:
    first = Device(watched.plain, "phone", boot=1).welcomed()
    Device(watched.plain, "phone", boot=2).welcomed()
    assert first.goodbye() == Status.REPLACED
    hook.wait(lambda: len(hook.of("phone")) == 3)
    assert hook.told("phone") == ["connect", "disconnect replaced", "connect"]


def test_a_refused_device_never_was_there(watched: Gateway, hook: Webhook) -> None:
    Device(watched.plain, "stranger", token="wrong").goodbye()
    Device(watched.plain, "friend").welcomed()
    hook.wait(lambda: hook.told("friend") == ["connect"])
    assert hook.of("stranger") == []


@pytest.mark.parametrize("trouble", ["fails", "hangs", "is down"])
def test_a_receiver_in_trouble_gets_everything_later(watched: Gateway, hook: Webhook, trouble: str) -> None:
    come_and_go(watched, "before", 1)
    hook.wait(lambda: len(hook.of("before")) == 2)
    watched.wait_until(lambda: metric(watched, "accessgw_webhook_pending") == 0)
    if trouble == "fails":
        hook.status = 500
    elif trouble == "hangs":
        hook.hanging = threading.Event()
    else:
        hook.down()
    failures = metric(watched, "accessgw_webhook_failures_total")
    for name in ("a", "b", "c"):
        come_and_go(watched, name, 3)
    assert metric(watched, "accessgw_webhook_pending") == 18
    watched.wait_until(lambda: metric(watched, "accessgw_webhook_failures_total") >= failures + 3)
    assert {event["device"] for event in hook.accepted} == {"before"}

    if hook.hanging is not None:
        hook.hanging.set()
        hook.hanging = None
    if trouble == "is down":
        hook.up()
    hook.status = 204
    hook.wait(lambda: all(len(hook.of(name)) == 6 for name in "abc"))
    for name in "abc":
        assert_in_order(hook, name, 3)
    watched.wait_until(lambda: metric(watched, "accessgw_webhook_pending") == 0)
    assert metric(watched, "accessgw_webhook_dropped_total") == 0


def test_kill_9_loses_no_event_and_ends_who_was_connected(watched: Gateway, hook: Webhook) -> None:
    known = Device(watched.plain, "known").welcomed()
    hook.wait(lambda: hook.told("known") == ["connect"])
    hook.status = 500
    come_and_go(watched, "gone", 2)
    fresh = Device(watched.plain, "fresh").welcomed()
    hook.wait(lambda: {"gone", "fresh"} <= {event["device"] for event in hook.attempts})
    watched.wait_until(lambda: metric(watched, "accessgw_store_pending") == 0)
    watched.kill()
    known.cut()
    fresh.cut()

    hook.status = 204
    watched.start()
    back = Device(watched.plain, "known", boot=2).welcomed()
    hook.wait(lambda: len(hook.of("gone")) == 4 and len(hook.of("fresh")) == 2 and len(hook.of("known")) == 3)
    assert_in_order(hook, "gone", 2)
    assert hook.told("fresh") == ["connect", "disconnect restart"]
    assert hook.told("known") == ["connect", "disconnect restart", "connect"]
    seqs = [event["seq"] for event in hook.of("known")]
    assert seqs == sorted(set(seqs))
    back.cut()


def test_sigterm_tells_the_end_of_every_connection_once(watched: Gateway, hook: Webhook) -> None:
    devices = [Device(watched.plain, f"d{n}").welcomed() for n in range(5)]
    hook.wait(lambda: hook.events == 5)
    assert watched.process is not None
    watched.process.terminate()
    for device in devices:
        device.expect(GoawayReceived)
        device.cut()
    watched.terminate()
    watched.start()
    hook.wait(lambda: hook.events == 10)
    assert {tuple(hook.told(f"d{n}")) for n in range(5)} == {("connect", "disconnect draining")}
    watched.wait_until(lambda: metric(watched, "accessgw_webhook_pending") == 0)
