"""Whom a stream reaches here: connected sessions by device, user and topic, and all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

from accessgw.core.delivery import Delivery
from accessgw.core.interfaces.sessions import Session
from accessgw.core.visibility import compile_where
from accessgw.model.pushes import PushRequest, Scope, StreamKey

EXACT_LIVE = 4096
"""Audiences up to this size are counted session by session when a push has a `where`; larger ones are estimated."""


class Registry(Protocol):
    """What is used of the session registry."""

    def by_device(self, device: str) -> Session | None: ...

    def of_user(self, user: str) -> Collection[Session]: ...


class Audiences:
    """The connected sessions. Devices and users are the registry's to find; topics are kept here."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._everyone: dict[Delivery, None] = {}
        self._topics: dict[str, dict[Delivery, None]] = {}

    def enter(self, delivery: Delivery) -> None:
        """The session is connected."""
        self._everyone[delivery] = None

    def leave(self, delivery: Delivery) -> None:
        """It is not any more."""
        self._everyone.pop(delivery, None)
        if delivery.topics:
            self.ignore(delivery, delivery.topics)

    def listen(self, delivery: Delivery, topics: Collection[str]) -> None:
        """The session gets these topics from now on, beside those that it has."""
        # Of no topics there is one set for all; a union would make another.
        delivery.topics = frozenset((*(delivery.topics or ()), *topics))
        for topic in topics:
            self._topics.setdefault(topic, {})[delivery] = None

    def ignore(self, delivery: Delivery, topics: Iterable[str]) -> None:
        """The session does not get these topics any more."""
        gone = frozenset(topics)
        if delivery.topics is not None:
            delivery.topics -= gone
        for topic in gone:
            members = self._topics.get(topic)
            if members is not None:
                members.pop(delivery, None)
                if not members:
                    del self._topics[topic]

    def of(self, key: StreamKey) -> list[Delivery]:
        """Connected sessions that a stream reaches."""
        if key.scope is Scope.BROADCAST:
            return list(self._everyone)
        if key.scope is Scope.TOPIC:
            return list(self._topics.get(key.id, ()))
        sessions: Iterable[Session | None]
        if key.scope is Scope.DEVICE:
            sessions = [self._registry.by_device(key.id)]
        else:
            sessions = self._registry.of_user(key.id)
        return [s.delivery for s in sessions if s is not None and isinstance(s.delivery, Delivery)]

    def reached(self, key: StreamKey) -> int:
        """How many they are."""
        if key.scope is Scope.BROADCAST:
            return len(self._everyone)
        if key.scope is Scope.TOPIC:
            return len(self._topics.get(key.id, ()))
        return len(self.of(key))

    def live(self, request: PushRequest) -> int:
        """How many of them will see the push; with a `where`, an estimate from a sample beyond EXACT_LIVE."""
        visibility = compile_where(request.where)
        if visibility is None:
            return self.reached(request.stream)
        audience = self.of(request.stream)
        sample = audience[:: len(audience) // EXACT_LIVE + 1]
        admitted = sum(visibility.admits(delivery.identity) for delivery in sample)
        return round(admitted * len(audience) / len(sample)) if sample else 0
