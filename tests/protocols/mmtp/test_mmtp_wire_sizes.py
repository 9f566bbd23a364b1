"""Wire sizes are kept in tests/golden/mmtp_wire_sizes.json; a frame that grows fails here.

After a wanted change: `python -m tests.protocols.mmtp.test_mmtp_wire_sizes` writes the file anew.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protocols.mmtp import Connection, Goaway, Hello, Limits, Role, StreamCursor, Welcome, encode_push
from protocols.mmtp.short import (
    ShortAnswer,
    ShortCall,
    ShortRequest,
    ShortResponse,
    encode_short_request,
    encode_short_response,
)
from tests.protocols.mmtp.dialogue import split_frames

GOLDEN = Path(__file__).parents[2] / "golden/mmtp_wire_sizes.json"

REQUEST_HEADERS = [
    ("content-type", "application/json"),
    ("accept-language", "zh-CN"),
    ("x-app-version", "10.3.96"),
    ("x-os", "ios 17.5"),
    ("x-device-model", "iPhone15,2"),
    ("x-network", "wifi"),
    ("x-timezone", "Asia/Shanghai"),
    ("x-channel", "appstore"),
]
"""What an app sends with every call; a trace id comes with each."""
REQUEST_BODY = b'{"account":"2088002","amount":"12.50","currency":"CNY","memo":"lunch"}'
RESPONSE_HEADERS = [("content-type", "application/json"), ("x-server-zone", "east")]
RESPONSE_BODY = b'{"result":"ok","order":"20260101-000001","balance":"1034.20"}'
PUSH_BODY = b'{"kind":"order","id":"20260101-000001","state":"paid"}'


def sizes() -> dict[str, int]:
    """Bytes of everything that has a size of its own."""
    device = Connection(Role.CLIENT, limits=Limits(), now=0.0)
    gateway = Connection(Role.SERVER, limits=Limits(), now=0.0)
    found: dict[str, int] = {}
    total = 0

    def up(name: str) -> None:
        nonlocal total
        data = device.to_send(10.0)
        total += len(data)
        found.setdefault(name, len(data))
        gateway.receive(data, 10.0)

    def down(name: str) -> None:
        nonlocal total
        data = gateway.to_send(10.0)
        total += len(data)
        found.setdefault(name, len(data))
        device.receive(data, 10.0)

    device.send_hello(
        Hello(
            "3f2a7c9e51d84b06", token="t" * 120, app="wallet", app_version="10.3.96",
            capabilities=frozenset(("zstd",)), boot=17, counter=3, time=1.7e9, call_base=0x1234567890ABCDEF,
            cursors=[StreamCursor("user", "u2088002", "orders", 1, 41)],
        )
    )  # fmt: skip
    up("hello")
    gateway.send_welcome(
        Welcome(session="c2Vzc2lvbi0x", mac_key=b"k" * 32, time=1.7e9, heartbeat=240, idle_timeout=600)
    )
    down("welcome")
    for number in range(20):
        headers = [*REQUEST_HEADERS, ("x-trace-id", f"{number:016x}")]
        call = device.request("payments.pay", headers, REQUEST_BODY)
        up("request, first" if number == 0 else "request, later")
        gateway.respond(call, 0, RESPONSE_HEADERS, RESPONSE_BODY)
        down("response, first" if number == 0 else "response, later")
    gateway.introduce_stream(5, StreamCursor("user", "u2088002", "orders", 1, 41))
    down("announcement")
    for number in range(100):
        gateway.send_push(5, 42 + number, encode_push(5, PUSH_BODY), len(PUSH_BODY), number)
        down("push")
        if number % 8 == 7:
            device.ack(8)
            up("ack of 8")
    for _ in range(10):
        device.ping(False)
        up("heartbeat")
    found["session of 20 calls, 100 pushes, 10 heartbeats"] = total
    device.request("a", [], b"x" * 10)
    bare = device.to_send(10.0)
    gateway.receive(bare, 10.0)
    device.request("a", [], b"x" * 10)
    frame = device.to_send(10.0)
    gateway.receive(frame, 10.0)
    block = frame[2]
    found["framing of a small request beside header length, block and body"] = len(frame) - 1 - block - 10
    gateway.respond(21, 0, [], b"y" * 10)
    found["framing of a small response without headers"] = len(gateway.to_send(10.0)) - 10
    device.request("a", [], b"x", call_id=1, timeout=5.0)
    found["repeated call: attributes"] = len(device.to_send(10.0)) - 2 - 1 - block - 1
    gateway.reset(20, 12)
    found["reset"] = len(gateway.to_send(10.0))
    gateway.go_away(Goaway(21))
    found["goaway"] = len(gateway.to_send(10.0))
    found["push framing"] = len(encode_push(5, b"")) - 0
    found["short request beside its session and call"] = len(
        encode_short_request(ShortRequest("s" * 12, 1, 1.7e9, calls=[ShortCall(1, "a", [], b"")]), mac_key=b"k" * 32)
    )
    found["short response"] = len(encode_short_response(ShortResponse(time=1.7e9, answers=[ShortAnswer(0, 0)])))
    return found


SIZES = sizes()
EXPECTED: dict[str, int] = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}


def test_the_golden_file_knows_every_size() -> None:
    assert set(EXPECTED) == set(SIZES)


@pytest.mark.parametrize("name", sorted(SIZES))
def test_wire_size(name: str) -> None:
    assert SIZES[name] <= EXPECTED[name], "grown; see the first lines of this file if that was wanted"
    assert SIZES[name] == EXPECTED[name], "shrunk: keep it, write the golden file anew"


def test_promised_sizes() -> None:
    assert SIZES["heartbeat"] == 1
    assert SIZES["ack of 8"] == 2
    assert SIZES["framing of a small request beside header length, block and body"] <= 3


def test_frames_that_leave_together_are_one_piece() -> None:
    device = Connection(Role.CLIENT, limits=Limits(), now=0.0)
    device.send_hello(Hello("d"))
    device.ping(False)
    device.request("a", [], b"")
    assert [frame[0] >> 4 for frame in split_frames(device.to_send(0.0))] == [8, 0, 3]
    assert device.to_send(0.0) == b""


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(SIZES, indent=2) + "\n")
