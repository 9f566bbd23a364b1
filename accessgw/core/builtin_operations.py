"""Operations that the gateway answers itself: gw.subscribe, gw.unsubscribe, gw.subscriptions, gw.logout, gw.time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import DecodeError, Struct, ValidationError, json
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.bounded import bounded
from accessgw.core.interfaces import Refused
from accessgw.core.interfaces.clock import Clock
from accessgw.core.interfaces.pushes import PushService
from accessgw.core.interfaces.stores import StoreUnavailable
from accessgw.core.registry import DeviceSession, SessionRegistry
from accessgw.model.calls import Answer, Call
from accessgw.model.settings import SessionSettings
from protocols.mmtp.statuses import Status

log = Logger()
MAX_TOPIC = 200
_JSON = [("content-type", "application/json")]


class TopicList(Struct):
    """The body of gw.subscribe and gw.unsubscribe."""

    topics: list[str]


class BuiltinOperations:
    """Runs the reserved operations for the session of the call's device."""

    def __init__(
        self,
        settings: SessionSettings,
        registry: SessionRegistry,
        pushes: PushService,
        *,
        clock: Clock,
        wall: Callable[[], float],
        logout: Callable[[DeviceSession], None],
        timeout: float = 10.0,
    ) -> None:
        """`logout` ends a session, its key and its connection."""
        self._settings = settings
        self._registry = registry
        self._pushes = pushes
        self._clock = clock
        self._wall = wall
        self._logout = logout
        self._timeout = timeout
        self._decoder = json.Decoder(TopicList)

    def run(self, call: Call, body: bytes) -> Answer | Deferred[Answer]:
        """The answer; never fails. Unknown gw.* operations have status 13."""
        if call.operation == "gw.time":
            return _answer({"time": self._wall()})
        if call.operation == "gw.logout":
            return self._leave(call)
        work = {
            "gw.subscribe": self._subscribe,
            "gw.unsubscribe": self._unsubscribe,
            "gw.subscriptions": self._subscriptions,
        }.get(call.operation)
        if work is None:
            return Answer(Status.UNKNOWN_OPERATION)
        session = self._session(call)
        if session is None:
            return Answer(Status.SESSION_UNKNOWN)
        result = bounded(Deferred.fromCoroutine(work(session, body)), self._timeout, self._clock, call.operation)
        return result.addErrback(self._failed, call.operation)

    def _session(self, call: Call) -> DeviceSession | None:
        session = self._registry.by_device(call.identity.device)
        return session if session is not None and session.identity.user == call.identity.user else None

    def _leave(self, call: Call) -> Answer:
        session = self._session(call)
        if session is None:
            return Answer(Status.SESSION_UNKNOWN)
        # The answer is given to the link in this turn, so it leaves before the link's end.
        self._clock.callLater(0, self._logout, session)
        return Answer(Status.OK)

    async def _subscribe(self, session: DeviceSession, body: bytes) -> Answer:
        topics = self._topics(body)
        if isinstance(topics, Answer):
            return topics
        have = await self._pushes.subscriptions(session)
        total = len(set(have) | set(topics))
        if total > self._settings.max_subscriptions:
            return _refusal(f"topics: expected at most {self._settings.max_subscriptions} per session, got {total}")
        await self._pushes.subscribe(session, topics)
        return _answer({"topics": sorted({*have, *topics})})

    async def _unsubscribe(self, session: DeviceSession, body: bytes) -> Answer:
        topics = self._topics(body)
        if isinstance(topics, Answer):
            return topics
        await self._pushes.unsubscribe(session, topics)
        return _answer({"topics": sorted(await self._pushes.subscriptions(session))})

    async def _subscriptions(self, session: DeviceSession, body: bytes) -> Answer:
        return _answer({"topics": sorted(await self._pushes.subscriptions(session))})

    def _topics(self, body: bytes) -> list[str] | Answer:
        """The topics asked for, or the answer that says what is wrong with them."""
        try:
            topics = self._decoder.decode(body).topics
        except (DecodeError, ValidationError, UnicodeDecodeError, RecursionError) as error:
            return _refusal(f'expected {{"topics": ["..."]}}: {error}')
        if not topics:
            return _refusal("topics: expected at least one, got none")
        if len(topics) > self._settings.max_subscriptions:
            return _refusal(f"topics: expected at most {self._settings.max_subscriptions}, got {len(topics)}")
        for index, topic in enumerate(topics):
            if not 1 <= len(topic) <= MAX_TOPIC or not topic.isprintable():
                return _refusal(f"topics[{index}]: expected 1 to {MAX_TOPIC} printable characters")
        return list(dict.fromkeys(topics))

    def _failed(self, failure: Failure, operation: str) -> Answer:
        error = failure.value
        if isinstance(error, Refused):
            return Answer(error.status)
        if isinstance(error, StoreUnavailable):
            return Answer(Status.OVERLOAD)
        log.failure("{operation} failed", failure=failure, operation=operation)
        return Answer(Status.INTERNAL)


BAD_REQUEST = 400
"""Application status of a body that the operation cannot read: HTTP's number, as the specification has it."""


def _answer(value: dict[str, Any]) -> Answer:
    return Answer(Status.OK, list(_JSON), json.encode(value))


def _refusal(message: str) -> Answer:
    return Answer(BAD_REQUEST, list(_JSON), json.encode({"error": {"code": "bad_request", "message": message}}))
