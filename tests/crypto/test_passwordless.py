"""Certificates alone, nobody at all, and how MQTT's user names meet static tokens and JWTs."""

from __future__ import annotations

from typing import Any

import jwt
import pytest

from accessgw.crypto.authenticators import StaticAuthenticator
from accessgw.crypto.json_web_tokens import JwtAuthenticator
from accessgw.crypto.passwordless import AnonymousAuthenticator, CertificateAuthenticator
from accessgw.model.identity import Identity, Strength
from accessgw.model.settings import AuthenticatorSettings, StaticTokenSettings
from tests.crypto.crypto_fakes import ask

NOW = 1_700_000_000.0
SECRET = "0123456789abcdef0123456789abcdef"


def test_a_certificate_alone() -> None:
    one = CertificateAuthenticator(AuthenticatorSettings(kind="certificate"))
    expected = Identity("d1", "", "shop", "2", Strength.CERTIFICATE, "certificate")
    assert ask(one, certificate_identity="d1", app="shop", app_version="2") == expected
    assert ask(one, certificate_identity="d1", device="").device == "d1"
    assert "another device" in ask(one, certificate_identity="d2")
    assert ask(one) is None


def test_anonymous_is_who_shows_nothing() -> None:
    one = AnonymousAuthenticator(AuthenticatorSettings(kind="anonymous"))
    assert ask(one, app="shop") == Identity("d1", "", "shop", "", Strength.ANONYMOUS, "anonymous")
    assert ask(one, username="alice") is None
    assert ask(one, token="x") is None


def test_anonymous_from_loopback_only() -> None:
    one = AnonymousAuthenticator(AuthenticatorSettings(kind="anonymous", name="lab", loopback_only=True))
    assert "loopback" in ask(one)
    assert ask(one, loopback=True).authenticator == "lab"
    assert ask(one, username="alice") is None


def test_a_static_token_is_an_mqtt_password_whatever_the_user_name() -> None:
    one = StaticAuthenticator([StaticTokenSettings(token="t", user="alice")])
    assert ask(one, username="anything", token="t").user == "alice"
    assert ask(one, username="t", token="") is None


def jwt_of(**claims: Any) -> str:
    return jwt.encode({"sub": "alice", "device": "d1", "exp": NOW + 60, **claims}, SECRET, "HS256")


def jwt_authenticator(**settings: Any) -> JwtAuthenticator:
    return JwtAuthenticator(
        AuthenticatorSettings(kind="jwt", algorithms=("HS256",), secret=SECRET, **settings), lambda: NOW
    )


def test_a_jwt_is_an_mqtt_password_and_names_the_client_id() -> None:
    one = jwt_authenticator()
    assert ask(one, username="anything", token=jwt_of()).user == "alice"
    assert "another device" in ask(one, device="d2", username="alice", token=jwt_of())


@pytest.mark.parametrize(("username", "good"), [("alice", True), ("", True), ("bob", False), ("Alice", False)])
def test_the_user_name_must_match_where_the_setting_says_so(username: str, good: bool) -> None:
    found = ask(jwt_authenticator(username_must_match=True), username=username, token=jwt_of())
    assert isinstance(found, Identity) if good else "another user" in found
