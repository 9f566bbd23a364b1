"""Top talkers of MQTT: the busiest topics and clients of the last minute, from samples, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from accessgw.core.interfaces.mqtt_state import Message

WINDOW = 60.0
SLICE = 10.0
SAMPLES = 2000
"""Samples of one slice before every second one of them is left out."""
CAPACITY = 512
"""Topics, and clients, remembered per slice."""


class _Slice:
    """What was seen in ten seconds: name -> [messages, bytes]."""

    __slots__ = ("clients", "since", "topics")

    def __init__(self, since: float) -> None:
        self.since = since
        self.topics: dict[str, list[int]] = {}
        self.clients: dict[str, list[int]] = {}


class MqttTop:
    """Told of every published message.

    Up to `SAMPLES` messages per slice are counted one by one; past that one of `every` is taken at random distances
    (a fixed one would fall in step with devices that publish in turns) and counts for so many, so figures of busy
    gateways are estimates. A table that is full is thinned out to its busier half.
    """

    def __init__(self, now: Callable[[], float], random: Callable[[], float]) -> None:
        self.every = 1
        self._now = now
        self._random = random
        self._samples = 0
        self._slices: deque[_Slice] = deque([_Slice(now())])

    def published(self, message: Message) -> int:
        """Somebody published it. How many messages later the next one is to be told: 1 for each of them."""
        current = self._current()
        every = self.every
        size = len(message.payload) * every
        _add(current.topics, message.topic, every, size)
        _add(current.clients, message.publisher, every, size)
        self._samples += 1
        if self._samples >= SAMPLES:
            self._samples = 0
            self.every = every = every * 2
        return 1 if every == 1 else 1 + int(self._random() * (2 * every - 1))

    def report(self, limit: int) -> dict[str, Any]:
        """The busiest topics and clients of the last minute; `sampled` is 1 when every message was counted."""
        self._current()
        return {
            "seconds": WINDOW,
            "sampled": self.every,
            "topics": _busiest("topic", [one.topics for one in self._slices], limit),
            "clients": _busiest("client", [one.clients for one in self._slices], limit),
        }

    def _current(self) -> _Slice:
        now = self._now()
        slices = self._slices
        if now - slices[-1].since >= SLICE:
            slices.append(_Slice(now))
            self._samples = 0
            self.every = max(1, self.every // 2)
        while now - slices[0].since >= WINDOW and len(slices) > 1:
            slices.popleft()
        return slices[-1]


def _add(table: dict[str, list[int]], name: str, messages: int, size: int) -> None:
    counted = table.get(name)
    if counted is not None:
        counted[0] += messages
        counted[1] += size
        return
    if len(table) >= CAPACITY:
        busier = sorted(table.items(), key=_messages)[-CAPACITY // 2 :]
        table.clear()
        table.update(busier)
    table[name] = [messages, size]


def _messages(item: tuple[str, list[int]]) -> int:
    return item[1][0]


def _busiest(kind: str, tables: list[dict[str, list[int]]], limit: int) -> list[dict[str, Any]]:
    merged: dict[str, list[int]] = {}
    for table in tables:
        for name, (messages, size) in table.items():
            counted = merged.setdefault(name, [0, 0])
            counted[0] += messages
            counted[1] += size
    busiest = sorted(merged.items(), key=_messages, reverse=True)[:limit]
    return [{kind: name, "messages": messages, "bytes": size} for name, (messages, size) in busiest]
