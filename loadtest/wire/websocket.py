"""WebSocket with permessage-deflate by the package wsproto; messages in an envelope like JSON-RPC's.

JSON bodies stand in the envelope, protobuf follows it in a binary message (base64 would cost the peer a third).
Both directions keep their deflate window from message to message, which is the extension's default, unless told
otherwise.
"""

from __future__ import annotations

import json
import zlib

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Ping, Request, TextMessage
from wsproto.extensions import PerMessageDeflate

from loadtest.corpus.devices import OPERATION, PROTOBUF, Headers
from loadtest.corpus.sessions import Exchange, Pushed, Session
from loadtest.wire.tally import (
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


class _Share:
    """How much of a deflated stream its bodies are: they alone through the same window."""

    def __init__(self, takeover: bool) -> None:
        self._takeover = takeover
        self._stream = zlib.compressobj(wbits=-15)

    def of(self, body: bytes) -> int:
        if not self._takeover:
            self._stream = zlib.compressobj(wbits=-15)
        return len(self._stream.compress(body) + self._stream.flush(zlib.Z_SYNC_FLUSH)) - 4


class WebSocket:
    """Both ends."""

    def __init__(self, session: Session, tally: Tally, *, takeover: bool = True) -> None:
        self.arrived: list[tuple[Headers, bytes]] = []
        self._tally = tally
        self._device = WSConnection(ConnectionType.CLIENT)
        self._gateway = WSConnection(ConnectionType.SERVER)
        self._calls = 0
        self._sent: list[tuple[bool, bytes, bytes]] = []
        """(from the device, its body, bytes on the wire)"""
        self._shares = (_Share(takeover), _Share(takeover))
        self._takeover = takeover

    def open(self) -> None:
        asked = Request(
            host=HOST,
            target="/ws",
            extensions=[self._deflate()],
            extra_headers=[(b"Authorization", b"Bearer " + CREDENTIAL.encode())],
        )
        for sender, receiver, event in (
            (self._device, self._gateway, asked),
            (self._gateway, self._device, AcceptConnection(extensions=[self._deflate()])),
        ):
            out = sender.send(event)
            receiver.receive_data(out)
            list(receiver.events())
            self._tally.count(HANDSHAKE, len(out))
            self._tally.wrote(len(out))

    def _deflate(self) -> PerMessageDeflate:
        alone = not self._takeover
        return PerMessageDeflate(client_no_context_takeover=alone, server_no_context_takeover=alone)

    def call(self, exchange: Exchange) -> None:
        headers = dict(without_operation(exchange.request_headers))
        head: dict[str, object] = {
            "jsonrpc": "2.0",
            "id": self._calls,
            "method": exchange.operation,
            "headers": headers,
        }
        got, body = self._send(True, head, exchange.request_headers, "params", exchange.request)
        self.arrived.append(([(OPERATION, str(got["method"])), *got["headers"].items()], body))
        head = {"jsonrpc": "2.0", "id": self._calls, "headers": dict(exchange.response_headers)}
        got, body = self._send(False, head, exchange.response_headers, "result", exchange.response)
        self.arrived.append((list(got["headers"].items()), body))
        self._calls += 1

    def push(self, push: Pushed) -> None:
        head = {"jsonrpc": "2.0", "method": push.biz, "seq": push.seq}
        _, body = self._send(False, head, [("content-type", push.content_type)], "params", push.body)
        self.arrived.append(([], body))

    def _send(
        self, up: bool, head: dict[str, object], headers: Headers, name: str, body: bytes
    ) -> tuple[dict[str, dict[str, str]], bytes]:
        text = json.dumps(head, separators=(",", ":"))
        event: TextMessage | BytesMessage
        if ("content-type", PROTOBUF) in headers:
            event = BytesMessage(text.encode() + b"\n" + body)
        else:
            event = TextMessage(f'{text[:-1]},"{name}":{body.decode()}}}')
        sender, receiver = (self._device, self._gateway) if up else (self._gateway, self._device)
        out = sender.send(event)
        receiver.receive_data(out)
        self._sent.append((up, body, out))
        events = list(receiver.events())
        texts = [part.data for part in events if isinstance(part, TextMessage)]
        if texts:
            got = json.loads("".join(texts))
            # The application gets the value; to compare it must be as it was written.
            return got, json.dumps(got[name], ensure_ascii=False, separators=(",", ":")).encode()
        pieces = [part.data for part in events if isinstance(part, BytesMessage)]
        envelope, _, rest = b"".join(pieces).partition(b"\n")
        return json.loads(envelope), rest

    def heartbeat(self) -> None:
        out = self._device.send(Ping())
        self._gateway.receive_data(out)
        (ping,) = self._gateway.events()
        assert isinstance(ping, Ping)
        answer = self._gateway.send(ping.response())
        self._device.receive_data(answer)
        list(self._device.events())
        for piece in (out, answer):
            self._tally.count(HEARTBEATS, len(piece))
            self._tally.wrote(len(piece))

    def close(self) -> None:
        tally = self._tally
        for up, body, out in self._sent:
            tally.wrote(len(out))
            pos = 0
            payload = 0
            while pos < len(out):
                size = out[pos + 1] & 127
                head = 2 + {126: 2, 127: 8}.get(size, 0)
                if size > 125:
                    size = int.from_bytes(out[pos + 2 : pos + head], "big")
                head += 4 if out[pos + 1] & 128 else 0
                tally.count(FRAMING, head)
                payload += size
                pos += head + size
            bodies = min(payload, self._shares[up].of(body))
            tally.count(BODIES, bodies)
            tally.count(HEADERS, payload - bodies)
        self._sent.clear()
