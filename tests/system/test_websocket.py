"""MMTP over WebSocket through a gateway process: calls, pushes, takeover, and how such connections end."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocols.mmtp.events import GoawayReceived
from tests.system.device import Device, Gone, open_socket
from tests.system.gateway_process import Gateway
from tests.system.websocket_socket import Rejected, WebSocketClient, WebSocketDevice


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(Path(tmp_path_factory.mktemp("websocket")))
    gateway.config.write_text(
        gateway.config.read_text().replace(
            'name = "plain"', 'name = "plain"\nwebsocket_origins = ["https://app.example.com"]'
        )
    )
    gateway.extra = f'\n[log]\naccess = "{gateway.access_log}"\n'
    gateway.config.write_text(gateway.config.read_text() + gateway.extra)
    gateway.start()
    yield gateway
    gateway.assert_sound()
    gateway.close()


@pytest.mark.parametrize("secure", [False, True])
def test_calls_and_pushes(gateway: Gateway, secure: bool) -> None:
    port, ca = (gateway.tls, gateway.ca) if secure else (gateway.plain, None)
    name = f"ws-{secure}"
    device = WebSocketDevice(port, name, token="alice-token", ca=ca).welcomed()
    answer = device.call("gw.subscriptions")
    assert answer.status == 0
    for number in range(3):
        gateway.push({"device": name}, {"number": number})
    assert [device.next_push().seq for _ in range(3)] == [1, 2, 3]
    device.ack_now(3)
    for size in (100, 15_000, 40_000):  # with 0, 2 and, together, more bytes of length in the frame
        text = secrets.token_hex(size // 2)
        gateway.push({"device": name}, text)
        push = device.next_push()
        assert push.seq > 3
        device.ack_now()
    assert gateway.http("GET", f"/v1/devices/{name}", token="t-read")[1]["connected"] is True

    newer = Device(gateway.plain, name, token="alice-token", boot=2).welcomed()
    assert device.expect(GoawayReceived).goaway.status
    with pytest.raises(Gone):
        while True:
            device.read()
    assert device.socket.closed.code == 1008 and device.socket.closed.reason == "replaced"
    newer.cut()


def test_the_log_tells_of_it(gateway: Gateway) -> None:
    device = WebSocketDevice(gateway.plain, "ws-logged").welcomed()
    assert gateway.http("POST", "/v1/devices/ws-logged/close", token="t-operate")[0] == 200
    with pytest.raises(Gone):
        while True:
            device.read()

    def line() -> dict[str, object] | None:
        found = [one for one in gateway.accesses() if one["event"] == "close" and one.get("device") == "ws-logged"]
        return found[0] if found else None

    gateway.wait_until(lambda: line() is not None)
    closed = line()
    assert closed is not None
    assert (
        closed["websocket"] is True
        and closed["protocol"] == "mmtp 1"
        and closed["transport"] == "tcp"
        and closed["reason"] == "operator"
    )


def test_a_refused_device_is_told_by_mmtp_and_by_the_close_frame(gateway: Gateway) -> None:
    device = WebSocketDevice(gateway.plain, "ws-refused", token="nonsense")
    with pytest.raises(Gone):
        while True:
            device.read()
    assert device.socket.closed.code == 1008 and device.socket.closed.reason == "auth_failed"


def test_upgrades_that_are_refused(gateway: Gateway) -> None:
    for subprotocols, headers, status in (
        (["soap"], [], 400),
        (["mmtp"], [("Origin", "https://evil.example")], 403),
    ):
        with pytest.raises(Rejected) as caught:
            WebSocketClient(open_socket(gateway.plain, None), "/mmtp", subprotocols, headers)
        assert caught.value.args[0] == status
    for subprotocols in ([], ["mmtp"], ["mmtp/1"], ["x", "mmtp"]):
        origin = [("Origin", "https://app.example.com")]
        client = WebSocketClient(open_socket(gateway.plain, None), "/mmtp", subprotocols, origin)
        assert client.subprotocol == (subprotocols[-1] if subprotocols else None)
        client.socket.close()
    elsewhere = [("Origin", "https://evil.example")]
    WebSocketClient(open_socket(gateway.tls, gateway.ca), "/mmtp", [], elsewhere).socket.close()
