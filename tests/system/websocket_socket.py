"""A blocking WebSocket client on wsproto that looks like a socket, so that devices can be put on it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, RejectConnection, Request

from tests.system.device import Device, open_socket


class Rejected(Exception):
    """The upgrade was answered with another status than 101; `args` are the status and the headers."""


class WebSocketClient:
    """sendall() is one binary message, recv() the bytes of what came next; b"" after the server's close frame."""

    def __init__(
        self, plain: socket.socket, path: str, subprotocols: Sequence[str] = (), headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        self.socket = plain
        self.wire = WSConnection(ConnectionType.CLIENT)
        self.events: list[Event] = []
        self.closed: CloseConnection | None = None
        extra = [(name.encode(), value.encode()) for name, value in headers]
        self.socket.sendall(
            self.wire.send(Request(host="localhost", target=path, subprotocols=list(subprotocols), extra_headers=extra))
        )
        answer = self.next()
        if isinstance(answer, RejectConnection):
            raise Rejected(answer.status_code, dict(answer.headers))
        assert isinstance(answer, AcceptConnection), answer
        self.subprotocol = answer.subprotocol

    def next(self) -> Event:
        while not self.events:
            self.wire.receive_data(self.socket.recv(65536) or None)
            self.events += self.wire.events()
        return self.events.pop(0)

    def sendall(self, data: bytes) -> None:
        self.socket.sendall(self.wire.send(BytesMessage(data)))

    def recv(self, size: int) -> bytes:
        while self.closed is None:
            event = self.next()
            if isinstance(event, BytesMessage):
                return bytes(event.data)
            if isinstance(event, Ping):
                self.socket.sendall(self.wire.send(event.response()))
            elif isinstance(event, CloseConnection):
                self.closed = event
        return b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.socket, name)


class WebSocketDevice(Device):
    """A device whose MMTP rides in WebSocket messages on /mmtp."""

    def open_socket(self, port: int, ca: Path | None) -> Any:
        return WebSocketClient(open_socket(port, ca, "http/1.1"), "/mmtp", ["mmtp"])
