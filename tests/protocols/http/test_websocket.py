"""WebSocket frames and hand-shakes against wsproto as an independent peer, in any split, and hostile bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.frame_protocol import CloseReason

from protocols.errors import LocalError, RemoteError
from protocols.http import ServerConnection
from protocols.http import websocket as ws
from protocols.http.events import RequestReceived
from protocols.http.websocket import BytesReceived, CloseReceived, PongReceived, Role, WebSocket
from protocols.http.websocket_handshake import ClientHandshake, accept_token, answer_upgrade, expectation


def client() -> Connection:
    return Connection(ConnectionType.CLIENT)


def client_frames(*events: object) -> bytes:
    peer = client()
    return b"".join(bytes(peer.send(event)) for event in events)


def received(socket: WebSocket) -> bytes:
    return b"".join(event.data for event in socket.events() if isinstance(event, BytesReceived))


def close_code(data: bytes) -> int | None:
    """The code of the last frame, which has to be a close frame for a client."""
    assert data[0] == 0x88 and data[1] == len(data) - 2
    return int.from_bytes(data[2:4], "big") if len(data) > 2 else None


# ------------------------------------------------------------------ frames


SIZES = st.sampled_from([0, 1, 125, 126, 127, 65535, 65536, 70000])


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(SIZES, max_size=4), cuts=st.lists(st.integers(0, 300_000), max_size=8))
def test_messages_of_a_client_arrive_in_any_split(sizes, cuts):
    """[MQTT-6.0.0-2] What a message or frame is means nothing for the bytes inside."""
    messages = [bytes([n]) * size for n, size in enumerate(sizes)]
    peer = client()
    wire = b"".join(bytes(peer.send(BytesMessage(message))) for message in messages)
    socket = WebSocket(Role.SERVER)
    got, ends = b"", 0
    edges = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    for start, end in pairwise(edges):
        socket.receive(wire[start:end])
        for event in socket.events():
            assert isinstance(event, BytesReceived)
            got += event.data
            ends += event.finished
    assert got == b"".join(messages) and ends == len(messages)
    assert socket.to_send() == b""


@settings(max_examples=40, deadline=None)
@given(size=SIZES, role=st.sampled_from(Role))
def test_our_messages_are_one_frame_that_the_peer_understands(size, role):
    """[MQTT-6.0.0-1] Everything leaves in binary frames."""
    socket = WebSocket(role)
    socket.send(b"x" * size)
    wire = socket.to_send()
    assert wire[0] == 0x82 and bool(wire[1] & 0x80) is (role is Role.CLIENT)
    peer = Connection(ConnectionType.SERVER if role is Role.CLIENT else ConnectionType.CLIENT)
    peer.receive_data(wire)
    (event,) = peer.events()
    assert isinstance(event, BytesMessage) and event.data == b"x" * size and event.message_finished


def raw_frame(first: int, masked: bool, payload: bytes, wide: int) -> bytes:
    """A frame as told, right or wrong; `wide` is the least form of its length (0, 126, 127)."""
    size = len(payload)
    form = max(wide, size if size < 126 else 126)
    head = bytes((first, form | 0x80 * masked))
    if form >= 126:
        head += size.to_bytes(2 if form == 126 else 8, "big")
    if masked:
        key = b"\x1f\x2e\x3d\x4c"
        head, payload = head + key, bytes(byte ^ key[n % 4] for n, byte in enumerate(payload))
    return head + payload


FRAMES = st.builds(
    raw_frame,
    st.sampled_from([0x82] * 8 + [0x02, 0x80, 0x80, 0x00, 0x89, 0x8A, 0x88, 0xC2, 0x83]),
    st.sampled_from([True] * 15 + [False]),
    st.one_of(st.binary(max_size=6), st.integers(120, 130).map(bytes)),
    st.sampled_from([0] * 15 + [126, 127]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 400), max_size=8), st.binary(max_size=3))
def test_frames_mean_the_same_as_to_an_independent_server(frames, cuts, tail):
    wire = b"".join(frames) + tail
    oracle = Connection(ConnectionType.SERVER)
    oracle.receive_data(wire)
    expected, code = b"", 0
    for event in oracle.events():
        if isinstance(event, BytesMessage):
            expected += event.data
        elif isinstance(event, CloseConnection):
            code = int(event.code)
            break
    socket, got, seen = WebSocket(Role.SERVER), b"", 0
    edges = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    for start, end in pairwise(edges):
        try:
            socket.receive(wire[start:end])
        except RemoteError as error:
            seen = error.code
        for event in socket.events():
            if isinstance(event, BytesReceived):
                got += event.data
            elif isinstance(event, CloseReceived):
                seen = event.code
    assert got == expected
    # Of a frame that has only begun, the oracle may complain before its length is known.
    assert seen == code or (tail and not seen)


def test_fragments_with_a_ping_between_them():
    socket = WebSocket(Role.SERVER)
    socket.receive(
        client_frames(
            BytesMessage(b"one ", message_finished=False),
            Ping(b"are you there"),
            BytesMessage(b"", message_finished=False),
            BytesMessage(b"two", message_finished=True),
        )
    )
    events = socket.events()
    assert b"".join(event.data for event in events) == b"one two"
    assert [event.finished for event in events] == [False, False, True]
    assert socket.to_send() == b"\x8a\x0dare you there"


def test_text_is_refused_with_1003():
    """[MQTT-6.0.0-1] A frame that is not binary ends the connection; what came before it still counts."""
    socket = WebSocket(Role.SERVER)
    with pytest.raises(RemoteError, match="expected a binary message, got text") as caught:
        socket.receive(client_frames(BytesMessage(b"first"), TextMessage("text"), BytesMessage(b"after")))
    assert caught.value.code == ws.UNSUPPORTED_DATA == 1003
    assert received(socket) == b"first"
    assert close_code(socket.to_send()) == 1003
    assert socket.closed
    socket.receive(client_frames(BytesMessage(b"later")))
    assert socket.events() == []


@pytest.mark.parametrize("pieces", [[11], [5, 6], [3, 3, 3, 2]])
def test_a_message_past_the_bound_is_refused_with_1009(pieces):
    socket = WebSocket(Role.SERVER, max_message=10)
    socket.receive(client_frames(BytesMessage(b"x" * 10), BytesMessage(b"y" * 10)))
    assert len(received(socket)) == 20
    frames = [BytesMessage(b"z" * size, message_finished=False) for size in pieces]
    with pytest.raises(RemoteError) as caught:
        socket.receive(client_frames(*frames))
    assert caught.value.code == 1009
    assert close_code(socket.to_send()) == 1009


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x82\x01x", 1002),  # not masked
        (b"\xc2\x81\0\0\0\0x", 1002),  # a reserved bit: compression was not agreed on
        (b"\x83\x80\0\0\0\0", 1002),  # unknown opcode
        (b"\x80\x80\0\0\0\0", 1002),  # a continuation of nothing
        (b"\x02\x80\0\0\0\0\x82\x80\0\0\0\0", 1002),  # a message within a message
        (b"\x09\x80\0\0\0\0", 1002),  # a fragmented ping
        (b"\x89\xfe\0\x7e\0\0\0\0", 1002),  # a ping of 126 bytes
        (b"\x82\xfe\0\x7d\0\0\0\0", 1002),  # a length in more bytes than it takes
        (b"\x82\xff\x80\0\0\0\0\0\0\0\0\0\0\0", 1002),  # a length of 2**63
        (b"\x88\x81\0\0\0\0x", 1002),  # half a close code
        (b"\x88\x82\0\0\0\0\x03\xed", 1002),  # 1005 is never sent
        (b"\x88\x83\0\0\0\0\x03\xe8\xff", 1007),  # a reason that is not UTF-8
        (b"\x81\x81\0\0\0\0\xff", 1007),  # text that is not UTF-8
    ],
)
def test_broken_frames(data, code):
    socket = WebSocket(Role.SERVER)
    with pytest.raises(RemoteError) as caught:
        for byte in data:
            socket.receive(bytes([byte]))
    assert caught.value.code == code
    assert close_code(socket.to_send()) == code
    assert socket.closed


def test_a_server_that_masks_is_refused_by_a_client():
    socket = WebSocket(Role.CLIENT)
    with pytest.raises(RemoteError) as caught:
        socket.receive(client_frames(BytesMessage(b"x")))
    assert caught.value.code == 1002


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=6), st.sampled_from(Role))
def test_hostile_bytes_raise_only_remote_errors(pieces, role):
    socket = WebSocket(role, max_message=1000)
    for piece in pieces:
        try:
            socket.receive(piece)
        except RemoteError as error:
            assert 1000 <= error.code < 5000
            assert socket.closed
        socket.events()
        socket.to_send()


@pytest.mark.parametrize(("code", "answer"), [(1000, 1000), (1001, 1001), (4001, 4001), (None, None)])
def test_the_peer_closes(code, answer):
    socket, peer = WebSocket(Role.SERVER), client()
    wire = bytes(peer.send(BytesMessage(b"last"))) + bytes(
        peer.send(CloseConnection(code or CloseReason.NO_STATUS_RCVD, "bye" if code else None))
    )
    socket.receive(wire + b"garbage after the end")
    assert socket.events() == [BytesReceived(b"last", True), CloseReceived(code or ws.NO_STATUS, "bye" if code else "")]
    reply = socket.to_send()
    assert close_code(reply) == answer and socket.closed
    peer.receive_data(reply)
    assert [type(event) for event in peer.events()] == [CloseConnection]
    with pytest.raises(LocalError):
        socket.send(b"too late")
    with pytest.raises(LocalError):
        socket.ping()


def test_we_close():
    socket, peer = WebSocket(Role.SERVER), client()
    socket.close(1001, "draining " + "é" * 100)
    socket.close(1000)
    wire = socket.to_send()
    assert len(wire) <= 127 and close_code(wire) == 1001
    assert socket.closing and not socket.closed
    peer.receive_data(wire)
    (event,) = peer.events()
    assert event.reason.startswith("draining é")
    socket.receive(bytes(peer.send(event.response())))
    assert socket.closed and socket.to_send() == b""
    assert socket.events() == [CloseReceived(1001, event.reason)]


def test_pings_of_ours():
    socket, peer = WebSocket(Role.CLIENT), Connection(ConnectionType.SERVER)
    socket.ping(b"1")
    peer.receive_data(socket.to_send())
    (event,) = peer.events()
    socket.receive(bytes(peer.send(event.response())) + bytes(peer.send(Pong(b"2"))))
    assert socket.events() == [PongReceived(b"1"), PongReceived(b"2")]
    with pytest.raises(LocalError):
        socket.ping(b"x" * 126)


# ------------------------------------------------------------------ hand-shakes


def upgrade_request(**changes: str | None) -> RequestReceived:
    fields: dict[str, str | None] = {
        "host": "gw",
        "upgrade": "websocket",
        "connection": "keep-alive, Upgrade",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-protocol": "mqtt",
    }
    fields.update({name.replace("_", "-"): value for name, value in changes.items()})
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    http = ServerConnection()
    http.receive(f"GET /mqtt HTTP/1.1\r\n{head}\r\n".encode())
    event = http.events()[0]
    assert isinstance(event, RequestReceived)
    return event


def test_the_sample_of_the_rfc():
    """RFC 6455 section 1.3."""
    assert accept_token("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_an_upgrade_is_answered():
    """[MQTT-6.0.0-4] The sub-protocol that is answered is one of those offered."""
    headers, chosen = answer_upgrade(upgrade_request(), ("mqtt", "mqttv3.1"), required=True)
    assert chosen == "mqtt"
    assert dict(headers) == {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "sec-websocket-protocol": "mqtt",
    }
    offers = upgrade_request(sec_websocket_protocol="x,mqttv3.1 , mqtt")
    assert answer_upgrade(offers, ("mqtt", "mqttv3.1"), required=True)[1] == "mqtt"
    none = upgrade_request(sec_websocket_protocol=None)
    headers, chosen = answer_upgrade(none, ("mmtp",), required=False)
    assert chosen == "" and "sec-websocket-protocol" not in dict(headers)


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"upgrade": None}, 426, "expected a WebSocket upgrade"),
        ({"upgrade": "h2c"}, 426, "expected a WebSocket upgrade"),
        ({"connection": "keep-alive"}, 426, "expected a WebSocket upgrade"),
        ({"sec_websocket_version": "8"}, 426, "expected 13, got 8"),
        ({"sec_websocket_version": None}, 426, "expected 13, got none"),
        ({"sec_websocket_key": None}, 400, "Sec-WebSocket-Key: expected 16 bytes in base64"),
        ({"sec_websocket_key": "AAAA"}, 400, "Sec-WebSocket-Key"),
        ({"sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ=!"}, 400, "Sec-WebSocket-Key"),
        ({"sec_websocket_protocol": None}, 400, "expected mqtt or mqttv3.1, got none"),
        ({"sec_websocket_protocol": "chat, soap"}, 400, "expected mqtt or mqttv3.1, got chat, soap"),
        ({"content_length": "5"}, 400, "without a body"),
        ({"transfer_encoding": "chunked"}, 400, "without a body"),
    ],
)
def test_upgrades_that_are_refused(changes, status, words):
    """[MQTT-6.0.0-3] A client that does not offer the sub-protocol is refused."""
    with pytest.raises(RemoteError) as caught:
        answer_upgrade(upgrade_request(**changes), ("mqtt", "mqttv3.1"), required=True)
    assert caught.value.code == status and words in str(caught.value)
    assert dict(expectation(status)).get("sec-websocket-version") == ("13" if status == 426 else None)


def test_the_http_connection_lets_go_of_what_follows():
    http = ServerConnection()
    with pytest.raises(LocalError):
        http.upgrade([])
    request = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"
    http.receive(request + b"\x82\x80\0\0\0\0")
    http.events()
    answer, rest = http.upgrade([("upgrade", "websocket"), ("connection", "Upgrade")])
    assert answer == b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n"
    assert rest == b"\x82\x80\0\0\0\0"
    http.receive(request)
    assert http.events() == [] and not http.upgradable and not http.answerable
    http.receive(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\n")
    assert not ServerConnection().upgradable


NONCE = bytes(range(16))


def test_the_client_side_with_an_independent_server():
    handshake = ClientHandshake("gw:7443", "/mmtp?x=1", NONCE, ("mmtp", "other"), origin="https://a.example")
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(handshake.request)
    (request,) = server.events()
    assert isinstance(request, Request)
    assert (request.host, request.target, request.subprotocols) == ("gw:7443", "/mmtp?x=1", ["mmtp", "other"])
    answer = server.send(AcceptConnection(subprotocol="mmtp")) + server.send(BytesMessage(b"early"))
    for byte in answer[:-8]:
        assert handshake.receive(bytes([byte])) is None
    rest = handshake.receive(answer[-8:])
    assert rest is not None and handshake.subprotocol == "mmtp"
    socket = WebSocket(Role.CLIENT)
    socket.receive(rest)
    assert received(socket) == b"early"


def test_our_server_side_with_an_independent_client():
    peer = WSConnection(ConnectionType.CLIENT)
    http = ServerConnection()
    http.receive(peer.send(Request(host="gw", target="/mqtt", subprotocols=["mqtt"])))
    head = http.events()[0]
    assert isinstance(head, RequestReceived)
    headers, _ = answer_upgrade(head, ("mqtt",), required=True)
    answer, _ = http.upgrade(headers)
    peer.receive_data(answer)
    (accepted,) = peer.events()
    assert isinstance(accepted, AcceptConnection) and accepted.subprotocol == "mqtt"


TOKEN = accept_token("AAECAwQFBgcICQoLDA0ODw==")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", 400),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200),
        ("nonsense\r\n\r\n", 502),
        (f"HTTP/1.1 101 S\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {TOKEN}x\r\n\r\n", 502),
        (f"HTTP/1.1 101 S\r\nupgrade: h2c\r\nconnection: upgrade\r\nsec-websocket-accept: {TOKEN}\r\n\r\n", 502),
        (f"HTTP/1.1 101 S\r\nupgrade: websocket\r\nsec-websocket-accept: {TOKEN}\r\n\r\n", 502),
        (
            f"HTTP/1.1 101 S\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {TOKEN}\r\n"
            "sec-websocket-protocol: soap\r\n\r\n",
            502,
        ),
        (
            f"HTTP/1.1 101 S\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {TOKEN}\r\n"
            "sec-websocket-extensions: permessage-deflate\r\n\r\n",
            502,
        ),
        ("x" * 40_000, 502),
    ],
)
def test_answers_that_the_client_refuses(answer, code):
    handshake = ClientHandshake("gw", "/mmtp", NONCE, ("mmtp",))
    with pytest.raises(RemoteError) as caught:
        handshake.receive(answer.encode())
    assert caught.value.code == code


def test_a_refusal_of_an_independent_server_is_told_by_its_status():
    handshake = ClientHandshake("gw", "/mmtp", NONCE)
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(handshake.request)
    list(server.events())
    with pytest.raises(RemoteError) as caught:
        handshake.receive(server.send(RejectConnection(status_code=403)))
    assert caught.value.code == 403
