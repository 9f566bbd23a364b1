"""Requests to devices: a message with the topic for its answer, and the wait for it.

A client of MQTT 5 gets the message on the topic asked for, with `$response/<token>` as Response Topic and the token as
Correlation Data (section 4.10). A client of MQTT 3.1.1 gets it on `<topic>/<token>`. Both publish their answer to
`$response/<token>`; nobody else sees it. The device need not subscribe.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred, fail, succeed

from accessgw.core.interfaces.clock import Timer, Timers
from accessgw.core.interfaces.control import ControlError
from accessgw.model.counters import MqttCounters
from protocols.mqtt.packets import NO_PROPERTIES, V5, Properties, Property
from protocols.mqtt.reasons import Reason

PREFIX = "$response/"
MAX_PENDING = 10_000
MAX_PER_CLIENT = 100


class Devices(Protocol):
    """How requests reach devices."""

    def version(self, client_id: str) -> int:
        """The protocol level of its connection, 0 when it has none."""

    def send(self, client_id: str, topic: str, payload: bytes, properties: Properties) -> bool:
        """A PUBLISH of QoS 1 to a connected client, subscribed or not. False when it cannot be sent."""


class _Waiting:
    __slots__ = ("client_id", "result", "timer")

    def __init__(self, client_id: str, result: Deferred[dict[str, Any]], timer: Timer) -> None:
        self.client_id = client_id
        self.result = result
        self.timer = timer


class Requests:
    """Asks devices. At most `max_pending` requests, and `max_per_client` to one device, wait at once."""

    def __init__(
        self,
        devices: Devices,
        *,
        timers: Timers,
        random_bytes: Callable[[int], bytes],
        counters: MqttCounters,
        max_pending: int = MAX_PENDING,
        max_per_client: int = MAX_PER_CLIENT,
    ) -> None:
        self._devices = devices
        self._timers = timers
        self._random_bytes = random_bytes
        self._counters = counters
        self._max_pending = max_pending
        self._max_per_client = max_per_client
        self._waiting: dict[str, _Waiting] = {}
        """By token."""
        self._per_client: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def ask(self, client_id: str, topic: str, payload: bytes, timeout: float) -> Deferred[dict[str, Any]]:
        """See MqttControl.request. A device that loses its connection may still answer in time on the next one.

        Fails with ControlError 503 when too many requests wait. May be cancelled.
        """
        if len(self._waiting) >= self._max_pending or self._per_client.get(client_id, 0) >= self._max_per_client:
            return fail(ControlError(503, "overload", "too many requests to devices wait for their answers"))
        version = self._devices.version(client_id)
        if not version:
            self._count("offline")
            return succeed({"status": "offline"})
        token = self._random_bytes(16).hex()
        properties: Properties = NO_PROPERTIES
        if version >= V5:
            properties = {Property.RESPONSE_TOPIC: PREFIX + token, Property.CORRELATION_DATA: token.encode()}
        else:
            topic = f"{topic}/{token}"

        def cancelled(_: object) -> None:
            self._forget(token)

        result: Deferred[dict[str, Any]] = Deferred(cancelled)
        timer = self._timers.schedule(timeout, lambda: self._late(token))
        # Waiting before it is sent: nothing says that the answer comes in a later turn.
        self._waiting[token] = _Waiting(client_id, result, timer)
        self._per_client[client_id] = self._per_client.get(client_id, 0) + 1
        if not self._devices.send(client_id, topic, payload, properties):
            self._end(token, "offline")
        return result

    @staticmethod
    def is_answer(topic: str) -> bool:
        """Whether messages of this topic are answers: give them to `answered`, and to nobody else."""
        return topic.startswith(PREFIX)

    def answered(self, client_id: str, topic: str, payload: bytes, properties: Properties) -> int:
        """An answer came: success, or 0x10 when nobody waits for it (any more), at least not from this client."""
        token = topic[len(PREFIX) :]
        waiting = self._waiting.get(token)
        if waiting is None or waiting.client_id != client_id:
            return Reason.NO_MATCHING_SUBSCRIBERS
        answer: dict[str, Any] = {"payload": payload}
        if Property.CONTENT_TYPE in properties:
            answer["content_type"] = properties[Property.CONTENT_TYPE]
        self._end(token, "answered", answer)
        return Reason.SUCCESS

    def close(self) -> None:
        """The gateway stops: nobody is answered any more."""
        for token in tuple(self._waiting):
            self._end(token, "timeout")

    def _late(self, token: str) -> None:
        self._end(token, "timeout")

    def _end(self, token: str, outcome: str, answer: dict[str, Any] | None = None) -> None:
        waiting = self._forget(token)
        if waiting is not None:
            self._count(outcome)
            waiting.result.callback({"status": outcome, **(answer or {})})

    def _forget(self, token: str) -> _Waiting | None:
        waiting = self._waiting.pop(token, None)
        if waiting is None:
            return None
        waiting.timer.cancel()
        left = self._per_client[waiting.client_id] - 1
        if left:
            self._per_client[waiting.client_id] = left
        else:
            del self._per_client[waiting.client_id]
        return waiting

    def _count(self, outcome: str) -> None:
        counted = self._counters.device_requests
        counted[outcome] = counted.get(outcome, 0) + 1
