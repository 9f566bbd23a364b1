"""What an MMTP connection reports, for both roles. `call` is always the absolute number n."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.handshake import Goaway, Hello, Welcome
from protocols.mmtp.tables import AppTable
from protocols.mmtp.templates import TemplateState

Headers = list[tuple[str, str]]
UP = "up"
"""From device to gateway."""
DOWN = "down"


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


@dataclass(slots=True)
class CheckpointTaken:
    """A state of header blocks that HELLO may name from now on: it came (device: `down`, gateway: `up`), or it left
    (device: `up`, gateway: `down`). The gateway stores every one at once, and the last three of each direction; a
    lower number than the last one's replaces what is not below it. The device stores those that came."""

    direction: str
    number: int
    state: TemplateState


@dataclass(slots=True)
class CheckpointAcked:
    """The peer has the checkpoint that left. The device stores it: it is what its next HELLO names for `up`."""

    direction: str
    number: int
    state: TemplateState


@dataclass(slots=True)
class TableReceived:
    """Client: a table to begin the next connection with, instead of the one of this connection."""

    table: AppTable


@dataclass(slots=True)
class TableHeld:
    """Server: the device has the table that was offered."""

    id: int


@dataclass(slots=True)
class TableRetired:
    """Client: the table is not to be named any more."""

    id: int


@dataclass(slots=True)
class DictionaryReceived:
    """Client: a dictionary to store: from now on one of the bundle that the next HELLO names. Reported, too, for one
    that was held when it was offered."""

    dictionary: Dictionary


@dataclass(slots=True)
class DictionaryHeld:
    """Server: the device has the dictionary that was offered; it may be used."""

    id: int


@dataclass(slots=True)
class DictionaryRetired:
    """Client: forget the dictionary, the bundle too. Server: the device has forgotten it."""

    id: int


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
    | CheckpointTaken
    | CheckpointAcked
    | TableReceived
    | TableHeld
    | TableRetired
    | DictionaryReceived
    | DictionaryHeld
    | DictionaryRetired
)
