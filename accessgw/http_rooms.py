"""The composition of HTTP: short connections, calls by path, dictionaries, and what rides in WebSockets; part of the
composition root."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accessgw.core.authentication import AuthenticatorChain
from accessgw.core.calls import Calls
from accessgw.core.dictionaries.service import Dictionaries
from accessgw.core.http_dictionaries import HttpDictionaries
from accessgw.core.http_routes import HttpRoutes
from accessgw.core.mmtp_binding import MmtpServices
from accessgw.core.mqtt.services import MqttServices
from accessgw.core.short import ShortConnections
from accessgw.model.counters import DictionaryCounters
from accessgw.model.settings import GatewaySettings
from accessgw.transports.http import HttpBindingFactory
from accessgw.transports.websocket import WebSocketEndpoint
from protocols.http.websocket import DEFAULT_MAX_MESSAGE


class HttpRooms:
    """Everything of HTTP towards devices in one worker, built and wired."""

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        reactor: Any,
        mmtp: MmtpServices,
        mqtt: MqttServices,
        calls: Calls,
        chain: AuthenticatorChain,
        dictionaries: Dictionaries,
        counters: DictionaryCounters,
        describe: Callable[[], dict[str, object]],
    ) -> None:
        """`describe` makes the body of /.well-known/accessgw."""
        self._dictionaries = HttpDictionaries(
            dictionaries, lambda: calls.routes, reactor, counters, enabled=_gives_dictionaries(settings)
        )
        routes = HttpRoutes(
            short=ShortConnections(mmtp, settings.sessions.time_skew),
            calls=calls,
            chain=chain,
            clock=reactor,
            describe=describe,
            dictionaries=self._dictionaries,
        )
        self.services = HttpBindingFactory(
            routes,
            settings.limits,
            websockets={
                "/mmtp": WebSocketEndpoint(mmtp, ("mmtp", "mmtp/1")),
                "/mqtt": WebSocketEndpoint(
                    mqtt,
                    ("mqtt", "mqttv3.1"),
                    required=True,
                    max_message=max(DEFAULT_MAX_MESSAGE, 2 * settings.mqtt.max_packet),
                ),
            },
            origins={listener.name: listener.websocket_origins for listener in settings.listeners},
        )

    def reconfigure(self, settings: GatewaySettings) -> None:
        """Bring into force what a reload may change."""
        self.services.replace_limits(settings.limits)
        self._dictionaries.enabled = _gives_dictionaries(settings)


def _gives_dictionaries(settings: GatewaySettings) -> bool:
    return settings.dictionaries.enabled and settings.dictionaries.http
