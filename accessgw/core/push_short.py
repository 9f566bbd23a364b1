"""Pushes for short connections: what is pending, handed out once per session until new cursors come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from accessgw.core.courier import READ_PUSHES
from accessgw.core.delivery import Delivery
from accessgw.core.interfaces.sessions import Session
from accessgw.core.interfaces.stores import StreamStore
from accessgw.core.stream_reads import visibility_of
from accessgw.core.stream_start import Openings
from accessgw.model.pushes import Cursor, StoredPush, StreamKey, StreamState


class ShortDelivery:
    """Of a session without a long connection: how far short ones have taken its streams; `Session.delivery`."""

    __slots__ = ("sent",)

    def __init__(self) -> None:
        self.sent: dict[StreamKey, tuple[int, int]] = {}
        """(epoch, seq)."""


class ShortPushes:
    """PushService.pending."""

    def __init__(self, openings: Openings, store: StreamStore, wall: Callable[[], float]) -> None:
        self._openings = openings
        self._store = store
        self._wall = wall

    async def pending(
        self, session: Session, cursors: Sequence[Cursor], limit: int, max_bytes: int
    ) -> list[tuple[StreamKey, int, StoredPush]]:
        """Up to `limit` visible pushes in the order of each stream; at most `max_bytes` of bodies, unless the first
        alone is larger."""
        hello = {cursor.stream: cursor for cursor in cursors}
        openings = await self._openings.load(session.identity, hello, lambda topics: None)
        if session.delivery is None:
            session.delivery = ShortDelivery()
        pending: list[tuple[StreamKey, int, StoredPush]] = []
        left = max_bytes
        for state, opening in openings:
            position = opening.position
            if state.key not in hello:
                position = max(position, self._sent(session, state))
            full = False
            while not full and position < state.head:
                pushes = await self._store.read(state.key, position, READ_PUSHES, max(1, left))
                if not pushes:
                    break
                now = self._wall()
                for push in pushes:
                    if self._due(session, state.key, push, now):
                        full = len(pending) >= limit or bool(pending and len(push.body) > left)
                        if full:
                            break
                        pending.append((state.key, state.epoch, push))
                        left -= len(push.body)
                    position = push.seq
            self._took(session, state, position)
            if full:
                break
        return pending

    @staticmethod
    def _due(session: Session, key: StreamKey, push: StoredPush, now: float) -> bool:
        if push.expires_at is not None and push.expires_at <= now:
            return False
        visibility = visibility_of(key, push)
        return visibility is None or visibility.admits(session.identity)

    @staticmethod
    def _sent(session: Session, state: StreamState) -> int:
        """What this session has been given already and need not be given again."""
        delivery = session.delivery
        if isinstance(delivery, ShortDelivery):
            epoch, seq = delivery.sent.get(state.key, (state.epoch, 0))
            return seq if epoch == state.epoch else 0
        if isinstance(delivery, Delivery) and delivery.woken:
            for place in delivery.places.values():
                if place.stream.key == state.key and place.epoch == state.epoch:
                    # Sent on the long connection but not acknowledged: that may be just what does not arrive.
                    return place.cursor
        return 0

    @staticmethod
    def _took(session: Session, state: StreamState, position: int) -> None:
        if isinstance(session.delivery, ShortDelivery):
            session.delivery.sent[state.key] = (state.epoch, position)
