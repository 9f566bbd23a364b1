"""Filters of an installed distribution that misbehave: each costs one connection, call or push, never the worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from protocols.mmtp import Status
from protocols.mmtp.events import WelcomeReceived
from tests.system.device import Device
from tests.system.gateway_process import Gateway
from tests.system.upstream import Upstream

MODULE = """
from twisted.internet.defer import Deferred

from accessgw.core.interfaces import Filter


class Clumsy(Filter):
    def connection(self, identity, info):
        if identity.device == "unlucky":
            raise ZeroDivisionError("connection")

    def call(self, call):
        if call.operation == "bad":
            raise ZeroDivisionError("call")
        if call.operation == "hang":
            return Deferred()

    def push(self, push):
        if push.stream.biz == "bad":
            raise ZeroDivisionError("push")
        return push


def make(settings):
    if settings:
        raise ValueError(f"{next(iter(settings))}: unknown setting")
    return Clumsy()
"""


@pytest.fixture
def clumsy(tmp_path: Path, make_gateway: Callable[..., Gateway], upstream: Upstream) -> Gateway:
    """A gateway with the filter, as pip would have installed it; not started."""
    place = tmp_path / "site"
    info = place / "clumsy-1.0.dist-info"
    info.mkdir(parents=True)
    (place / "clumsy.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: clumsy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[accessgw.filters]\nclumsy = clumsy:make\n")
    gateway = make_gateway(upstream=upstream.url, extra='\n[[filters]]\nname = "clumsy"\n')
    gateway.import_path.append(str(place))
    return gateway


def test_a_filter_that_raises_or_hangs_costs_what_it_was_asked_about(clumsy: Gateway, upstream: Upstream) -> None:
    gateway = clumsy.start()
    device = Device(gateway.plain).welcomed()
    hanging = device.send("hang")
    assert device.call("bad").status == Status.INTERNAL
    assert device.call("good").status == Status.OK
    assert Device(gateway.plain, "unlucky").expect(WelcomeReceived).welcome.result == Status.INTERNAL
    status, answer = gateway.http(
        "POST", "/v1/push", [{"to": {"device": "d1"}, "biz": b, "payload": 1} for b in ("bad", "good")], "t-push"
    )
    assert status == 200
    assert "error" in answer[0]
    assert answer[1]["seq"] == 1
    assert device.next_push().biz == "good"
    assert device.answer(hanging).status == Status.INTERNAL
    assert [path for path, _ in upstream.executed] == ["/good"]
    assert gateway.metric("accessgw_call_filter_errors_total") == 3
    assert gateway.metric("accessgw_push_filter_errors_total") == 1


def test_bad_settings_of_a_filter_are_a_bad_configuration(clumsy: Gateway) -> None:
    gateway = clumsy.start()
    gateway.write_config(extra='\n[[filters]]\nname = "clumsy"\nsettings = { speed = 1 }\n')
    status, answer = gateway.http("POST", "/v1/reload", None, "t-operate")
    assert status == 422
    assert answer["error"]["path"] == "filters[0].settings.speed"
    gateway.write_config(extra='\n[[filters]]\nname = "nowhere"\n')
    assert "nowhere" in gateway.http("POST", "/v1/reload", None, "t-operate")[1]["error"]["message"]
    assert Device(gateway.plain).welcomed().call("bad").status == Status.INTERNAL
