"""The fake gateway behind TLS that gives tickets and takes early data, in a thread: whatever the client runs on."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from protocols.errors import RemoteError
from protocols.mmtp.connection import Connection, Role
from protocols.mmtp.handshake import Hello
from protocols.mmtp.tickets import IDENTITY_SIZE, KEY_SIZE, DeviceTicket, GrantedTickets
from protocols.tls.engine import CloseNotifyReceived, EarlyDataReceived, HandshakeCompleted, PlaintextReceived
from protocols.tls.psk import ExternalPsk
from protocols.tls.server_context import ServerCertificate, ServerContext, ServerOptions
from tests.client import tls_files
from tests.client.fake_gateway import FakeGateway, FakeLink

EARLY = 4096


@dataclass
class TicketGateway(FakeGateway):
    """Gives as many tickets as are asked for."""

    keys: dict[bytes, bytes] = field(default_factory=dict)

    def accept(self, now: float) -> FakeLink:
        link = TicketLink(self, Connection(Role.SERVER, now=now))
        self.links.append(link)
        return link


class TicketLink(FakeLink):
    """One connection."""

    gateway: TicketGateway

    def welcome(self, hello: Hello) -> None:
        tickets = [DeviceTicket(os.urandom(IDENTITY_SIZE), os.urandom(KEY_SIZE)) for _ in range(hello.tickets)]
        self.gateway.keys.update({ticket.identity: ticket.key for ticket in tickets})
        granted = GrantedTickets(86_400, EARLY, tuple(tickets)) if tickets else None
        self.connection.send_welcome(replace(self.gateway.welcome, time=time.time(), tickets=granted))


class TicketServer:
    """Serves one connection after the other, and notes how each came about."""

    def __init__(self, directory: Path, *, states: Path) -> None:
        """`states`: where the client keeps its tickets, as far as it does."""
        self.ca, chain, key = tls_files.write(directory)
        self.gateway = TicketGateway()
        self.completed: list[tuple[bool, str]] = []
        """Of each complete hand-shake: whether it was resumed, and what became of early data."""
        self.shown: list[bytes] = []
        """Identities of the tickets in ClientHellos."""
        self.kept: list[bytes] = []
        """Those that were on the disk of the device while it used them."""
        self.unknown: set[int] = set()
        """Connections (from 0) at which no ticket is known."""
        self.spoilt: set[int] = set()
        """Those at which the keys of tickets are others."""
        self.dropped: set[int] = set()
        """Those that are cut after the first answer to a call."""
        self.failures: list[BaseException] = []
        self._states = states
        self._number = -1
        self._context = ServerContext(
            ServerOptions(
                [ServerCertificate(chain.read_bytes(), key.read_bytes())],
                alpn=["mmtp/1"],
                find_psk=self._find,
                max_early_data=EARLY,
            )
        )
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"mmtps://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> TicketServer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)
        assert not self._thread.is_alive()
        assert not self.failures, self.failures

    def _find(self, identity: bytes) -> ExternalPsk | None:
        if len(identity) != IDENTITY_SIZE:
            return None
        self.shown.append(identity)
        if any(identity.hex() in path.read_text() for path in self._states.rglob("*.json")):
            self.kept.append(identity)
        if self._number in self.unknown:
            return None
        key = bytes(KEY_SIZE) if self._number in self.spoilt else self.gateway.keys[identity]
        return ExternalPsk(identity, key, EARLY, "mmtp/1")

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            self._number += 1
            sock.settimeout(20)
            try:
                with sock, contextlib.suppress(ConnectionError):
                    self._speak(sock)
            except BaseException as error:
                self.failures.append(error)
                return

    def _speak(self, sock: socket.socket) -> None:
        engine = self._context.engine()
        link = self.gateway.accept(time.monotonic())
        executed = len(self.gateway.executed)
        while data := sock.recv(65536):
            with contextlib.suppress(RemoteError):
                engine.feed(data)
            events = engine.events()
            for event in events:
                self._take(event, engine, link)
            sock.sendall(engine.to_send())
            if any(isinstance(event, CloseNotifyReceived) for event in events):
                return
            if self._number in self.dropped and len(self.gateway.executed) > executed:
                return

    def _take(self, event: Any, engine: Any, link: FakeLink) -> None:
        match event:
            case HandshakeCompleted():
                self.completed.append((event.resumed, event.early))
            case EarlyDataReceived() | PlaintextReceived():
                answer = link.receive(event.data, time.monotonic())
                if answer:
                    engine.encrypt(answer)
