"""All bridges of a worker: started, changed, stopped and shown together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from accessgw.core.interfaces.mqtt_state import Message
from accessgw.core.mqtt.bridge import Bridge
from accessgw.core.mqtt.bridge_loops import PREFIX, LoopGuard
from accessgw.core.mqtt.broker import Broker
from accessgw.core.mqtt.session_keeper import SessionKeeper
from accessgw.core.mqtt.sys_topics import PUBLISHER, ROOT
from accessgw.model.counters import MqttCounters
from accessgw.model.mqtt_settings import BridgeSettings
from protocols.mqtt.packets import V5


class MakeBridge(Protocol):
    """Builds one."""

    def __call__(self, settings: BridgeSettings, *, guard: LoopGuard, told: Callable[[Bridge], None]) -> Bridge: ...


class Bridges:
    """The bridges by name."""

    def __init__(
        self,
        make: MakeBridge,
        make_guard: Callable[[], LoopGuard],
        *,
        broker: Broker,
        keeper: SessionKeeper,
        wall: Callable[[], float],
        counters: MqttCounters,
    ) -> None:
        self._make = make
        self._broker = broker
        self._keeper = keeper
        self._make_guard = make_guard
        self._guard: LoopGuard | None = None
        """Made with the first bridge: its name needs a file."""
        self._wall = wall
        self._counters = counters
        self._bridges: dict[str, Bridge] = {}
        self._running = False

    def start(self, settings: Sequence[BridgeSettings]) -> None:
        """After the sessions were restored."""
        self._running = True
        self.apply(settings)

    def stop(self) -> None:
        """Before the store is."""
        self._running = False
        for bridge in self._bridges.values():
            bridge.stop()

    def apply(self, settings: Sequence[BridgeSettings]) -> None:
        """Make them those of the settings: what has not changed goes on, what is gone leaves nothing behind."""
        if not self._running:
            return
        wanted = {one.name: one for one in settings}
        for name, bridge in list(self._bridges.items()):
            if bridge.settings != wanted.get(name):
                bridge.stop()
                del self._bridges[name]
        for client_id, session in list(self._broker.sessions.items()):
            if client_id.startswith(PREFIX) and client_id.removeprefix(PREFIX) not in wanted:
                self._forget(client_id.removeprefix(PREFIX))
                self._keeper.end(session)
        if not wanted:
            self._broker.returned = None
            self._broker.origin = ""
            return
        guard = self._guard
        if guard is None:
            guard = self._guard = self._make_guard()
        fresh = [self._make(one, guard=guard, told=self._tell) for one in settings if one.name not in self._bridges]
        self._bridges |= {bridge.settings.name: bridge for bridge in fresh}
        guard.unmarked = [bridge.topics.carries for bridge in self._bridges.values() if bridge.settings.version != V5]
        self._broker.returned = guard.returned
        self._broker.origin = guard.origin
        for bridge in fresh:
            bridge.start()

    def rows(self) -> list[dict[str, Any]]:
        """For MqttControl.bridges."""
        return [bridge.row() for bridge in self._bridges.values()]

    def _forget(self, name: str) -> None:
        counters = self._counters
        counters.bridge_connected.pop(name, None)
        self._broker.retained.remove(_state_topic(name))

    def _tell(self, bridge: Bridge) -> None:
        """As mosquitto tells of its bridges."""
        if self._broker.settings.sys_interval:
            state = b"1" if bridge.connected else b"0"
            self._broker.announce(
                Message(_state_topic(bridge.settings.name), state, retain=True, at=self._wall(), publisher=PUBLISHER)
            )


def _state_topic(name: str) -> str:
    return f"{ROOT}connection/{name}/state"
