"""What happens right now, for whoever watches: status every second, connects, disconnects, stored pushes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from accessgw.core.interfaces.clock import Timers
from accessgw.core.interfaces.sessions import PresenceSink, Session
from accessgw.model.pushes import PushResult
from accessgw.model.reasons import CloseReason

Emit = Callable[[dict[str, Any]], None]

STATUS_INTERVAL = 1.0
MAX_WATCHERS = 50
MAX_EVENTS_PER_INTERVAL = 200
"""More is not readable by anyone; what is left out is told as a number."""


class Happenings:
    """A PresenceSink that passes on to `presence` and tells watchers; costs nothing while nobody watches."""

    def __init__(self, presence: PresenceSink, timers: Timers, wall: Callable[[], float]) -> None:
        self.status: Callable[[], dict[str, Any]] = dict
        """The figures of the status events; set by whoever can tell them."""
        self._presence = presence
        self._timers = timers
        self._wall = wall
        self._watchers: list[Emit] = []
        self._ticking = False
        self._told = 0
        self._left_out = 0

    def watch(self, emit: Emit) -> Callable[[], None]:
        """Give `emit` a status now and every event from now on, until the returned function is called.

        Raises ValueError when there are too many watchers.
        """
        if len(self._watchers) >= MAX_WATCHERS:
            raise ValueError(f"expected at most {MAX_WATCHERS} watchers at once")
        self._watchers.append(emit)
        emit({"type": "status", **self.status()})
        if not self._ticking:
            self._ticking = True
            self._timers.schedule(STATUS_INTERVAL, self._tick)

        def end() -> None:
            if emit in self._watchers:
                self._watchers.remove(emit)

        return end

    def connected(self, session: Session) -> None:
        self._presence.connected(session)
        if self._watchers:
            link = session.link
            peer = link.info.peer if link is not None else ""
            self._tell("connect", device=session.identity.device, user=session.identity.user, peer=peer)

    def disconnected(self, session: Session, reason: CloseReason) -> None:
        self._presence.disconnected(session, reason)
        if self._watchers:
            self._tell("disconnect", device=session.identity.device, reason=reason.value)

    def pushed(self, results: Sequence[PushResult]) -> None:
        """Pushes were stored (or refused)."""
        if self._watchers:
            for result in results:
                stream = "/".join((result.stream.scope.value, result.stream.id or "-", result.stream.biz))
                if result.error:
                    self._tell("push refused", stream=stream, error=result.error)
                else:
                    self._tell("push", stream=stream, seq=result.seq, live=result.live)

    def _tell(self, kind: str, **fields: Any) -> None:
        self._told += 1
        if self._told > MAX_EVENTS_PER_INTERVAL:
            self._left_out += 1
            return
        self._emit({"type": kind, "at": self._wall(), **fields})

    def _emit(self, event: dict[str, Any]) -> None:
        for emit in tuple(self._watchers):
            emit(event)

    def _tick(self) -> None:
        self._told = 0
        if not self._watchers:
            self._ticking = False
            return
        if self._left_out:
            self._emit({"type": "left out", "at": self._wall(), "events": self._left_out})
            self._left_out = 0
        self._emit({"type": "status", **self.status()})
        self._timers.schedule(STATUS_INTERVAL, self._tick)
