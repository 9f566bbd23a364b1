"""Watching topics: what happens to their messages, at the cost of one attribute while nobody watches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from accessgw.core.interfaces.mqtt_state import Message
from protocols.mqtt.names import matches, split_shared

log = Logger()

Emit = Callable[[dict[str, Any]], None]


class TopicTrace:
    """Who watches which topic filter. Ask `watched` before `tell`."""

    def __init__(self, wall: Callable[[], float], max_watchers: int = 100) -> None:
        self.watched = False
        self._wall = wall
        self._max_watchers = max_watchers
        self._watchers: list[tuple[str, Emit]] = []

    def watch(self, filter: str, emit: Emit) -> Callable[[], None]:
        """Give `emit` every event of messages whose topics match (checked filter; of a shared subscription, what is
        behind the share name) until the returned function is called. An `emit` that raises is heard no more.

        Raises ValueError when there are too many watchers.
        """
        if len(self._watchers) >= self._max_watchers:
            raise ValueError(f"expected at most {self._max_watchers} topic traces at once")
        watcher = (split_shared(filter)[1], emit)
        self._watchers.append(watcher)
        self.watched = True

        def stop() -> None:
            # By identity: the same emit may watch the same filter twice.
            self._watchers = [other for other in self._watchers if other is not watcher]
            self.watched = bool(self._watchers)

        return stop

    def tell(self, message: Message, event: str, **details: Any) -> None:
        """Something happened to a message: published, refused, delivered, queued, dropped, ... Never its payload.
        `details` are JSON-ready values, such as `client`, `reason`, `qos`."""
        told: dict[str, Any] | None = None
        for filter, emit in tuple(self._watchers):
            if not matches(filter, message.topic):
                continue
            if told is None:
                told = {
                    "at": self._wall(),
                    "kind": "mqtt",
                    "event": event,
                    "topic": message.topic,
                    "publisher": message.publisher,
                    "qos": message.qos,
                    "retain": message.retain,
                    "bytes": len(message.payload),
                    **details,
                }
            try:
                emit(dict(told))
            except Exception:
                log.failure("a topic trace raised and is heard no more")
                self._watchers = [other for other in self._watchers if other[1] is not emit]
                self.watched = bool(self._watchers)
