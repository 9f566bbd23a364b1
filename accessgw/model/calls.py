"""Calls and their answers, free of the protocol that carried them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accessgw.model.identity import ConnectionInfo, Identity

Headers = list[tuple[str, str]]
"""Lower-cased names, values as sent, order kept, repeats allowed."""


@dataclass(slots=True)
class Call:
    """One request of a device.

    `body` is the part that came with the request; when `more` is set the rest arrives through the
    CallUpload that the call service returned. `deadline` is in seconds of the worker's clock.
    """

    operation: str
    """Such as `payments.pay`; empty for an ordinary HTTP request, which routes by path."""
    identity: Identity
    call_id: int
    """64 bits; the same id is answered at most once by an upstream. 0 with `http_method` set."""
    headers: Headers
    body: bytes = b""
    more: bool = False
    deadline: float | None = None
    resent: bool = False
    """A repetition that the device marked as such; only these may meet an earlier answer."""
    age: float | None = None
    """Of a repetition: seconds since the device made the call, by its own clock, when it said so."""
    early: bool = False
    """Arrived in TLS 0-RTT data (RFC 8470)."""
    binding: str = ""
    """mmtp | mmtp-short | http: for the log only, decisions never look at it."""
    connection: ConnectionInfo | None = None
    http_method: str = ""
    """Set for ordinary HTTP requests only, with `http_target`."""
    http_target: str = ""
    received_at: float = 0.0
    """Seconds of the worker's clock, for the access log and deadlines."""
    secret: bool = False
    """Its route says that bodies are never compressed nor sampled."""


@dataclass(slots=True)
class Answer:
    """The complete answer to a call, as it is kept for repetitions."""

    status: int
    """MMTP status; 0 is ok."""
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    http_status: int = 0
    """What the upstream said, 0 when the gateway itself answered."""


@dataclass(slots=True)
class CallRecord:
    """What the access log and the metrics keep of one finished call."""

    operation: str
    device: str
    user: str
    call_id: int
    binding: str
    status: int
    http_status: int
    cluster: str
    endpoint: str
    attempts: int
    bytes_in: int
    bytes_out: int
    duration: float
    """Seconds from the first byte of the request to the last frame of the answer."""
    connection_id: int = 0
    replayed: bool = False
    """Answered from the kept answer of an earlier attempt."""
    reason: str = ""
    """Kind of the upstream's failure (UpstreamFailure.kind); empty where it answered, or was not asked."""
    detail: str = ""
    """What there is to say of that, for a person."""


CallLogger = Callable[[CallRecord], None]
