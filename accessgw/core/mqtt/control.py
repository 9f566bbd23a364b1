"""What the control API may do with the broker: the MqttControl interface over core's own rooms."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, succeed

from accessgw.core.interfaces.control import ControlError
from accessgw.core.interfaces.mqtt_state import Message
from accessgw.core.mqtt.broker import Broker
from accessgw.core.mqtt.owners import user_of
from accessgw.core.mqtt.receivers import LocalReceiver
from accessgw.core.mqtt.requests import Requests
from accessgw.core.mqtt.session import MqttSession
from accessgw.core.mqtt.session_keeper import SessionKeeper
from accessgw.core.mqtt.sys_topics import totals
from accessgw.core.mqtt.top import MqttTop
from protocols.mqtt.packets import SubscriptionRequest
from protocols.mqtt.reasons import FAILURE, Reason

MAX_SUBSCRIPTIONS = 100
"""Subscriptions of operators at once."""


class BrokerControl:
    """The MqttControl of a worker. Arguments have been checked by whoever calls."""

    def __init__(
        self,
        broker: Broker,
        keeper: SessionKeeper,
        requests: Requests,
        top: MqttTop,
        bridges: Callable[[], list[dict[str, Any]]],
    ) -> None:
        self._broker = broker
        self._keeper = keeper
        self._requests = requests
        self._top = top
        self._bridges = bridges
        self._local = 0

    def publish(self, message: Message) -> Deferred[int]:
        """Fires with how many receivers it was sent to or waits for."""
        reached = self._broker.publish_counted(message)
        return reached.addCallback(_reached)

    def subscribe(self, filter: str, emit: Callable[[Message], None]) -> Callable[[], None]:
        broker = self._broker
        if self._local >= MAX_SUBSCRIPTIONS:
            raise ControlError(429, "too_many", f"expected at most {MAX_SUBSCRIPTIONS} subscriptions at once")
        receiver = LocalReceiver("$control", lambda message, qos, retain: emit(replace(message, retain=retain)))
        self._local += 1
        broker.tree.subscribe(receiver, SubscriptionRequest(filter, 2))
        for message in broker.retained.match(filter, broker.wall()):
            emit(message)

        def stop() -> None:
            if broker.tree.unsubscribe(receiver, filter):
                self._local -= 1

        return stop

    # ---------------------------------------------------------------- clients

    def clients(self, after: str, limit: int, connected: bool | None) -> list[dict[str, Any]]:
        found = (
            session
            for client_id, session in self._broker.sessions.items()
            if client_id > after and (connected is None or (session.outlet is not None) == connected)
        )
        return [
            _row(session, self._keeper.waiting(session))
            for session in heapq.nsmallest(limit, found, key=lambda session: session.client_id)
        ]

    def client(self, client_id: str) -> dict[str, Any]:
        session = self._broker.sessions.get(client_id)
        if session is None:
            raise ControlError(404, "not_found", f"no such MQTT client: {client_id}")
        subscriptions = [
            {
                "filter": filter,
                "qos": request.qos,
                "no_local": request.no_local,
                "retain_as_published": request.retain_as_published,
                "retain_handling": request.retain_handling,
                "identifier": identifier,
            }
            for filter, (request, identifier) in session.filters.items()
        ]
        return {**_row(session, self._keeper.waiting(session)), "subscriptions": subscriptions}

    def kick(self, client_id: str, discard: bool = False) -> bool:
        session = self._broker.sessions.get(client_id)
        if session is None or (session.outlet is None and not discard):
            return False
        if session.outlet is not None:
            session.outlet.displace(Reason.ADMINISTRATIVE_ACTION)
        if discard:
            self._keeper.end(session)
        return True

    # ---------------------------------------------------------------- subscriptions and retained messages

    def subscriptions(self, filter: str, after: str, limit: int) -> list[dict[str, Any]]:
        tree = self._broker.tree
        place, _, last = after.partition("\0")
        if filter:
            filters = [filter]
        else:
            filters = [place] if place else []
            filters += [entry.filter for entry in tree.entries(place, limit)]
        rows: list[dict[str, Any]] = []
        for one in filters:
            wanted = limit - len(rows)
            if not wanted:
                break
            members = (
                (receiver.client_id, options.qos)
                for receiver, options in tree.subscribers(one)
                if one != place or receiver.client_id > last
            )
            rows += [{"filter": one, "client": client, "qos": qos} for client, qos in heapq.nsmallest(wanted, members)]
        return rows

    def retained(self, filter: str, after: str, limit: int) -> list[dict[str, Any]]:
        return [
            {
                "topic": message.topic,
                "bytes": len(message.payload),
                "payload": message.payload,
                "qos": message.qos,
                "at": message.at,
                "expires_at": message.expires_at,
                "publisher": message.publisher,
            }
            for message in self._broker.retained.page(filter, after, limit, self._broker.wall())
        ]

    def remove_retained(self, topic: str) -> Deferred[bool]:
        broker = self._broker
        if broker.retained.get(topic) is None:
            return succeed(False)
        broker.retained.remove(topic)
        empty = Message(topic, b"", 1, True, at=broker.wall(), publisher="$control")
        return broker.store.publish(empty, (), retained=True).addCallback(lambda _: True)

    # ---------------------------------------------------------------- watching

    def trace_topic(self, filter: str, emit: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        try:
            return self._broker.trace.watch(filter, emit)
        except ValueError as error:
            raise ControlError(429, "too_many", str(error)) from None

    def top(self, limit: int) -> dict[str, Any]:
        return self._top.report(limit)

    def request(self, client_id: str, topic: str, payload: bytes, timeout: float) -> Deferred[dict[str, Any]]:
        return self._requests.ask(client_id, topic, payload, timeout)

    def bridges(self) -> list[dict[str, Any]]:
        return self._bridges()

    def stats(self) -> dict[str, int]:
        return totals(self._broker.counters)


def _reached(outcome: tuple[int, int]) -> int:
    reason, reached = outcome
    if reason < FAILURE:
        return reached
    if reason == Reason.QUOTA_EXCEEDED:
        raise ControlError(503, "overload", "a bound was met: nothing was published")
    raise ControlError(503, "store_unavailable", "the message cannot be stored: nothing was published")


def _row(session: MqttSession, waiting: int) -> dict[str, Any]:
    identity = session.identity
    row: dict[str, Any] = {
        "client": session.client_id,
        "user": user_of(session.user),
        "connected": session.outlet is not None,
        "version": {3: "3.1", 4: "3.1.1", 5: "5"}[session.version],
        "expiry": None if session.expiry == float("inf") else session.expiry,
        "durable": session.durable,
        "subscriptions": len(session.filters),
        "inflight": len(session.inflight),
        "queued": waiting,
        "behind": session.behind and session.outlet is not None,
    }
    if session.outlet is not None:
        row["unsent"] = session.outlet.buffered
    if identity is not None:
        row["authenticator"] = identity.authenticator
    if session.outlet is None:
        row["expires_at"] = None if session.expires_at == float("inf") else session.expires_at
    return row
