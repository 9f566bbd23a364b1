"""A raw socket that attacks, and what the gateway made of it: the frames it said, and its line in the access log."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from protocols.mmtp import Connection, Hello, Limits, Role
from protocols.mmtp.events import Event, GoawayReceived, WelcomeReceived
from tests.system.device import TIMEOUT
from tests.system.gateway_process import Gateway

PLAIN_REQUEST = bytes.fromhex("3008074083b87aff811f")
"""REQUEST of operation "a"."""


def hello_of(device: str, token: str = "device-token", **more: Any) -> bytes:
    wire = Connection(Role.CLIENT, limits=Limits(), now=0.0)
    wire.send_hello(Hello(device=device, token=token, **more))
    return wire.to_send(0.0)


class Attacker:
    """One connection without manners."""

    def __init__(self, gateway: Gateway, tls: bool = False, alpn: str = "mmtp/1", shake: bool = True) -> None:
        self.gateway = gateway
        self.logged = len(gateway.access_log.read_bytes())
        """The access log before it came: ports are used again."""
        context = ssl.create_default_context(cafile=str(gateway.ca)) if tls and shake else None
        self.socket: Any = socket.create_connection(("127.0.0.1", gateway.tls if tls else gateway.plain), TIMEOUT)
        self.port = self.socket.getsockname()[1]
        self.said = b""
        self.reset = False
        if context is not None:
            context.set_alpn_protocols([alpn])
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")

    def send(self, data: bytes) -> Attacker:
        """As much as the gateway takes before it ends the connection."""
        try:
            self.socket.sendall(data)
        except (ConnectionError, ssl.SSLError):
            self.reset = True
        return self

    def welcomed(self) -> Attacker:
        """Wait for the first words of the gateway."""
        self.said += self.socket.recv(65536)
        return self

    def listen(self) -> bytes:
        """All that it says, until it ends the connection."""
        try:
            while data := self.socket.recv(65536):
                self.said += data
        except (ConnectionError, ssl.SSLError):
            self.reset = True
        self.socket.close()
        return self.said

    def frames(self) -> list[Event]:
        """The same as events of a device."""
        wire = Connection(Role.CLIENT, limits=Limits(), now=0.0)
        wire.send_hello(Hello(device="x", capabilities=frozenset({"zstd"})))
        for _ in range(100):
            wire.ping()
        for _ in range(64):
            wire.request("x", [], b"")
        wire.receive(self.listen(), 0.0)
        return wire.events()

    def refusal(self) -> int:
        """Status of the GOAWAY, or of the WELCOME that refuses; -1 when it ended without a word."""
        status = -1
        for event in self.frames():
            if isinstance(event, GoawayReceived):
                status = event.goaway.status
            elif isinstance(event, WelcomeReceived) and event.welcome.result:
                status = event.welcome.result
        return status

    def closed_as(self) -> dict[str, Any]:
        """What the access log says of its end."""
        found: list[dict[str, Any]] = []

        def written() -> bool:
            for record in self.gateway.accesses(self.logged):
                if record["event"] == "close" and record["peer_port"] == self.port:
                    found.append(record)
            return bool(found)

        self.gateway.wait_until(written)
        return found[-1]
