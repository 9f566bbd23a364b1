"""The composition's first step: what is made of settings alone; part of the composition root."""

from __future__ import annotations

import time
from dataclasses import dataclass

from accessgw.config.app_tables import load_app_tables
from accessgw.config.errors import ConfigError
from accessgw.core.app_tables import AppTables
from accessgw.core.filters import load as load_filters
from accessgw.core.interfaces import Filter
from accessgw.core.interfaces.authentication import Authenticator
from accessgw.core.interfaces.mqtt import EnhancedAuthenticator
from accessgw.crypto.authenticators import enhanced_from_settings
from accessgw.crypto.authenticators import from_settings as make_authenticators
from accessgw.crypto.services import AuthenticatorServices
from accessgw.model.settings import GatewaySettings
from accessgw.policy.routing import RouteError, RouteTable


@dataclass(slots=True)
class Prepared:
    """What is made of settings alone, so that a bad file is known before anything is touched."""

    routes: RouteTable
    authenticators: list[Authenticator]
    filters: list[tuple[str, Filter]]
    enhanced: dict[str, EnhancedAuthenticator]
    tables: AppTables
    services: AuthenticatorServices
    """What the authenticators need of rooms; bound by those."""

    @classmethod
    def of(cls, settings: GatewaySettings) -> Prepared:
        """Raises ConfigError."""
        services = AuthenticatorServices()
        try:
            return cls(
                RouteTable(settings.routes),
                make_authenticators(settings.authenticators, time.time, services),
                load_filters(settings.filters),
                enhanced_from_settings(settings.authenticators, services),
                AppTables(load_app_tables(settings.app_tables)),
                services,
            )
        except (RouteError, ValueError) as error:
            path, _, message = str(error).partition(": ")
            raise ConfigError(path, message) from None
