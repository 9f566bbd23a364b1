"""The client's side of HTTP/1.1 over both parsers."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.http import ClientConnection, HttpLimits, ServerConnection
from protocols.http.events import DataReceived, HttpEvent, MessageComplete, RequestReceived, ResponseReceived

ROOT = Path(__file__).resolve().parents[3]
PARSERS = ("httptools", "h11")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n3;x\r\n yo\r\n0\r\nA: b\r\n\r\n"


@pytest.fixture(params=PARSERS)
def parser(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def asked(parser: str, method: str = "GET", limits: HttpLimits | None = None) -> ClientConnection:
    connection = ClientConnection(parser, limits or HttpLimits())
    connection.send_request(method, "/", [("host", "h")])
    return connection


def body(events: list[HttpEvent]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, DataReceived))


def test_a_request_and_its_response(parser: str) -> None:
    connection = ClientConnection(parser)
    assert connection.backend == parser
    assert connection.send_request("GET", "/a?b", [("host", "h"), ("x", "y")]) == (
        b"GET /a?b HTTP/1.1\r\nhost: h\r\nx: y\r\n\r\n"
    )
    assert not connection.reusable
    connection.receive(OK)
    assert connection.events() == [
        ResponseReceived(200, [("content-length", "2"), ("x-a", "b")], True, 2),
        DataReceived(b"hi"),
        MessageComplete(),
    ]
    assert connection.reusable
    assert connection.send_request("POST", "/", [("host", "h")]).endswith(b"content-length: 0\r\n\r\n")


def test_request_bodies(parser: str) -> None:
    connection = ClientConnection(parser)
    assert connection.send_request("PUT", "/", [], b"abc").endswith(b"content-length: 3\r\n\r\nabc")
    connection.receive(OK)
    sent = connection.send_request("POST", "/", [], b"ab", more=True)
    assert sent.endswith(b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n")
    connection.receive(OK)
    assert not connection.reusable and connection.sending
    assert connection.send_data(b"", True) == b""
    assert connection.send_data(b"c", False) == b"1\r\nc\r\n0\r\n\r\n"
    assert connection.reusable
    sent = connection.send_request("POST", "/", [("content-length", "3")], b"a", more=True)
    assert sent.endswith(b"\r\n\r\na")
    with pytest.raises(LocalError):
        connection.send_data(b"bcd", False)
    assert connection.send_data(b"bc", False) == b"bc"


@pytest.mark.parametrize(
    ("response", "expected", "reusable"),
    [
        (CHUNKED, b"hi yo", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", b"", True),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK, b"hi", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\nhi", b"hi", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi", False),
        (OK + b"extra", b"hi", False),
    ],
)
def test_ends_of_responses(parser: str, response: bytes, expected: bytes, reusable: bool) -> None:
    connection = asked(parser)
    connection.receive(response)
    events = connection.events()
    assert body(events) == expected
    assert isinstance(events[-1], MessageComplete)
    assert connection.reusable is reusable


def test_a_response_to_head_has_no_body(parser: str) -> None:
    connection = asked(parser, "HEAD")
    connection.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    assert [type(e) for e in connection.events()] == [ResponseReceived, MessageComplete]
    assert connection.reusable


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_body_up_to_the_end_of_the_connection(parser: str, version: bytes) -> None:
    connection = asked(parser)
    connection.receive(b"HTTP/" + version + b" 200 OK\r\n\r\nab")
    connection.receive(b"cd")
    connection.receive_eof()
    events = connection.events()
    assert body(events) == b"abcd" and isinstance(events[-1], MessageComplete)
    assert not connection.reusable


@pytest.mark.parametrize("cut", [0, 5, len(OK) - 4, len(OK) - 1])
def test_a_cut_response_is_a_remote_error(parser: str, cut: int) -> None:
    connection = asked(parser)
    connection.receive(OK[:cut])
    with pytest.raises(RemoteError) as caught:
        connection.receive_eof()
    assert caught.value.code == 502


def test_an_idle_connection_may_end_but_not_talk(parser: str) -> None:
    idle = ClientConnection(parser)
    idle.receive_eof()
    assert not idle.reusable
    talking = ClientConnection(parser)
    with pytest.raises(RemoteError):
        talking.receive(OK)
    assert not talking.reusable
    with pytest.raises(LocalError):
        talking.send_request("GET", "/", [])


@pytest.mark.parametrize(
    "response",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 600 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 2OO OK\r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 17,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n" + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 40000,
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 40000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
    ],
)
def test_what_is_no_response_is_a_remote_error(parser: str, response: bytes) -> None:
    connection = asked(parser)
    with pytest.raises(RemoteError) as caught:
        connection.receive(response)
    assert caught.value.code == 502
    assert not connection.reusable
    connection.receive(OK)
    connection.receive_eof()
    assert not any(isinstance(event, MessageComplete) for event in connection.events())


def test_the_body_can_be_bounded(parser: str) -> None:
    for response in (OK, CHUNKED):
        with pytest.raises(RemoteError):
            asked(parser, limits=HttpLimits(max_body=1)).receive(response)


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GE T", "/", []),
        ("", "/", []),
        ("GET", "", []),
        ("GET", "/a b", []),
        ("GET", "/\r\nx: y", []),
        ("GET", "/支", []),
        ("GET", "http://h/", []),
        ("GET", "/", [("x", "a\r\nb: c")]),
        ("GET", "/", [("x\n", "a")]),
        ("GET", "/", [("transfer-encoding", "chunked")]),
        ("GET", "/", [("content-length", "1")]),
        ("GET", "/", [("content-length", "one")]),
    ],
)
def test_injection_is_a_local_error(parser: str, method: str, target: str, headers: list[tuple[str, str]]) -> None:
    connection = ClientConnection(parser)
    with pytest.raises(LocalError):
        connection.send_request(method, target, headers)
    assert connection.reusable


def test_data_without_a_request_is_a_local_error(parser: str) -> None:
    with pytest.raises(LocalError):
        ClientConnection(parser).send_data(b"x", False)
    with pytest.raises(LocalError):
        asked(parser).send_request("GET", "/", [])


@settings(max_examples=80, deadline=None)
@given(
    response=st.sampled_from([OK, CHUNKED, b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED]),
    cuts=st.lists(st.integers(1, 120), max_size=8),
    parser=st.sampled_from(PARSERS),
)
def test_any_split_gives_the_same_events(response: bytes, cuts: list[int], parser: str) -> None:
    places = sorted({0, len(response), *(cut for cut in cuts if cut < len(response))})
    connection = asked(parser)
    events: list[HttpEvent] = []
    for a, b in itertools.pairwise(places):
        connection.receive(response[a:b])
        events += connection.events()
    whole = asked("httptools")
    whole.receive(response)
    expected = whole.events()
    assert body(events) == body(expected)
    assert [e for e in events if not isinstance(e, DataReceived)] == [
        e for e in expected if not isinstance(e, DataReceived)
    ]


@settings(max_examples=200, deadline=None)
@given(
    base=st.sampled_from([OK, CHUNKED]),
    edits=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=4),
)
def test_hostile_bytes_raise_only_remote_error_and_alike(base: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    data = base
    for at, drop, put in edits:
        data = data[:at] + put + data[at + drop :]
    outcomes: list[object] = []
    for parser in PARSERS:
        connection = asked(parser)
        try:
            connection.receive(data)
            connection.receive_eof()
        except RemoteError:
            outcomes.append("refused")
        else:
            outcomes.append([(type(e), getattr(e, "data", None)) for e in connection.events()])
    assert outcomes[0] == outcomes[1]


FIELDS = st.lists(
    st.tuples(
        st.from_regex(r"x-[a-z]{1,8}", fullmatch=True),
        st.text(
            st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f", exclude_categories=["Cc"])
        ),
    ),
    max_size=6,
)


@settings(max_examples=80, deadline=None)
@given(
    fields=FIELDS,
    parts=st.lists(st.binary(max_size=50), max_size=4),
    ours=st.sampled_from(PARSERS),
    theirs=st.sampled_from(PARSERS),
)
def test_both_roles_understand_each_other(
    fields: list[tuple[str, str]], parts: list[bytes], ours: str, theirs: str
) -> None:
    client, server = ClientConnection(ours), ServerConnection(theirs)
    server.receive(client.send_request("POST", "/p", [("host", "h"), *fields], b"", more=True))
    for part in parts:
        server.receive(client.send_data(part, True))
    server.receive(client.send_data(b"", False))
    request, *rest = server.events()
    assert isinstance(request, RequestReceived)
    assert request.headers[1:-1] == fields
    assert body(rest) == b"".join(parts)
    client.receive(server.start_response(200, fields))
    for part in parts:
        client.receive(server.send_data(part))
    client.receive(server.finish())
    response, *rest = client.events()
    assert isinstance(response, ResponseReceived)
    assert response.headers[:-1] == fields
    assert body(rest) == b"".join(parts)
    assert client.reusable and server.idle


@pytest.mark.parametrize(("wanted", "got"), [("pure", "h11"), ("native", "httptools"), ("auto", "httptools")])
def test_the_environment_chooses_the_parser(wanted: str, got: str) -> None:
    code = "from protocols import http; print(http.backend, http.ServerConnection().backend)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"ACCESSGW_ACCEL": wanted},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [got, got]


def test_an_unknown_choice_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import protocols.http"],
        env={"ACCESSGW_ACCEL": "fast"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "expected auto, native or pure, got 'fast'" in done.stderr
