"""The client that was written from the specification alone, against a gateway process."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.interop import minimal_client
from tests.interop.minimal_client import MinimalClient, MmtpError, Reader
from tests.system.gateway_process import PATIENCE, Gateway

LARGE = 300_000
AUTH, SESSION_UNKNOWN, DUPLICATE, REPLACED = 6, 7, 17, 20
PHRASE = "An odd, long-ish value: ~{}[]|^ 0123456789 " + "Zq" * 100


class Business(ThreadingHTTPServer):
    """An upstream that answers with the length of what it got, or with as many bytes as it is asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.executed: list[tuple[str, bytes]] = []
        self.arrived, self.go_on = threading.Event(), threading.Event()  # of a call that waits
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *arguments: Any) -> None:
        """A gateway that ends resets its connections."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Business

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_POST(self) -> None:
        body = self.body()
        self.server.executed.append((self.path, body))
        asked = json.loads(body) if body.startswith(b"{") else {}
        if asked.get("wait"):
            self.server.arrived.set()
            self.server.go_on.wait(PATIENCE)
        said = (
            bytes(n % 251 for n in range(asked["send"])) if "send" in asked else json.dumps({"got": len(body)}).encode()
        )
        self.send_response(asked.get("status", 200))
        self.send_header("Content-Length", str(len(said)))
        self.send_header("x-phrase", PHRASE)
        self.send_header("x-trace", self.headers.get("x-trace", ""))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def business() -> Iterator[Business]:
    server = Business()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def gateway(make_gateway: Callable[..., Gateway], business: Business) -> Gateway:
    return make_gateway(upstream=business.url).start()


@pytest.fixture
def phone(gateway: Gateway) -> Iterator[Callable[..., MinimalClient]]:
    """Makes clients of the gateway, by default on TLS."""
    made: list[MinimalClient] = []

    def make(device: str = "d1", token: str = "device-token", plain: bool = False) -> MinimalClient:
        port, ca = (gateway.plain, "") if plain else (gateway.tls, str(gateway.ca))
        made.append(MinimalClient("localhost", port, device, token, ca))
        made[-1].timeout = PATIENCE
        return made[-1]

    yield make
    for client in made:
        client.close()


def received(client: MinimalClient, count: int) -> list[tuple[int, Any]]:
    """(sequence number, payload) of the unacknowledged pushes, once there are as many."""
    client.wait(lambda: len(client.pushes) >= count)
    return [(push.seq, json.loads(push.body)) for push in client.pushes]


@pytest.mark.parametrize("plain", [False, True])
def test_a_handshake_and_a_call(phone: Callable[..., MinimalClient], business: Business, plain: bool) -> None:
    client = phone(plain=plain)
    client.connect()
    assert client.session
    assert len(client.mac_key) == 32
    call = client.call("pay", b'{"sum": 100}', [("x-trace", "t" * 200)])
    assert (call.status, json.loads(call.body)) == (0, {"got": 12})
    assert dict(call.headers)["x-phrase"] == PHRASE
    assert dict(call.headers)["x-trace"] == "t" * 200
    assert len(business.executed) == 1
    again = client.call("pay", b'{"status": 404}')
    assert again.status == 404
    assert dict(again.headers)["x-phrase"] == PHRASE


def test_the_heartbeat(phone: Callable[..., MinimalClient]) -> None:
    client = phone()
    client.connect()
    client.ping()
    client.ping()
    assert client.call("gw.time").status == 0


@pytest.mark.parametrize("plain", [False, True])
def test_a_large_upload_waits_for_credit(phone: Callable[..., MinimalClient], business: Business, plain: bool) -> None:
    client = phone(plain=plain)
    client.connect()
    body = bytes(n % 253 for n in range(LARGE))
    call = client.call("put", body)
    assert (call.status, json.loads(call.body)) == (0, {"got": LARGE})
    assert business.executed[0][1] == body
    assert max(client.outstanding, call.outstanding) < LARGE, "credit came back"


@pytest.mark.parametrize("plain", [False, True])
def test_a_large_download_needs_credit(phone: Callable[..., MinimalClient], plain: bool) -> None:
    client = phone(plain=plain)
    client.connect()
    first, second = (client.start("get", json.dumps({"send": LARGE}).encode()) for _ in range(2))
    client.wait(lambda: first.ended and second.ended)
    expected = bytes(n % 251 for n in range(LARGE))
    assert (first.status, second.status) == (0, 0)
    assert first.body == second.body == expected


def test_an_upload_in_parts(phone: Callable[..., MinimalClient], business: Business) -> None:
    client = phone()
    client.connect()
    call = client.start("put", b"one ", more=True)
    client.ping()
    call.rest += b"two "
    client.upload()
    call.rest, call.more = b"three", False
    client.upload()
    client.wait(lambda: call.ended)
    assert (call.status, json.loads(call.body)) == (0, {"got": 13})
    assert business.executed[0][1] == b"one two three"


def test_a_cancelled_upload_ends_with_one_reset(phone: Callable[..., MinimalClient]) -> None:
    client = phone()
    client.connect()
    call = client.start("put", b"one ", more=True)
    client.reset(call)
    client.wait(lambda: call.ended)
    assert (call.status, call.was_reset) == (12, True)
    assert client.call("pay").status == 0


def test_an_acknowledged_push_does_not_come_again(gateway: Gateway, phone: Callable[..., MinimalClient]) -> None:
    client = phone()
    client.connect()
    for n in (1, 2):
        gateway.push({"device": "d1"}, {"n": n})
    assert received(client, 2) == [(1, {"n": 1}), (2, {"n": 2})]
    assert client.pushes[0].stream == (0, b"d1", b"orders")
    client.ack(2)
    client.connect()
    gateway.push({"device": "d1"}, {"n": 3})
    assert received(client, 1) == [(3, {"n": 3})]


def test_an_unacknowledged_push_comes_again(gateway: Gateway, phone: Callable[..., MinimalClient]) -> None:
    client = phone()
    client.connect()
    for n in (1, 2):
        gateway.push({"device": "d1"}, {"n": n})
    assert len(received(client, 2)) == 2
    client.ack(1)
    client.connect()
    assert received(client, 1) == [(2, {"n": 2})]


def test_a_push_that_was_missed_comes_with_the_next_connection(
    gateway: Gateway, phone: Callable[..., MinimalClient]
) -> None:
    client = phone()
    client.connect()
    gateway.push({"device": "d1"}, {"n": 1})
    received(client, 1)
    client.ack(1)
    client.ping()
    client.close()
    gateway.push({"device": "d1"}, {"n": 2})
    client.connect()
    assert received(client, 1) == [(2, {"n": 2})]


def test_a_cursor_says_more_than_the_gateway_remembers(gateway: Gateway, phone: Callable[..., MinimalClient]) -> None:
    client = phone()
    client.connect()
    for n in (1, 2, 3):
        gateway.push({"device": "d1"}, {"n": n})
    assert len(received(client, 3)) == 3
    push = client.pushes[0]
    client.cursors[push.stream] = push.place + minimal_client.varint(2)  # processed, but never acknowledged
    client.connect()
    assert received(client, 1) == [(3, {"n": 3})]
    client.ack(1)
    client.cursors[push.stream] = push.place + minimal_client.varint(1)  # acknowledged, but lost since
    client.connect()
    assert received(client, 2) == [(2, {"n": 2}), (3, {"n": 3})]


def test_a_device_that_keeps_no_cursors_goes_on_from_its_acknowledgements(
    gateway: Gateway, phone: Callable[..., MinimalClient]
) -> None:
    client = phone()
    client.connect()
    gateway.push({"device": "d1"}, {"n": 1})
    received(client, 1)
    client.ack(1)
    client.cursors.clear()
    client.ping()
    client.connect()
    gateway.push({"device": "d1"}, {"n": 2})
    assert received(client, 1) == [(2, {"n": 2})]


def test_a_cursor_of_another_epoch_is_told_of(gateway: Gateway, phone: Callable[..., MinimalClient]) -> None:
    client = phone()
    client.connect()
    gateway.push({"device": "d1"}, {"n": 1})
    received(client, 1)
    push = client.pushes[0]
    epoch, other = minimal_client.varint(push.epoch), minimal_client.varint(push.epoch + 1)
    client.cursors[push.stream] = push.place.removesuffix(epoch) + other + minimal_client.varint(1)
    client.connect()
    client.wait(lambda: client.notes)
    assert client.notes == [(minimal_client.HISTORY_LOST, push.stream)]
    assert client.cursors == {}


def test_what_a_push_carries(gateway: Gateway, phone: Callable[..., MinimalClient]) -> None:
    client = phone()
    gateway.push({"device": "d1"}, {"state": "old"}, collapse="order-7")
    gateway.push({"device": "d1"}, {"state": "new"}, collapse="order-7", ttl=60, priority=1)
    client.connect()
    gateway.push({"device": "d1"}, {"state": "here"})
    client.wait(lambda: client.pushes and b"here" in client.pushes[-1].body)
    new, here = client.pushes
    assert (new.seq, new.gap, json.loads(new.body)) == (2, 1, {"state": "new"}), "the old one was replaced"
    assert (here.seq, here.gap, here.ttl, here.priority, here.collapse) == (3, 0, None, 0, b"")
    gateway.push({"device": "d1"}, {"state": "with the next activity"}, collapse="c", ttl=60, priority=1)
    for _ in range(50):
        if client.pushes[-1] is here:
            client.call("gw.time")
    push = client.pushes[-1]
    assert (push.seq, push.priority, push.collapse) == (4, 1, b"c")
    assert 0 < push.ttl <= 60_000


def test_a_subscription_brings_the_pushes_of_a_topic(gateway: Gateway, phone: Callable[..., MinimalClient]) -> None:
    client = phone()
    client.connect()
    subscribed = client.call("gw.subscribe", b'{"topics": ["news/sport"]}')
    assert (subscribed.status, json.loads(subscribed.body)) == (0, {"topics": ["news/sport"]})
    listed = client.call("gw.subscriptions")
    assert (listed.status, json.loads(listed.body)) == (0, {"topics": ["news/sport"]})
    gateway.push({"topic": "news/other"}, {"n": 1})
    gateway.push({"topic": "news/sport"}, {"n": 2})
    assert received(client, 1) == [(1, {"n": 2})]
    assert client.pushes[0].stream == (2, b"news/sport", b"orders")
    client.ack(1)
    client.connect()
    gateway.push({"topic": "news/sport"}, {"n": 3})
    assert received(client, 1) == [(2, {"n": 3})], "subscriptions are durable"
    left = client.call("gw.unsubscribe", b'{"topics": ["news/sport"]}')
    assert (left.status, json.loads(left.body)) == (0, {"topics": []})


def test_a_repeated_call_is_answered_but_not_executed_again(
    phone: Callable[..., MinimalClient], business: Business
) -> None:
    client = phone()
    client.connect()
    first = client.call("pay", b"100")
    same = client.call("pay", b"100", (), first.id)
    assert (same.status, same.body) == (first.status, first.body)
    client.connect()
    again = client.call("pay", b"100", (), first.id)
    assert (again.status, again.body, again.was_reset) == (first.status, first.body, False)
    other = client.call("pay", b"200", (), first.id)
    assert (other.status, other.was_reset) == (DUPLICATE, True)
    assert business.executed == [("/pay", b"100")]


def test_a_call_in_flight_is_answered_on_the_next_connection(
    phone: Callable[..., MinimalClient], business: Business
) -> None:
    client = phone()
    client.connect()
    call = client.start("pay", b'{"wait": true}')
    assert business.arrived.wait(PATIENCE)
    client.connect()
    again = client.start("pay", b'{"wait": true}', (), call.id)
    client.ping()
    business.go_on.set()
    client.wait(lambda: again.ended)
    assert (again.status, json.loads(again.body)) == (0, {"got": 14})
    assert len(business.executed) == 1


def test_a_short_request_with_hello(gateway: Gateway, phone: Callable[..., MinimalClient], business: Business) -> None:
    client = phone()
    for n in (1, 2, 3):
        gateway.push({"device": "d1"}, {"n": n})
    assert client.short(("pay", b"1"), ("pay", b'{"status": 404}'), ("nowhere", b""), hello=True, max_pushes=2) == 0
    assert [call.status for call in client.calls] == [0, 404, 0]
    assert dict(client.calls[1].headers)["x-phrase"] == PHRASE
    assert json.loads(client.calls[0].body) == {"got": 1}
    assert client.session
    assert len(client.mac_key) == 32
    assert len(business.executed) == 3


def test_a_short_request_in_the_session_of_a_long_connection(
    gateway: Gateway, phone: Callable[..., MinimalClient], business: Business
) -> None:
    client = phone()
    client.connect()
    gateway.push({"device": "d1"}, {"n": 1})
    received(client, 1)
    client.ack(1)
    client.ping()
    client.close()
    for n in (2, 3, 4):
        gateway.push({"device": "d1"}, {"n": n})
    assert client.short(("pay", b"100"), max_pushes=2) == 0
    assert client.calls[0].status == 0
    assert received(client, 2) == [(2, {"n": 2}), (3, {"n": 3})]
    assert 6 in client.about, "more pushes"
    assert client.short(max_pushes=0) == 0
    assert client.pushes == []
    assert client.short(max_pushes=8) == 0
    assert received(client, 3) == [(n, {"n": n}) for n in (2, 3, 4)], "nothing was acknowledged yet"
    client.ack(3)
    assert client.short(max_pushes=8) == 0
    assert client.pushes == []
    gateway.push({"device": "d1"}, {"n": 5})
    client.connect()
    assert received(client, 1) == [(5, {"n": 5})]
    assert business.executed == [("/pay", b"100")]


def test_pending_pushes_of_a_short_request_with_hello(gateway: Gateway, phone: Callable[..., MinimalClient]) -> None:
    client = phone()
    client.connect()
    gateway.push({"device": "d1"}, {"n": 1})
    received(client, 1)
    client.ack(1)
    client.ping()
    client.close()
    gateway.push({"device": "d1"}, {"n": 2})
    assert client.short(hello=True, max_pushes=8) == 0
    assert received(client, 1) == [(2, {"n": 2})]
    client.ack(1)
    assert client.short(hello=True, max_pushes=8) == 0
    assert client.pushes == []


def test_one_call_id_over_long_and_short(phone: Callable[..., MinimalClient], business: Business) -> None:
    client = phone()
    client.connect()
    first = client.call("pay", b"100")
    for hello in (False, True):
        assert client.short(("pay", b"100", (), first.id), ("pay", b"200", (), first.id), hello=hello) == 0
        same, other = client.calls
        assert (same.status, same.body) == (first.status, first.body)
        assert (other.status, other.was_reset) == (DUPLICATE, True)
    assert business.executed == [("/pay", b"100")]


def test_large_bodies_in_a_short_request(phone: Callable[..., MinimalClient]) -> None:
    client = phone()
    download = ("get", json.dumps({"send": 200_000}).encode())
    assert client.short(("put", b"u" * LARGE), download, download, hello=True) == 0
    assert json.loads(client.calls[0].body) == {"got": LARGE}
    assert [len(call.body) for call in client.calls[1:]] == [200_000, 200_000]


def test_max_frame_does_not_limit_a_short_answer(phone: Callable[..., MinimalClient]) -> None:
    client = phone()
    assert client.short(("get", json.dumps({"send": LARGE}).encode()), hello=True) == 0
    assert (client.calls[0].status, len(client.calls[0].body)) == (0, LARGE)


def test_a_short_request_that_is_not_authentic(phone: Callable[..., MinimalClient], business: Business) -> None:
    client = phone()
    client.connect()
    client.close()
    key, clock, counter, session = client.mac_key, client.clock, client.counter, client.session
    client.mac_key = bytes(32)
    assert client.short(("pay", b"1")) == SESSION_UNKNOWN
    client.mac_key, client.session = key, b"no such session"
    assert client.short(("pay", b"1")) == SESSION_UNKNOWN
    client.session, client.clock = session, clock - 40_000
    assert client.short(("pay", b"1")) == AUTH
    client.clock, client.counter = clock, counter + 100
    assert client.short(("pay", b"1")) == 0
    client.counter = counter + 100
    assert client.short(("pay", b"1")) == AUTH, "the counter was used"
    client.counter = counter + 10
    assert client.short(("pay", b"1")) == AUTH, "the counter is too old"
    assert len(business.executed) == 1


def test_a_device_that_lost_its_counter_says_hello(phone: Callable[..., MinimalClient]) -> None:
    client, restarted = phone(), phone()
    client.connect()
    assert client.short(("pay", b"1")) == 0
    restarted.boot, restarted.counter = 2, 0
    restarted.connect()
    restarted.close()
    assert (restarted.session, restarted.mac_key) == (client.session, client.mac_key)
    assert restarted.short(("pay", b"2")) == AUTH
    assert restarted.short(("pay", b"2"), hello=True) == 0


@pytest.mark.parametrize("frames", ["00", "5002" + "0061", "3007" + "05" + "00013a0178" + "61"])
def test_other_frames_in_a_short_request_are_400(phone: Callable[..., MinimalClient], frames: str) -> None:
    client = phone()
    client.hello_frame = client.hello
    client.hello = lambda: (client.hello_frame(), client.socket.sendall(bytes.fromhex(frames)))
    with pytest.raises(RuntimeError, match="HTTP 400"):
        client.short(hello=True)


def test_a_short_request_leaves_the_long_connection_alone(
    gateway: Gateway, phone: Callable[..., MinimalClient]
) -> None:
    long, short = phone(), phone()
    long.connect()
    assert short.short(("pay", b"1"), hello=True) == 0
    assert long.call("pay", b"2").status == 0


def test_a_higher_generation_takes_over(gateway: Gateway, phone: Callable[..., MinimalClient]) -> None:
    old, new = phone(), phone()
    old.connect()
    new.connections = old.connections
    new.connect()
    with pytest.raises(MmtpError) as ended:
        old.wait(lambda: False)
    assert ended.value.args[0] == REPLACED
    assert old.goaway[1] == REPLACED
    gateway.push({"device": "d1"}, {"n": 1})
    assert received(new, 1) == [(1, {"n": 1})]


def test_an_equal_generation_takes_over_and_a_lower_one_is_refused(phone: Callable[..., MinimalClient]) -> None:
    first, equal, lower = phone(), phone(), phone()
    first.connections = 5
    first.connect()
    equal.connections = 5
    equal.connect()
    with pytest.raises(MmtpError) as ended:
        first.wait(lambda: False)
    assert ended.value.args[0] == REPLACED
    with pytest.raises(MmtpError) as refused:
        lower.connect()
    assert refused.value.args[0] == REPLACED
    assert equal.call("pay", b"1").status == 0


def test_a_bad_token_is_refused(phone: Callable[..., MinimalClient]) -> None:
    client = phone(token="wrong")
    with pytest.raises(MmtpError) as refused:
        client.connect()
    assert refused.value.args[0] == AUTH
    assert client.short(("pay", b"1"), hello=True) == AUTH


def test_a_violation_is_told_and_ends_the_connection(phone: Callable[..., MinimalClient]) -> None:
    client = phone()
    client.connect()
    client.socket.sendall(bytes.fromhex("50020061"))  # DATA of a call that was never opened
    with pytest.raises(MmtpError) as ended:
        client.wait(lambda: False)
    assert ended.value.args[0] == client.goaway[1] == minimal_client.PROTOCOL


def test_a_gateway_that_leaves_answers_what_it_took(
    gateway: Gateway, phone: Callable[..., MinimalClient], business: Business
) -> None:
    client = phone()
    client.connect()
    taken = client.start("pay", b'{"wait": true}')
    assert business.arrived.wait(PATIENCE)
    gateway.process.terminate()
    client.wait(lambda: client.goaway)
    with pytest.raises(RuntimeError):
        client.start("pay", b"2")
    business.go_on.set()
    client.wait(lambda: taken.ended)
    assert taken.status == 0
    assert client.goaway.get(3) == 1
    client.close()
    gateway.process.wait(PATIENCE)


def test_the_shell(gateway: Gateway) -> None:
    command = [minimal_client.__file__, "localhost", gateway.tls, gateway.ca, "d1", "device-token", "pay", "100"]
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, timeout=PATIENCE, check=True)
    assert json.loads(done.stdout) == {"got": 3}


def test_the_pushes_of_the_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the gateway sends in a dialogue of section 16."""
    text = (Path(__file__).parents[2] / "docs" / "spec" / "mmtp.md").read_text()
    dialogue = text.split("name: pushes, gaps, a note, and acknowledgements\n")[1].split("```")[0]
    client, sent = MinimalClient("", 0, "d1"), bytearray()
    transport = SimpleNamespace(sendall=sent.extend, close=lambda: None)
    monkeypatch.setattr(minimal_client.socket, "create_connection", lambda *_: transport)
    client.socket = client.begin("mmtp/1")
    for line in dialogue.splitlines():
        if line.startswith("S> "):
            client.receive(Reader(bytes.fromhex(line[3:])), 1 << 18)
    assert [(push.seq, push.gap, push.body) for push in client.pushes] == [
        (42, 0, b"shipped"),
        (46, 3, b"paid"),
        (101, 0, b"hello"),
    ]
    paid, hello = client.pushes[1:]
    assert (paid.ttl, paid.priority, paid.collapse, paid.stream) == (60_000, 1, b"order-7", (1, b"u1", b"orders"))
    assert (hello.epoch, hello.stream) == (9, (3, b"", b"news"))
    assert client.notes == [(1, (3, b"", b"news"))]
    client.ack(3)
    assert sent == bytes.fromhex("2003")
    assert client.cursors == {
        paid.stream: bytes.fromhex("01027531066f7264657273012e"),
        hello.stream: b"\3\0\4news\x09e",
    }


def test_header_blocks_of_rfc_7541() -> None:
    table = list(minimal_client.STATIC)
    blocks = ["408825a849e95ba97d7f8925a849e95bb8e8b4bf", "be", "58" + "86a8eb10649cbf", "bebf", "3fe11f" + "bf"]
    custom, cache = ("custom-key", "custom-value"), ("cache-control", "no-cache")
    expected = [[custom], [custom], [cache], [cache, custom], [custom]]
    assert [Reader(bytes.fromhex(block)).headers(table) for block in blocks] == expected
    with pytest.raises(ValueError, match="256"):
        Reader(bytes.fromhex("000161" + "84ffffffff")).headers(table)  # the end mark


def test_it_is_small_and_needs_nothing() -> None:
    source = Path(minimal_client.__file__).read_text()
    assert len(source.splitlines()) <= 300
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            modules.add(str(node.module).split(".")[0])
    assert modules <= sys.stdlib_module_names
