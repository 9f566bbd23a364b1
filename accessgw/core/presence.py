"""Connect and disconnect events, put into the outbox in the order in which they happen."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.interfaces.sessions import Session
from accessgw.core.interfaces.stores import OutboxStore
from accessgw.model.counters import WebhookCounters
from accessgw.model.presence import PresenceEvent
from accessgw.model.reasons import CloseReason
from accessgw.model.words import in_words

log = Logger()


class Presence:
    """A PresenceSink. `stored` is called when an event became durable: the webhook has work."""

    def __init__(
        self,
        outbox: OutboxStore,
        *,
        wall: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        counters: WebhookCounters,
        stored: Callable[[], None],
    ) -> None:
        self._outbox = outbox
        self._wall = wall
        self._random_bytes = random_bytes
        self._counters = counters
        self._stored = stored

    def connected(self, session: Session) -> None:
        self._put(session, "connect", "")

    def disconnected(self, session: Session, reason: CloseReason) -> None:
        self._put(session, "disconnect", reason.value)

    def _put(self, session: Session, event: str, reason: str) -> None:
        device = session.identity.device
        entry = PresenceEvent(
            id=self._random_bytes(16).hex(),
            seq=self._outbox.next_seq(device),
            device=device,
            user=session.identity.user,
            event=event,
            at=self._wall(),
            reason=reason,
        )
        self._counters.pending += 1
        self._outbox.put(entry).addCallbacks(self._kept, self._lost)

    def _kept(self, result: object) -> None:
        self._stored()

    def _lost(self, failure: Failure) -> None:
        self._counters.pending -= 1
        self._counters.dropped += 1
        log.error("a presence event was lost: {why}", why=in_words(failure.value))


class NoPresence:
    """A PresenceSink for gateways without a webhook."""

    def connected(self, session: Session) -> None:
        """Nobody asked."""

    def disconnected(self, session: Session, reason: CloseReason) -> None:
        """Nobody asked."""
