"""What the MQTT store asks of its writer thread; clients by id, bodies already as rows."""

from __future__ import annotations

from typing import NamedTuple

from accessgw.stores.sqlite_rows import Row


class SaveSession(NamedTuple):
    """Insert or update it."""

    client: str
    row: Row
    """user, version, expiry, disconnected_at"""


class EndSession(NamedTuple):
    """Remove it and all that is its own."""

    client: str


class Subscribe(NamedTuple):
    """Insert or update subscriptions."""

    client: str
    rows: tuple[Row, ...]
    """filter, then the rest of a row of mqtt_subscription"""


class Unsubscribe(NamedTuple):
    """Remove subscriptions."""

    client: str
    filters: tuple[str, ...]


class SaveWill(NamedTuple):
    """Replace the will of a client, or forget it."""

    client: str
    row: Row | None
    """All but number and client."""


class Receiver(NamedTuple):
    """One place to make in a queue."""

    client: str
    qos: int
    packet_id: int
    retain: bool
    identifiers: str | None


class Publish(NamedTuple):
    """Store a message; the result is the numbers given, and how many messages went for want of room."""

    row: Row
    """A row of mqtt_message without its number."""
    size: int
    expires_at: int | None
    receivers: tuple[Receiver, ...]
    retained: bool
    received: tuple[str, int] | None
    will_of: str


class Retain(NamedTuple):
    """Make it the retained message of its topic, or remove that one."""

    row: Row


class Assign(NamedTuple):
    """Messages that are being sent: (number, packet id)."""

    client: str
    packet_ids: tuple[tuple[int, int], ...]


class Remove(NamedTuple):
    """The client needs it no more."""

    client: str
    number: int


class Expire(NamedTuple):
    """Remove those of them that still wait; the result is how many."""

    client: str
    numbers: tuple[int, ...]


class Pubrec(NamedTuple):
    """Keep the packet id, forget the message."""

    client: str
    number: int


class Released(NamedTuple):
    """Forget a received packet id."""

    client: str
    packet_id: int


class Barrier(NamedTuple):
    """Nothing: it is answered when all before it is durable."""


class Sweep(NamedTuple):
    """Remove what has expired; the result is how many rows of queues, and how many retained messages."""

    now: int


Command = (
    SaveSession
    | EndSession
    | Subscribe
    | Unsubscribe
    | SaveWill
    | Publish
    | Retain
    | Assign
    | Remove
    | Expire
    | Pubrec
    | Released
    | Barrier
    | Sweep
)
