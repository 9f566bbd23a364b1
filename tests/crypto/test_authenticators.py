"""Static tokens and JSON Web Tokens."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from accessgw.core.interfaces.authentication import AuthenticationFailed
from accessgw.crypto.authenticators import StaticAuthenticator, from_settings
from accessgw.crypto.json_web_tokens import JwtAuthenticator
from accessgw.model.identity import Credentials, Identity, Strength
from accessgw.model.settings import AuthenticatorSettings, StaticTokenSettings

NOW = 1_700_000_000.0
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
SECRET = "0123456789abcdef0123456789abcdef"


def pem(key: Any) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "k1.pem"
    path.write_bytes(pem(KEY))
    return str(path)


def authenticator(key_file: str, **settings: Any) -> JwtAuthenticator:
    settings = {"keys": {"k1": key_file}, "issuer": "https://id", "audience": "gw", **settings}
    return JwtAuthenticator(AuthenticatorSettings(kind="jwt", **settings), lambda: NOW)


def token(key: Any = KEY, alg: str = "ES256", kid: str | None = "k1", **claims: Any) -> str:
    claims = {"iss": "https://id", "aud": "gw", "sub": "alice", "device": "d1", "exp": NOW + 60, **claims}
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, alg, headers={"kid": kid} if kid else None)


def ask(one: Any, shown: str, **credentials: Any) -> Identity | str | None:
    """The identity, None, or why it was refused."""
    outcome: list[Any] = []
    one.authenticate(Credentials(**{"device": "d1", "token": shown, **credentials})).addBoth(outcome.append)
    (result,) = outcome
    if result is None or isinstance(result, Identity):
        return result
    assert isinstance(result.value, AuthenticationFailed), result
    return str(result.value)


# -------------------------------------------------------------------- static tokens


def test_static_tokens() -> None:
    chain = StaticAuthenticator([
        StaticTokenSettings(token="one", user="alice"),
        StaticTokenSettings(token="bound", device="d1"),
        StaticTokenSettings(token="local", loopback_only=True),
    ])  # fmt: skip
    found = ask(chain, "one", device="d7", app="shop", app_version="2")
    assert found == Identity("d7", "alice", "shop", "2", Strength.TOKEN, "static")
    assert ask(chain, "two") is None
    assert ask(chain, "") is None
    assert found.owner == "alice"
    bound = ask(chain, "bound")
    assert isinstance(bound, Identity) and bound.owner == "d1"
    assert "another device" in str(ask(chain, "bound", device="d2"))
    assert "loopback" in str(ask(chain, "local"))
    unbound = ask(chain, "local", loopback=True, device="d9")
    assert isinstance(unbound, Identity)
    assert (unbound.device, unbound.owner) == ("d9", ""), "with such a token one can be any number of devices"
    assert ask(chain, "\udcff") is None


# -------------------------------------------------------------------- JSON Web Tokens


def test_a_good_token(key_file: str) -> None:
    found = ask(authenticator(key_file, attribute_claims=("region", "tier")), token(region="eu"), app="shop")
    assert found == Identity(
        device="d1", user="alice", app="shop", authenticator="jwt", expires_at=NOW + 90, attributes={"region": "eu"},
        bound=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"exp": NOW - 30}, "expired"),
        ({"exp": None}, "exp"),
        ({"exp": "soon"}, "exp"),
        ({"nbf": NOW + 31}, "nbf"),
        ({"iat": NOW + 31}, "iat"),
        ({"device": "d2"}, "another device"),
        ({"device": None}, "device"),
        ({"exp": 10**400}, "exp"),
        ({"exp": float("inf")}, "exp"),
        ({"exp": float("nan")}, "exp"),
        ({"sub": ["root"]}, "ub"),
        ({"sub": "a\nb"}, "user"),
        ({"sub": "a" * 257}, "user"),
        ({"aud": "other"}, "udience"),
        ({"aud": None}, "aud"),
    ],
)
def test_a_token_with_wrong_claims_is_refused(key_file: str, claims: dict[str, Any], why: str) -> None:
    assert why in str(ask(authenticator(key_file), token(**claims)))


def test_leeway_and_the_injected_clock(key_file: str) -> None:
    for claims in ({"exp": NOW - 29}, {"nbf": NOW + 30}, {"iat": NOW + 30}):
        assert isinstance(ask(authenticator(key_file), token(**claims)), Identity), claims
    # Valid by the machine's clock, long expired by ours.
    late = JwtAuthenticator(AuthenticatorSettings(kind="jwt", keys={"k1": key_file}), lambda: NOW * 3)
    assert "expired" in str(ask(late, token(exp=NOW * 2, aud=None)))


def test_the_device_claim_may_be_optional(key_file: str) -> None:
    free = authenticator(key_file, require_device_claim=False, user_claim="uid", device_claim="dev")
    found = ask(free, token(uid="bob"))
    assert isinstance(found, Identity)
    assert (found.device, found.user) == ("d1", "bob")
    for claims, owner in (({}, ""), ({"dev": "d1"}, "d1")):
        found = ask(free, token(**claims))
        assert isinstance(found, Identity) and (found.device, found.owner) == ("d1", owner)
    assert "another device" in str(ask(free, token(dev="d2")))
    named = ask(authenticator(key_file), token(), device="")  # plain HTTP names none
    assert isinstance(named, Identity)
    assert named.device == "d1"


def test_forged_tokens(key_file: str) -> None:
    one = authenticator(key_file)
    assert "refused" in str(ask(one, token(OTHER)))
    head, body, signature = token().split(".")
    assert "refused" in str(ask(one, f"{head}.{body}.{signature[:-4]}AAAA"))
    assert "unknown" in str(ask(one, token(kid="k2")))
    assert "unknown" in str(ask(one, token(kid=None)))
    assert "algorithm" in str(ask(one, jwt.encode({"iss": "https://id"}, None, "none")))


@pytest.mark.parametrize("header", [{"alg": []}, {"alg": {}}, {"alg": None}, {"alg": "ES256", "kid": []}, {"alg": 1}])
def test_a_token_with_a_strange_header_is_refused(key_file: str, header: dict[str, Any]) -> None:
    def b64(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    shown = f"{b64(header)}.{b64({'iss': 'https://id', 'exp': NOW + 60})}.{b64('x')}"
    outcome = ask(authenticator(key_file), shown)
    assert outcome is None or isinstance(outcome, str), "never an error of ours"


def test_a_public_key_is_never_a_shared_secret(key_file: str) -> None:
    import base64
    import hashlib
    import hmac

    def b64(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    signed = b64(b'{"alg":"HS256","kid":"k1"}') + b"." + b64(
        json.dumps({"iss": "https://id", "aud": "gw", "device": "d1", "exp": NOW + 60}).encode()
    )  # fmt: skip
    forged = (signed + b"." + b64(hmac.new(pem(KEY), signed, hashlib.sha256).digest())).decode()
    assert "algorithm" in str(ask(authenticator(key_file), forged))
    assert "refused" in str(ask(authenticator(key_file, secret=SECRET), forged))


def test_what_is_not_ours_is_left_to_the_next(key_file: str) -> None:
    one = authenticator(key_file)
    for other in ("dev-device", "a.b.c", "", "..", token(iss="https://other"), token(iss=None)):
        assert ask(one, other) is None, other


def test_a_shared_secret() -> None:
    one = JwtAuthenticator(AuthenticatorSettings(kind="jwt", secret=SECRET), lambda: NOW)
    assert isinstance(ask(one, token(SECRET, "HS256", None, aud=None)), Identity)
    assert "refused" in str(ask(one, token("x" * 32, "HS256", None, aud=None)))
    assert "unknown" in str(ask(one, token(aud=None)))


def test_a_jwk_set(tmp_path: Path) -> None:
    edward = ed25519.Ed25519PrivateKey.generate()
    file = tmp_path / "jwks.json"
    jwks = [
        {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key())), "kid": "e1"},
        {**json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(edward.public_key())), "kid": "o1"},
    ]
    file.write_text(json.dumps({"keys": jwks}))
    one = JwtAuthenticator(AuthenticatorSettings(kind="jwt", jwks_file=str(file)), lambda: NOW)
    assert isinstance(ask(one, token(kid="e1", aud=None)), Identity)
    assert isinstance(ask(one, token(edward, "EdDSA", "o1", aud=None)), Identity)
    assert isinstance(ask(one, token(kid="o1", aud=None)), str)


# -------------------------------------------------------------------- configuration


def test_the_chain_from_settings(key_file: str) -> None:
    chain = from_settings(
        [
            AuthenticatorSettings(kind="jwt", name="id", keys={"*": key_file}),
            AuthenticatorSettings(kind="static", tokens=(StaticTokenSettings(token="t"),)),
        ],
        lambda: NOW,
    )
    assert [one.name for one in chain] == ["id", "static"]
    assert isinstance(ask(chain[0], token(kid=None, aud=None)), Identity)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "static"}, "authenticators[1].tokens: expected at least one token"),
        ({"kind": "static", "tokens": (StaticTokenSettings(token=""),)}, "authenticators[1].tokens[0].token: "),
        ({"kind": "jwt"}, "authenticators[1].keys: expected keys, jwks_file or secret"),
        ({"kind": "jwt", "keys": {"k1": "/nowhere/k.pem"}}, "authenticators[1].keys.k1: /nowhere/k.pem: No such file"),
        ({"kind": "jwt", "keys": {"k1": __file__}}, "authenticators[1].keys.k1: "),
        ({"kind": "jwt", "jwks_file": __file__}, "authenticators[1].jwks_file: "),
        ({"kind": "jwt", "secret": "short"}, "authenticators[1].secret: expected at least 32"),
        ({"kind": "jwt", "secret": SECRET, "algorithms": ("none",)}, "authenticators[1].algorithms: "),
        ({"kind": "jwt", "algorithms": ("HS256",)}, "authenticators[1].algorithms: HS256 needs `secret`"),
    ],
)
def test_errors_name_the_path(settings: dict[str, Any], message: str) -> None:
    good = AuthenticatorSettings(kind="static", tokens=(StaticTokenSettings(token="t"),))
    with pytest.raises(ValueError, match="authenticators") as caught:
        from_settings([good, AuthenticatorSettings(**settings)], lambda: NOW)
    assert str(caught.value).startswith(message)
