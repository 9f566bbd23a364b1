"""A device and a gateway for tests of the connection object, joined by a wire that a test may look into."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocols.errors import RemoteError
from protocols.mmtp import Connection, Goaway, Hello, Limits, Role, Status, StreamCursor, Welcome, encode_push
from protocols.mmtp.events import Event
from protocols.mmtp.settings import CALL_WINDOW, CONNECTION_WINDOW

HELLO = Hello("d1", capabilities=frozenset(("zstd",)), call_base=100)
REQUEST_A = b"\x30\x08\x07\x00\x03:op\x01a"
"""REQUEST of the operation `a`, without a body."""


class Pair:
    """A device and a gateway, with a perfect wire between them."""

    def __init__(self, device: Limits | None = None, gateway: Limits | None = None, *, welcome: bool = True) -> None:
        self.now = 0.0
        self.device = Connection(Role.CLIENT, limits=device or Limits(), now=0.0)
        self.gateway = Connection(Role.SERVER, limits=gateway or Limits(), now=0.0)
        self.device_saw: list[Event] = []
        self.gateway_saw: list[Event] = []
        self.up = self.down = b""
        """All bytes of each direction."""
        if welcome:
            self.device.send_hello(HELLO)
            self.run()
            self.gateway.send_welcome(Welcome())
            self.run()
            self.device_saw.clear()
            self.gateway_saw.clear()

    def run(self) -> None:
        while True:
            up, down = self.device.to_send(self.now), self.gateway.to_send(self.now)
            self.up += up
            self.down += down
            if up:
                self.gateway.receive(up, self.now)
            if down:
                self.device.receive(down, self.now)
            self.device_saw += self.device.events()
            self.gateway_saw += self.gateway.events()
            if not up and not down:
                return


def rich_dialogue() -> Pair:
    """Every frame type of both directions at least once."""
    pair = Pair(Limits(push_window=32), Limits(max_open_calls=20), welcome=False)
    pair.device.send_hello(replace(HELLO, cursors=[StreamCursor("user", "u", "b", 1, 2)]))
    pair.device.ping(False)
    pair.device.request("early", [("a", "b")], b"x")
    pair.run()
    pair.gateway.reset(0, Status.EARLY_DATA_REFUSED)
    pair.gateway.send_welcome(Welcome(session="s", mac_key=b"k" * 32))
    pair.run()
    for body in (b"", b"raw", b"packed" * 100):
        call = pair.device.request("op", [("authorization", "t"), ("x", "y")], body, timeout=3.0)
        pair.run()
        pair.gateway.respond(call, 0, [("z", "w")], body)
        pair.run()
    upload = pair.device.request("up", [], b"first", more=True)
    pair.device.send_data(upload, b"second" * 30, True)
    pair.device.ping()
    pair.run()
    pair.gateway.respond(upload, 404, [], b"head", more=True)
    pair.device.reset(upload, Status.CANCELLED)
    pair.run()
    pair.gateway.send_data(upload, b"tail", False)
    pair.gateway.introduce_stream(3, StreamCursor("topic", "t", "b", 1, 9))
    for seq in range(10, 14):
        pair.gateway.send_push(3, seq, encode_push(3, b"push" * 100, coding=2), 400, seq)
    pair.gateway.note_stream(StreamCursor("topic", "t", "b", 2, 0), 3, "history_lost")
    pair.gateway.ping()
    pair.run()
    pair.device.ack(2)
    pair.device.ack_ranges([3])
    pair.device.update_settings({CALL_WINDOW: 30000})
    pair.gateway.update_settings({CONNECTION_WINDOW: 300000})
    pair.run()
    pair.gateway.go_away(Goaway(Status.DRAINING, "bye"))
    pair.device.go_away(Goaway())
    pair.run()
    return pair


def refused(connection: Connection, data: bytes) -> Status:
    with pytest.raises(RemoteError) as caught:
        connection.receive(data, 0.0)
    return Status(caught.value.code)
