"""Retained messages: one per topic, bounded in number and bytes, found by filter, gone when they expire."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Generic, Protocol, TypeVar

from protocols.mqtt.ordered import OrderedNames
from protocols.mqtt.topic_index import TopicIndex

_ALWAYS = -math.inf
"""A `now` at which nothing has expired."""


class RetainedMessage(Protocol):
    """What is needed of a message; it must not be changed while it is retained."""

    @property
    def topic(self) -> str: ...

    @property
    def payload(self) -> bytes: ...

    @property
    def expires_at(self) -> float | None:
        """Second, of the same clock as every `now` here; None: never."""


M = TypeVar("M", bound=RetainedMessage)


class RetainedStore(Generic[M]):
    """The retained messages of a server (section 3.3.1.3).

    Wherever `now` is given, messages that have expired by then are not seen (section 3.3.2.3.3); `sweep` removes them.
    """

    def __init__(
        self,
        max_messages: int = 1_000_000,
        max_bytes: int = 512 * 1024 * 1024,
        size: Callable[[M], int] | None = None,
        branch_bytes: int = 0,
    ) -> None:
        """`size`: bytes that a message counts for, the same each time it is asked; of topic and payload without it.
        `branch_bytes`: what every level counts for that has others below it, however many topics share it."""
        self._size = size or _size
        self._branch_bytes = branch_bytes
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._messages: dict[str, M] = {}
        self._bytes = 0
        self._index = TopicIndex()
        self._names = OrderedNames()
        # Whole second -> the topics whose messages have expired when it begins. The heap has those seconds, and some of
        # which nothing is left.
        self._due: dict[int, dict[str, None]] = {}
        self._seconds: list[int] = []

    def __len__(self) -> int:
        """Messages, expired ones that were not swept included."""
        return len(self._messages)

    @property
    def bytes(self) -> int:
        """Of all messages, as `size` has them, and of the levels of their topics."""
        return self._bytes + self._index.branches * self._branch_bytes

    def set(self, message: M) -> bool:
        """Retain it in place of the topic's former one; one without payload only removes that (section 3.3.1.3).

        False, and nothing changes, when it does not fit: a new topic past `max_messages`, or too many bytes.
        """
        topic = message.topic
        if not message.payload:
            self.remove(topic)
            return True
        before = self._messages.get(topic)
        size = self._size(message)
        more = size - (0 if before is None else self._size(before))
        if before is None:
            if len(self._messages) >= self._max_messages or self.bytes + more > self._max_bytes:
                return False
            self._index.add(topic)
            if self.bytes + more > self._max_bytes:
                # Its levels are too much.
                self._index.remove(topic)
                return False
            self._names.add(topic)
        elif self.bytes + more > self._max_bytes:
            return False
        else:
            self._forget_expiry(before)
        self._messages[topic] = message
        self._bytes += more
        self._note_expiry(message)
        return True

    def get(self, topic: str, now: float = _ALWAYS) -> M | None:
        message = self._messages.get(topic)
        return None if message is None or _expired(message, now) else message

    def remove(self, topic: str) -> M | None:
        """What was removed, None when there was nothing."""
        message = self._messages.pop(topic, None)
        if message is not None:
            self._forget_expiry(message)
            self._bytes -= self._size(message)
            self._index.remove(topic)
            self._names.remove(topic)
        return message

    def match(self, filter: str, now: float = _ALWAYS) -> Iterator[M]:
        """Messages whose topics match, lazily and in no particular order; leading wildcards leave out topics that begin
        with `$` (section 4.7.2).

        The store may change between steps: each message comes as it is at its step, and removed ones do not come; of
        topics that are new since the first step, some may be left out.
        """
        return (message for message in self.look(filter, now) if message is not None)

    def look(self, filter: str, now: float = _ALWAYS) -> Iterator[M | None]:
        """As match, but no step takes long: now and then None comes instead, where nothing was found for a while."""
        for topic in self._index.look(filter):
            message = None if topic is None else self._messages.get(topic)
            if topic is None or (message is not None and not _expired(message, now)):
                yield message

    def page(self, filter: str = "", after: str = "", limit: int = 100, now: float = _ALWAYS) -> list[M]:
        """Messages whose topics match (an empty filter: all) and are > `after`, by topic, at most `limit`.

        Takes time by the topics that begin as the filter does before its first wildcard.
        """
        fits = re.compile(_expression(filter), re.DOTALL).fullmatch
        found: list[M] = []
        for topic in self._candidates(filter, after):
            if len(found) >= limit:
                break
            message = self._messages.get(topic)
            if message is not None and fits(topic) and not _expired(message, now):
                found.append(message)
        return found

    def _candidates(self, filter: str, after: str) -> Iterator[str]:
        """Topics > `after` that may match, in order, and perhaps others."""
        beginning = re.split(r"[+#]", filter, maxsplit=1)[0]
        if beginning == filter[:-1] and filter.endswith("/#") and beginning[:-1] > after:
            # The parent of `a/#`; other topics may sort between it and `a/`.
            yield beginning[:-1]
        if beginning > after:
            yield beginning
        if beginning == filter and filter:
            return
        for topic in self._names.after(max(after, beginning)):
            if not topic.startswith(beginning):
                return
            yield topic

    def sweep(self, now: float, limit: int = 1000) -> int:
        """Remove at most `limit` messages that have expired; how many went (fewer than `limit`: all have)."""
        removed = 0
        while self._seconds and self._seconds[0] <= now:
            topics = self._due.get(self._seconds[0])
            if topics is None:
                heappop(self._seconds)
                continue
            if removed >= limit:
                break
            batch = list(islice(topics, limit - removed))
            for topic in batch:
                self.remove(topic)
            removed += len(batch)
        return removed

    def _note_expiry(self, message: M) -> None:
        if message.expires_at is None or not math.isfinite(message.expires_at):
            return
        second = math.ceil(message.expires_at)
        topics = self._due.get(second)
        if topics is None:
            topics = self._due[second] = {}
            heappush(self._seconds, second)
            if len(self._seconds) > 64 + 2 * len(self._due):
                # Messages that were replaced before they expired have left seconds behind.
                self._seconds = list(self._due)
                heapify(self._seconds)
        topics[message.topic] = None

    def _forget_expiry(self, message: M) -> None:
        if message.expires_at is None or not math.isfinite(message.expires_at):
            return
        second = math.ceil(message.expires_at)
        topics = self._due[second]
        del topics[message.topic]
        if not topics:
            del self._due[second]


def _size(message: RetainedMessage) -> int:
    topic = message.topic
    return (len(topic) if topic.isascii() else len(topic.encode())) + len(message.payload)


def _expired(message: RetainedMessage, now: float) -> bool:
    return message.expires_at is not None and message.expires_at <= now


def _expression(filter: str) -> str:
    """The filter as a regular expression, for looking at many topics one by one."""
    if not filter:
        return ".*"
    levels = filter.split("/")
    parts = ["[^/]*" if level == "+" else re.escape(level) for level in levels if level != "#"]
    expression = "/".join(parts)
    if levels[-1] == "#":
        expression += "(?:/.*)?" if parts else ".*"
    return expression if levels[0] not in ("#", "+") else r"(?!\$)" + expression
