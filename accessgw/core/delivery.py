"""What is kept of one session's pushes while it is connected: where it began in each stream, its place there, and what
has to wait.

Everything rests on one number: `Place.sent` is how far a stream has been passed on this connection, and
it only grows. See core.courier for what moves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accessgw.core.interfaces.clock import Timer
from accessgw.core.interfaces.sessions import Link, Session
from accessgw.core.streams import Stream
from accessgw.model.identity import Identity
from accessgw.model.pushes import Cursor, StreamKey
from protocols.mmtp.nothing import NOTHING

NONE: tuple[int, ...] = ()
TRUNCATED = "truncated"
HISTORY_LOST = "history_lost"


@dataclass(slots=True, frozen=True)
class Opening:
    """Where one stream begins for one device."""

    position: int
    """The next push is the first visible one past this."""
    saved: int
    """Cursor that the store has, -1 for none in this epoch."""
    note: str = ""
    """What the device must be told first."""


BEGINNING = Opening(0, 0)
"""Of a stream that began while the device was connected."""


class Place:
    """Where one session stands in one stream, on this connection."""

    __slots__ = (
        "closing", "delivery", "epoch", "index", "inflight", "reading", "released", "saved", "sent",
        "stale", "stream", "wire",
    )  # fmt: skip

    def __init__(self, delivery: Delivery, stream: Stream, position: int, saved: int) -> None:
        self.delivery = delivery
        self.stream = stream
        self.epoch = stream.epoch
        self.index = -1
        """Among the stream's members; -1: not a member (any more)."""
        self.sent = position
        """Up to here everything was sent, or is a gap."""
        self.wire = -1
        """Last number that the link knows of; -1: the stream has not been introduced to it."""
        self.inflight: list[int] = []
        """Sent and not acknowledged."""
        self.stale: Sequence[int] = NONE
        """The same, of an epoch that has ended."""
        self.saved = saved
        """Cursor that the store knows."""
        self.released = 0
        """Pushes of priority 1 up to this may leave."""
        self.reading = False
        """The store is being read for it."""
        self.closing = False
        """Unsubscribed; waits for its last acknowledgements only."""

    @property
    def introduced(self) -> bool:
        """The link knows the stream's alias."""
        return self.wire >= 0

    @property
    def cursor(self) -> int:
        """Everything up to here was acknowledged, or is a gap."""
        return self.inflight[0] - 1 if self.inflight else self.sent


NO_TOPICS: frozenset[str] = frozenset()
"""One for all: each call of frozenset() makes another of 216 bytes."""


class Delivery:
    """The push side of one session while it is connected; `Session.delivery`."""

    __slots__ = (
        "behind", "bulk", "cursors", "device", "held", "held_since", "identity", "introductions", "left", "link",
        "loading", "noticed", "open", "places", "resuming", "session", "stuck_since", "subscribing", "timer", "timer_due",
        "topics", "user", "window", "woken",
    )  # fmt: skip

    def __init__(self, session: Session, link: Link) -> None:
        self.session = session
        self.link: Link | None = link
        """None: detached; the object is dead."""
        self.topics: frozenset[str] | None = None
        """None until they have been read."""
        self.identity: Identity = session.identity
        self.woken = False
        """It has more than these five. Most devices of MQTT come and go without a push: theirs never has."""

    def wake(self) -> None:
        """It is about to get a place in a stream, or to look for some: what that takes is made now, once."""
        if self.woken:
            return
        self.woken = True
        self.device = self.identity.device
        self.user = self.identity.user
        self.places: dict[int, Place] = NOTHING
        """By alias."""
        self.loading = 0
        """How many look-ups of its places are under way; what begins meanwhile is put into `noticed`."""
        self.left: frozenset[str] = NO_TOPICS
        """Topics that it left while its places were being looked up."""
        self.subscribing: set[str] | None = None
        """Topics whose places are not known yet."""
        self.noticed: dict[StreamKey, Stream] | None = None
        self.cursors: dict[StreamKey, Cursor] | None = None
        """Of HELLO, for streams that do not exist."""
        self.open = True
        """The link's push window has room, as far as we know."""
        self.window = 0
        """How many pushes were in flight when it had none; 0: it has room for any number, as far as we know."""
        self.bulk = 0
        """Bytes of priority 2 sent since the link's buffer was empty."""
        self.introductions = 0
        self.behind: dict[Place, None] | None = None
        """Places to be pumped when the window or the buffer has room again."""
        self.held: dict[Place, None] | None = None
        """Places whose next push waits for activity (priority 1)."""
        self.held_since = 0.0
        self.resuming = False
        """A call of Courier.resume is on its way."""
        self.stuck_since: float | None = None
        """When the window became full."""
        self.timer: Timer | None = None
        self.timer_due = 0.0

    @property
    def inflight(self) -> int:
        """Pushes sent on this connection and not acknowledged."""
        return sum(len(place.inflight) + len(place.stale) for place in self.places.values())

    def notice(self, stream: Stream) -> None:
        """Remember a stream that began while its places were being looked up."""
        if self.noticed is None:
            self.noticed = {}
        self.noticed[stream.key] = stream

    def later(self, place: Place) -> None:
        """Pump the place when there is room again."""
        if self.behind is None:
            self.behind = {}
        self.behind[place] = None

    def forget(self, place: Place) -> None:
        """The place waits for nothing any more."""
        if self.behind:
            self.behind.pop(place, None)
        if self.held:
            self.held.pop(place, None)
