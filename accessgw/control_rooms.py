"""The composition of the operators' door: the control API on a listener of its own; part of the composition root."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from accessgw.core.interfaces.clock import Timers
from accessgw.core.interfaces.control import Control
from accessgw.core.interfaces.dictionaries import DictionaryControl
from accessgw.core.interfaces.keys import KeyControl
from accessgw.core.interfaces.mqtt import MqttControl
from accessgw.model.counters import TransportCounters
from accessgw.model.listener_settings import ListenerSettings
from accessgw.model.settings import GatewaySettings
from accessgw.ops.control_api import ControlApi
from accessgw.transports.build import build_listener
from accessgw.transports.http import HttpBindingFactory
from accessgw.transports.services import TransportServices


class ControlRooms:
    """How operators come in, built and wired, not started.

    Nothing of it is shared with the doors of devices: draining these must not shut operators out.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        control: Control,
        *,
        reactor: Any,
        timers: Timers,
        mqtt: MqttControl,
        dictionaries: DictionaryControl,
        keys: KeyControl | None,
        describe: Callable[[], dict[str, object]],
    ) -> None:
        """`control` is what operators may do; `describe` makes the body of /.well-known/accessgw."""
        door = settings.control
        self._transports = TransportServices(reactor, timers, settings.limits, TransportCounters(), random.random)
        self._api = ControlApi(
            control,
            door,
            settings.pushes,
            reactor,
            mqtt=mqtt,
            dictionaries=dictionaries,
            keys=keys,
            describe=describe,
        )
        self.listener = build_listener(
            ListenerSettings(name="control", address=door.address, port=door.port, protocols=("http/1.1",)),
            self._transports,
            {"http/1.1": HttpBindingFactory(self._api, settings.limits)},
        )

    def reconfigure(self, settings: GatewaySettings) -> None:
        """Bring into force what a reload may change."""
        self._transports.limits = settings.limits
        self._api.pushes = settings.pushes
        self._api.reconfigure(settings.control)

    async def close(self) -> None:
        """Let nobody in any more, and end every stream of events."""
        await self.listener.stop()
        self._api.close()

    def retire(self) -> None:
        """End the connections that are left."""
        for connection in self._transports.table.snapshot():
            connection.retire()
