"""The server's side of HTTP/1.1 over both parsers."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.http import HttpLimits, ServerConnection
from protocols.http.events import DataReceived, HttpEvent, MessageComplete, RequestReceived

PARSERS = ("httptools", "h11")

GET = b"GET /a?b=c HTTP/1.1\r\nHost: gw.example:8080\r\nX-One: 1\r\nx-one:  two words \r\n\r\n"
POST = b"POST /mmtp HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /up HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"
    b'5\r\nhello\r\n1;ext="q"\r\n \r\nA\r\n0123456789\r\n0\r\nX-Trailer: t\r\n\r\n'
)


@pytest.fixture(params=PARSERS)
def parser(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def coalesced(events: list[HttpEvent]) -> list[HttpEvent]:
    out: list[HttpEvent] = []
    for event in events:
        if isinstance(event, DataReceived) and out and isinstance(out[-1], DataReceived):
            out[-1] = DataReceived(out[-1].data + event.data)
        else:
            out.append(event)
    return out


def serve(parser: str, pieces: list[bytes]) -> list[HttpEvent]:
    """Every event of the pieces, each request answered as soon as it is complete."""
    connection = ServerConnection(parser)
    seen: list[HttpEvent] = []

    def pump() -> None:
        while events := connection.events():
            seen.extend(events)
            if isinstance(events[-1], MessageComplete):
                connection.send_response(200, [], b"ok")

    for piece in pieces:
        connection.receive(piece)
        pump()
    return coalesced(seen)


def refused(parser: str, data: bytes, limits: HttpLimits | None = None) -> int:
    connection = ServerConnection(parser, limits or HttpLimits())
    with pytest.raises(RemoteError) as caught:
        connection.receive(data)
        connection.events()
        connection.receive_eof()
    answer = connection.send_response(caught.value.code, [], b"") if connection.answerable else b""
    assert not connection.keep_alive
    if answer:
        assert b"connection: close" in answer
    return caught.value.code


def test_backend_is_named(parser: str) -> None:
    assert ServerConnection(parser).backend == parser


def test_a_request_without_body(parser: str) -> None:
    connection = ServerConnection(parser)
    connection.receive(GET)
    request, end = connection.events()
    assert request == RequestReceived(
        "GET", "/a?b=c", [("host", "gw.example:8080"), ("x-one", "1"), ("x-one", "two words")], "1.1", True
    )
    assert isinstance(end, MessageComplete)
    assert connection.keep_alive
    assert connection.send_response(200, [("x-a", "b")], b"hi") == (
        b"HTTP/1.1 200 OK\r\nx-a: b\r\ncontent-length: 2\r\n\r\nhi"
    )
    assert connection.idle


def test_bodies_by_length_and_by_chunks(parser: str) -> None:
    events = serve(parser, [POST + CHUNKED])
    assert [e.data for e in events if isinstance(e, DataReceived)] == [b"hello", b"hello 0123456789"]
    assert sum(isinstance(e, MessageComplete) for e in events) == 2


def test_a_pipelined_request_waits_for_the_answer_before_it(parser: str) -> None:
    connection = ServerConnection(parser)
    connection.receive(GET + POST)
    assert [type(e) for e in connection.events()] == [RequestReceived, MessageComplete]
    assert connection.blocked
    assert connection.events() == []
    connection.start_response(200, [])
    connection.send_data(b"x")
    assert connection.events() == []
    connection.finish()
    assert [type(e) for e in connection.events()] == [RequestReceived, DataReceived, MessageComplete]
    assert not connection.blocked


def test_a_bad_pipelined_request_is_refused_only_after_the_answer(parser: str) -> None:
    connection = ServerConnection(parser)
    connection.receive(GET + b"BAD\r\n\r\n")
    assert len(connection.events()) == 2
    connection.send_response(200, [], b"")
    with pytest.raises(RemoteError):
        connection.events()
    assert connection.send_response(400, [], b"").startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_held_back_input_is_bounded(parser: str) -> None:
    connection = ServerConnection(parser, HttpLimits(max_held=100))
    connection.receive(GET)
    connection.receive(b"x" * 100)
    with pytest.raises(RemoteError):
        connection.receive(b"x")


def test_connection_close_is_kept(parser: str) -> None:
    connection = ServerConnection(parser)
    connection.receive(GET.replace(b"X-One: 1", b"Connection: x, Close"))
    assert not connection.events()[0].keep_alive  # type: ignore[union-attr]
    assert b"\r\nconnection: close\r\n" in connection.send_response(200, [], b"")
    connection.receive(GET)
    assert connection.events() == []


def test_an_answer_before_the_body_is_complete_closes(parser: str) -> None:
    connection = ServerConnection(parser)
    connection.receive(POST[:-2])
    connection.events()
    assert b"connection: close" in connection.send_response(413, [], b"")
    assert not connection.keep_alive


def test_head_has_the_length_but_not_the_body(parser: str) -> None:
    connection = ServerConnection(parser)
    connection.receive(GET.replace(b"GET", b"HEAD"))
    assert connection.send_response(200, [], b"hello").endswith(b"content-length: 5\r\n\r\n")
    connection.receive(GET.replace(b"GET", b"HEAD"))
    assert connection.start_response(200, []) == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    assert connection.send_data(b"x") + connection.finish() == b""
    assert connection.idle


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_body(parser: str, status: int) -> None:
    connection = ServerConnection(parser)
    connection.receive(GET + GET)
    connection.events()
    whole = connection.send_response(status, [], b"left out")
    assert whole.endswith(b"\r\n\r\n") and b"content-length" not in whole
    connection.events()
    begun = connection.start_response(status, [])
    assert b"transfer-encoding" not in begun
    assert connection.send_data(b"x") + connection.finish() == b""


def test_content_length_is_dropped_from_a_204(parser: str) -> None:
    connection = ServerConnection(parser)
    connection.receive(GET)
    assert b"ength" not in connection.send_response(204, [("Content-Length", "0")], b"")


def test_streamed_answers(parser: str) -> None:
    connection = ServerConnection(parser)
    connection.receive(GET + GET)
    connection.events()
    sent = connection.start_response(200, []) + connection.send_data(b"ab") + connection.send_data(b"")
    assert (sent + connection.finish()).endswith(b"\r\n\r\n2\r\nab\r\n0\r\n\r\n")
    connection.events()
    assert b"transfer-encoding" not in connection.start_response(200, [("content-length", "3")])
    assert connection.send_data(b"ab") == b"ab"
    with pytest.raises(LocalError):
        connection.finish()
    with pytest.raises(LocalError):
        connection.send_data(b"cd")
    assert connection.send_data(b"c") + connection.finish() == b"c"


def test_expect_continue(parser: str) -> None:
    connection = ServerConnection(parser)
    connection.receive(POST[:-5].replace(b"Host: h", b"Host: h\r\nExpect: 100-Continue"))
    request = connection.events()[0]
    assert isinstance(request, RequestReceived) and request.expect_continue
    assert connection.continue_100() == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.receive(b"hello")
    assert [type(e) for e in connection.events()] == [DataReceived, MessageComplete]


def test_upgrade_is_reported(parser: str) -> None:
    head = GET.replace(b"X-One: 1", b"Upgrade: websocket\r\nConnection: keep-alive, Upgrade")
    event = serve(parser, [head])[0]
    assert isinstance(event, RequestReceived) and event.upgrade == "websocket" and event.keep_alive


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("x", "a\r\nset-cookie: b")], 200),
        ([("x", "a\nb")], 200),
        ([("x", "a\rb")], 200),
        ([("x", "\x00")], 200),
        ([("x y", "a")], 200),
        ([("x:", "a")], 200),
        ([("", "a")], 200),
        ([("x\r\ny", "a")], 200),
        ([("x", "\ud800")], 200),
        ([("transfer-encoding", "chunked")], 200),
        ([("content-length", "7")], 200),
        ([("connection", "keep-alive")], 200),
        ([], 100),
        ([], 1000),
    ],
)
def test_injection_is_a_local_error_and_leaves_the_exchange_open(
    parser: str, headers: list[tuple[str, str]], status: int
) -> None:
    connection = ServerConnection(parser)
    connection.receive(GET)
    with pytest.raises(LocalError):
        connection.send_response(status, headers, b"")
    assert connection.answerable
    assert connection.send_response(500, [], b"").startswith(b"HTTP/1.1 500 ")


def test_answers_without_request_are_local_errors(parser: str) -> None:
    connection = ServerConnection(parser)
    for attempt in (
        lambda: connection.send_response(200, [], b""),
        lambda: connection.start_response(200, []),
        lambda: connection.send_data(b""),
        connection.finish,
        connection.continue_100,
    ):
        with pytest.raises(LocalError):
            attempt()


def test_characters_beyond_latin_1_travel_as_utf_8(parser: str) -> None:
    connection = ServerConnection(parser)
    connection.receive(GET + GET)
    connection.events()
    assert b"x: \xe9\r\n" in connection.send_response(200, [("x", "\u00e9")], b"")
    connection.events()
    assert "x: 支付\r\n".encode() in connection.send_response(200, [("x", "支付")], b"")


OLD = b"GET /health/ready HTTP/1.0\r\n\r\n"
OLD_KEPT = b"POST / HTTP/1.0\r\nConnection: Keep-Alive\r\nContent-Length: 3\r\n\r\nabc"


def test_a_request_of_http_1_0_needs_no_host_and_ends_the_connection(parser: str) -> None:
    connection = ServerConnection(parser)
    connection.receive(OLD)
    request, end = connection.events()
    assert request == RequestReceived("GET", "/health/ready", [], "1.0", False)
    assert isinstance(end, MessageComplete)
    answer = connection.send_response(200, [], b"ready")
    assert answer == b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nready"
    assert not connection.keep_alive
    connection.receive(OLD)
    assert connection.events() == []


def test_a_client_of_http_1_0_may_ask_for_the_connection_to_stay(parser: str) -> None:
    connection = ServerConnection(parser)
    connection.receive(OLD_KEPT + OLD_KEPT + OLD)
    for _ in range(2):
        request, data, _ = connection.events()
        assert isinstance(request, RequestReceived) and request.keep_alive
        assert data == DataReceived(b"abc")
        answer = connection.send_response(200, [], b"ok")
        assert b"\r\nconnection: keep-alive\r\n" in answer and answer.endswith(b"content-length: 2\r\n\r\nok")
        assert connection.keep_alive
    assert len(connection.events()) == 2
    assert b"connection: close" in connection.send_response(200, [], b"ok")
    assert not connection.keep_alive


def test_versions_take_turns_on_one_connection(parser: str) -> None:
    connection = ServerConnection(parser)
    connection.receive(OLD_KEPT + GET + OLD_KEPT)
    connection.events()
    connection.send_response(200, [], b"")
    connection.events()
    assert b"transfer-encoding: chunked" in connection.start_response(200, [])
    assert connection.finish() == b"0\r\n\r\n"
    connection.events()
    assert b"connection: keep-alive" in connection.send_response(204, [], b"")


def test_a_streamed_answer_to_http_1_0_is_never_chunked(parser: str) -> None:
    connection = ServerConnection(parser)
    connection.receive(OLD_KEPT + OLD_KEPT)
    connection.events()
    head = connection.start_response(200, [("content-length", "3")])
    assert head == b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: keep-alive\r\n\r\n"
    assert connection.send_data(b"abc") + connection.finish() == b"abc"
    assert connection.keep_alive
    connection.events()
    assert connection.start_response(200, []) == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
    assert connection.send_data(b"ab") + connection.send_data(b"") + connection.finish() == b"ab"
    assert not connection.keep_alive, "the end of the connection is the end of the body"


def test_close_of_http_1_0_wins_over_keep_alive(parser: str) -> None:
    connection = ServerConnection(parser)
    connection.receive(OLD_KEPT.replace(b"Keep-Alive", b"keep-alive, close"))
    connection.events()
    assert b"connection: close" in connection.send_response(200, [], b"")
    stopped = ServerConnection(parser)
    stopped.receive(OLD_KEPT)
    stopped.events()
    stopped.stop_keep_alive()
    assert b"connection: close" in stopped.send_response(200, [], b"")
    by_handler = ServerConnection(parser)
    by_handler.receive(OLD_KEPT)
    by_handler.events()
    assert by_handler.send_response(200, [("connection", "close")], b"").count(b"connection:") == 1


def test_head_of_http_1_0(parser: str) -> None:
    connection = ServerConnection(parser)
    connection.receive(OLD_KEPT.replace(b"POST", b"HEAD") + OLD.replace(b"GET", b"HEAD"))
    connection.events()
    answer = connection.send_response(200, [], b"hello")
    assert answer.endswith(b"content-length: 5\r\n\r\n") and b"keep-alive" in answer
    connection.events()
    assert b"transfer-encoding" not in connection.start_response(200, [])
    assert connection.send_data(b"x") + connection.finish() == b""


def test_http_1_0_knows_neither_100_continue_nor_upgrade(parser: str) -> None:
    connection = ServerConnection(parser)
    connection.receive(
        b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        b"Content-Length: 1\r\n\r\n"
    )
    request = connection.events()[0]
    assert isinstance(request, RequestReceived)
    assert (request.expect_continue, request.upgrade, request.keep_alive) == (False, "", False)
    with pytest.raises(LocalError):
        connection.continue_100()


H = b"Host: h\r\n"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.2\r\n" + H + b"\r\n", 505),
        (b"GET / HTTP/0.9\r\n" + H + b"\r\n", 505),
        (b"GET / HTTP/1.0\r\n" + H + H + b"\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: a b\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
        (b"GET / HTTP/2.0\r\n" + H + b"\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/1.1 \r\n" + H + b"\r\n", 400),
        (b"GET  / HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"GET /\r\n" + H + b"\r\n", 400),
        (b"GET / http/1.1\r\n" + H + b"\r\n", 400),
        (b"GET\t/\tHTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"get / HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"BREW / HTTP/1.1\r\n" + H + b"\r\n", 501),
        (b"CONNECT h:1 HTTP/1.1\r\n" + H + b"\r\n", 501),
        (b"TRACE / HTTP/1.1\r\n" + H + b"\r\n", 501),
        (b"GET http://h/ HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"GET * HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"GET h HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"GET /#x HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"GET /\xe4 HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + H + H + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + H + b"X : y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + H + b"X\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + H + b": y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + H + b"X(: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + H + b"X\xc3: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + H + b"X: y\r\n z\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n Host: h\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + H + b"X: y\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + H + b"X: y\x1b[2J\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + H + b"X: y\rz\r\n\r\n", 400),
        (b"GET / HTTP/1.1\n" + H + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: h\n\n", 400),
        (b"GET / HTTP/1.1\r\n" + H + b"Expect: tea\r\n\r\n", 417),
        (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 5\r\ncontent-length: 6\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 5, 5\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: +5\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: -5\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 0x5\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 5_0\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\n" + H + b"Content-Length:\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 9999999999999999999\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + H + b"Content-Length : 5\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: xchunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked, gzip\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding : chunked\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"\r\n\r\n\r\n\r\n\r\n" + GET, 400),
        (b"GET / HTTP/1.1\r\nHo", 400),
        (POST[:-1], 400),
    ],
)
def test_refused(parser: str, data: bytes, code: int) -> None:
    assert refused(parser, data) == code


CHUNK_HEAD = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "body",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"5\r\nhello\rX",
        b"-5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"\r\n",
        b"\n",
        b"g\r\n",
        b"5;\x00\r\n",
        b"5;a\rb\r\n",
        b"1" * 16 + b"\r\n",
        b"5;" + b"x" * 300 + b"\r\nhello\r\n",
        b"5;" + b"x" * 300,
        (b"1;" + b"x" * 200 + b"\r\na\r\n") * 100,
        b"0\r\nx\r\n\r\n",
        b"0\r\nx: a\n\r\n",
        b"0\r\n x: a\r\n\r\n",
        b"0\r\n" + b"x: " + b"y" * 9000 + b"\r\n\r\n",
        b"0\r\n" + b"x: y\r\n" * 2000 + b"\r\n",
        b"0\r\n" + b"x" * 9000,
    ],
)
def test_bad_chunks_are_refused(parser: str, body: bytes) -> None:
    assert refused(parser, CHUNK_HEAD + body) == 400
    connection = ServerConnection(parser)
    connection.receive(CHUNK_HEAD)
    with pytest.raises(RemoteError):
        for at in range(len(body)):
            connection.receive(body[at : at + 1])
            connection.events()
        connection.receive_eof()


def test_limits_have_their_statuses(parser: str) -> None:
    start = b"GET / HTTP/1.1\r\nHost: h\r\n"
    assert refused(parser, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: h\r\n\r\n") == 414
    assert refused(parser, b"GET /" + b"a" * 40000) == 414
    assert refused(parser, start + b"x: " + b"y" * 33000 + b"\r\n\r\n") == 431
    assert refused(parser, start + b"x: " + b"y" * 33000) == 431
    assert refused(parser, start + b"x: y\r\n" * 100 + b"\r\n") == 431
    assert refused(parser, POST, HttpLimits(max_body=4)) == 413
    assert refused(parser, CHUNKED, HttpLimits(max_body=8)) == 413
    assert len(serve(parser, [start + b"x: y\r\n" * 99 + b"\r\n"])) == 2


def test_end_of_the_connection_while_an_answer_is_awaited(parser: str) -> None:
    connection = ServerConnection(parser)
    connection.receive(GET)
    connection.receive_eof()
    assert len(connection.events()) == 2
    assert b"connection: close" in connection.send_response(200, [], b"")
    idle = ServerConnection(parser)
    idle.receive_eof()
    assert not idle.keep_alive


MESSAGES = st.lists(
    st.sampled_from([GET, POST, CHUNKED, OLD_KEPT, b"\r\n" + GET, b"OPTIONS * HTTP/1.1\r\nhost:h\r\n\r\n"]), max_size=4
)


@settings(max_examples=60, deadline=None)
@given(messages=MESSAGES, cuts=st.lists(st.integers(0, 800), max_size=12), parser=st.sampled_from(PARSERS))
def test_any_split_gives_the_same_events(messages: list[bytes], cuts: list[int], parser: str) -> None:
    data = b"".join(messages)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]
    assert serve(parser, pieces) == serve("h11", [data])


@pytest.mark.parametrize("message", [GET, POST, CHUNKED])
def test_byte_by_byte(parser: str, message: bytes) -> None:
    assert serve(parser, [message[at : at + 1] for at in range(len(message))]) == serve(parser, [message])


def unfolded(events: list[HttpEvent]) -> list[HttpEvent]:
    """Without the case of the coding's name, which h11 folds."""
    for event in events:
        if isinstance(event, RequestReceived):
            event.headers = [(k, v.lower() if k == "transfer-encoding" else v) for k, v in event.headers]
    return events


@settings(max_examples=250, deadline=None)
@given(
    base=st.sampled_from([GET, POST, CHUNKED, OLD, OLD_KEPT]),
    edits=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=4),
)
def test_hostile_bytes_raise_only_remote_error_and_alike(base: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    data = base
    for at, drop, put in edits:
        data = data[:at] + put + data[at + drop :]
    outcomes = []
    for parser in PARSERS:
        try:
            outcomes.append((unfolded(serve(parser, [data])), 0))
        except RemoteError as error:
            outcomes.append(([], error.code))
    assert outcomes[0] == outcomes[1]
