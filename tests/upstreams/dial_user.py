"""Whoever opens connections to other brokers, in tests: notes what it is told, and can be waited for."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred


class User:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.waiting: list[tuple[Any, Deferred[None]]] = []

    def connected(self) -> None:
        self.note("connected")

    def received(self, data: bytes) -> None:
        self.note(data)

    def drained(self) -> None:
        self.note("drained")

    def lost(self, error: str) -> None:
        self.note(("lost", error))

    def note(self, what: Any) -> None:
        self.told.append(what)
        for wanted, done in self.waiting:
            if not done.called and wanted(self.told):
                done.callback(None)

    def until(self, wanted: Any) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self.waiting.append((wanted, done))
        if wanted(self.told):
            done.callback(None)
        return done

    @property
    def error(self) -> str:
        """The only thing that it was told."""
        (((kind, error)),) = self.told
        assert kind == "lost"
        return str(error)
