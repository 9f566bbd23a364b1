"""The HTTP binding over a recording connection: dialogues, flow control, time-outs, errors."""

from __future__ import annotations

import json

import pytest

from accessgw.model.http import BodyCollector
from accessgw.model.identity import ConnectionInfo
from accessgw.model.listener_settings import TransportLimits
from accessgw.transports.http import PIECE, HttpBindingFactory
from accessgw.transports.websocket import WebSocketEndpoint
from protocols.http import HttpLimits


class FakeConnection:
    """Takes `room` bytes and buffers the rest, as a kernel would."""

    def __init__(self):
        self.info = ConnectionInfo(id=1, listener="test", transport="tcp", peer="192.0.2.1")
        self.sent = b""
        self.room = 1 << 40
        self.pending = b""
        self.calls = []
        self.ended = None
        self.paused = False

    @property
    def buffered(self):
        return len(self.pending)

    def write(self, data):
        assert isinstance(data, bytes)
        if self.ended is None:
            self.pending += data
            self._take()

    def _take(self):
        taken, self.pending = self.pending[: self.room], self.pending[self.room :]
        self.sent += taken
        self.room -= len(taken)

    def make_room(self, binding, room):
        self.room = room
        had = bool(self.pending)
        self._take()
        if had and not self.pending:
            binding.drained()

    def close(self, reason, detail=""):
        self.ended = self.ended or ("close", str(reason))

    def abort(self, reason, detail=""):
        self.ended = self.ended or ("abort", str(reason))

    def pause(self):
        self.paused = True
        self.calls.append("pause")

    def resume(self):
        if self.paused:
            self.calls.append("resume")
        self.paused = False

    def established(self):
        self.calls.append("established")

    def set_idle(self, seconds):
        self.calls.append(("idle", seconds))

    def await_hello(self):
        self.calls.append("await_hello")

    def take_sent(self):
        sent, self.sent = self.sent, b""
        return sent


class Handler:
    """Records exchanges and uploads; `answer(exchange)` may answer at once."""

    def __init__(self, answer=None):
        self.exchanges = []
        self.uploads = []
        self.answer = answer

    def __call__(self, exchange):
        self.exchanges.append(exchange)
        upload = Upload(exchange)
        self.uploads.append(upload)
        if self.answer is not None:
            self.answer(exchange)
        return upload


class Upload:
    def __init__(self, exchange):
        self.exchange = exchange
        self.calls = []

    def data(self, data):
        if self.calls and isinstance(self.calls[-1], bytes):
            self.calls[-1] += data
        else:
            self.calls.append(data)

    def finished(self):
        self.calls.append("finished")

    def aborted(self):
        self.calls.append("aborted")

    def drained(self):
        self.calls.append("drained")


LIMITS = TransportLimits(http_idle_timeout=65, write_buffer=256 * 1024)
GET = b"GET /path?q=1 HTTP/1.1\r\nhost: gw\r\n\r\n"


def make(answer=None, **wire):
    connection, handler = FakeConnection(), Handler(answer)
    return connection, handler, HttpBindingFactory(handler, LIMITS, HttpLimits(**wire))(connection)


def hello(exchange):
    exchange.respond(200, [("content-type", "text/plain")], b"hello " + exchange.request.path.encode())


def test_a_request_and_its_answer_in_any_split():
    for cut in range(len(GET)):
        connection, handler, binding = make(hello)
        binding.data_received(GET[:cut])
        binding.data_received(GET[cut:])
        assert connection.sent.startswith(b"HTTP/1.1 200 OK\r\n")
        assert connection.sent.endswith(b"\r\n\r\nhello /path")
        assert connection.ended is None
        (exchange,) = handler.exchanges
        assert exchange.request.query == {"q": "1"} and exchange.request.header("host") == "gw"
        assert exchange.request.connection is connection.info


def test_keep_alive_and_connection_close():
    connection, _, binding = make(hello)
    binding.data_received(GET)
    binding.data_received(GET)
    assert connection.sent.count(b"hello") == 2 and connection.ended is None
    binding.data_received(b"GET / HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n\r\n")
    assert b"connection: close" in connection.sent
    assert connection.ended == ("close", "finished")
    binding.data_received(GET)
    assert connection.sent.count(b"hello") == 3


def test_pipelined_requests_are_answered_in_order():
    connection, handler, binding = make()
    binding.data_received(b"".join(b"GET /%d HTTP/1.1\r\nhost: gw\r\n\r\n" % n for n in range(3)))
    assert [exchange.request.path for exchange in handler.exchanges] == ["/0"]
    assert connection.calls[-1] == "pause"
    for number in range(3):
        hello(handler.exchanges[number])
    assert connection.sent.count(b"hello") == 3
    assert connection.sent.index(b"hello /0") < connection.sent.index(b"hello /1") < connection.sent.index(b"hello /2")
    assert not connection.paused
    assert [upload.calls for upload in handler.uploads] == [["finished"]] * 3


def test_pipelined_requests_that_are_answered_at_once_do_not_nest():
    connection, handler, binding = make(hello)
    binding.data_received(b"GET / HTTP/1.1\r\nhost: gw\r\n\r\n" * 3000)
    assert len(handler.exchanges) == 3000
    assert connection.sent.count(b"hello") == 3000


def test_a_body_arrives_and_is_collected():
    got = []
    connection = FakeConnection()

    def handler(exchange):
        def done(body):
            got.append(body)
            exchange.respond(200, [], body.upper())

        return BodyCollector(100, done, lambda: exchange.respond(413, [], b"too large"))

    binding = HttpBindingFactory(handler, LIMITS)(connection)
    request = b"POST / HTTP/1.1\r\nhost: gw\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    for at in range(len(request)):
        binding.data_received(request[at : at + 1])
    assert got == [b"abcde"] and connection.sent.endswith(b"\r\n\r\nABCDE")
    connection.take_sent()
    binding.data_received(b"POST / HTTP/1.1\r\nhost: gw\r\ncontent-length: 500\r\n\r\n" + bytes(200))
    assert connection.sent.startswith(b"HTTP/1.1 413 ")
    assert connection.ended == ("close", "finished")  # the rest of the body is not waited for


def test_expect_continue():
    connection, handler, binding = make()
    binding.data_received(b"POST / HTTP/1.1\r\nhost: gw\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
    assert connection.take_sent() == b"HTTP/1.1 100 Continue\r\n\r\n"
    binding.data_received(b"ok")
    assert handler.uploads[0].calls == [b"ok", "finished"]
    hello(handler.exchanges[0])
    assert connection.sent.startswith(b"HTTP/1.1 200 OK")


def test_a_refused_upload_is_not_invited():
    connection, _, binding = make(lambda exchange: exchange.respond(401, [], b""))
    binding.data_received(b"POST / HTTP/1.1\r\nhost: gw\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
    assert connection.sent.startswith(b"HTTP/1.1 401 ") and connection.ended == ("close", "finished")


def test_a_streamed_answer():
    connection, handler, binding = make()
    binding.data_received(GET)
    exchange = handler.exchanges[0]
    exchange.start(200, [("content-type", "text/plain")])
    exchange.write(b"one")
    exchange.write(b"two")
    exchange.finish()
    exchange.finish()
    exchange.respond(500, [], b"too late")
    assert connection.sent.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
    binding.data_received(GET)
    assert len(handler.exchanges) == 2


def test_a_large_answer_goes_in_pieces_as_the_peer_reads():
    body = bytes(range(256)) * 8192
    connection, handler, binding = make()
    connection.room = 1000
    binding.data_received(GET)
    exchange = handler.exchanges[0]
    exchange.respond(200, [], body)
    assert connection.buffered <= PIECE
    assert connection.ended is None
    while len(connection.sent) < len(body):
        connection.make_room(binding, 100_000)
        assert connection.buffered <= PIECE
    assert connection.sent.endswith(body)
    assert connection.calls[-1] == ("idle", 65)


def test_a_close_waits_for_the_pieces_of_the_answer():
    connection, _, binding = make(lambda exchange: exchange.respond(200, [], bytes(300_000)))
    connection.room = 0
    binding.data_received(b"GET / HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n\r\n")
    assert connection.ended is None
    for _ in range(10):
        connection.make_room(binding, 100_000)
    assert connection.ended == ("close", "finished")
    assert len(connection.sent) > 300_000


def test_a_handler_that_writes_on_at_a_slow_reader_is_cut_off():
    connection, handler, binding = make()
    connection.room = 0
    binding.data_received(GET)
    exchange = handler.exchanges[0]
    exchange.start(200, [])
    written = 0
    while connection.ended is None:
        exchange.write(bytes(10_000))
        written += 10_000
        assert written < 400_000
    assert connection.ended == ("abort", "slow_reader")


def test_drained_tells_the_upload():
    connection, handler, binding = make()
    binding.data_received(GET)
    connection.room = 0
    exchange = handler.exchanges[0]
    exchange.start(200, [])
    exchange.write(b"x" * 1000)
    assert exchange.buffered > 1000
    connection.make_room(binding, 10_000)
    assert exchange.buffered == 0
    assert handler.uploads[0].calls == ["finished", "drained"]


def test_pause_and_resume_of_a_body():
    connection, handler, binding = make()
    binding.data_received(b"POST / HTTP/1.1\r\nhost: gw\r\ncontent-length: 9\r\n\r\nabc")
    handler.exchanges[0].pause()
    assert connection.calls[-1] == "pause"
    binding.data_received(b"def")  # was in flight
    assert connection.calls[-1] == "pause"
    handler.exchanges[0].resume()
    assert connection.calls[-1] == "resume"
    binding.data_received(b"ghi")
    assert handler.uploads[0].calls == [b"abcdefghi", "finished"]


def test_which_timeout_rules_when():
    connection, handler, binding = make()
    binding.data_received(b"POST / HT")
    assert connection.calls == []  # hello_timeout runs since the accept
    binding.data_received(b"TP/1.1\r\nhost: gw\r\ncontent-length: 2\r\n\r\na")
    assert connection.calls.pop() == ("idle", 65)
    binding.data_received(b"b")
    assert connection.calls.pop() == ("idle", 0)
    hello(handler.exchanges[0])
    assert connection.calls.pop() == ("idle", 65)
    binding.data_received(b"G")
    binding.data_received(b"E")
    assert connection.calls == ["await_hello"]
    binding.data_received(b"T / HTTP/1.1\r\nhost: gw\r\n\r\n")
    assert connection.calls[-1] == ("idle", 0)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01 nonsense", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/2.7\r\nhost: gw\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nhost: gw\r\nx: " + b"y" * 2000 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 2000 + b" HTTP/1.1\r\nhost: gw\r\n\r\n", 414),
        (b"POST / HTTP/1.1\r\nhost: gw\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
    ],
)
def test_errors_of_the_peer_are_answered_and_closed(data, status):
    connection, handler, binding = make(max_head=1000, max_target=500)
    binding.data_received(data)
    head, _, body = connection.sent.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status) and b"connection: close" in head.lower()
    assert set(json.loads(body)["error"]) == {"code", "message"}
    assert connection.ended == ("close", "protocol_error")
    assert not handler.exchanges


def test_a_broken_body_ends_the_upload_and_is_answered():
    connection, handler, binding = make()
    binding.data_received(b"POST / HTTP/1.1\r\nhost: gw\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
    binding.data_received(b"nonsense\r\n")
    assert handler.uploads[0].calls == [b"abc", "aborted"]
    assert connection.sent.startswith(b"HTTP/1.1 400 ") and connection.ended == ("close", "protocol_error")
    hello(handler.exchanges[0])
    assert b"hello" not in connection.sent


def test_a_broken_body_behind_a_begun_answer_aborts():
    connection, handler, binding = make()
    binding.data_received(b"POST / HTTP/1.1\r\nhost: gw\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
    handler.exchanges[0].start(200, [])
    binding.data_received(b"nonsense\r\n")
    assert connection.ended == ("abort", "protocol_error")


def test_losing_the_connection_tells_the_upload_once():
    connection, handler, binding = make()
    binding.data_received(GET)
    binding.connection_lost("peer_closed", "")
    assert handler.uploads[0].calls == ["finished", "aborted"]
    hello(handler.exchanges[0])
    assert connection.sent == b"" and handler.exchanges[0].buffered == 0


def test_abort_ends_the_connection_without_finishing():
    connection, handler, binding = make()
    binding.data_received(GET)
    handler.exchanges[0].start(200, [])
    handler.exchanges[0].abort()
    assert connection.ended == ("abort", "finished")
    binding.connection_lost("finished", "")
    assert handler.uploads[0].calls == ["finished"]


@pytest.mark.parametrize("where", ["handler", "data", "finished"])
def test_a_handler_that_raises_is_answered_with_500(where):
    connection = FakeConnection()

    class Broken(Upload):
        def data(self, data):
            if where == "data":
                raise ValueError("defect")

        def finished(self):
            raise ValueError("defect")

    def handler(exchange):
        if where == "handler":
            raise ValueError("defect")
        return Broken(exchange)

    binding = HttpBindingFactory(handler, LIMITS)(connection)
    with pytest.raises(ValueError, match="defect"):
        binding.data_received(b"POST / HTTP/1.1\r\nhost: gw\r\ncontent-length: 2\r\n\r\nab")
    assert connection.sent.startswith(b"HTTP/1.1 500 ")
    binding.data_received(GET)
    assert connection.sent.count(b"HTTP/1.1") == 1


def test_age_closes_between_requests_and_after_an_answer():
    connection, _, binding = make(hello)
    binding.data_received(GET)
    binding.aged()
    assert connection.ended == ("close", "max_age")
    connection, handler, binding = make()
    binding.data_received(GET)
    binding.aged()
    assert connection.ended is None
    hello(handler.exchanges[0])
    assert b"connection: close" in connection.sent and connection.ended == ("close", "finished")


def early(answer=None):
    connection, handler, binding = make(answer)
    connection.info.early = True
    return connection, handler, binding


def test_requests_in_early_data_say_so():
    connection, handler, binding = early(hello)
    binding.early_data_received(GET, False)
    connection.info.early = False
    binding.handshake_completed()
    binding.data_received(GET)
    assert [exchange.request.early for exchange in handler.exchanges] == [True, False]
    assert connection.sent.count(b"HTTP/1.1 200") == 2


def test_nothing_of_a_replay_reaches_the_handler():
    connection, handler, binding = early(hello)
    binding.early_data_received(GET + GET, True)
    assert handler.exchanges == []
    assert connection.sent.count(b"HTTP/1.1 425 Too Early\r\n") == 2
    assert b'"code": "too_early"' in connection.sent
    connection.info.early = False
    binding.handshake_completed()
    binding.data_received(GET)
    assert [exchange.request.early for exchange in handler.exchanges] == [False]


def test_a_request_that_is_whole_after_the_hand_shake_is_not_early():
    connection, handler, binding = early(hello)
    binding.early_data_received(GET[:20], True)
    connection.info.early = False
    binding.handshake_completed()
    binding.data_received(GET[20:])
    assert [exchange.request.early for exchange in handler.exchanges] == [False]
    assert b"HTTP/1.1 200" in connection.sent


def test_a_refused_early_request_with_a_body_ends_the_connection():
    connection, handler, binding = early(hello)
    binding.early_data_received(b"POST /x HTTP/1.1\r\nhost: gw\r\ncontent-length: 10\r\n\r\n12345", True)
    connection.info.early = False
    binding.handshake_completed()
    binding.data_received(b"67890" + GET)
    assert connection.sent.count(b"HTTP/1.1 ") == connection.sent.count(b"HTTP/1.1 425") == 1
    assert connection.ended == ("close", "finished")
    assert handler.exchanges == []


def test_no_websocket_is_opened_in_early_data():
    connection, handler = FakeConnection(), Handler()
    connection.info.early = True
    endpoint = WebSocketEndpoint(lambda lower: None, ("mmtp",))
    binding = HttpBindingFactory(handler, LIMITS, websockets={"/mmtp": endpoint})(connection)
    binding.early_data_received(
        b"GET /mmtp HTTP/1.1\r\nhost: gw\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"sec-websocket-protocol: mmtp\r\n\r\n",
        False,
    )
    assert connection.sent.startswith(b"HTTP/1.1 425 ")
    assert handler.exchanges == []
