"""A broker's MqttControl that remembers what was asked of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from accessgw.core.interfaces.control import ControlError
from accessgw.core.interfaces.mqtt_state import Message


class FakeMqtt:
    def __init__(self) -> None:
        self.published: list[Message] = []
        self.publish_answer: Callable[[Message], Deferred[int]] = lambda message: succeed(2)
        self.asked: list[Any] = []
        self.retained_first: list[Message] = []
        self.emit: Callable[[Any], None] | None = None
        self.ended = 0
        self.kept: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = [{"client": f"c{n}", "connected": True, "version": 5} for n in range(3)]
        self.client_row: dict[str, Any] = {}
        self.bridge_rows: list[dict[str, Any]] = [{"name": "cloud", "connected": False, "error": "refused"}]
        self.answer: dict[str, Any] = {"status": "answered", "payload": b'{"on": true}'}

    def publish(self, message: Message) -> Deferred[int]:
        self.published.append(message)
        return self.publish_answer(message)

    def subscribe(self, filter: str, emit: Callable[[Message], None]) -> Callable[[], None]:
        self.asked.append(("subscribe", filter))
        for message in self.retained_first:
            emit(message)
        return self._watch(emit)

    def trace_topic(self, filter: str, emit: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        self.asked.append(("trace", filter))
        return self._watch(emit)

    def _watch(self, emit: Callable[[Any], None]) -> Callable[[], None]:
        self.emit = emit

        def end() -> None:
            self.ended += 1

        return end

    def clients(self, after: str, limit: int, connected: bool | None) -> list[dict[str, Any]]:
        self.asked.append(("clients", after, limit, connected))
        return self.rows[:limit]

    def client(self, client_id: str) -> dict[str, Any]:
        if client_id == "unknown":
            raise ControlError(404, "not_found", "no such client: unknown")
        if self.client_row:
            return self.client_row
        return {"client": client_id, "expiry": float("inf"), "subscriptions": [{"filter": "a/#", "qos": 1}]}

    def kick(self, client_id: str, discard: bool = False) -> bool:
        self.asked.append(("kick", client_id, discard))
        return client_id != "unknown"

    def subscriptions(self, filter: str, after: str, limit: int) -> list[dict[str, Any]]:
        self.asked.append(("subscriptions", filter, after, limit))
        return [{"filter": "a/+", "client": f"c{n}", "qos": 1} for n in range(min(limit, 3))]

    def retained(self, filter: str, after: str, limit: int) -> list[dict[str, Any]]:
        self.asked.append(("retained", filter, after, limit))
        return self.kept or [{"topic": f"a/{n}", "payload": bytes([255, n]), "qos": 0} for n in range(min(limit, 3))]

    def remove_retained(self, topic: str) -> Deferred[bool]:
        self.asked.append(("remove", topic))
        return succeed(topic != "absent")

    def top(self, limit: int) -> dict[str, Any]:
        self.asked.append(("top", limit))
        return {"topics": [{"topic": "a", "messages": 9}], "clients": [{"client": "c0", "messages": 9}]}

    def request(self, client_id: str, topic: str, payload: bytes, timeout: float) -> Deferred[dict[str, Any]]:
        self.asked.append(("request", client_id, topic, payload, timeout))
        if client_id == "nowhere":
            return succeed({"status": "offline"})
        if client_id == "forbidden":
            return fail(ControlError(403, "refused", "not to this one"))
        return succeed(self.answer)

    def bridges(self) -> list[dict[str, Any]]:
        return self.bridge_rows

    def stats(self) -> dict[str, int]:
        return {"clients": 3, "retained": 7}
