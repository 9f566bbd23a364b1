"""Voiding a session, by the operator and by the device itself: its key, its connection, the line in the access log."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Callable
from typing import Any

from protocols.mmtp import Limits, Status
from protocols.mmtp.handshake import Welcome
from protocols.mmtp.short import ShortCall, ShortRequest, decode_short_response, encode_short_request
from tests.system.device import Device
from tests.system.gateway_process import PATIENCE, Gateway
from tests.system.upstream import Upstream

MakeGateway = Callable[..., Gateway]


class Key:
    """What a device keeps of a WELCOME for short connections."""

    def __init__(self, gateway: Gateway, welcome: Welcome) -> None:
        self.gateway = gateway
        self.welcome = welcome
        self.counter = 0

    def ask(self, operation: str) -> int:
        """One short request; its status."""
        self.counter += 1
        host = f"localhost:{self.gateway.tls}"
        request = ShortRequest(
            session=self.welcome.session,
            counter=self.counter,
            time=time.time(),
            calls=[ShortCall(time.time_ns(), operation, [], b"{}")],
        )
        body = encode_short_request(request, mac_key=self.welcome.mac_key, listener=host)
        context = ssl.create_default_context(cafile=str(self.gateway.ca))
        connection = http.client.HTTPSConnection("localhost", self.gateway.tls, context=context, timeout=PATIENCE)
        try:
            connection.request("POST", "/mmtp", body, {"Content-Type": "application/mmtp", "Host": host})
            answer = connection.getresponse()
            assert answer.status == 200
            return decode_short_response(answer.read(), Limits()).status
        finally:
            connection.close()


def closes(gateway: Gateway) -> list[dict[str, Any]]:
    """The ends of connections on which a device was welcomed."""
    return [line for line in gateway.accesses() if line["event"] == "close" and "device" in line]


def test_a_revoked_session_ends_with_its_key_and_connection(make_gateway: MakeGateway, upstream: Upstream) -> None:
    gateway = make_gateway(upstream=upstream.url)
    gateway.log_accesses()
    gateway.start()
    device = Device(gateway.plain, "phone", token="alice-token").welcomed()
    key = Key(gateway, device.welcome)
    assert key.ask("query.balance") == Status.OK

    path = "/v1/devices/phone/close"
    status, answer = gateway.http("POST", path, {"revoke": True}, "t-operate")
    assert (status, answer) == (200, {"device": "phone", "closed": True, "revoked": True})
    assert device.goodbye() == Status.REVOKED
    device.cut()
    assert key.ask("query.balance") == Status.SESSION_UNKNOWN
    gateway.wait_until(lambda: len(closes(gateway)) == 1)
    assert gateway.http("POST", path, {"revoke": True}, "t-operate")[1]["revoked"] is False

    again = Device(gateway.plain, "phone", token="alice-token", boot=2).welcomed()
    assert again.welcome.session != key.welcome.session
    again.cut()
    gateway.wait_until(lambda: len(closes(gateway)) == 2)
    first, second = closes(gateway)
    assert (first["device"], first["user"], first["reason"]) == ("phone", "alice", "revoked")
    assert (second["device"], second["reason"]) == ("phone", "peer_closed")
    gateway.assert_sound()


def test_revoking_reaches_a_device_that_is_away(gateway: Gateway) -> None:
    device = Device(gateway.plain, "phone").welcomed()
    key = Key(gateway, device.welcome)
    device.cut()
    gateway.wait_until(lambda: not gateway.http("GET", "/v1/devices/phone", None, "t-read")[1].get("connected"))
    assert key.ask("query.balance") == Status.OK
    assert gateway.http("POST", "/v1/devices/phone/close", {"revoke": True}, "t-operate")[1]["revoked"] is True
    assert key.ask("query.balance") == Status.SESSION_UNKNOWN


def test_logging_out_is_answered_before_the_session_ends(gateway: Gateway) -> None:
    device = Device(gateway.tls, "phone", ca=gateway.ca).welcomed()
    key = Key(gateway, device.welcome)
    assert device.call("gw.logout", b"").status == Status.OK
    assert device.goodbye() == Status.REVOKED
    assert key.ask("query.balance") == Status.SESSION_UNKNOWN

    key = Key(gateway, Device(gateway.plain, "phone", boot=2).welcomed().welcome)
    assert key.ask("gw.logout") == Status.OK
    assert key.ask("query.balance") == Status.SESSION_UNKNOWN
    gateway.assert_sound()
