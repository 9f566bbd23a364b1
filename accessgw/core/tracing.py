"""Watching one device: its frames and calls as they happen, at no cost while nobody watches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import to_builtins

from accessgw.model.calls import CallRecord
from protocols.mmtp import events

Emit = Callable[[dict[str, Any]], None]


class Tracing:
    """Who watches which device. Bindings look the device up once, and again when `changed` says so."""

    def __init__(self, wall: Callable[[], float], max_watchers: int = 100) -> None:
        self.watched: dict[str, list[Emit]] = {}
        """Device -> watchers. Empty (and so false) when nobody watches."""
        self._wall = wall
        self._max_watchers = max_watchers
        self.changed: Callable[[str], None] = lambda device: None
        """Called with a device whose first watcher came or whose last one left."""

    def watch(self, device: str, emit: Emit) -> Callable[[], None]:
        """Give `emit` every event of the device until the returned function is called.

        Raises ValueError when there are too many watchers.
        """
        if sum(map(len, self.watched.values())) >= self._max_watchers:
            raise ValueError(f"expected at most {self._max_watchers} traces at once")
        watchers = self.watched.setdefault(device, [])
        watchers.append(emit)
        if len(watchers) == 1:
            self.changed(device)

        def stop() -> None:
            if emit in watchers:
                watchers.remove(emit)
            if not watchers and self.watched.get(device) is watchers:
                del self.watched[device]
                self.changed(device)

        return stop

    def tracer(self, device: str) -> Emit | None:
        """What a binding of the device calls for each frame; None when nobody watches."""
        if device not in self.watched:
            return None

        def emit(event: dict[str, Any]) -> None:
            self._emit(device, event)

        return emit

    def call(self, record: CallRecord) -> None:
        """A call of a watched device has ended."""
        fields = to_builtins(record)
        fields["call_id"] = f"{record.call_id:016x}"
        self._emit(record.device, {"kind": "call", **fields})

    def _emit(self, device: str, event: dict[str, Any]) -> None:
        stamped = {"at": self._wall(), **event}
        for emit in tuple(self.watched.get(device, ())):
            emit(stamped)


def describe(event: events.Event) -> dict[str, Any]:
    """What a trace shows of a frame that came in: never bodies or credentials."""
    details: dict[str, Any] = {"kind": "frame", "direction": "in", "frame": type(event).__name__}
    if isinstance(event, events.RequestReceived):
        details.update(call=event.call, operation=event.operation, bytes=event.wire_size, more=event.more)
    elif isinstance(event, events.DataReceived):
        details.update(call=event.call, bytes=event.wire_size, more=event.more)
    elif isinstance(event, events.PushesAcked):
        details.update(pushes=len(event.tokens))
    return details
