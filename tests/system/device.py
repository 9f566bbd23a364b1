"""A device on a blocking socket: the protocol's own client role, for tests that want to see every event."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from protocols.errors import RemoteError
from protocols.mmtp import Connection, Hello, Limits, Role
from protocols.mmtp.events import CallReset, Event, GoawayReceived, PushReceived, ResponseReceived, WelcomeReceived

E = TypeVar("E")
TIMEOUT = 60.0
"""Seconds without a word of the gateway after which a test has failed."""


class Gone(Exception):
    """The gateway ended the connection."""


def open_socket(port: int, ca: Path | None, *alpn: str) -> socket.socket:
    """A connection to the gateway, by TLS when its CA is given."""
    plain = socket.create_connection(("127.0.0.1", port), TIMEOUT)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if ca is None:
        return plain
    context = ssl.create_default_context(cafile=str(ca))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context.wrap_socket(plain, server_hostname="localhost")


class Device:
    """One connection of one device. Events that nobody asked for yet wait in `seen`."""

    def __init__(
        self, port: int, device: str = "d1", token: str = "device-token", ca: Path | None = None, **hello: Any
    ) -> None:
        self.socket: Any = self.open_socket(port, ca)
        self.wire = Connection(Role.CLIENT, limits=Limits(), now=time.monotonic())
        self.seen: list[Event] = []
        self.pushes: list[PushReceived] = []
        hello.setdefault("boot", 1)
        hello.setdefault("call_base", time.time_ns() & (2**63 - 1))
        self.wire.send_hello(Hello(device=device, token=token, **hello))
        self.flush()

    def open_socket(self, port: int, ca: Path | None) -> Any:
        return open_socket(port, ca, "mmtp/1")

    def flush(self) -> None:
        data = self.wire.to_send(time.monotonic())
        if data:
            self.socket.sendall(data)

    def read(self) -> None:
        """One read's worth of events."""
        try:
            data = self.socket.recv(65536)
        except ConnectionError as error:
            raise Gone(str(error)) from None
        if not data:
            raise Gone("end of stream")
        try:
            self.wire.receive(data, time.monotonic())
        except RemoteError as error:
            raise AssertionError(f"the gateway broke the protocol: {error}") from error
        for event in self.wire.events():
            (self.pushes if isinstance(event, PushReceived) else self.seen).append(event)  # type: ignore[arg-type]
        self.flush()

    def expect(self, kind: type[E] | tuple[type[E], ...], which: Callable[[E], bool] = lambda event: True) -> E:
        """The next event of that kind, whatever else arrives."""
        while True:
            for event in self.seen:
                if isinstance(event, kind) and which(event):
                    self.seen.remove(event)
                    return event
            self.read()

    def welcomed(self) -> Device:
        welcome = self.expect(WelcomeReceived).welcome
        assert welcome.result == 0, (welcome.result, welcome.message)
        self.welcome = welcome
        return self

    def call(self, operation: str, body: bytes = b"{}", call_id: int | None = None) -> ResponseReceived:
        """A call and its last frame (the answer in one piece, or a RESET as an answer without a body)."""
        return self.answer(self.send(operation, body, call_id))

    def answer(self, number: int) -> ResponseReceived:
        """The last frame of a call."""
        last: ResponseReceived | CallReset = self.expect(
            (ResponseReceived, CallReset),  # type: ignore[arg-type]
            lambda event: event.call == number,
        )
        if isinstance(last, CallReset):
            return ResponseReceived(number, last.status, [], b"", False, 0)
        return last

    def send(self, operation: str, body: bytes = b"{}", call_id: int | None = None) -> int:
        number = self.wire.request(operation, [], body, call_id=call_id)
        self.flush()
        return number

    def next_push(self) -> PushReceived:
        while not self.pushes:
            self.read()
        return self.pushes.pop(0)

    def ack(self, count: int = 1) -> None:
        self.wire.ack(count)
        self.flush()

    def ack_now(self, count: int = 1) -> None:
        """As ack, without waiting for company."""
        self.wire.ack(count)
        self.socket.sendall(self.wire.to_send(time.monotonic() + 1.0))

    def goodbye(self) -> int:
        """Reads until the end; the status of the GOAWAY that came before it, or -1."""
        status = -1
        try:
            while True:
                self.read()
        except Gone:
            pass
        for event in self.seen:
            if isinstance(event, GoawayReceived):
                status = event.goaway.status
        return status

    def cut(self) -> None:
        """The connection dies without a word."""
        self.socket.close()
