"""What a session cost: bytes by category, records, processor time; and what every peer has to offer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import process_time
from typing import Protocol

from loadtest.corpus.devices import OPERATION, Headers
from loadtest.corpus.sessions import Exchange, Heartbeat, Pushed, Session

HANDSHAKE = "hand-shake"
HEADERS = "headers"
BODIES = "bodies"
FRAMING = "framing"
ACKS = "acknowledgements"
HEARTBEATS = "heartbeats"
CATEGORIES = (HANDSHAKE, HEADERS, BODIES, FRAMING, ACKS, HEARTBEATS)

RECORD = 22
"""Bytes that TLS 1.3 adds to a record: header, content type, tag."""
MAX_RECORD = 16_384

HOST = "gw.lantern.example"
CREDENTIAL = "eyJhbGciOiJFZERTQSJ9." + "e30" * 25 + "." + "Zs4" * 8
"""What every protocol shows once, in its hand-shake; 120 bytes."""


@dataclass
class Tally:
    """Sums over sessions, both directions."""

    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CATEGORIES, 0))
    records: int = 0
    messages: int = 0
    """Requests, answers and pushes."""
    cpu: float = 0.0
    """Seconds of encoding and decoding them, both ends together."""
    sessions: int = 0

    @property
    def total(self) -> int:
        """Bytes of all categories, without TLS."""
        return sum(self.bytes.values())

    def count(self, category: str, size: int) -> None:
        self.bytes[category] += size

    def wrote(self, size: int) -> None:
        """One write of `size` bytes, which is one record or more."""
        self.records += -(-size // MAX_RECORD)


class Dialogue(Protocol):
    """Both ends of one connection of one protocol; every method returns when the other end has got everything."""

    arrived: list[tuple[Headers, bytes]]
    """Requests, answers and pushes as the other end got them, in order; headers without the protocol's own."""

    def open(self) -> None:
        """The hand-shake, and whatever is needed before the first push."""

    def call(self, exchange: Exchange) -> None:
        """Request and answer."""

    def push(self, push: Pushed) -> None:
        """One push, acknowledged if the protocol has that."""

    def heartbeat(self) -> None:
        """One heartbeat of the device."""

    def close(self) -> None:
        """Finish counting; the connection is not closed."""


def speak(make: Callable[[Session, Tally], Dialogue], sessions: Iterable[Session]) -> Tally:
    """The tally of all sessions. Raises AssertionError when something else arrived than was sent."""
    tally = Tally()
    for session in sessions:
        dialogue = make(session, tally)
        dialogue.open()
        begin = process_time()
        pause = 0.0
        for event in session.events:
            if isinstance(event, Exchange):
                dialogue.call(event)
            elif isinstance(event, Pushed):
                dialogue.push(event)
            else:
                aside = process_time()
                dialogue.heartbeat()
                pause += process_time() - aside
        tally.cpu += process_time() - begin - pause
        dialogue.close()
        verify(session, dialogue.arrived)
        tally.messages += len(dialogue.arrived)
        tally.sessions += 1
    return tally


def verify(session: Session, arrived: list[tuple[Headers, bytes]]) -> None:
    """Everything arrived, in order, headers and bodies as they were sent. Raises AssertionError."""
    expected: list[tuple[Headers, bytes]] = []
    for event in session.events:
        if isinstance(event, Exchange):
            expected.append((event.request_headers, event.request))
            expected.append((event.response_headers, event.response))
        elif not isinstance(event, Heartbeat):
            expected.append(([], event.body))
    assert len(arrived) == len(expected), f"{len(expected)} messages were sent, {len(arrived)} arrived"
    for (headers, body), (got_headers, got) in zip(expected, arrived, strict=True):
        assert got == body
        assert sorted(got_headers) == sorted(headers)


def without_operation(headers: Headers) -> Headers:
    """Those that are not the name of the call, which every protocol puts somewhere of its own."""
    return [pair for pair in headers if pair[0] != OPERATION]
