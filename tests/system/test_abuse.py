"""Peers that break the rules: each is refused with its status and its reason, and nobody else notices."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from protocols.mmtp import Status
from protocols.mmtp.events import CallReset
from tests.system.attacker import PLAIN_REQUEST, Attacker, hello_of
from tests.system.device import TIMEOUT, Device
from tests.system.gateway_process import Gateway
from tests.system.upstream import Upstream

LIMITS = """
[limits]
http_idle_timeout = 0.7
close_timeout = 0.5
accepts_per_address_per_second = 100000
accept_burst_per_address = 100000
"""
HASTE = """
handshake_timeout = 3.0
hello_timeout = 1.0
idle_timeout = 3.0

[mmtp]
heartbeat_hint = 2.0
"""
"""Only for the tests of time-outs: on a busy machine an honest peer may be as slow."""


@contextmanager
def built(directory: Path, limits: str) -> Iterator[Gateway]:
    """One gateway for many tests, in which it is `besieged`."""
    upstream = Upstream()
    upstream.start()
    gateway = Gateway(directory, upstream=upstream.url, extra=limits)
    try:
        gateway.log_accesses()
        gateway.start()
        Device(gateway.plain, "first").welcomed().call("echo")
        yield gateway
        gateway.assert_sound()
    finally:
        gateway.close()
        upstream.stop()


@pytest.fixture(scope="module")
def fortress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with built(tmp_path_factory.mktemp("fortress"), LIMITS) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def hasty_fortress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with built(tmp_path_factory.mktemp("hasty"), LIMITS + HASTE) as gateway:
        yield gateway


@pytest.fixture
def siege(fortress: Gateway) -> Iterator[Gateway]:
    with besieged(fortress) as gateway:
        yield gateway


@pytest.fixture
def hasty(hasty_fortress: Gateway) -> Iterator[Gateway]:
    with besieged(hasty_fortress) as gateway:
        yield gateway


@contextmanager
def besieged(fortress: Gateway) -> Iterator[Gateway]:
    """The gateway; afterwards a fresh device is served, connections and descriptors are gone, the log is clean."""
    fortress.wait_until(lambda: fortress.metric("accessgw_connections_open") == 0)
    descriptors = own_descriptors(fortress)
    yield fortress
    device = Device(fortress.plain, "fresh", boot=next(_boots)).welcomed()
    assert device.call("query.echo").status == Status.OK
    place = fortress.push({"device": "fresh"}, "alive")
    while (push := device.next_push()).seq < place["seq"]:
        pass
    assert push.body == b'"alive"'
    device.ack_now()
    device.cut()
    fortress.wait_until(lambda: fortress.metric("accessgw_connections_open") == 0)
    fortress.wait_until(lambda: fortress.metric("accessgw_calls_open") == 0)
    fortress.wait_until(lambda: own_descriptors(fortress) <= descriptors + SPARE)
    fortress.assert_sound()


SPARE = 4
"""Descriptors that the control API's own connections may hold at the moment of looking."""


def own_descriptors(gateway: Gateway) -> float:
    """Open descriptors but for the upstream's kept-alive connections, which come and go."""
    return gateway.metric("accessgw_process_open_fds") - gateway.metric(
        "accessgw_upstream_connections", cluster="business"
    )


_boots = iter(range(1, 10_000))


def check(attacker: Attacker, status: int, reason: str) -> None:
    """It ended with the GOAWAY, and with the reason in the access log and in the metric."""
    gateway = attacker.gateway
    assert attacker.refusal() == status
    assert attacker.closed_as()["reason"] == reason
    assert gateway.metric("accessgw_connections_closed_total", reason=reason) >= 1


# ---------------------------------------------------------------- malformed frames

MALFORMED = {
    "a request instead of HELLO": (b"", "3003000000", Status.PROTOCOL),
    "HELLO without a device": (b"", "8003010101", Status.PROTOCOL),
    "HELLO of another version": (b"", "800701010203026431", Status.VERSION),
    "an oversized HELLO": (b"", "808140", Status.FRAME_SIZE),
    "a second HELLO": (b"h", "800701010103026431", Status.PROTOCOL),
    "a frame of 256 KiB and one byte": (b"h", "30818010", Status.FRAME_SIZE),
    "a length without an end": (b"h", "30ffffffffff", Status.FRAME_SIZE),
    "a push from a device": (b"h", "70020061", Status.PROTOCOL),
    "DATA of no call": (b"h", "50020061", Status.PROTOCOL),
    "a header block cut off": (b"h", "300201ff", Status.COMPRESSION),
    "a line end in a header": (b"h", "30100f40033a6f70016140017804610d0a62", Status.PROTOCOL),
    "too much credit": (b"h", "d00600ffffffff07d00600ffffffff07", Status.FLOW_CONTROL),
    "an unknown extension that matters": (b"h", "f10107", Status.PROTOCOL),
    "ACK of what was never sent": (b"h", "2001", Status.PROTOCOL),
}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_frames(siege: Gateway, name: str, tls: bool) -> None:
    before, frame, status = MALFORMED[name]
    greeting = hello_of("bad") if before else b""
    attacker = Attacker(siege, tls).send(greeting + bytes.fromhex(frame))
    if not before and not tls and frame[:2] != "80":
        status = -1  # on a port that serves HTTP too nobody knows yet that it is MMTP
    check(attacker, status, "protocol_error")


def test_noise(siege: Gateway) -> None:
    """Nothing that looks like a protocol, on either listener."""
    for tls in (False, True):
        for noise in (b"\xff" * 300, b"\x00\x01\x02\x03", b"SSH-2.0-x\r\n", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n"):
            attacker = Attacker(siege, tls, shake=False).send(noise)
            attacker.socket.shutdown(socket.SHUT_WR)
            attacker.listen()
            assert attacker.closed_as()["reason"] in {
                "protocol_error", "handshake_failed", "proxy_header", "peer_closed", "flood", "hello_timeout",
            }  # fmt: skip


# ---------------------------------------------------------------- too much


def literal(name: bytes, value: bytes) -> bytes:
    """A header field literal with incremental indexing (RFC 7541 6.2.1), without Huffman."""
    return b"\x40" + hpack_int(len(name), 7) + name + hpack_int(len(value), 7) + value


def hpack_int(value: int, bits: int) -> bytes:
    most = (1 << bits) - 1
    if value < most:
        return bytes([value])
    out = bytes([most])
    value -= most
    while value >= 128:
        out += bytes([value % 128 | 128])
        value //= 128
    return out + bytes([value])


def leb(value: int) -> bytes:
    out = b""
    while value >= 128:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def request(block: bytes, body: bytes = b"", flags: int = 0) -> bytes:
    payload = leb(len(block)) + block + body
    return bytes([0x30 | flags]) + leb(len(payload)) + payload


OPERATION = literal(b":op", b"echo")


@pytest.mark.parametrize(
    ("block", "status"),
    [
        (OPERATION + b"".join(literal(b"x%d" % n, b"v" * 1200) for n in range(60)), Status.COMPRESSION),
        (OPERATION + literal(b"x", b"v" * 3900) + b"\xbe" * 40, Status.COMPRESSION),
        (OPERATION + literal(b"x", b"v" * 70_000), Status.COMPRESSION),
        (OPERATION + b"".join(literal(b"x%d" % n, b"") for n in range(64)), Status.PROTOCOL),
    ],
    ids=["72 KB in many", "an HPACK bomb", "70 KB in one", "65 fields"],
)
def test_oversized_headers(siege: Gateway, block: bytes, status: int) -> None:
    check(Attacker(siege).send(hello_of("bad") + request(block)), status, "protocol_error")


def bomb(size: int) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(window_log=17, write_content_size=False)
    return b"\x01" + zstandard.ZstdCompressor(compression_params=parameters).compress(b"\0" * size)


def test_compression_bombs(siege: Gateway) -> None:
    packed = bomb(16 * 1024 * 1024)
    assert len(packed) < 3000
    greeting = hello_of("bad", capabilities=frozenset({"zstd"}))
    attacker = Attacker(siege).send(greeting).welcomed()
    check(attacker.send(request(OPERATION, packed, 0b100)), Status.COMPRESSION, "protocol_error")
    # The same in pieces: a REQUEST that continues in DATA. In one go, before an upstream can have answered.
    pieces = request(OPERATION, packed[:10], 0b101)
    for at in range(10, len(packed), 200):
        piece = b"\x00" + packed[at : at + 200]
        pieces += b"\x51" + leb(len(piece)) + piece
    attacker = Attacker(siege).send(greeting).welcomed().send(pieces)
    check(attacker, Status.COMPRESSION, "protocol_error")


FLOODS = {
    "PING": b"\x00",
    "PING with answer": b"\x01",
    "SETTINGS": b"\xa0\x00",
    "SETTINGS that change": b"\xa0\x03\x0e\x01\x05",
    "WINDOW": b"\xd0\x02\x00\x01",
    "EXT": b"\xf0\x01\x07",
    "DICT": b"\xb0\x01\x00",
    "RESET": PLAIN_REQUEST[:0] + b"\x60\x02\x00\x0c",
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods(siege: Gateway, name: str) -> None:
    attacker = Attacker(siege).send(hello_of("bad") + PLAIN_REQUEST + FLOODS[name] * 3000)
    attacker.listen()
    assert attacker.closed_as()["reason"] == "flood"
    assert b"control frames" in attacker.said, "GOAWAY says which rule was broken"


def test_a_flood_of_calls_is_refused_call_by_call(siege: Gateway) -> None:
    """Past max_open_calls each call is refused; the connection goes on."""
    device = Device(siege.plain, "eager").welcomed()
    device.wire._wire.peer = replace(device.wire._wire.peer, max_open_calls=127)  # it does not care for the gateway's
    numbers = [device.send("hold.x") for _ in range(64)]
    assert device.call("query.x").status == Status.OVERLOAD
    for number in numbers:
        device.wire.reset(number, Status.CANCELLED)
    device.flush()
    assert {device.answer(number).status for number in numbers} == {Status.CANCELLED}
    assert device.call("query.x").status == Status.OK
    device.cut()


# ---------------------------------------------------------------- too slow


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("first", [b"\x80", b"\x80\x20\x01\x01\x01", b"\x00"], ids=["type", "part", "only PING"])
def test_slow_hello(hasty: Gateway, first: bytes, tls: bool) -> None:
    check(Attacker(hasty, tls).send(first), Status.DEADLINE, "hello_timeout")


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_slow_http_head(hasty: Gateway, tls: bool) -> None:
    attacker = Attacker(hasty, tls, alpn="http/1.1").send(b"GET /api/x HTTP/1.1\r\nHost: a\r\nx: ")
    assert attacker.listen().startswith(b"HTTP/1.1 408 ")
    assert attacker.closed_as()["reason"] == "hello_timeout"


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], ids=["nothing", "a part"])
def test_slow_tls_handshake(hasty: Gateway, first: bytes) -> None:
    attacker = Attacker(hasty, tls=True, shake=False).send(first)
    attacker.listen()
    assert attacker.closed_as()["reason"] == "handshake_timeout"


def test_silence_before_the_first_byte(hasty: Gateway) -> None:
    attacker = Attacker(hasty)
    attacker.listen()
    assert attacker.closed_as()["reason"] == "hello_timeout"


def test_half_open_connections(hasty: Gateway) -> None:
    """A device that has gone without a word ends by the idle time-out, one that sent FIN at once."""
    silent = [Attacker(hasty, tls).send(hello_of(f"gone{tls}")) for tls in (False, True)]
    finished = Attacker(hasty).send(hello_of("fin"))
    finished.socket.shutdown(socket.SHUT_WR)
    finished.listen()
    assert finished.closed_as()["reason"] == "peer_closed"
    for attacker in silent:
        attacker.listen()
        assert attacker.closed_as()["reason"] == "idle"


def test_a_device_that_sends_heartbeats_stays(hasty: Gateway) -> None:
    device = Device(hasty.plain, "beating").welcomed()
    for _ in range(4):
        device.socket.settimeout(1.0)
        with pytest.raises(TimeoutError):
            device.socket.recv(1)
        device.wire.ping(answer=False)
        device.flush()
    device.socket.settimeout(TIMEOUT)
    assert device.call("query.x").status == Status.OK
    device.cut()


# ---------------------------------------------------------------- operations and bodies


def test_unknown_operations(siege: Gateway) -> None:
    device = Device(siege.plain, "curious").welcomed()
    for operation in ("gw.", "gw.nope", "gw.subscribe.x"):
        assert device.call(operation).status == Status.UNKNOWN_OPERATION
    for operation in ("..", "."):
        assert device.call(operation).status == Status.PROTOCOL, "it would be another path at the upstream"
    device.cut()


@pytest.mark.parametrize(
    "operation", ["../../etc", "..%2f", "a?b=c", "a#b", "/", "a b", "GET http://x/ HTTP/1.1", "设备"]
)
def test_an_operation_stays_one_path_segment(siege: Gateway, operation: str) -> None:
    device = Device(siege.plain, "curious").welcomed()
    answer = device.call(operation)
    path = answer.body.split(b'"path": "')[1].split(b'"')[0]
    assert path.count(b"/") == 1
    assert b"?" not in path and b"#" not in path and b" " not in path
    device.cut()


@pytest.mark.parametrize(
    "body",
    [
        b'{"x": ' + b"[" * 60_000,
        b'{"x": ' + b"[" * 20_000 + b"]" * 20_000 + b', "topics": ["a"]}',
        b'{"topics": ' + b"[" * 60_000,
        b'{"topics": ["\\ud800"]}',
        b'{"topics": ["\xff"]}',
        b'{"topics": ["a\\u0000"]}',
        b'{"topics": ["' + b"t" * 201 + b'"]}',
        b'{"topics": [' + b",".join(b'"t%d"' % n for n in range(101)) + b"]}",
        b"null",
        b"",
    ],
    ids=["deep", "deep and closed", "deep topics", "half a pair", "no UTF-8", "NUL", "long", "many", "null", "empty"],
)
def test_hostile_subscriptions(siege: Gateway, body: bytes) -> None:
    device = Device(siege.plain, "subscriber").welcomed()
    assert device.call("gw.subscribe", body).status == 400
    assert device.call("gw.subscriptions").body == b'{"topics":[]}'
    device.cut()


def test_a_builtin_body_that_never_ends(siege: Gateway) -> None:
    """100,000 topics: refused once it is too much, and the call does not wait for the rest for ever."""
    device = Device(siege.plain, "subscriber").welcomed()
    number = device.wire.request("gw.subscribe", [], b'{"topics": ["', more=True)
    device.flush()
    for _ in range(5):
        device.wire.send_data(number, b"t" * 20_000, True)
        device.flush()
    assert device.expect(CallReset).status == Status.FRAME_SIZE
    device.cut()


def test_spoofed_headers_do_not_reach_the_upstream(siege: Gateway) -> None:
    device = Device(siege.plain, "spoof").welcomed()
    number = device.wire.request("query.x", [("x-device-id", "root"), ("x_device_id", "root"), ("host", "evil")], b"1")
    device.flush()
    assert b'"device": "spoof"' in device.answer(number).body
    device.cut()


def test_an_announced_body_that_is_too_large(siege: Gateway) -> None:
    before = siege.metric("accessgw_upstream_requests_total", cluster="business")
    head = b"POST /api/x HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999999999\r\n\r\n"
    assert Attacker(siege).send(head + b"x").listen().startswith(b"HTTP/1.1 413 ")
    assert siege.metric("accessgw_upstream_requests_total", cluster="business") == before


@pytest.mark.parametrize("value", [b"\xff", b"x" * 5000, b"a b"], ids=["no ASCII", "long", "a space"])
def test_a_device_named_in_http_is_held_to_the_rules_of_hello(siege: Gateway, value: bytes) -> None:
    head = (
        b"GET /api/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer device-token\r\nX-Device-Id: " + value + b"\r\n\r\n"
    )
    answer = Attacker(siege).send(head).listen()
    if value == b"\xff":
        assert answer.startswith(b"HTTP/1.1 200 "), "a letter, percent-encoded towards the upstream"
        assert b"%C3%BF" in answer
    else:
        assert answer.startswith(b"HTTP/1.1 400 ")


SMUGGLED = {
    "CL.TE": b"POST /api/a HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    "two lengths": b"POST /api/a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
    "space before the colon": b"POST /api/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "twice chunked": b"POST /api/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "bare LF": b"POST /api/a HTTP/1.1\r\nHost: a\nContent-Length: 0\r\n\r\n",
    "folding": b"GET /api/a HTTP/1.1\r\nHost: a\r\nX: a\r\n Content-Length: 5\r\n\r\n",
    "absolute form": b"GET http://evil/api/a HTTP/1.1\r\nHost: a\r\n\r\n",
    "chunk size with a sign": b"POST /api/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_request_smuggling(siege: Gateway, name: str) -> None:
    attacker = Attacker(siege).send(SMUGGLED[name])
    answer = attacker.listen()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert attacker.closed_as()["reason"] == "protocol_error"


@pytest.mark.parametrize("path", ["/api/../x", "/api/%2e%2e/x", "/api/..%2fx", "/api/..;/x", "/api/..\\x"])
def test_paths_that_climb(siege: Gateway, path: str) -> None:
    before = siege.metric("accessgw_upstream_requests_total", cluster="business")
    head = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
    assert Attacker(siege).send(head).listen().startswith(b"HTTP/1.1 404 ")
    assert siege.metric("accessgw_upstream_requests_total", cluster="business") == before
