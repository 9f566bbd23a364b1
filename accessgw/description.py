"""What a worker tells of itself: its version, listeners, settings and back ends."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from accessgw.config.render import to_dict
from accessgw.core.interfaces.connections import Listener
from accessgw.model.settings import GatewaySettings
from protocols.http import backend as http_backend
from protocols.mmtp.hpack_backends import backend as hpack_backend
from protocols.tls.record_backends import backend as records_backend


class Description:
    """Answers from what is in force when it is asked."""

    def __init__(self, settings: GatewaySettings, listeners: Sequence[Listener], tls_engine: str) -> None:
        """`listeners` in the order of the settings; they may be added to it later."""
        self.settings = settings
        """In force; replaced by a reload."""
        self.node = settings.node or socket.gethostname()
        self.version = _version()
        self._listeners = listeners
        self._tls_engine = tls_engine

    def listeners(self) -> list[dict[str, Any]]:
        """A row for each listener, with the address that is in use."""
        return [
            {
                "name": listener.name,
                "transport": settings.transport,
                "address": settings.path or f"{listener.host}:{listener.port}",
                "protocols": list(settings.protocols),
            }
            for listener, settings in zip(self._listeners, self.settings.listeners, strict=True)
        ]

    def to_devices(self) -> dict[str, object]:
        """The body of /.well-known/accessgw."""
        rows = self.listeners()
        own = self.settings.public_address or next((r["address"] for r in rows if r["transport"] == "tls"), "")
        return {
            "version": self.version,
            "time": time.time(),
            "zone": self.settings.zone,
            "protocols": sorted({p for row in rows for p in row["protocols"]}),
            "addresses": [address for address in (own, *self.settings.alternate_addresses) if address],
        }

    def configuration(self) -> dict[str, Any]:
        """For operators: the settings, secrets masked, and which back ends were chosen."""
        return {
            "settings": to_dict(self.settings),
            "backends": {
                "http": http_backend,
                "hpack": hpack_backend,
                "tls": self._tls_engine,
                "tls-records": records_backend,
                "store": self.settings.store.kind,
            },
        }


def _version() -> str:
    try:
        return metadata.version("accessgw")
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"
