"""Whose a session of MQTT is, in a form that is stored: only its owner goes on with it."""

from __future__ import annotations

from msgspec import DecodeError, json

from accessgw.model.identity import Identity, Strength

_TOKEN = Strength.TOKEN


def owner_of(identity: Identity) -> str:
    """User, app and strength, as for the gateway's own sessions: whoever only claims a client id is not who proved it.

    The user alone, where the rest is what most have.
    """
    user = identity.user
    if identity.strength is _TOKEN and not identity.app and not user.startswith("["):
        return user
    return json.encode([user, identity.app, identity.strength.name.lower()]).decode()


def user_of(owner: str) -> str:
    """The user of what `owner_of` made."""
    if not owner.startswith("["):
        return owner
    try:
        user, _, _ = json.decode(owner, type=tuple[str, str, str])
    except DecodeError:
        return owner
    return user
