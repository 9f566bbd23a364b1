"""The state of the broker as retained messages under `$SYS/broker/`, in mosquitto's vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import exp
from typing import Any

from twisted.logger import Logger

from accessgw.core.interfaces.clock import Clock
from accessgw.core.interfaces.mqtt_state import Message
from accessgw.model.counters import MqttCounters

log = Logger()

ROOT = "$SYS/broker/"
PUBLISHER = "$sys"
_MINUTES = (1, 5, 15)
_LOADS = {
    "connections": "connects",
    "messages/received": "messages/received",
    "messages/sent": "messages/sent",
    "bytes/received": "bytes/received",
    "bytes/sent": "bytes/sent",
    "publish/dropped": "publish/messages/dropped",
    "publish/received": "publish/messages/received",
    "publish/sent": "publish/messages/sent",
}
"""`load/NAME` -> the total whose growth per minute is averaged."""


def totals(counters: MqttCounters) -> dict[str, int]:
    """The figures of a broker by mosquitto's names below `$SYS/broker/`; `connects` is not one of them."""
    return {
        "connects": sum(counters.connects.values()),
        "clients/connected": counters.connected,
        "clients/disconnected": max(0, counters.sessions - counters.connected),
        "clients/total": max(counters.sessions, counters.connected),
        "messages/received": counters.packets_received,
        "messages/sent": counters.packets_sent,
        "messages/inflight": counters.inflight,
        "publish/messages/received": counters.received_qos0 + counters.received_qos1 + counters.received_qos2,
        "publish/messages/sent": counters.sent_qos0 + counters.sent_qos1 + counters.sent_qos2,
        "publish/messages/dropped": sum(counters.dropped_messages.values()),
        "publish/bytes/received": counters.received_bytes,
        "publish/bytes/sent": counters.sent_bytes,
        "subscriptions/count": counters.subscriptions,
        "shared_subscriptions/count": counters.shared_subscriptions,
        "retained messages/count": counters.retained,
        "store/messages/count": counters.retained + counters.queued + counters.inflight,
        "store/messages/bytes": counters.retained_bytes,
    }


class SysTopics:
    """Publishes what has changed every `interval` seconds.

    `read` gives totals by name, such as `totals` and more (`bytes/received`, `bytes/sent`, ...). Messages are of
    QoS 0 and not for the store: they are published anew after a restart.
    """

    def __init__(
        self,
        read: Callable[[], Mapping[str, int]],
        publish: Callable[[Message], object],
        *,
        clock: Clock,
        wall: Callable[[], float],
        interval: float,
        version: str,
    ) -> None:
        self._read = read
        self._publish = publish
        self._clock = clock
        self._wall = wall
        self._interval = interval
        self._version = version
        self._started = 0.0
        self._updated = 0.0
        self._maximum = 0
        self._before: Mapping[str, int] = {}
        self._loads: dict[str, float] = {}
        self._told: dict[str, str] = {}
        self._call: Any = None

    def start(self) -> None:
        """Publish now and then every interval; nothing at all when the interval is 0."""
        if not self._interval or self._call is not None:
            return
        self._started = self._updated = self._clock.seconds()
        self._before = dict(self._read())
        self._tell("version", self._version)
        self._update()

    def stop(self) -> None:
        """Publish nothing more; what is retained stays."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _update(self) -> None:
        self._call = self._clock.callLater(self._interval, self._update)
        try:
            self._tell_all(self._clock.seconds())
        except Exception:
            log.failure("the $SYS topics cannot be published")

    def _tell_all(self, now: float) -> None:
        found = self._read()
        elapsed = now - self._updated
        if elapsed > 0:
            self._average(found, elapsed)
        self._before, self._updated = dict(found), now
        self._maximum = max(self._maximum, found.get("clients/connected", 0))
        self._tell("uptime", f"{int(now - self._started)} seconds")
        for name, value in found.items():
            if name != "connects":
                self._tell(name, str(value))
        self._tell("clients/maximum", str(self._maximum))
        # The older names that many dashboards still ask for.
        self._tell("clients/active", str(found.get("clients/connected", 0)))
        self._tell("clients/inactive", str(found.get("clients/disconnected", 0)))
        self._tell("messages/stored", str(found.get("store/messages/count", 0)))
        for name, load in self._loads.items():
            self._tell(name, f"{load:.2f}")

    def _average(self, found: Mapping[str, int], elapsed: float) -> None:
        """Growth per minute, averaged exponentially over 1, 5 and 15 minutes."""
        for name, total in _LOADS.items():
            if total not in found:
                continue
            rate = max(0, found[total] - self._before.get(total, 0)) * 60.0 / elapsed
            for minutes in _MINUTES:
                topic = f"load/{name}/{minutes}min"
                keep = exp(-elapsed / (60.0 * minutes))
                self._loads[topic] = rate + keep * (self._loads.get(topic, 0.0) - rate)

    def _tell(self, name: str, value: str) -> None:
        if self._told.get(name) == value:
            return
        self._told[name] = value
        self._publish(Message(ROOT + name, value.encode(), retain=True, at=self._wall(), publisher=PUBLISHER))
