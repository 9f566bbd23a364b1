"""What rooms need of each other for MQTT; nothing here does anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from accessgw.core.interfaces.mqtt_state import (
    Enqueue,
    Message,
    MqttState,
    QueuedMessage,
    StoredSession,
    StoredSubscription,
    StoredWill,
)
from accessgw.model.identity import Credentials, Identity
from accessgw.model.mqtt_settings import BridgeSettings

# ------------------------------------------------------------------ the store


class MqttStore(Protocol):
    """Sessions, their queues, wills and retained messages.

    Every Deferred fires on the reactor's thread when what it was asked is durable, and fails with
    StoreUnavailable when nothing of it was stored. Commands take effect in the order of the calls.
    Methods without a Deferred are written behind (within a tenth of a second), in that same order.
    """

    @property
    def loaded(self) -> MqttState:
        """All that was stored when the store was started (after the database's `start`)."""

    def save_session(self, session: StoredSession) -> Deferred[None]:
        """Insert or update, but for `subscriptions`, `received` and `queued`, which have calls of their own."""

    def end_session(self, client_id: str) -> Deferred[None]:
        """Forget the session, its subscriptions, queue and received ids (not its will)."""

    def subscribe(self, client_id: str, subscriptions: Sequence[StoredSubscription]) -> Deferred[None]: ...

    def unsubscribe(self, client_id: str, filters: Sequence[str]) -> Deferred[None]: ...

    def save_will(self, client_id: str, will: StoredWill) -> Deferred[None]: ...

    def forget_will(self, client_id: str) -> None: ...

    def publish(
        self,
        message: Message,
        receivers: Sequence[Enqueue],
        *,
        retained: bool = False,
        received: tuple[str, int] | None = None,
        will_of: str = "",
    ) -> Deferred[list[int]]:
        """In one transaction: store the message once with a place in the queue of each receiver; with
        `retained` make it the topic's retained message (an empty payload removes it); with `received`
        remember (client id, packet id) as received; with `will_of` forget that client's will.

        Fires with the queue numbers in the order of `receivers`; 0 where the queue was full and the overflow
        policy says `drop_new`, or where no such session is stored. With `drop_old` the oldest waiting messages
        (never those with a packet id) make room. A message larger than the whole queue may be is not stored.
        """

    def retain(self, message: Message) -> None:
        """Written behind, for QoS 0: set or (empty payload) remove the retained message of its topic."""

    def read(self, client_id: str, after: int, limit: int, max_bytes: int) -> Deferred[list[QueuedMessage]]:
        """Queued messages with a number > after, in order, at least one if there is one; expired ones that
        were never sent are left out and removed. Those with packet ids are read first by `inflight`."""

    def inflight(self, client_id: str) -> Deferred[list[QueuedMessage]]:
        """Messages with a packet id, in order."""

    def assign(self, client_id: str, packet_ids: Sequence[tuple[int, int]]) -> Deferred[None]:
        """(number, packet id): they are being sent now."""

    def acknowledged(self, client_id: str, number: int) -> None:
        """PUBACK, PUBCOMP or a refusal came: the client needs it no more. Written behind."""

    def pubrec(self, client_id: str, number: int) -> Deferred[None]:
        """PUBREC came: keep the packet id, forget the message."""

    def released(self, client_id: str, packet_id: int) -> Deferred[None]:
        """PUBREL came: forget the received packet id."""

    def sweep(self, now: float) -> Deferred[int]:
        """Remove expired messages, a bounded batch; how many rows went (0: done)."""

    def bound(self, client_id: str, max_queued: int, max_queued_bytes: int) -> None:
        """From now on this session's queue has bounds of its own, in messages and bytes that wait; not stored."""

    def waiting(self, client_id: str) -> int:
        """About how many messages wait for it, those with packet ids not among them; for reports."""


# ------------------------------------------------------------------ enhanced authentication


class EnhancedExchange(Protocol):
    """One enhanced authentication (MQTT 5, section 4.12) on the server's side."""

    def step(self, data: bytes) -> Deferred[tuple[bytes, Identity | None]]:
        """The client's next data -> (our data, the identity when it is complete). Fails with AuthenticationFailed."""


class EnhancedAuthenticator(Protocol):
    """Makes exchanges of one method, such as SCRAM-SHA-256."""

    method: str

    def begin(self, credentials: Credentials) -> EnhancedExchange:
        """`credentials` have the device id and, when given, the user name."""


# ------------------------------------------------------------------ topics to services


class MessageRules(Protocol):
    """Hands messages on to services."""

    active: bool
    """There are rules; nobody need ask otherwise."""

    def takes(self, topic: str) -> bool:
        """Some rule matches."""

    def consumes(self, topic: str) -> bool:
        """Subscribers do not get messages of this topic."""

    def offer(self, message: Message) -> int | Deferred[int]:
        """A reason code of MQTT 5: 0 when every rule that matches has taken it (or none does); 0x97 when a
        queue is full. A Deferred of it where a rule acknowledges on the service's answer. Never fails."""

    def session_ended(self, client_id: str) -> None:
        """What the client publishes from now on belongs to another session: it is numbered anew."""


# ------------------------------------------------------------------ operations


class MqttControl(Protocol):
    """What ops may do with the broker. Errors are ControlError."""

    def publish(self, message: Message) -> Deferred[int]:
        """Receivers reached or queued; fires when it is durable where it has to be."""

    def subscribe(self, filter: str, emit: Callable[[Message], None]) -> Callable[[], None]:
        """Messages of a filter as they are published, retained ones first; returns what ends it."""

    def clients(self, after: str, limit: int, connected: bool | None) -> list[dict[str, Any]]:
        """By client id: connection, version, subscriptions, queue, in flight. `client` is the id."""

    def client(self, client_id: str) -> dict[str, Any]:
        """The same for one, with its subscriptions; 404 when unknown."""

    def kick(self, client_id: str, discard: bool = False) -> bool:
        """Disconnect it (reason 0x98); with `discard` its session ends too. False when there is nothing to end."""

    def subscriptions(self, filter: str, after: str, limit: int) -> list[dict[str, Any]]:
        """Who subscribes: to this very filter, or to any when it is empty; ordered by (filter, client).

        Rows have `filter` and `client`; `after` is filter + U+0000 + client of the last row seen (neither can have
        U+0000, so that it sorts as the pair does), or empty."""

    def retained(self, filter: str, after: str, limit: int) -> list[dict[str, Any]]:
        """Retained messages whose topics match, ordered by topic, topics > after. Rows have `topic`, and `payload`
        as bytes."""

    def remove_retained(self, topic: str) -> Deferred[bool]: ...

    def trace_topic(self, filter: str, emit: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        """What happens to messages of a filter: published by whom, refused why, delivered, queued, dropped."""

    def top(self, limit: int) -> dict[str, Any]:
        """The busiest topics and clients of the last minute."""

    def request(self, client_id: str, topic: str, payload: bytes, timeout: float) -> Deferred[dict[str, Any]]:
        """Ask a device and wait for its answer: {"status": "answered", "payload": bytes} | "offline" (at once) |
        "timeout"."""

    def bridges(self) -> list[dict[str, Any]]: ...

    def stats(self) -> dict[str, int]: ...


# ------------------------------------------------------------------ connections to other brokers


class DialedConnection(Protocol):
    """A connection that we open. Calls after its end do nothing."""

    @property
    def buffered(self) -> int:
        """Bytes that the kernel has not taken yet, about."""

    def write(self, data: bytes) -> None: ...

    def pause(self) -> None:
        """Do not read."""

    def resume(self) -> None: ...

    def close(self) -> None:
        """End it once all is written; its user hears nothing more."""

    def abort(self) -> None:
        """End it at once, connected or not; its user hears nothing more."""


class DialUser(Protocol):
    """Who opened it. All calls come in later turns than `dial`."""

    def connected(self) -> None:
        """It is open; over TLS the other side has proved who it is."""

    def received(self, data: bytes) -> None: ...

    def drained(self) -> None:
        """What was buffered is written."""

    def lost(self, error: str) -> None:
        """It ended, or could not be opened."""


class Dialer(Protocol):
    """Opens connections to other brokers."""

    def dial(self, bridge: BridgeSettings, user: DialUser) -> DialedConnection:
        """Over TCP or TLS, as the bridge's settings say."""
