"""What an application sees: replies, failures, pushes, notes and the state of the connection."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from protocols.mmtp.events import PushReceived
from protocols.mmtp.statuses import Status

Headers = list[tuple[str, str]]
Via = Literal["long", "short"]


def status_name(status: int) -> str:
    """Lower-case name of a status, `application 70` for those from 64 on, `status n` when unknown."""
    try:
        return Status(status).name.lower()
    except ValueError:
        return f"application {status}" if status >= 64 else f"status {status}"


@dataclass(slots=True, frozen=True)
class Reply:
    """The answer to a call."""

    status: int
    headers: Headers
    body: bytes
    via: Via
    """Which connection brought it: the long one or a short one."""
    elapsed: float = 0.0
    """Seconds from the call to its answer."""
    attempts: int = 1
    """How often the request was sent, over both ways together."""

    @property
    def ok(self) -> bool:
        """The status is 0."""
        return self.status == Status.OK

    def json(self) -> Any:
        """The body as JSON; ValueError when it is none."""
        return json.loads(self.body)

    def header(self, name: str) -> str:
        """First value of the header `name` (lower case), empty when absent."""
        return next((value for key, value in self.headers if key == name), "")


class CallFailed(Exception):
    """A call ended with a status other than 0."""

    def __init__(self, status: int, message: str, reply: Reply | None = None) -> None:
        super().__init__(f"{status_name(status)}: {message}" if message else status_name(status))
        self.status = status
        self.message = message
        self.reply = reply
        """The answer as it came; None when the SDK itself gave up (deadline, closed, too many calls)."""

    @property
    def name(self) -> str:
        """Name of the status."""
        return status_name(self.status)


class CannotConnect(Exception):
    """The client stopped for good, or was closed, before it was connected; `status` says why."""

    def __init__(self, status: int, message: str) -> None:
        named = f"{status_name(status)}: {message}" if message else status_name(status)
        super().__init__(named if status else message)
        self.status = status
        self.message = message


@dataclass(slots=True, eq=False)
class Push:
    """One push. Call ack() when it is processed, or ask the iterator for the next one."""

    scope: str
    id: str
    biz: str
    epoch: int
    seq: int
    body: bytes
    ttl: float | None = None
    """Seconds that it was still of use when it was sent."""
    collapse: str = ""
    priority: int = 0
    via: Via = "long"
    acked: bool = False
    on_ack: Callable[[Push], None] | None = field(default=None, repr=False)

    @classmethod
    def from_event(cls, event: PushReceived, via: Via) -> Push:
        """The push that a connection reported."""
        return cls(
            event.scope, event.id, event.biz, event.epoch, event.seq, event.body, event.ttl, event.collapse,
            event.priority, via,
        )  # fmt: skip

    @property
    def stream(self) -> tuple[str, str, str]:
        """Scope, id and biz."""
        return (self.scope, self.id, self.biz)

    def json(self) -> Any:
        """The body as JSON; ValueError when it is none."""
        return json.loads(self.body)

    def ack(self) -> None:
        """It was processed. Idempotent."""
        if not self.acked:
            self.acked = True
            if self.on_ack is not None:
                self.on_ack(self)


@dataclass(slots=True, frozen=True)
class Note:
    """News that is neither an answer nor a push.

    Kinds: `gap` (numbers left out on purpose: collapsed, expired or not visible), `truncated` (older pushes are
    gone, resync by a call), `history_lost` (the stream began anew), `unclaimed` (pushes of a biz that nobody
    iterates wait), `goaway`, `suspect` (the long connection is silent), `short_failed` (a short connection had no
    answer), `save_failed` (cursors could not be stored, nothing is acknowledged until they can), `cache_failed` (header
    states and dictionaries could not be stored, the next start begins without), `state_miss` and `dictionary_miss`
    (`count` calls were sent again in full, since the gateway did not have what they were coded with),
    `protocol_error`, `early_data` (calls were sent with the first flight of TLS: `accepted` or `refused`),
    `ticket_refused` (there was a ticket of TLS, and a full hand-shake was needed), `ticket_failed` (tickets could not
    be stored).
    """

    kind: str
    message: str = ""
    scope: str = ""
    id: str = ""
    biz: str = ""
    count: int = 0


class State(Enum):
    """Where the client stands."""

    IDLE = "idle"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    """Between two attempts."""
    CLOSED = "closed"
    """For good: closed by the application, replaced by another client of the same device, or refused."""
