"""Checks of the authenticator chain: what each kind needs, and settings that another kind would have understood."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from accessgw.config import syntax
from accessgw.config.errors import Problem
from accessgw.config.files import readable
from accessgw.config.structure import shown
from accessgw.config.validate_upstream_tls import upstream_tls
from accessgw.model.settings import AuthenticatorSettings

ALGORITHMS = (
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA"
)  # fmt: skip
KINDS_WITH = {
    "tokens": ("static",),
    "keys": ("jwt",),
    "jwks_file": ("jwt",),
    "secret": ("jwt",),
    "issuer": ("jwt",),
    "audience": ("jwt",),
    "attribute_claims": ("jwt",),
    "username_must_match": ("jwt",),
    "file": ("file", "scram"),
    "url": ("http",),
    "cache": ("file", "http"),
    "loopback_only": ("anonymous",),
}
"""Settings that would silently do nothing with another kind; some would be taken for a protection that is not there."""


def check_authenticators(authenticators: Sequence[AuthenticatorSettings]) -> Iterator[Problem]:
    """Every problem of the chain."""
    scram = ""
    for index, one in enumerate(authenticators):
        path = f"authenticators[{index}]"
        yield from _strangers(path, one)
        yield from upstream_tls(f"{path}.tls", one.tls, one.url.startswith("https://"))
        match one.kind:
            case "static":
                yield from _static(path, one)
            case "jwt":
                yield from _jwt(path, one)
            case "http":
                yield from _http(path, one)
            case "file" | "scram":
                yield from _file(path, one)
        if one.kind == "scram":
            if scram:
                yield Problem(f"{path}.kind", f"one authenticator may be of kind scram, and {scram} is one already")
            scram = path


def _strangers(path: str, one: AuthenticatorSettings) -> Iterator[Problem]:
    for name, kinds in KINDS_WITH.items():
        if one.kind not in kinds and getattr(one, name):
            yield Problem(f"{path}.{name}", f"only kind {' and '.join(kinds)} has {name}, this is {one.kind}")


def _static(path: str, one: AuthenticatorSettings) -> Iterator[Problem]:
    if not one.tokens:
        yield Problem(f"{path}.tokens", "required for kind static, expected at least one token, got none")
    for index, token in enumerate(one.tokens):
        if not token.token:
            yield Problem(f"{path}.tokens[{index}].token", "expected a token, got an empty one")


def _jwt(path: str, one: AuthenticatorSettings) -> Iterator[Problem]:
    if not (one.keys or one.jwks_file or one.secret):
        yield Problem(f"{path}.keys", "required for kind jwt, expected keys, jwks_file or secret, got none of them")
    if not one.algorithms:
        yield Problem(f"{path}.algorithms", "expected at least one algorithm, got none")
    for index, algorithm in enumerate(one.algorithms):
        where = f"{path}.algorithms[{index}]"
        if algorithm not in ALGORITHMS:
            yield Problem(where, f"expected one of {', '.join(ALGORITHMS)}, got {shown(algorithm)}")
        elif algorithm.startswith("HS") and not one.secret:
            yield Problem(where, f"{algorithm} needs secret, which is not set")
    symmetric = any(algorithm.startswith("HS") for algorithm in one.algorithms)
    if one.secret and not symmetric:
        yield Problem(f"{path}.secret", "is used by HS256, HS384 and HS512 only, and algorithms has none of them")
    for key, file in one.keys.items():
        yield from readable(f"{path}.keys.{key}", file)
    if one.jwks_file:
        yield from readable(f"{path}.jwks_file", one.jwks_file)


def _http(path: str, one: AuthenticatorSettings) -> Iterator[Problem]:
    if not one.url:
        yield Problem(f"{path}.url", 'required for kind http, expected an "http://" or "https://" URL, got nothing')
    elif not syntax.is_url(one.url):
        yield Problem(f"{path}.url", f"expected {syntax.URL}, got {shown(one.url)}")
    elif "@" in urlsplit(one.url).netloc:
        yield Problem(f"{path}.url", "expected no user name or password in the URL")


def _file(path: str, one: AuthenticatorSettings) -> Iterator[Problem]:
    if not one.file:
        yield Problem(f"{path}.file", f"required for kind {one.kind}, expected a file, got nothing")
    else:
        yield from readable(f"{path}.file", one.file)
