"""The HTTP authenticator: what it asks, what it takes for a decision, and that all else refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from accessgw.crypto.http_authenticator import HttpAuthenticator
from accessgw.crypto.services import AuthenticationUnavailable
from accessgw.model.identity import Credentials, Identity, Strength
from accessgw.model.settings import AuthenticatorSettings
from tests.crypto.crypto_fakes import World, ask, outcome

WALL = 1_700_000_000.0


class House:
    def __init__(self, **settings: Any) -> None:
        self.world = World()
        self.wall = WALL
        self.one = HttpAuthenticator(
            AuthenticatorSettings(kind="http", url="http://login/", **settings), self.world.services, lambda: self.wall
        )

    def says(self, status: int = 200, **answer: Any) -> House:
        self.world.answer = status, json.dumps(answer).encode()
        return self

    def ask(self, **credentials: Any) -> Any:
        return ask(self.one, **{"username": "alice", "token": "secret", **credentials})


def test_the_service_gets_everything_that_was_shown() -> None:
    house = House().says(result="deny")
    house.ask(app="shop", app_version="2", certificate_identity="d1", peer="192.0.2.1")
    house.ask(username="")
    (settings, body, _), (_, other, _) = house.world.posts
    assert settings.url == "http://login/"
    assert json.loads(body) == {
        "device": "d1",
        "username": "alice",
        "password": "secret",
        "token": "",
        "app": "shop",
        "app_version": "2",
        "certificate": "d1",
        "peer": "192.0.2.1",
    }
    assert json.loads(other)["token"] == "secret"
    assert json.loads(other)["password"] == ""


def test_decisions() -> None:
    house = House()
    assert house.says(result="allow").ask(app="shop") == Identity(
        "d1", "alice", "shop", strength=Strength.TOKEN, authenticator="http"
    )
    found = house.says(result="allow", user="u7", attributes={"plan": "gold"}, expires_at=WALL + 5, more=1).ask()
    assert (found.user, found.attributes, found.expires_at) == ("u7", {"plan": "gold"}, WALL + 5)
    assert house.says(result="allow", user="").ask().user == ""
    assert house.says(result="ignore").ask() is None
    assert house.says(result="deny").ask() == "the credentials were refused"
    assert house.says(result="allow", expires_at=WALL).ask() == "the credentials have expired"
    assert "printable" in house.says(result="allow", user="a\nb").ask()
    assert House(name="login").says(result="allow").ask().authenticator == "login"


@pytest.mark.parametrize(
    "answer",
    [
        (500, b'{"result": "allow"}'),
        (204, b'{"result": "allow"}'),
        (401, b'{"result": "deny"}'),
        (200, b""),
        (200, b"allow"),
        (200, b'"allow"'),
        (200, b"[" * 100_000),
        (200, b"\xff"),
        (200, b"{}"),
        (200, b'{"result": true}'),
        (200, b'{"result": "ALLOW"}'),
        (200, b'{"result": "allow", "user": 7}'),
        (200, b'{"result": "allow", "user": null}'),
        (200, b'{"result": "allow", "attributes": []}'),
        (200, b'{"result": "allow", "attributes": {"a": 1}}'),
        (200, json.dumps({"result": "allow", "attributes": {"a": "x" * 1025}}).encode()),
        (200, json.dumps({"result": "allow", "attributes": {str(n): "" for n in range(33)}}).encode()),
        (200, b'{"result": "allow", "expires_at": "soon"}'),
        (200, b'{"result": "allow", "expires_at": true}'),
        (200, b'{"result": "allow", "expires_at": NaN}'),
        (200, b'{"result": "allow", "expires_at": Infinity}'),
        (200, b'{"result": "allow", "expires_at": 1e16}'),
    ],
)
def test_whatever_is_no_clear_decision_refuses(answer: tuple[int, bytes]) -> None:
    house = House(cache=60.0)
    house.world.answer = answer
    assert isinstance(house.ask(), AuthenticationUnavailable)
    assert house.says(result="deny").ask() == "the credentials were refused", "nothing of it was remembered"


def test_no_answer_refuses() -> None:
    house = House()
    house.world.answer = ConnectionError("reset")
    assert isinstance(house.ask(), ConnectionError)


def test_a_device_that_goes_away_takes_its_question_back() -> None:
    house = House()
    asked = house.one.authenticate(Credentials(device="d1", token="x"))
    asked.cancel()
    assert isinstance(outcome(asked), CancelledError)
    assert house.world.posts[0][2].called


def test_a_password_that_is_no_text_is_unknown_to_the_service() -> None:
    house = House().says(result="allow")
    assert house.ask(token="\udcff") is None
    assert house.world.posts == []


def test_an_allow_is_remembered_for_the_same_credentials_only() -> None:
    house = House(cache=10.0).says(result="allow", expires_at=WALL + 8)
    assert house.ask().user == "alice"
    house.says(result="deny")
    assert house.ask().user == "alice"
    for other in ({"token": "other"}, {"device": "d2"}, {"username": "bob"}, {"peer": "192.0.2.1"}):
        assert house.ask(**other) == "the credentials were refused"
    assert len(house.world.posts) == 5
    house.wall += 8
    assert house.ask() == "the credentials were refused", "not beyond expires_at"


def test_an_allow_is_forgotten_after_a_while_and_a_refusal_is_not_remembered() -> None:
    house = House(cache=10.0).says(result="deny")
    house.ask()
    house.says(result="allow")
    assert isinstance(house.ask(), Identity)
    house.says(result="ignore")
    house.world.clock.advance(9.9)
    assert isinstance(house.ask(), Identity)
    house.world.clock.advance(0.1)
    assert house.ask() is None
    assert len(house.world.posts) == 3
