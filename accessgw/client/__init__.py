"""The reference SDK: one sans-IO core, a Twisted face and an asyncio face.

    from accessgw.client import Client            # Twisted: methods return Deferreds
    from accessgw.client.aio import Client        # asyncio: the same names, awaitable

Importing this package pulls neither; the names below load what they need when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accessgw.client.model import CallFailed, CannotConnect, Note, Push, Reply, State
    from accessgw.client.twisted_face import Client

_HOMES = {
    "Client": "accessgw.client.twisted_face",
    "CallFailed": "accessgw.client.model",
    "CannotConnect": "accessgw.client.model",
    "Note": "accessgw.client.model",
    "Push": "accessgw.client.model",
    "Reply": "accessgw.client.model",
    "State": "accessgw.client.model",
}

__all__ = ["CallFailed", "CannotConnect", "Client", "Note", "Push", "Reply", "State"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
