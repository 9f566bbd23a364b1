"""What the broker keeps of one MQTT client, connected or not."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from twisted.internet.defer import Deferred

from accessgw.core.interfaces.mqtt_state import Message, QueuedMessage, StoredWill
from accessgw.model.identity import Identity
from protocols.mmtp.nothing import NOTHING
from protocols.mqtt.packets import V5, SubscriptionRequest
from protocols.mqtt.reasons import FAILURE, Reason

if TYPE_CHECKING:
    from accessgw.core.registry import DeviceSession

MAX_PACKET_ID = 65535

# What a packet id waits for, the low two bits of its entry in `inflight`; the rest is its number in the store.
PUSH = 0
"""PUBACK of a push of the gateway's streams."""
PUBACK = 1
PUBREC = 2
PUBCOMP = 3
QOS_KINDS = (0, PUBACK, PUBREC)
"""What a message of each QoS waits for first."""
KIND = 3
NUMBER = 2
"""Bits to shift by."""


NO_IDS: frozenset[int] = frozenset()
"""One for all sessions that have received nothing of QoS 2."""


class Outlet(Protocol):
    """Where messages for a connected client go: its binding, or a bridge."""

    @property
    def buffered(self) -> int:
        """Bytes that the kernel has not taken yet."""

    def put(self, frame: bytes) -> None:
        """Send an encoded packet, in order, at the end of the reactor's turn."""

    def pubrel(self, packet_id: int, reason: int = 0) -> None: ...

    def displace(self, reason: int) -> None:
        """End the connection, telling the client why."""


class Waiting(NamedTuple):
    """A message that waits for room in the window of a client whose session ends with its connection."""

    message: Message
    qos: int
    retain: bool
    identifiers: tuple[int, ...]


class MqttSession:
    """The state of a session (section 4.1). A receiver of the subscription tree."""

    __slots__ = (
        "alias_maximum",
        "aliases",
        "behind",
        "client_id",
        "connection",
        "device",
        "durable",
        "expires_at",
        "expiry",
        "feed",
        "filters",
        "identity",
        "inflight",
        "max_packet",
        "next_id",
        "outlet",
        "parked",
        "parked_bytes",
        "pushes",
        "read_after",
        "reading",
        "received",
        "receiving",
        "resend",
        "uncommitted",
        "unknown",
        "user",
        "v5",
        "version",
        "will",
        "window",
    )  # fmt: skip

    def __init__(self, client_id: str, identity: Identity | None, user: str) -> None:
        self.client_id = client_id
        self.identity = identity
        self.user = user
        self.version = V5
        self.v5 = True
        self.expiry = 0.0
        """Seconds that it outlives its connection."""
        self.durable = False
        """It is in the store."""
        self.expires_at = 0.0
        """Wall-clock second, meaningful without an outlet."""
        self.outlet: Outlet | None = None
        self.connection = 0
        """Grows with each connection, so that what began on an earlier one can tell."""
        self.device: DeviceSession | None = None
        self.filters: dict[str, tuple[SubscriptionRequest, int]] = NOTHING
        """Subscriptions with their identifiers."""
        self.window = 0
        """Messages of QoS 1 and 2 that may be in flight to it."""
        self.max_packet = 0
        """Largest packet that it takes, 0: any."""
        self.alias_maximum = 0
        self.aliases: dict[int, str] | None = None
        """Topic aliases that were introduced to it; None when it allows none."""
        self.inflight: dict[int, int] = NOTHING
        """Packet id -> number << NUMBER | what it waits for. Of a durable session a number of 0 says that it was
        not sent on this connection yet."""
        self.next_id = 1
        self.pushes: dict[int, tuple[int, int]] = NOTHING
        """Packet id -> (alias, seq) of pushes in flight."""
        self.received: set[int] | frozenset[int] = NO_IDS
        """Packet ids of QoS 2 messages of the client that it has not released."""
        self.receiving: dict[int, list[Deferred[int]]] = NOTHING
        """Those of them that are not durable yet, with who waits for it."""
        self.parked: deque[Waiting] | None = None
        self.parked_bytes = 0
        self.behind = False
        """Messages wait in the store."""
        self.uncommitted = 0
        """Messages that are to wait in the store, and are on their way there."""
        self.reading = False
        """They are being read, or sent again: new ones queue behind them."""
        self.read_after = 0
        """Number of the last one read."""
        self.resend: deque[QueuedMessage] | None = None
        """Read in answer to a reconnect, to be sent as the window allows."""
        self.feed: dict[str, Iterator[Any]] | None = None
        """Retained messages still to be sent for its subscriptions, by their filters."""
        self.unknown = False
        """It was restored from the store, and what was in flight has not been read yet."""
        self.will: StoredWill | None = None
        """Of the present connection, or of the last one until it was published."""

    def allocate(self, entry: int) -> int:
        """A packet id that is not in use, now in flight with this entry (section 2.2.1). The caller has seen to it
        that fewer than the window's are."""
        inflight = self.inflight
        if inflight is NOTHING:
            inflight = self.inflight = {}
        packet_id = self.next_id
        while packet_id in inflight:
            packet_id = packet_id % MAX_PACKET_ID + 1
        inflight[packet_id] = entry
        self.next_id = packet_id % MAX_PACKET_ID + 1
        return packet_id

    def allocate_as(self, packet_id: int, entry: int) -> None:
        """This packet id is in use."""
        if self.inflight is NOTHING:
            self.inflight = {}
        self.inflight[packet_id] = entry

    def remember(self, packet_id: int) -> None:
        """The client has published with QoS 2 under this id."""
        if isinstance(self.received, frozenset):
            self.received = set()
        self.received.add(packet_id)

    def release(self, packet_id: int) -> bool:
        """The client has released it; False when it was not known."""
        if packet_id not in self.received or isinstance(self.received, frozenset):
            return False
        self.received.discard(packet_id)
        if not self.received:
            self.received = NO_IDS
        return True

    def receive(self, packet_id: int, outcome: int | Deferred[int]) -> int | Deferred[int]:
        """What to answer to a QoS 2 message under a remembered id; `outcome` is what publishing it says. The id is
        free again when the message is refused."""
        if isinstance(outcome, int):
            if outcome >= FAILURE:
                self.release(packet_id)
            return outcome
        if self.receiving is NOTHING:
            self.receiving = {}
        waiting: list[Deferred[int]] = []
        self.receiving[packet_id] = waiting

        def done(reason: int) -> int:
            # The client may have released the id, and have used it for another message.
            if self.receiving.get(packet_id) is waiting:
                del self.receiving[packet_id]
                if reason >= FAILURE:
                    self.release(packet_id)
            for again in waiting:
                again.callback(reason)
            return reason

        return outcome.addCallback(done)

    def receive_again(self, packet_id: int) -> int | Deferred[int]:
        """The answer to the same message once more: the acknowledgement was lost, or is still to come."""
        waiting = self.receiving.get(packet_id)
        if waiting is None:
            return Reason.SUCCESS
        again: Deferred[int] = Deferred()
        waiting.append(again)
        return again

    def forget_transient(self) -> None:
        """The connection is gone: what belonged to it alone goes too."""
        self.outlet = None
        self.aliases = None
        self.parked = None
        self.parked_bytes = 0
        self.resend = None
        self.feed = None
        pushes, self.pushes = self.pushes, NOTHING
        if not self.durable:
            self.inflight = NOTHING
            return
        # What was being read is read again.
        self.behind = self.behind or self.reading
        self.reading = False
        self.read_after = 0
        for packet_id in pushes:
            self.inflight.pop(packet_id, None)
        # Numbers are learnt again when the store is asked what was in flight.
        self.inflight = {id: entry & KIND for id, entry in self.inflight.items()} or NOTHING
