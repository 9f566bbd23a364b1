"""From the settings of authenticators to the authenticators, each imported for those who configure it; and that of
static tokens."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, fail, succeed

from accessgw.core.interfaces.authentication import AuthenticationFailed, Authenticator
from accessgw.core.interfaces.mqtt import EnhancedAuthenticator
from accessgw.crypto.passwordless import AnonymousAuthenticator, CertificateAuthenticator
from accessgw.crypto.services import AuthenticatorServices
from accessgw.model.identity import Credentials, Identity, Strength
from accessgw.model.settings import AuthenticatorSettings, StaticTokenSettings
from protocols.mmtp.nothing import NOTHING

_TOKEN = Strength.TOKEN


def from_settings(
    settings: Sequence[AuthenticatorSettings],
    wall: Callable[[], float],
    services: AuthenticatorServices | None = None,
) -> list[Authenticator]:
    """The links of the chain, in order; those of kind scram are no links of it. `wall` gives the wall-clock second;
    `services` may be bound later.

    Raises ValueError with the path of what is wrong, such as `authenticators[0].keys.k1: ...`.
    """
    services = services or AuthenticatorServices()
    chain: list[Authenticator] = []
    for index, one in enumerate(settings):
        path = f"authenticators[{index}]"
        match one.kind:
            case "static":
                chain.append(StaticAuthenticator(one.tokens, name=one.name or "static", path=path))
            case "jwt":
                from accessgw.crypto.json_web_tokens import JwtAuthenticator

                chain.append(JwtAuthenticator(one, wall, path=path))
            case "file":
                from accessgw.crypto.password_file import FileAuthenticator

                chain.append(FileAuthenticator(one, services, path=path))
            case "http":
                from accessgw.crypto.http_authenticator import HttpAuthenticator

                chain.append(HttpAuthenticator(one, services, wall))
            case "certificate":
                chain.append(CertificateAuthenticator(one))
            case "anonymous":
                chain.append(AnonymousAuthenticator(one))
    return chain


def enhanced_from_settings(
    settings: Sequence[AuthenticatorSettings], services: AuthenticatorServices | None = None
) -> dict[str, EnhancedAuthenticator]:
    """Authenticators of enhanced authentication by the name of their method.
    Raises ValueError as from_settings does."""
    services = services or AuthenticatorServices()
    methods: dict[str, EnhancedAuthenticator] = {}
    for index, one in enumerate(settings):
        if one.kind != "scram":
            continue
        from accessgw.crypto.scram import ScramAuthenticator

        made = ScramAuthenticator(one, services, path=f"authenticators[{index}]")
        if made.method in methods:
            raise ValueError(f"authenticators[{index}].kind: expected one of kind scram, got another")
        methods[made.method] = made
    return methods


class StaticAuthenticator:
    """Tokens of the configuration file, compared in constant time."""

    def __init__(self, tokens: Sequence[StaticTokenSettings], name: str = "static", path: str = "tokens") -> None:
        if not tokens:
            raise ValueError(f"{path}.tokens: expected at least one token, got none")
        for index, token in enumerate(tokens):
            if not token.token:
                raise ValueError(f"{path}.tokens[{index}].token: expected a token, got an empty string")
        self.name = name
        self._tokens = [(_digest(token.token), token) for token in tokens]

    def authenticate(self, credentials: Credentials) -> Deferred[Identity | None]:
        if not credentials.token:
            return succeed(None)
        shown = _digest(credentials.token)
        found: StaticTokenSettings | None = None
        for digest, token in self._tokens:
            if hmac.compare_digest(digest, shown):
                found = token
        if found is None:
            return succeed(None)
        if found.loopback_only and not credentials.loopback:
            return fail(AuthenticationFailed("this token is accepted from loopback addresses only"))
        if found.device and credentials.device and found.device != credentials.device:
            return fail(AuthenticationFailed(f"the token belongs to another device than {credentials.device!r}"))
        return succeed(
            Identity(
                device=found.device or credentials.device,
                user=found.user,
                app=credentials.app,
                app_version=credentials.app_version,
                strength=_TOKEN,
                bound=bool(found.device),
                authenticator=self.name,
                attributes=NOTHING,
            )
        )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
