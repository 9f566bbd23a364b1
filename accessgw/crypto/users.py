"""What may become the name of a user."""

from __future__ import annotations

from accessgw.core.interfaces.authentication import AuthenticationFailed

MAX_USER = 256


def checked_user(value: object, source: str) -> str:
    """A user's name goes into headers, logs and keys of streams: only harmless text passes.

    Raises AuthenticationFailed.
    """
    if value is None or value == "":
        return ""
    name = str(value) if isinstance(value, str | int) else ""
    if not 1 <= len(name) <= MAX_USER or not name.isprintable():
        raise AuthenticationFailed(f"expected a user of 1 to {MAX_USER} printable characters in the {source}")
    return name
