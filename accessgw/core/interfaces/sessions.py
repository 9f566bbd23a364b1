"""Sessions, as those see them who have something for their devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from accessgw.model.identity import ConnectionInfo, Identity
from accessgw.model.pushes import StreamKey
from accessgw.model.reasons import CloseReason

if TYPE_CHECKING:
    from accessgw.core.interfaces.pushes import OutgoingPush


class Link(Protocol):
    """The live connection of a session, whatever protocol it speaks."""

    info: ConnectionInfo

    @property
    def buffered(self) -> int: ...

    def introduce(self, alias: int, stream: StreamKey, epoch: int, after: int) -> None:
        """Before the first push of a stream on this connection: the next one is `after` + 1."""

    def send_push(self, push: OutgoingPush, gap: int) -> bool:
        """Send it now. `gap` is how many sequence numbers before it were left out (collapsed,
        expired, not visible). False, and nothing sent, when the push window is full."""

    def stream_note(self, alias: int, stream: StreamKey, note: str, epoch: int, floor: int) -> None:
        """Tell the device `truncated` (its cursor was below the floor; resync by call; the next push
        is floor + 1) or `history_lost` (the epoch changed)."""

    def close(self, reason: CloseReason, status: int) -> None:
        """GOAWAY with the status, then close in order."""

    def go_away(self, status: int, address: str, delay: float) -> None:
        """Ask the device to leave; it finishes its calls first."""


class Session(Protocol):
    """What core keeps of one device; `delivery` belongs to the push side alone."""

    id: str
    identity: Identity
    link: Link | None
    delivery: Any


class PresenceSink(Protocol):
    """Takes connect and disconnect events."""

    def connected(self, session: Session) -> None: ...

    def disconnected(self, session: Session, reason: CloseReason) -> None: ...
