"""HTTP/2 by the package h2, gzip 6 bodies for calls, pushes as server-sent events over the same connection; and gRPC.

Favours the peer where there is a choice: a body that gzip would lengthen goes as it is, the stream of events is one
gzip stream that is flushed per event (so that a push profits from those before), no header repeats the credential,
and there is no content-length. Protobuf in events is base64: they are text.
"""

from __future__ import annotations

import base64
import gzip
import struct
import zlib

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, ResponseReceived

from loadtest.corpus.devices import JSON, OPERATION, PROTOBUF, Headers
from loadtest.corpus.sessions import Exchange, Pushed, Session
from loadtest.wire.tally import (
    ACKS,
    BODIES,
    CREDENTIAL,
    FRAMING,
    HANDSHAKE,
    HEADERS,
    HEARTBEATS,
    HOST,
    Tally,
    without_operation,
)

DATA, HEADER_FRAME, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GZIP_LEVEL = 6


def squeezed(body: bytes) -> bytes | None:
    """gzip of the body, None when that is not shorter."""
    packed = gzip.compress(body, GZIP_LEVEL, mtime=0)
    return packed if len(packed) < len(body) else None


class Http2:
    """Both ends; the streams of calls and one of pushes."""

    def __init__(self, session: Session, tally: Tally, *, plain_events: bool = False) -> None:
        self.arrived: list[tuple[Headers, bytes]] = []
        self._tally = tally
        self._device = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._gateway = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._opening = True
        self._stream = 0
        self._events: zlib._Compress | None = None
        self._decoder: zlib._Decompress | None = None
        if not plain_events:
            self._events = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31)
            self._decoder = zlib.decompressobj(31)
        self._sent: list[tuple[bool, bytes]] = []
        """(while opening, bytes on the wire)"""

    # --- what a protocol over HTTP/2 does in its own way

    def open(self) -> None:
        """Preface, settings, the stream of events."""
        self._device.initiate_connection()
        self._gateway.initiate_connection()
        self._exchange()
        self._open_stream(
            [
                (":method", "GET"),
                (":scheme", "https"),
                (":authority", HOST),
                (":path", "/events"),
                ("accept", "text/event-stream"),
                ("authorization", "Bearer " + CREDENTIAL),
            ],
            [(":status", "200"), ("content-type", "text/event-stream")]
            + ([("content-encoding", "gzip")] if self._events else []),
        )

    def _open_stream(self, request: Headers, response: Headers, body: bytes | None = None) -> None:
        self._stream = self._device.get_next_available_stream_id()
        self._device.send_headers(self._stream, request, end_stream=body is None)
        if body is not None:
            self._device.send_data(self._stream, body, end_stream=True)
        self._exchange()
        self._gateway.send_headers(self._stream, response)
        self._exchange()
        self._opening = False

    def call(self, exchange: Exchange) -> None:
        headers = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", HOST),
            (":path", "/" + exchange.operation),
            *without_operation(exchange.request_headers),
        ]
        stream = self._device.get_next_available_stream_id()
        got, body = self._send(self._device, stream, headers, exchange.request)
        self.arrived.append((_plain(got), body))
        headers = [(":status", "200"), *exchange.response_headers]
        got, body = self._send(self._gateway, stream, headers, exchange.response)
        self.arrived.append((_plain(got), body))

    def _send(self, sender: H2Connection, stream: int, headers: Headers, body: bytes) -> tuple[Headers, bytes]:
        packed = squeezed(body)
        if packed is not None:
            headers.append(("content-encoding", "gzip"))
        sender.send_headers(stream, headers)
        sender.send_data(stream, body if packed is None else packed, end_stream=True)
        got, data = self._exchange()
        if ("content-encoding", "gzip") in got:
            got.remove(("content-encoding", "gzip"))
            data = gzip.decompress(data)
        return got, data

    def push(self, push: Pushed) -> None:
        text = push.body if push.content_type == JSON else base64.b64encode(push.body)
        event = b"id:%d\nevent:%b\ndata:%b\n\n" % (push.seq, push.biz.encode(), text)
        if self._events is not None:
            event = self._events.compress(event) + self._events.flush(zlib.Z_SYNC_FLUSH)
        self._gateway.send_data(self._stream, event)
        _, data = self._exchange()
        if self._decoder is not None:
            data = self._decoder.decompress(data)
        text = data.partition(b"\ndata:")[2][:-2]
        self.arrived.append(([], text if push.content_type == JSON else base64.b64decode(text)))

    def heartbeat(self) -> None:
        self._device.ping(b"12345678")
        self._exchange()

    def close(self) -> None:
        for opening, out in self._sent:
            self._tell(opening, out)
        self._sent.clear()

    # --- the pipe

    def _exchange(self) -> tuple[Headers, bytes]:
        """Carry bytes until both ends are silent; headers and data that arrived."""
        headers: Headers = []
        data = b""
        while True:
            moved = False
            for sender, receiver in ((self._device, self._gateway), (self._gateway, self._device)):
                out = sender.data_to_send()
                if not out:
                    continue
                moved = True
                self._sent.append((self._opening, out))
                for event in receiver.receive_data(out):
                    if isinstance(event, (RequestReceived, ResponseReceived)):
                        headers = [(str(name), str(value)) for name, value in event.headers or ()]
                    elif isinstance(event, DataReceived):
                        data += event.data or b""
                        if event.flow_controlled_length:
                            receiver.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if not moved:
                break
        return headers, data

    def _tell(self, opening: bool, out: bytes) -> None:
        """Count the frames of one write; called by close(), outside of what is timed."""
        tally = self._tally
        tally.wrote(len(out))
        if opening:
            tally.count(HANDSHAKE, len(out))
            return
        pos = 0
        while pos < len(out):
            size = int.from_bytes(out[pos : pos + 3], "big")
            kind = out[pos + 3]
            payload = out[pos + 9 : pos + 9 + size]
            if kind == DATA:
                body = self._body_size(payload)
                tally.count(BODIES, body)
                tally.count(FRAMING, 9 + size - body)
            elif kind == HEADER_FRAME:
                tally.count(HEADERS, size)
                tally.count(FRAMING, 9)
            elif kind == WINDOW_UPDATE:
                tally.count(ACKS, 9 + size)
            elif kind == PING:
                tally.count(HEARTBEATS, 9 + size)
            else:
                tally.count(HANDSHAKE, 9 + size)
            pos += 9 + size

    def _body_size(self, payload: bytes) -> int:
        return len(payload)


def _plain(headers: Headers) -> Headers:
    """Without the protocol's own, the path as the name of the call."""
    return [
        (OPERATION, value[1:]) if name == ":path" else (name, value)
        for name, value in headers
        if name == ":path" or not name.startswith(":")
    ]


class Grpc(Http2):
    """gRPC's framing with per-message gzip over the same package; pushes are one server stream."""

    _TYPES = {JSON: "application/grpc+json", PROTOBUF: "application/grpc+proto"}
    _OWN = frozenset(("te", "grpc-encoding", "grpc-accept-encoding", "grpc-status"))

    def open(self) -> None:
        self._device.initiate_connection()
        self._gateway.initiate_connection()
        self._exchange()
        self._events = self._decoder = None
        self._open_stream(
            self._request("Pushes/Subscribe", [("content-type", PROTOBUF), ("authorization", "Bearer " + CREDENTIAL)]),
            self._response([("content-type", PROTOBUF)]),
            struct.pack(">BL", 0, 0),
        )

    def _request(self, method: str, headers: Headers) -> Headers:
        return [
            (":method", "POST"),
            (":scheme", "https"),
            (":path", "/" + method),
            (":authority", HOST),
            ("te", "trailers"),
            *self._typed(headers),
            ("grpc-encoding", "gzip"),
            ("grpc-accept-encoding", "gzip"),
        ]

    def _response(self, headers: Headers) -> Headers:
        return [(":status", "200"), *self._typed(headers), ("grpc-encoding", "gzip")]

    def _typed(self, headers: Headers) -> Headers:
        return [(name, self._TYPES[value] if name == "content-type" else value) for name, value in headers]

    def call(self, exchange: Exchange) -> None:
        stream = self._device.get_next_available_stream_id()
        # As a generated stub names a method: /package.Service/Method.
        headers = self._request("lantern." + exchange.operation.replace(".", "/"), exchange.request_headers[1:])
        self._device.send_headers(stream, headers)
        self._device.send_data(stream, _message(exchange.request), end_stream=True)
        self._arrive(*self._exchange())
        self._gateway.send_headers(stream, self._response(exchange.response_headers))
        self._gateway.send_data(stream, _message(exchange.response))
        self._gateway.send_headers(stream, [("grpc-status", "0")], end_stream=True)
        self._arrive(*self._exchange())

    def _arrive(self, headers: Headers, data: bytes) -> None:
        types = {name: value for value, name in self._TYPES.items()}
        got: Headers = []
        for name, value in headers:
            if name == ":path":
                got.append((OPERATION, value.removeprefix("/lantern.").replace("/", ".")))
            elif name == "content-type":
                got.append((name, types[value]))
            elif not name.startswith(":") and name not in self._OWN:
                got.append((name, value))
        self.arrived.append((got, _body(data)))

    def push(self, push: Pushed) -> None:
        """The message is Push { string biz = 1; uint64 seq = 2; bytes body = 3; }."""
        biz = push.biz.encode()
        wrapped = b"\x0a%c%b\x10%b\x1a%b%b" % (len(biz), biz, _varint(push.seq), _varint(len(push.body)), push.body)
        self._gateway.send_data(self._stream, _message(wrapped))
        _, data = self._exchange()
        self.arrived.append(([], _unwrapped(_body(data))))

    def _body_size(self, payload: bytes) -> int:
        return max(0, len(payload) - 5)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _skip_varint(data: bytes, pos: int) -> int:
    while data[pos] > 127:
        pos += 1
    return pos + 1


def _unwrapped(data: bytes) -> bytes:
    pos = _skip_varint(data, 2 + data[1] + 1)
    return data[_skip_varint(data, pos + 1) :]


def _message(body: bytes) -> bytes:
    """gRPC's length-prefixed message."""
    packed = squeezed(body)
    return struct.pack(">BL", packed is not None, len(body if packed is None else packed)) + (packed or body)


def _body(data: bytes) -> bytes:
    return gzip.decompress(data[5:]) if data[0] else data[5:]
