"""Server-sent events over one HTTP exchange: bounded, never slower for the gateway than for its reader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from accessgw.core.interfaces.clock import Clock
from accessgw.core.interfaces.http import HttpExchange

KEEP_ALIVE = 15.0
"""Seconds between comments that keep middle boxes from closing a quiet stream."""
MAX_BUFFERED = 256 * 1024
"""Unsent bytes past which events are dropped; the reader is told how many."""

MAX_EARLY = 10_000
"""Events that a subscription may begin with; the reader is told how many more there were."""

Emit = Callable[[dict[str, Any]], None]


class EventStream:
    """Writes events to `exchange` from `start` until `stop`, which `closed` then learns of once."""

    __slots__ = ("_cancel", "_clock", "_closed", "_dropped", "_exchange", "_keep_alive")

    def __init__(self, exchange: HttpExchange, clock: Clock, closed: Callable[[], None]) -> None:
        self._exchange = exchange
        self._clock = clock
        self._closed: Callable[[], None] | None = closed
        self._cancel: Callable[[], None] | None = None
        self._keep_alive: Any = None
        self._dropped = 0

    def start(self, subscribe: Callable[[Emit], Callable[[], None]]) -> None:
        """Subscribe and begin the answer. Whatever `subscribe` raises comes out before anything is sent."""
        early: list[dict[str, Any]] = []
        started = False

        def emit(event: dict[str, Any]) -> None:
            if started:
                self.emit(event)
            elif len(early) < MAX_EARLY:
                early.append(event)
            else:
                self._dropped += 1

        self._cancel = subscribe(emit)
        headers = [("content-type", "text/event-stream"), ("cache-control", "no-store"), ("x-accel-buffering", "no")]
        self._exchange.start(200, headers)
        self._exchange.write(b": connected\n\n")
        started = True
        lost, self._dropped = self._dropped, 0
        for event in early:
            self.emit(event)
        self._dropped += lost
        self._keep_alive = self._clock.callLater(KEEP_ALIVE, self._still_here)

    def emit(self, event: dict[str, Any]) -> None:
        """Send one event; its `type` (or `kind`, in traces) is the name of the server-sent event."""
        if self._closed is None:
            return
        if self._exchange.buffered > MAX_BUFFERED:
            self._dropped += 1
            return
        if self._dropped:
            lost, self._dropped = self._dropped, 0
            self._write({"type": "dropped", "count": lost})
        self._write(event)

    def drained(self) -> None:
        """The reader caught up: tell it what it missed, without waiting for the next event."""
        if self._dropped and self._closed is not None:
            lost, self._dropped = self._dropped, 0
            self._write({"type": "dropped", "count": lost})

    def end(self) -> None:
        """Finish the answer from our side."""
        if self._closed is not None:
            self.stop()
            self._exchange.finish()

    def stop(self) -> None:
        """The reader is gone. Idempotent."""
        if self._closed is None:
            return
        closed, self._closed = self._closed, None
        if self._keep_alive is not None and self._keep_alive.active():
            self._keep_alive.cancel()
        if self._cancel is not None:
            self._cancel()
        closed()

    def _write(self, event: dict[str, Any]) -> None:
        name = str(event.get("type") or event.get("kind") or "message").encode()
        self._exchange.write(b"event: " + name + b"\ndata: " + msgspec.json.encode(event) + b"\n\n")

    def _still_here(self) -> None:
        if self._exchange.buffered == 0:
            self._exchange.write(b": still here\n\n")
        self._keep_alive = self._clock.callLater(KEEP_ALIVE, self._still_here)
