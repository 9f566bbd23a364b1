"""Asks a service of the operator's who a device is. Whatever is not a clear decision refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed

from accessgw.core.interfaces.authentication import AuthenticationFailed
from accessgw.crypto.services import AuthenticationUnavailable, AuthenticatorServices
from accessgw.crypto.success_cache import SuccessCache, digest
from accessgw.crypto.users import checked_user
from accessgw.model.identity import Credentials, Identity, Strength
from accessgw.model.settings import AuthenticatorSettings

MAX_ATTRIBUTES = 32
MAX_ATTRIBUTE = 1024
"""Characters of one attribute's name or value."""


class HttpAuthenticator:
    """`wall` gives the wall-clock second."""

    def __init__(
        self, settings: AuthenticatorSettings, services: AuthenticatorServices, wall: Callable[[], float]
    ) -> None:
        self.name = settings.name or "http"
        self._settings = settings
        self._services = services
        self._wall = wall
        self._allowed: SuccessCache[Identity] = SuccessCache(settings.cache)
        self._key = b""

    def authenticate(self, credentials: Credentials) -> Deferred[Identity | None]:
        question = _question(credentials)
        try:
            body = json.dumps(question, ensure_ascii=False, separators=(",", ":")).encode()
        except UnicodeEncodeError:
            # Bytes that are no text cannot be put into JSON, and so the service cannot know them.
            return succeed(None)
        return Deferred.fromCoroutine(self._ask(credentials, body))

    async def _ask(self, credentials: Credentials, body: bytes) -> Identity | None:
        self._key = self._key or self._services.random_bytes(32)
        shown = digest(self._key, body)
        found = self._allowed.get(shown, self._services.seconds())
        if found is not None and (found.expires_at is None or self._wall() < found.expires_at):
            return found
        status, answer = await self._services.post(self._settings, body)
        if status != 200:
            raise AuthenticationUnavailable(f"{self._settings.url} answered with status {status}")
        identity = self._decision(credentials, answer)
        if identity is not None:
            self._allowed.put(shown, identity, self._services.seconds())
        return identity

    def _decision(self, credentials: Credentials, answer: bytes) -> Identity | None:
        try:
            said: Any = json.loads(answer)
        except (ValueError, RecursionError):
            raise self._unclear("expected JSON") from None
        if not isinstance(said, dict):
            raise self._unclear(f"expected an object, got {type(said).__name__}")
        result = said.get("result")
        if result == "ignore":
            return None
        if result == "deny":
            raise AuthenticationFailed("the credentials were refused")
        if result != "allow":
            raise self._unclear('expected a result of "allow", "deny" or "ignore"')
        user = said.get("user", credentials.username)
        if not isinstance(user, str):
            raise self._unclear("expected a string as user")
        expires_at = self._expiry(said.get("expires_at"))
        attributes = self._attributes(said.get("attributes", {}))
        if expires_at is not None and self._wall() >= expires_at:
            raise AuthenticationFailed("the credentials have expired")
        return Identity(
            device=credentials.device,
            user=checked_user(user, "answer of the service"),
            app=credentials.app,
            app_version=credentials.app_version,
            strength=Strength.TOKEN,
            authenticator=self.name,
            expires_at=expires_at,
            attributes=attributes,
        )

    def _expiry(self, value: object) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
            raise self._unclear("expected seconds since 1970 as expires_at")
        return float(value)

    def _attributes(self, value: object) -> dict[str, str]:
        good = isinstance(value, dict) and len(value) <= MAX_ATTRIBUTES
        if not good or not all(
            isinstance(text, str) and len(text) <= MAX_ATTRIBUTE for pair in _items(value) for text in pair
        ):
            raise self._unclear(f"expected at most {MAX_ATTRIBUTES} attributes, strings of at most {MAX_ATTRIBUTE}")
        return dict(_items(value))

    def _unclear(self, message: str) -> AuthenticationUnavailable:
        return AuthenticationUnavailable(f"{self._settings.url} gave no clear answer: {message}")


def _items(value: Any) -> list[tuple[str, str]]:
    return list(value.items())


def _question(credentials: Credentials) -> dict[str, object]:
    """With a user name the secret is a password, without it is a token."""
    named = bool(credentials.username)
    return {
        "device": credentials.device,
        "username": credentials.username,
        "password": credentials.token if named else "",
        "token": "" if named else credentials.token,
        "app": credentials.app,
        "app_version": credentials.app_version,
        "certificate": credentials.certificate_identity,
        "peer": credentials.peer,
    }
