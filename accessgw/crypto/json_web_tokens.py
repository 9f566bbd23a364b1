"""The authenticator of JSON Web Tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from twisted.internet.defer import Deferred, fail, succeed

from accessgw.core.interfaces.authentication import AuthenticationFailed
from accessgw.crypto.users import checked_user
from accessgw.model.identity import Credentials, Identity, Strength
from accessgw.model.settings import AuthenticatorSettings

_TOKEN = Strength.TOKEN
ANY_KEY = "*"
"""Key id that serves tokens which name none."""
LATEST = 1e15
"""Seconds; no token's time is beyond it."""
SYMMETRIC = frozenset({"HS256", "HS384", "HS512"})


class JwtAuthenticator:
    """JSON Web Tokens (RFC 7519), verified by PyJWT with pinned algorithms and our own clock.

    A token is this authenticator's when it parses as a JWT and, where `issuer` is set, names that
    issuer; everything else is left to the next link. From then on whatever is wrong refuses.
    """

    def __init__(self, settings: AuthenticatorSettings, wall: Callable[[], float], path: str = "jwt") -> None:
        self.name = settings.name or "jwt"
        self._settings = settings
        self._wall = wall
        self._keys = _load_keys(settings, path)
        self._algorithms = tuple(settings.algorithms)
        if not self._keys and not settings.secret:
            raise ValueError(f"{path}.keys: expected keys, jwks_file or secret, got none of them")

    def authenticate(self, credentials: Credentials) -> Deferred[Identity | None]:
        if credentials.token.count(".") != 2:
            return succeed(None)
        try:
            header = jwt.get_unverified_header(credentials.token)
            if self._settings.issuer:
                unverified = jwt.decode(credentials.token, options={"verify_signature": False})
                if unverified.get("iss") != self._settings.issuer:
                    return succeed(None)
        except (jwt.PyJWTError, ValueError):
            return succeed(None)
        try:
            return succeed(self._identity(credentials, self._verified(credentials.token, header)))
        except AuthenticationFailed as error:
            return fail(error)

    def _verified(self, token: str, header: Mapping[str, Any]) -> dict[str, Any]:
        algorithm = header.get("alg")
        known = isinstance(algorithm, str) and (
            algorithm in self._algorithms or (algorithm in SYMMETRIC and bool(self._settings.secret))
        )
        if not known:
            raise AuthenticationFailed(f"expected algorithm {', '.join(self._algorithms)}, got {algorithm!r}")
        key = self._key(header.get("kid"), str(algorithm))
        settings = self._settings
        required = ["exp"]
        if settings.audience:
            required.append("aud")
        try:
            # Time is checked below: PyJWT reads the machine's clock, and ours is an argument.
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[str(algorithm)],
                audience=settings.audience or None,
                options={
                    "require": required,
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_aud": bool(settings.audience),
                },
            )
        except jwt.PyJWTError as error:
            raise AuthenticationFailed(f"token refused: {error}") from None
        except (ValueError, TypeError) as error:
            raise AuthenticationFailed(f"token not verifiable: {error}") from None
        return claims

    def _key(self, kid: object, algorithm: str) -> Any:
        if algorithm in SYMMETRIC:
            # A public key must never serve as a shared secret (the classic algorithm confusion).
            return self._settings.secret
        key = self._keys.get(str(kid)) if kid is not None else None
        if key is None:
            key = self._keys.get(ANY_KEY)
        if key is None:
            raise AuthenticationFailed(f"the token's key id {kid!r} is unknown")
        return key

    def _identity(self, credentials: Credentials, claims: Mapping[str, Any]) -> Identity:
        settings = self._settings
        now, leeway = self._wall(), settings.leeway
        expires = _moment(claims, "exp")
        if expires is None or now >= expires + leeway:
            raise AuthenticationFailed("the token has expired")
        for name in ("nbf", "iat"):
            since = _moment(claims, name)
            if since is not None and now < since - leeway:
                raise AuthenticationFailed(f"the token is not valid yet ({name})")
        device = claims.get(settings.device_claim)
        if device is None and settings.require_device_claim:
            raise AuthenticationFailed(f"the token lacks the claim {settings.device_claim!r}")
        if device is not None and credentials.device and device != credentials.device:
            raise AuthenticationFailed(f"the token belongs to another device than {credentials.device!r}")
        user = checked_user(claims.get(settings.user_claim), "token")
        if settings.username_must_match and credentials.username and credentials.username != user:
            raise AuthenticationFailed(f"the token belongs to another user than {credentials.username!r}")
        return Identity(
            device=credentials.device or ("" if device is None else str(device)),
            user=user,
            app=credentials.app,
            app_version=credentials.app_version,
            strength=_TOKEN,
            bound=device is not None,
            authenticator=self.name,
            # A token inside its leeway was just accepted; closing it at once would only make it come again.
            expires_at=expires + leeway,
            attributes={name: str(claims[name]) for name in settings.attribute_claims if name in claims},
        )


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise AuthenticationFailed(f"expected a number in the claim {name!r}, got {type(value).__name__}")
    if not -LATEST < value < LATEST:
        raise AuthenticationFailed(f"expected seconds since 1970 in the claim {name!r}, got another number")
    return float(value)


def _load_keys(settings: AuthenticatorSettings, path: str) -> dict[str, Any]:
    """Key id -> key object; ValueError with the path."""
    keys: dict[str, Any] = {}
    for algorithm in settings.algorithms:
        if algorithm not in jwt.algorithms.get_default_algorithms() or algorithm == "none":
            raise ValueError(f"{path}.algorithms: expected JWT signature algorithms, got {algorithm!r}")
        if algorithm in SYMMETRIC and not settings.secret:
            raise ValueError(f"{path}.algorithms: {algorithm} needs `secret`")
    for kid, file in settings.keys.items():
        try:
            keys[kid] = load_pem_public_key(Path(file).read_bytes())
        except OSError as error:
            raise ValueError(f"{path}.keys.{kid}: {file}: {error.strerror}") from None
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ValueError(f"{path}.keys.{kid}: {file}: expected a PEM public key, got {error}") from None
    if settings.jwks_file:
        keys.update(_load_jwks(settings.jwks_file, f"{path}.jwks_file"))
    if settings.secret and len(settings.secret) < 32:
        raise ValueError(f"{path}.secret: expected at least 32 characters, got {len(settings.secret)}")
    return keys


def _load_jwks(file: str, path: str) -> dict[str, Any]:
    try:
        entries = json.loads(Path(file).read_text())["keys"]
    except OSError as error:
        raise ValueError(f"{path}: {file}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: {file}: expected a JSON object with `keys`") from None
    keys: dict[str, Any] = {}
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        if not isinstance(entry, dict) or entry.get("kty") == "oct":
            raise ValueError(f"{path}: {file}: keys[{index}]: expected a public key")
        try:
            keys[str(entry.get("kid", ANY_KEY))] = jwt.PyJWK.from_dict(entry).key
        except (jwt.PyJWTError, ValueError) as error:
            raise ValueError(f"{path}: {file}: keys[{index}]: {error}") from None
    if not keys:
        raise ValueError(f"{path}: {file}: expected at least one key, got none")
    return keys
