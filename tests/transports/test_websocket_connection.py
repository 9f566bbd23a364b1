"""Any binding inside WebSocket: the upgrade, its refusals, time-outs, closes; over memory and real sockets."""

from __future__ import annotations

import gc
import json
import socket
import ssl
import time

import pytest
from twisted.internet.threads import deferToThread
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, Request, TextMessage

from accessgw.crypto.contexts import ServerContexts
from accessgw.crypto.development import ensure_development_certificate
from accessgw.model.listener_settings import CertificateSettings
from accessgw.model.reasons import CloseReason
from accessgw.transports.http import HttpBindingFactory
from accessgw.transports.websocket import WebSocketConnection, WebSocketEndpoint
from protocols.errors import LocalError
from protocols.proxyproto import encode_v1
from tests.reactor_loop import run
from tests.transports.support import Echo, HeldTime, Journal, listen, make_services, outcome, play, until
from tests.transports.test_http_binding import GET, LIMITS, FakeConnection, Handler, hello

MQTT = ("mqtt", "mqttv3.1")
UPGRADE = (
    b"GET /mqtt HTTP/1.1\r\nHost: gw\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)


class Line(FakeConnection):
    """A connection that can be handed over."""

    def hand_over(self, binding, farewell):
        self.binding, self.farewell = binding, farewell
        self.calls.append("hand over")

    def touch(self):
        self.calls.append("touch")

    def retire(self):
        self.calls.append("retire")

    def close(self, reason, detail=""):
        if self.ended is None and getattr(self, "farewell", None) is not None:
            self.write(self.farewell(reason))
        super().close(reason, detail)
        self.detail = detail


def upgraded(request=UPGRADE, rest=b"", max_message=1000, origins=None, answer=None):
    """The line, the echo bindings that were made, the HTTP binding, the handler."""
    line, handler, bindings = Line(), Handler(answer), []

    def factory(connection):
        bindings.append(Echo(connection))
        return bindings[-1]

    endpoint = WebSocketEndpoint(factory, MQTT, required=True, max_message=max_message)
    http = HttpBindingFactory(handler, LIMITS, websockets={"/mqtt": endpoint}, origins=origins or {})(line)
    http.data_received(request + rest)
    return line, bindings, http, handler


def client() -> tuple[WSConnection, bytes]:
    peer = WSConnection(ConnectionType.CLIENT)
    return peer, peer.send(Request(host="gw", target="/mqtt", subprotocols=["mqtt"]))


def events(peer: WSConnection, data: bytes) -> list:
    peer.receive_data(data)
    return list(peer.events())


# ------------------------------------------------------------------ in memory


def test_an_independent_client_talks_to_a_binding():
    peer, request = client()
    line, (echo,), _, handler = upgraded(request)
    (accepted,) = events(peer, line.take_sent())
    assert isinstance(accepted, AcceptConnection) and accepted.subprotocol == "mqtt"
    assert line.info.websocket and echo.connection.info is line.info
    assert line.calls[-2:] == ["hand over", "await_hello"] and handler.exchanges == []
    line.binding.data_received(peer.send(BytesMessage(b"one")) + peer.send(BytesMessage(b"two")))
    assert "touch" in line.calls
    assert echo.received == b"onetwo"
    (message,) = events(peer, line.take_sent())
    assert isinstance(message, BytesMessage) and message.data == b"onetwo"


def test_bytes_behind_the_request_reach_the_binding_in_any_split():
    peer, request = client()
    peer.receive_data(upgraded(request)[0].sent)
    assert [type(event) for event in peer.events()] == [AcceptConnection]
    frames = peer.send(BytesMessage(b"pipelined"))
    whole = request + frames
    for cut in range(0, len(whole), 3):
        line, bindings, http, _ = upgraded(whole[:cut])
        (line.binding if bindings else http).data_received(whole[cut:])
        (echo,) = bindings
        assert echo.received == b"pipelined", cut


def test_a_connection_that_broke_the_protocol_is_freed_at_once():
    def alive():
        return sum(type(one) is WebSocketConnection for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = alive()
        line, bindings, http, _ = upgraded(rest=b"\xf0\x00")
        assert line.ended == ("close", CloseReason.PROTOCOL_ERROR)
        line.binding.connection_lost(CloseReason.PROTOCOL_ERROR, "")
        line.binding = line.farewell = None
        bindings.clear()
        del line, http
        assert alive() <= before
    finally:
        gc.enable()


def test_an_upgrade_after_other_requests():
    line, (echo,), http, handler = upgraded(GET + GET + UPGRADE, answer=hello)
    assert line.sent.count(b"hello") == 2 and b"HTTP/1.1 101 " in line.sent
    assert len(handler.exchanges) == 2 and not line.paused
    http.data_received(GET)
    assert len(handler.exchanges) == 2 and line.ended is None
    assert echo.calls == []


def test_an_upgrade_waits_for_the_answer_before_it():
    line, bindings, _, handler = upgraded(GET + UPGRADE)
    assert bindings == [] and line.paused
    body = b"~" * 200_000
    line.room = 1000
    handler.exchanges[0].respond(200, [], body)
    assert len(bindings) == 1 and not line.paused
    line.make_room(line.binding, 1 << 40)
    assert line.sent.count(b"~") == len(body) and line.sent.index(b"101 Switching") > len(body)
    assert bindings[0].calls == ["drained"]


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0"), 426, "over HTTP/1.1"),
        (b"GET /mqtt HTTP/1.1\r\nHost: gw\r\n\r\n", 426, "Upgrade: websocket"),
        (UPGRADE.replace(b"-Version: 13", b"-Version: 7"), 426, "expected 13, got 7"),
        (UPGRADE.replace(b"Sec-WebSocket-Key", b"X-Key"), 400, "Sec-WebSocket-Key"),
        (UPGRADE.replace(b": mqtt", b": soap"), 400, "expected mqtt or mqttv3.1, got soap"),
        (UPGRADE.replace(b"Sec-WebSocket-Protocol", b"X-Protocol"), 400, "expected mqtt or mqttv3.1, got none"),
        (UPGRADE.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\nabc"), 400, "without a body"),
        (UPGRADE.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\na"), 400, "without a body"),
        (UPGRADE.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"), 400, "without a body"),
        (UPGRADE.replace(b"\r\n\r\n", b"\r\nOrigin: https://evil.example\r\n\r\n"), 403, "https://evil.example"),
        (UPGRADE.replace(b"\r\n\r\n", b"\r\nOrigin: https://a.example\r\nOrigin: https://a.example\r\n\r\n"), 403, ""),
    ],
)
def test_refusals(request_, status, words):
    line, bindings, http, handler = upgraded(request_, origins={"test": ("https://a.example",)})
    head, _, body = line.take_sent().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert words in json.loads(body)["error"]["message"]
    assert (b"sec-websocket-version: 13" in head) is (status == 426)
    assert (b"connection: close, upgrade" in head) is (status == 426)
    assert line.ended == ("close", "forbidden" if status == 403 else "protocol_error")
    assert line.detail.startswith(f"{status}: ")
    assert bindings == [] and handler.exchanges == [] and not line.info.websocket
    http.data_received(UPGRADE)
    assert bindings == []


def test_origins_that_may():
    request = UPGRADE.replace(b"\r\n\r\n", b"\r\nOrigin: https://a.example\r\n\r\n")
    for origins in (
        {"test": ("https://b.example", "https://a.example")},
        {"other": ("https://b.example",)},
        {"test": ()},
    ):
        assert len(upgraded(request, origins=origins)[1]) == 1
    assert len(upgraded(UPGRADE, origins={"test": ("https://b.example",)})[1]) == 1  # no browser


def test_other_methods_and_paths_go_to_the_handler():
    for request in (
        UPGRADE.replace(b"/mqtt", b"/mqtt2"),
        b"POST /mqtt HTTP/1.1\r\nhost: gw\r\ncontent-length: 0\r\n\r\n",
    ):
        line, bindings, _, handler = upgraded(request, answer=hello)
        assert bindings == [] and len(handler.exchanges) == 1 and b"200 OK" in line.sent


def test_pings_are_answered_and_are_no_activity():
    peer, request = client()
    line, (echo,), *_ = upgraded(request)
    events(peer, line.take_sent())
    line.binding.data_received(peer.send(Ping(b"hi")) + peer.send(BytesMessage(b"")))
    (pong,) = events(peer, line.take_sent())
    assert isinstance(pong, Pong) and pong.payload == b"hi"
    assert "touch" not in line.calls and echo.calls == []


def test_text_ends_it_with_1003_after_what_came_before():
    """[MQTT-6.0.0-1]"""
    peer, request = client()
    line, (echo,), *_ = upgraded(request)
    events(peer, line.take_sent())
    line.binding.data_received(peer.send(BytesMessage(b"good")) + peer.send(TextMessage("bad")))
    assert echo.received == b"good"
    (close,) = events(peer, line.take_sent())  # nothing follows a close frame
    assert isinstance(close, CloseConnection) and close.code == 1003
    assert line.ended == ("close", "protocol_error") and line.detail.startswith("1003: WebSocket")
    line.binding.data_received(peer.send(close.response()))
    assert line.sent == b""


def test_a_message_past_its_bound_ends_it_with_1009():
    peer, request = client()
    line, *_ = upgraded(request, max_message=10)
    events(peer, line.take_sent())
    line.binding.data_received(peer.send(BytesMessage(b"x" * 11)))
    (close,) = events(peer, line.take_sent())
    assert close.code == 1009 and line.ended == ("close", "protocol_error")


def test_the_peer_closes():
    peer, request = client()
    line, (echo,), *_ = upgraded(request)
    events(peer, line.take_sent())
    line.binding.data_received(peer.send(CloseConnection(1001, "leaving")))
    (close,) = events(peer, line.take_sent())
    assert close.code == 1001 and line.ended == ("close", "peer_closed") and "1001" in line.detail
    echo.connection.write(b"too late")
    assert line.sent == b""


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (CloseReason.FINISHED, 1000),
        (CloseReason.LOGOUT, 1000),
        (CloseReason.PROTOCOL_ERROR, 1002),
        (CloseReason.DRAINING, 1001),
        (CloseReason.AUTH_FAILED, 1008),
        (CloseReason.OVERLOAD, 1013),
        (CloseReason.INTERNAL, 1011),
    ],
)
def test_a_close_of_the_binding_says_why(reason, code):
    peer, request = client()
    line, (echo,), *_ = upgraded(request)
    events(peer, line.take_sent())
    echo.connection.write(b"last words")
    echo.connection.close(reason, "detail for the log")
    message, close = events(peer, line.take_sent())
    assert message.data == b"last words"
    assert (close.code, close.reason) == (code, str(reason))
    assert line.ended == ("close", str(reason)) and line.detail == "detail for the log"


def test_a_close_while_the_binding_is_made():
    class Refusing(Echo):
        def __init__(self, connection):
            super().__init__(connection)
            connection.close(CloseReason.OVERLOAD)

    line = Line()
    endpoint = WebSocketEndpoint(Refusing, MQTT, required=True)
    HttpBindingFactory(Handler(), LIMITS, websockets={"/mqtt": endpoint})(line).data_received(UPGRADE)
    assert b"101 Switching" in line.sent and line.sent.endswith(b"overload")
    assert line.ended == ("close", "overload")


def test_a_factory_that_raises():
    def broken(connection):
        raise ValueError("as asked")

    line = Line()
    http = HttpBindingFactory(Handler(), LIMITS, websockets={"/mqtt": WebSocketEndpoint(broken, MQTT)})(line)
    with pytest.raises(ValueError, match="as asked"):
        http.data_received(UPGRADE)
    assert line.sent.count(b"HTTP/1.1") == 1  # no answer after the 101


def test_everything_else_passes_through():
    line, (echo,), *_ = upgraded()
    connection = echo.connection
    line.room = 0
    connection.write(b"x" * 100)
    assert connection.buffered == line.buffered > 100
    line.make_room(line.binding, 1 << 40)
    line.binding.aged()
    line.binding.late()
    connection.pause()
    assert line.paused
    connection.resume()
    connection.set_idle(5)
    connection.await_hello()
    connection.retire()
    assert line.calls[-4:] == ["resume", ("idle", 5), "await_hello", "retire"]
    connection.abort(CloseReason.REVOKED)
    assert line.ended == ("abort", "revoked")
    line.binding.connection_lost(CloseReason.REVOKED, "")
    line.binding.connection_lost(CloseReason.REVOKED, "")
    line.binding.data_received(b"\x82\x81\0\0\0\0x")
    assert echo.calls == ["drained", "aged", "late", ("lost", "revoked")]
    with pytest.raises(LocalError):
        connection.hand_over(echo, lambda reason: b"")


# ------------------------------------------------------------------ real sockets


def begin(reactor, state=None, path=None, proxy=(), **limits):
    journal = Journal()
    services = make_services(reactor, journal, **limits)
    endpoint = WebSocketEndpoint(lambda connection: Echo(connection, journal), MQTT, required=True)
    factories = {
        "http/1.1": HttpBindingFactory(hello_handler, services.limits, websockets={"/mqtt": endpoint}),
        "mqtt": lambda connection: Echo(connection, journal, "mqtt"),
    }
    settings = {"protocols": ("mqtt", "http/1.1"), "proxy_protocol_from": proxy}
    contexts = None
    if state is not None:
        files = ensure_development_certificate(state, time.time(), "gateway.test")
        contexts = ServerContexts([CertificateSettings(chain=files.chain, key=files.key)], ("mqtt", "http/1.1"))
        settings["transport"] = "tls"
    elif path is not None:
        settings |= {"transport": "unix", "path": path}
    return journal, services, listen(services, journal, contexts, factories, **settings)


def hello_handler(exchange):
    hello(exchange)
    return Handler()(exchange)


class Peer:
    """A blocking client on wsproto."""

    def __init__(self, sock, prelude=b""):
        self.sock = sock
        self.wire, request = client()
        sock.sendall(prelude + request)
        assert isinstance(self.next(), AcceptConnection)

    def send(self, event):
        self.sock.sendall(self.wire.send(event))

    def next(self):
        while True:
            for event in self.wire.events():
                return event
            self.wire.receive_data(self.sock.recv(65536) or None)

    def echo(self, data):
        self.send(BytesMessage(data))
        got = b""
        while len(got) < len(data):
            got += self.next().data
        return got

    def close(self):
        """The peer's close handshake; True when the server ended its side in order."""
        self.send(CloseConnection(1000))
        assert isinstance(self.next(), CloseConnection)
        return self.sock.recv(1) == b""


def plain(listener):
    return socket.create_connection(("127.0.0.1", listener.port), timeout=10)


def unix(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(path)
    return sock


def secure(listener, state, *alpn):
    context = ssl.create_default_context(cafile=state + "/ca.pem")
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context.wrap_socket(plain(listener), server_hostname="localhost", suppress_ragged_eofs=False)


DATA = bytes(range(256)) * 300


async def every_transport(reactor, state, path):
    results = {}
    for name, options in {
        "tcp": {},
        "proxy": {"proxy": ("127.0.0.0/8",)},
        "unix": {"path": path},
        "tls": {"state": state},
        "no alpn": {"state": state},
    }.items():
        journal, _, listener = begin(reactor, **options)

        def talk(name=name, listener=listener):
            prelude = encode_v1("192.0.2.7", 7, "192.0.2.1", 443) if name == "proxy" else b""
            if name == "unix":
                sock = unix(path)
            elif name == "tls":
                sock = secure(listener, state, "http/1.1")
            elif name == "no alpn":
                sock = secure(listener, state)
            else:
                sock = plain(listener)
            with sock:
                peer = Peer(sock, prelude)
                return peer.echo(DATA) == DATA, peer.close()

        answer = await deferToThread(talk)
        await journal.all_closed()
        (info,) = journal.opened
        results[name] = (answer, journal.reasons, info.transport, info.alpn, info.websocket, info.peer)
        await listener.stop()
    return results


def test_websocket_on_every_transport(played):
    results = outcome(played, "every_transport")
    for name, (answer, reasons, transport, alpn, websocket, peer) in results.items():
        assert answer == (True, True), name
        assert reasons == ["peer_closed"] and websocket
        assert transport == {"proxy": "tcp", "no alpn": "tls"}.get(name, name)
        assert alpn == ("http/1.1" if name == "tls" else "")
        assert peer == {"proxy": "192.0.2.7", "unix": "unix"}.get(name, "127.0.0.1")


async def ends(reactor):
    held = HeldTime(reactor)
    journal, services, listener = begin(held, hello_timeout=5, idle_timeout=7.5, close_timeout=20)

    upgraded = []

    def silent():
        with plain(listener) as sock:
            upgraded.append(Peer(sock))
            try:
                return sock.recv(100)
            except ConnectionError:
                return "reset"

    def pinging():
        """Established, then nothing but pings."""
        with plain(listener) as sock:
            peer = Peer(sock)
            assert peer.echo(b"x") == b"x"
            sock.settimeout(0.02)
            for _ in range(1000):
                peer.send(Ping())
                try:
                    while not isinstance(event := peer.next(), CloseConnection):
                        pass
                except TimeoutError:
                    continue
                return event.code, event.reason
            return "it goes on"

    def broken():
        with plain(listener) as sock:
            peer = Peer(sock)
            peer.send(BytesMessage(b"raise"))
            event = peer.next()
            return event.code, event.reason

    said = deferToThread(silent)
    await until(reactor, lambda: upgraded)
    held.wait(6)
    answers = [await said]
    said = deferToThread(pinging)
    await until(reactor, lambda: len(journal.bindings) == 2 and journal.bindings[1].received == b"x")
    while not said.called:
        before = services.counters.bytes_in
        await until(reactor, lambda before=before: said.called or services.counters.bytes_in > before)  # a ping came
        held.wait(2.5)
    answers += [await said, await deferToThread(broken)]
    await journal.all_closed(3)
    return answers, journal.reasons, [binding.calls for binding in journal.bindings], len(journal.opened)


def test_timeouts_and_defects_end_it_as_anywhere(played):
    answers, reasons, calls, opened = outcome(played, "ends")
    assert answers == ["reset", (1008, "idle"), (1011, "internal")]
    assert reasons == ["hello_timeout", "idle", "internal"]
    assert calls[0] == ["late", ("lost", "hello_timeout")]
    assert opened == 3


async def slow(reactor):
    journal, services, listener = begin(reactor, write_buffer=256 * 1024)

    def greedy():
        with plain(listener) as sock:
            peer = Peer(sock)
            frame = peer.wire.send(BytesMessage(bytes(60_000)))
            try:
                while True:
                    sock.sendall(frame)
            except (ConnectionError, TimeoutError) as error:
                return type(error).__name__

    answer = await deferToThread(greedy)
    await journal.all_closed()
    return answer, journal.reasons, services.counters.write_overflows


def test_a_slow_reader_is_cut_off(played):
    answer, reasons, overflows = outcome(played, "slow")
    assert answer in {"ConnectionResetError", "BrokenPipeError"}
    assert reasons == ["slow_reader"] and overflows == 1


async def _scenarios(reactor, state, path):
    return await play(
        {"every_transport": every_transport(reactor, state, path), "ends": ends(reactor), "slow": slow(reactor)}
    )


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    directory = tmp_path_factory.mktemp("state")
    ensure_development_certificate(str(directory), time.time(), "gateway.test")
    return run(_scenarios, str(directory), str(directory / "gw.sock"))
