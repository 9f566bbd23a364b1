"""What the core asks its face to do, in order."""

from __future__ import annotations

from dataclasses import dataclass

from accessgw.client.addresses import Address
from accessgw.client.cursors import Memory
from accessgw.client.model import CallFailed, Headers, Note, Push, Reply, State
from accessgw.client.wirememory import WireMemory


@dataclass(slots=True)
class Connect:
    """Open a transport (for mmtps with its TLS hand-shake); answer with connected or lost."""

    attempt: int
    address: Address


@dataclass(slots=True)
class Write:
    """Write bytes to a transport."""

    attempt: int
    data: bytes


@dataclass(slots=True)
class Carried:
    """Bytes of MMTP that went through a WebSocket, whose own bytes nobody wants to see in a trace."""

    sent: bool
    data: bytes


@dataclass(slots=True)
class Close:
    """End a transport (or the attempt to open it); no answer is expected."""

    attempt: int
    abort: bool = False
    """At once, without flushing."""


@dataclass(slots=True)
class Inspect:
    """Tell what the kernel knows (TCP_INFO) of a transport: answer with inspected, or not at all."""

    attempt: int


@dataclass(slots=True)
class Post:
    """One HTTP POST on a connection of its own; answer with posted or post_failed."""

    post: int
    address: Address
    path: str
    headers: Headers
    body: bytes
    timeout: float


@dataclass(slots=True)
class CancelPost:
    """Nobody waits for this one any more."""

    post: int


@dataclass(slots=True)
class Finish:
    """A call has its answer; comes exactly once per call."""

    call: int
    outcome: Reply | CallFailed


@dataclass(slots=True)
class CallHead:
    """The status and headers of a streaming call; chunks follow, then Finish."""

    call: int
    status: int
    headers: Headers


@dataclass(slots=True)
class CallChunk:
    """A part of the answer of a streaming call, before its Finish; give it back with call_consumed."""

    call: int
    data: bytes
    wire_size: int


@dataclass(slots=True)
class CallRoom:
    """All that was written to a streaming call has left; more may be written."""

    call: int


@dataclass(slots=True)
class Deliver:
    """A push for the application."""

    push: Push


@dataclass(slots=True)
class Tell:
    """A note for the application."""

    note: Note


@dataclass(slots=True)
class Save:
    """Store this durably, then answer with saved (or save_failed). One at a time."""

    memory: Memory


@dataclass(slots=True)
class Keep:
    """Store this when convenient, then answer with kept (or keep_failed). One at a time; losing it costs bytes only."""

    memory: WireMemory
    retired: frozenset[int]
    """Dictionaries that the gateway has taken back."""


@dataclass(slots=True)
class AskToken:
    """The gateway refused the token: ask the application for another, answer with token()."""


@dataclass(slots=True)
class Changed:
    """The state changed."""

    state: State
    status: int = 0
    message: str = ""


Command = (
    Connect
    | Write
    | Carried
    | Close
    | Inspect
    | Post
    | CancelPost
    | Finish
    | CallHead
    | CallChunk
    | CallRoom
    | Deliver
    | Tell
    | Save
    | Keep
    | AskToken
    | Changed
)
