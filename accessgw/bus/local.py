"""The bus of a single process: messages of one reactor turn are delivered in the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.logger import Logger

from accessgw.core.interfaces.clock import Clock

MAX_PENDING = 100_000
SLICE = 0.002
"""Seconds of the reactor that deliveries take at a time."""

Receiver = Callable[[bytes], None]


class LocalBus:
    """Bus for `workers = 1`. Delivery is at most once, in the order of publishing, never inside `publish`.

    A message goes to those who are subscribed when it is delivered, and nowhere when nobody is subscribed
    as it is published. Past `max_pending` waiting
    messages further ones are counted in `dropped` and go nowhere.
    """

    def __init__(self, reactor: Clock, *, max_pending: int = MAX_PENDING) -> None:
        self._reactor = reactor
        self._max_pending = max_pending
        self._receivers: dict[str, list[Receiver]] = {}
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._scheduled = False
        self._log = Logger()
        self.dropped = 0

    def publish(self, topic: str, message: bytes) -> None:
        if topic not in self._receivers:
            return
        if len(self._waiting) >= self._max_pending:
            self.dropped += 1
            return
        self._waiting.append((topic, message))
        if not self._scheduled:
            self._scheduled = True
            self._reactor.callLater(0, self._deliver)

    def subscribe(self, topic: str, receive: Receiver) -> Callable[[], None]:
        def entry(message: bytes) -> None:
            receive(message)

        self._receivers.setdefault(topic, []).append(entry)

        def cancel() -> None:
            receivers = self._receivers.get(topic, [])
            if entry in receivers:
                receivers.remove(entry)
                if not receivers:
                    del self._receivers[topic]

        return cancel

    def _deliver(self) -> None:
        waiting = self._waiting
        until = self._reactor.seconds() + SLICE
        # what is published meanwhile waits for the next turn
        for _ in range(len(waiting)):
            topic, message = waiting.popleft()
            for receive in tuple(self._receivers.get(topic, ())):
                if receive not in self._receivers.get(topic, ()):
                    continue  # cancelled by an earlier receiver of this message
                try:
                    receive(message)
                except Exception:
                    self._log.failure("a receiver of bus topic {topic!r} failed", topic=topic)
            if self._reactor.seconds() >= until:
                break
        self._scheduled = bool(waiting)
        if waiting:
            self._reactor.callLater(0, self._deliver)
