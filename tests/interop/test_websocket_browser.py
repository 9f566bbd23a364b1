"""WebSocket from a real browser: a page opens one, speaks in binary messages, and sees how it ends."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from protocols.mmtp import Connection, Hello, Limits, Role
from protocols.mmtp.events import WelcomeReceived
from tests.interop.programs import needs
from tests.interop.test_dashboard import SWITCHES
from tests.system.gateway_process import PATIENCE, Gateway

webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium here (pip install '.[test]')")

from selenium.webdriver.chrome.options import Options  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402

pytestmark = [needs("chromium", "chromium"), needs("chromedriver", "chromium-driver")]

TALK = """
const [url, subprotocols, hex, done] = arguments;
const seen = {protocol: null, messages: [], opened: false};
let socket;
try { socket = new WebSocket(url, subprotocols); } catch (error) { done({error: String(error)}); return; }
socket.binaryType = "arraybuffer";
socket.onopen = () => {
  seen.opened = true;
  seen.protocol = socket.protocol;
  if (hex === null) socket.send("text"); else socket.send(Uint8Array.from(hex.match(/../g), byte => parseInt(byte, 16)));
};
socket.onmessage = event => {
  seen.messages.push([...new Uint8Array(event.data)].map(byte => byte.toString(16).padStart(2, "0")).join(""));
  socket.close(1000, "enough");
};
socket.onclose = event => done({...seen, code: event.code, reason: event.reason, clean: event.wasClean});
"""
"""Opens a WebSocket, sends one message (text when there is none), closes at the first answer; gives what it saw."""


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>page</title>")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The origin of an empty page."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, site: str) -> Iterator[Any]:
    options = Options()
    options.binary_location = str(shutil.which("chromium"))
    for switch in (*SWITCHES.split(), "--ignore-certificate-errors"):
        options.add_argument(switch)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    environment = os.environ | {"SE_OFFLINE": "true", "SE_AVOID_STATS": "true"}
    service = Service(executable_path=str(shutil.which("chromedriver")), env=environment)
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(PATIENCE)
    driver.get(site)
    yield driver
    driver.quit()


def talk(browser: Any, url: str, subprotocols: list[str], message: bytes | None) -> dict[str, Any]:
    """What a page sees that sends one message and closes at the first answer."""
    seen = browser.execute_async_script(TALK, url, subprotocols, None if message is None else message.hex())
    assert isinstance(seen, dict)
    return seen


def mmtp() -> tuple[Connection, bytes]:
    """A client and its HELLO."""
    wire = Connection(Role.CLIENT, limits=Limits(), now=time.monotonic())
    wire.send_hello(Hello(device="browser", token="alice-token", boot=1, call_base=1))
    return wire, wire.to_send(time.monotonic())


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("subprotocols", [[], ["mmtp"]])
def test_a_page_says_hello_and_is_welcomed(
    browser: Any, gateway: Gateway, scheme: str, subprotocols: list[str]
) -> None:
    port = gateway.tls if scheme == "wss" else gateway.plain
    wire, hello = mmtp()
    seen = talk(browser, f"{scheme}://localhost:{port}/mmtp", subprotocols, hello)
    assert seen["opened"] and seen["protocol"] == (subprotocols[0] if subprotocols else ""), seen
    assert (seen["code"], seen["reason"], seen["clean"]) == (1000, "", True)
    wire.receive(bytes.fromhex(seen["messages"][0]), time.monotonic())
    (event,) = [event for event in wire.events() if isinstance(event, WelcomeReceived)]
    assert event.welcome.result == 0


@pytest.mark.parametrize("subprotocol", ["mqtt", "mqttv3.1"])
def test_a_page_speaks_mqtt(browser: Any, gateway: Gateway, subprotocol: str) -> None:
    """[MQTT-6.0.0-3] [MQTT-6.0.0-4] The sub-protocol is asked for, and named in the answer."""
    fields = (b"\x00\x04MQTT\x05\xc2\x00\x3c\x00", b"\x00\x07browser", b"\x00\x01u", b"\x00\x0balice-token")
    body = b"".join(fields)
    url = f"ws://localhost:{gateway.plain}/mqtt"
    seen = talk(browser, url, [subprotocol], bytes((0x10, len(body))) + body)
    assert seen["protocol"] == subprotocol and seen["code"] == 1000, seen
    connack = bytes.fromhex(seen["messages"][0])
    assert connack[0] == 0x20 and connack[3] == 0, seen
    assert not talk(browser, url, [], b"")["opened"]


DEVICE = """
const [url, hex, done] = arguments;
const seen = {protocol: null, messages: []};
const socket = new WebSocket(url, "mqtt");
socket.binaryType = "arraybuffer";
const packets = hex.map(one => Uint8Array.from(one.match(/../g), byte => parseInt(byte, 16)));
socket.onopen = () => { seen.protocol = socket.protocol; packets.forEach(one => socket.send(one)); };
socket.onmessage = event => {
  const text = [...new Uint8Array(event.data)].map(byte => byte.toString(16).padStart(2, "0")).join("");
  seen.messages.push(text);
  if (seen.messages.join("").endsWith("d000")) socket.send(Uint8Array.from([0xe0, 0]));
};
socket.onclose = event => done({...seen, code: event.code, clean: event.wasClean});
"""
"""Sends packets, each in a message of its own, and DISCONNECT after PINGRESP."""


def test_a_page_is_a_device(browser: Any, make_gateway: Any) -> None:
    """[MQTT-6.0.0-1] [MQTT-6.0.0-2] CONNECT, SUBSCRIBE, PUBLISH and back over wss, packets split and joined anyhow."""
    gateway = make_gateway()
    gateway.config.write_text(gateway.config.read_text().replace('"http/1.1"', '"mqtt", "http/1.1"'))
    gateway.start()
    body = b"\x00\x04MQTT\x04\xc2\x00\x3c" + b"\x00\x04page" + b"\x00\x01u" + b"\x00\x0balice-token"
    connect = bytes((0x10, len(body))) + body
    subscribe = b"\x82\x08\x00\x01\x00\x03a/b\x01"
    publish = b"\x32\x0a\x00\x03a/b\x00\x02xyz"
    parts = [connect[:5], connect[5:] + subscribe, publish[:1], publish[1:] + b"\xc0\x00"]
    seen = browser.execute_async_script(DEVICE, f"wss://localhost:{gateway.tls}/mqtt", [part.hex() for part in parts])
    assert (seen["protocol"], seen["clean"]) == ("mqtt", True), seen
    came = bytes.fromhex("".join(seen["messages"]))
    assert came.startswith(b"\x20\x02\x00\x00" + b"\x90\x03\x00\x01\x01"), came
    assert b"\x40\x02\x00\x02" in came, "PUBACK"
    assert b"\x00\x03a/b" in came[9:] and b"xyz" in came, "its own message comes back"
    gateway.assert_sound()


def test_a_page_sees_why_it_was_refused(browser: Any, gateway: Gateway) -> None:
    url = f"ws://localhost:{gateway.plain}/mmtp"
    seen = talk(browser, url, ["mmtp"], None)
    assert seen["opened"] and (seen["code"], seen["clean"]) == (1003, True), seen
    assert seen["reason"] == "expected a binary message, got text"
    seen = talk(browser, url, ["mmtp"], b"GET / HTTP/1.1")
    assert seen["opened"] and (seen["code"], seen["reason"]) == (1002, "protocol_error"), seen
    seen = talk(browser, url, ["soap"], b"")
    assert not seen["opened"] and seen["code"] == 1006, seen


def test_a_page_of_another_origin_is_kept_out(browser: Any, make_gateway: Any, site: str) -> None:
    gateway = make_gateway()
    text = gateway.config.read_text()
    gateway.config.write_text(text.replace('name = "plain"', f'name = "plain"\nwebsocket_origins = ["{site}"]'))
    config = gateway.config.read_text()
    gateway.config.write_text(config.replace('name = "phones"', 'name = "phones"\nwebsocket_origins = ["https://x.y"]'))
    gateway.start()
    _, hello = mmtp()
    assert talk(browser, f"ws://localhost:{gateway.plain}/mmtp", ["mmtp"], hello)["code"] == 1000
    seen = talk(browser, f"wss://localhost:{gateway.tls}/mmtp", ["mmtp"], hello)
    assert not seen["opened"] and seen["code"] == 1006, seen
