"""What an MMTP connection reports, for both roles. `call` is always the absolute number n."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from protocols.mmtp.handshake import Goaway, Hello, Welcome

Headers = list[tuple[str, str]]


@dataclass(slots=True)
class HelloReceived:
    """Server: the device introduced itself; answer with send_welcome or refuse."""

    hello: Hello


@dataclass(slots=True)
class WelcomeReceived:
    """Client: the gateway's answer; `welcome.result` is a status, 0 is ok."""

    welcome: Welcome


@dataclass(slots=True)
class RequestReceived:
    """Server: a call begins. The body is decompressed, up to what has come (`more`: DATA follows)."""

    call: int
    call_id: int
    operation: str
    headers: Headers
    body: bytes
    more: bool
    resent: bool
    timeout: float | None
    """Seconds that the device still waits, when it said so."""
    wire_size: int
    """Body bytes on the wire, to be given back with consumed()."""
    age: float | None = None
    """Seconds since the device made the call, when a repetition says so."""


@dataclass(slots=True)
class ResponseReceived:
    """Client: the status of a call."""

    call: int
    status: int
    headers: Headers
    body: bytes
    more: bool
    wire_size: int


@dataclass(slots=True)
class DataReceived:
    """The next part of a body, decompressed."""

    call: int
    data: bytes
    more: bool
    wire_size: int


@dataclass(slots=True)
class CallReset:
    """Server: the device asks to cancel. Client: the call ended with this status."""

    call: int
    status: int


@dataclass(slots=True)
class CallDrained:
    """All body bytes of the call that were waiting for credit have been sent."""

    call: int


@dataclass(slots=True)
class PushReceived:
    """Client: one push."""

    alias: int
    scope: str
    id: str
    biz: str
    epoch: int
    seq: int
    body: bytes
    ttl: float | None = None
    collapse: str = ""
    priority: int = 0
    gap: int = 0
    """Sequence numbers left out directly before this one."""
    index: int = 0
    """Number of this push on its connection, for ack_ranges."""


@dataclass(slots=True)
class StreamNoted:
    """Client: `truncated` (resync by call; the next seq is floor + 1) or `history_lost` (new epoch)."""

    scope: str
    id: str
    biz: str
    note: str
    epoch: int
    floor: int


@dataclass(slots=True)
class PushesAcked:
    """Server: these pushes were processed, as the tokens given to send_push, in order of sending."""

    tokens: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class PongReceived:
    """Our ping was answered."""


@dataclass(slots=True)
class PingReceived:
    """A heartbeat came (an answer, if wanted, is already queued)."""


@dataclass(slots=True)
class GoawayReceived:
    """The peer is leaving, or asks us to."""

    goaway: Goaway


Event = (
    HelloReceived
    | WelcomeReceived
    | RequestReceived
    | ResponseReceived
    | DataReceived
    | CallReset
    | CallDrained
    | PushReceived
    | StreamNoted
    | PushesAcked
    | PongReceived
    | PingReceived
    | GoawayReceived
)
