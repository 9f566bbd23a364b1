"""Reading what is not one's own, forging, racing, and readers that do not read; hostile JSON to the control API."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from protocols.mmtp import Limits, Status, StreamCursor
from protocols.mmtp.events import GoawayReceived
from protocols.mmtp.short import ShortCall, ShortRequest, ShortResponse, decode_short_response, encode_short_request
from tests.system.device import Device, Gone
from tests.system.gateway_process import PATIENCE, Gateway
from tests.system.upstream import Upstream

SETTINGS = """
[limits]
accepts_per_address_per_second = 100000
accept_burst_per_address = 100000

[pushes]
slow_reader_timeout = 6.0
new_subscription_tail = 5
"""
WIDE = {16: 65535, 18: 2**31 - 1}
"""Push windows as large as the protocol allows."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    upstream = Upstream()
    upstream.start()
    gateway = Gateway(tmp_path_factory.mktemp("trespass"), upstream=upstream.url, extra=SETTINGS).start()
    yield gateway
    gateway.close()
    upstream.stop()


@pytest.fixture
def gateway(shared: Gateway) -> Iterator[Gateway]:
    yield shared
    shared.assert_sound()
    shared.wait_until(lambda: shared.metric("accessgw_calls_open") == 0)


# ---------------------------------------------------------------- streams of others


def strangers(gateway: Gateway) -> list[StreamCursor]:
    """Streams with pushes in them that belong to device victim, user alice, and topic private."""
    targets = ({"device": "victim"}, {"user": "alice"}, {"topic": "private"})
    epochs = [gateway.push(to, "secret", biz="mail")["epoch"] for to in targets]
    names = (("device", "victim"), ("user", "alice"), ("topic", "private"))
    return [StreamCursor(scope, id, "mail", epoch, 0) for (scope, id), epoch in zip(names, epochs, strict=True)]


def test_cursors_open_no_streams_of_others(gateway: Gateway) -> None:
    """HELLO names the streams of others, and users that only the device claims to be."""
    own = {"device": "thief"}
    device = Device(gateway.plain, "thief", cursors=strangers(gateway), attributes={"user": "alice"}).welcomed()
    gateway.push(own, "mine", biz="mail")
    strangers(gateway)
    assert device.next_push().body == b'"mine"'
    gateway.push(own, "mine too", biz="mail")
    assert device.next_push().body == b'"mine too"'
    assert not device.pushes
    device.cut()


def post(gateway: Gateway, body: bytes, host: str = "gw:1") -> ShortResponse:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.plain, timeout=PATIENCE)
    connection.request("POST", "/mmtp", body, {"Host": host})
    answer = connection.getresponse().read()
    connection.close()
    return decode_short_response(answer, Limits())


def test_short_requests_cannot_be_forged_or_repeated(gateway: Gateway) -> None:
    thief = Device(gateway.plain, "thief", boot=2).welcomed().welcome
    victim = Device(gateway.plain, "victim").welcomed().welcome
    counter = iter(range(1, 100))

    def made(session: str, key: bytes, at: float = 0.0) -> bytes:
        calls = [ShortCall(next(counter), "query.x", [], b"1", False, 5.0)]
        request = ShortRequest(
            session=session, counter=next(counter), time=time.time() + at, calls=calls, max_pushes=9,
            cursors=strangers(gateway),
        )  # fmt: skip
        return encode_short_request(request, mac_key=key, listener="gw:1")

    good = made(thief.session, thief.mac_key)
    answer = post(gateway, good)
    assert [one.status for one in answer.answers] == [Status.OK]
    assert {push.id for push in answer.pushes} <= {"thief"}, "its own streams only"
    assert post(gateway, good).status == Status.AUTH, "a repetition"
    assert post(gateway, made(thief.session, thief.mac_key), host="other").status == Status.SESSION_UNKNOWN
    assert post(gateway, made(victim.session, thief.mac_key)).status == Status.SESSION_UNKNOWN, "another's session"
    assert post(gateway, made("0" * 32, thief.mac_key)).status == Status.SESSION_UNKNOWN
    assert post(gateway, made(thief.session, thief.mac_key, at=-100)).status == Status.AUTH
    assert post(gateway, made(thief.session, thief.mac_key, at=100)).status == Status.AUTH
    tampered = bytearray(made(thief.session, thief.mac_key))
    tampered[-1] ^= 1
    assert post(gateway, bytes(tampered)).status == Status.SESSION_UNKNOWN


def test_a_call_id_belongs_to_its_device(gateway: Gateway) -> None:
    """Two devices with one call id: each gets its own answer."""
    for name in ("twin1", "twin2"):
        device = Device(gateway.plain, name).welcomed()
        assert f'"device": "{name}"'.encode() in device.call("pay", b"1", call_id=4711).body
        device.cut()


# ---------------------------------------------------------------- races


def test_a_storm_of_takeovers_leaves_one(gateway: Gateway) -> None:
    devices = [Device(gateway.plain, "storm") for _ in range(100)]
    last = devices[-1].welcomed()
    goodbyes = Counter(device.goodbye() for device in devices[:-1])
    assert goodbyes == {Status.REPLACED: 99}
    place = gateway.push({"device": "storm"}, "survivor")
    assert place["live"] == 1
    assert last.next_push().body == b'"survivor"'
    last.cut()


def test_racing_generations_leave_the_highest(gateway: Gateway) -> None:
    """Threads connect with generations in no order at once: the highest stays, whoever came first."""
    held: dict[int, Device] = {}

    def race(boot: int) -> None:
        held[boot] = Device(gateway.plain, "race", boot=boot)

    threads = [threading.Thread(target=race, args=(7 * n % 41,)) for n in range(41)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    highest = held.pop(40).welcomed()
    assert len(held) == 40
    for device in held.values():
        device.goodbye()
    assert highest.call("query.x").status == Status.OK
    assert not [event for event in highest.seen if isinstance(event, GoawayReceived)]
    highest.cut()


# ---------------------------------------------------------------- readers that do not read


def test_readers_that_never_read(gateway: Gateway) -> None:
    """A fan-out of large payloads to TLS and plain connections that read nothing: memory is bounded, the reader that
    reads gets everything in order, the others are closed as slow readers."""
    body = b'{"topics": ["flood"]}'
    deaf = [Device(gateway.plain, f"deaf{n}", settings=WIDE).welcomed() for n in range(10)]
    deaf += [Device(gateway.tls, f"deaf-tls{n}", ca=gateway.ca, settings=WIDE).welcomed() for n in range(5)]
    hearing = Device(gateway.plain, "hearing", settings=WIDE).welcomed()
    for device in [*deaf, hearing]:
        assert device.call("gw.subscribe", body).status == Status.OK
    before = gateway.metric("accessgw_process_resident_memory_bytes")
    slow = gateway.metric("accessgw_connections_closed_total", reason="slow_reader")
    received: list[int] = []

    def hear() -> None:
        while len(received) < 120:
            received.append(hearing.next_push().seq)
            hearing.ack_now()

    listener = threading.Thread(target=hear)
    listener.start()
    payload = "x" * 120_000
    for _ in range(120):
        gateway.push({"topic": "flood"}, payload)
    listener.join(PATIENCE)
    assert received == list(range(received[0], received[0] + 120))
    # Each may hold write_buffer and what is shared; 15 deaf readers of 14 MB would need 200 MB.
    assert gateway.metric("accessgw_process_resident_memory_bytes") - before < 40 * 2**20
    gateway.wait_until(
        lambda: gateway.metric("accessgw_connections_closed_total", reason="slow_reader") == slow + len(deaf)
    )
    for device in [*deaf, hearing]:
        device.cut()


def test_a_reader_that_never_acknowledges(gateway: Gateway) -> None:
    device = Device(gateway.plain, "mute").welcomed()
    for number in range(70):
        gateway.push({"device": "mute"}, number)
    assert device.goodbye() == Status.SLOW_READER
    assert len(device.pushes) == 64, "the push window"


def test_a_slow_reader_with_a_large_window_gets_everything(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Much more waits for it than a connection may buffer; it reads, so it is not closed."""
    for number in range(100):
        gateway.push({"device": "patient"}, f"{number}" * 60_000 if number < 10 else "y" * 120_000)

    def narrow(address: tuple[str, int], timeout: float) -> socket.socket:
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        peer.settimeout(timeout)
        peer.connect(address)
        return peer

    monkeypatch.setattr(socket, "create_connection", narrow)
    device = Device(gateway.plain, "patient", settings=WIDE).welcomed()
    monkeypatch.undo()
    seen = []
    try:
        while len(seen) < 100:
            seen.append(device.next_push().seq)
            time.sleep(0.01)  # it takes its time
    except Gone as gone:
        pytest.fail(f"closed after {len(seen)}: {gone}")
    assert seen == list(range(1, 101))
    device.cut()


# ---------------------------------------------------------------- the control API


def item(inside: str) -> str:
    return '{"to": {"device": "d1"}, "biz": "b", "payload": 1, ' + inside + "}"


def where(inside: str) -> str:
    return '{"to": {"broadcast": true, "where": {' + inside + '}}, "biz": "b", "payload": 1}'


HOSTILE = {
    "ttl of 50 digits": item('"ttl": ' + "9" * 50),
    "ttl of 5000 digits": item('"ttl": ' + "9" * 5000),
    "ttl 1e308": item('"ttl": 1e308'),
    "ttl 1e999": item('"ttl": 1e999'),
    "ttl NaN": item('"ttl": NaN'),
    "ttl below 0": item('"ttl": -1'),
    "huge priority": item('"priority": ' + "9" * 50),
    "where of 50 digits": where('"os": ' + "9" * 50),
    "where below all": where('"os": -' + "9" * 50),
    "where of 5000 digits": where('"os": ' + "9" * 5000),
    "where with an object": where('"os": {"a": 1}'),
    "where deep": where('"os": ' + "[" * 5000 + "]" * 5000),
    "where with a long name": where('"' + "a" * 100_000 + '": 1'),
    "where with 10,000 conditions": where(",".join(f'"k{n}": 1' for n in range(10_000))),
    "deep payload": item('"collapse": "c"')[:-1] + ', "payload_b64": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "deep nothing": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "half a pair": item('"collapse": "\\ud800"'),
    "NUL in a name": '{"to": {"topic": "a\\u0000b"}, "biz": "b", "payload": 1}',
    "null": "null",
    "no JSON": "\x00\x01",
    "nothing": "",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_json(gateway: Gateway, name: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.control, timeout=PATIENCE)
    connection.request("POST", "/v1/push", HOSTILE[name].encode(), {"Authorization": "Bearer t-push"})
    answer = connection.getresponse()
    told = answer.read()
    connection.close()
    assert 400 <= answer.status < 500, told
    assert b'"error"' in told
    assert len(told) < 1000


@pytest.mark.parametrize(
    ("token", "method", "path", "status"),
    [
        ("", "POST", "/v1/push", 401),
        ("guess", "POST", "/v1/push", 401),
        ("t-push\xff", "POST", "/v1/push", 401),
        ("t-read", "POST", "/v1/push", 403),
        ("t-operate", "POST", "/v1/push", 403),
        ("t-push", "POST", "/v1/drain", 403),
        ("t-push", "GET", "/metrics", 403),
        ("t-read", "POST", "/v1/devices/d1/close", 403),
        ("t-push", "POST", "/v1/../v1/drain", 404),
    ],
)
def test_roles(gateway: Gateway, token: str, method: str, path: str, status: int) -> None:
    assert gateway.http(method, path, {}, token)[0] == status


def test_last_words(gateway: Gateway) -> None:
    """After all that: a fresh device is served."""
    device = Device(gateway.plain, "last").welcomed()
    assert device.call("query.x").status == Status.OK
    gateway.push({"device": "last"}, 1)
    assert device.next_push().body == b"1"
    assert not [event for event in device.seen if isinstance(event, GoawayReceived)]
    device.cut()
