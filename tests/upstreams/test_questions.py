"""Questions of authenticators over the real pool of connections: what is asked, answered, broken and taken back."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from accessgw.crypto.http_authenticator import HttpAuthenticator
from accessgw.crypto.services import AuthenticatorServices
from accessgw.model.identity import Credentials, Identity
from accessgw.model.settings import AuthenticatorSettings
from accessgw.upstreams.post import PostFailed
from accessgw.upstreams.questions import Questions, clusters_of_questions
from tests.upstreams.upstream_fakes import Net

SETTINGS = AuthenticatorSettings(kind="http", url="http://10.0.0.9:8080/mqtt?zone=1", timeout=2.0)


def result(deferred: Deferred[Any]) -> Any:
    results: list[Any] = []
    deferred.addBoth(results.append)
    assert results, "nothing has come yet"
    return getattr(results[0], "value", results[0])


class House(Net):
    """An authenticator on real upstreams, with servers that the test plays."""

    def __init__(self) -> None:
        super().__init__()
        self.upstreams.reconfigure([self.settings, *clusters_of_questions([SETTINGS])])
        services = AuthenticatorServices(
            seconds=self.clock.seconds, post=Questions(self.upstreams, self.clock), random_bytes=bytes
        )
        self.one = HttpAuthenticator(SETTINGS, services, lambda: 1.7e9)

    def login(self) -> Deferred[Identity | None]:
        return self.one.authenticate(Credentials(device="d1", username="alice", token="secret"))


def test_a_login() -> None:
    house = House()
    asked = house.login()
    wire = house.accept()
    head, _, body = wire.taken().partition(b"\r\n\r\n")
    assert head.startswith(b"POST /mqtt?zone=1 HTTP/1.1\r\n")
    assert b"content-type: application/json" in head.lower()
    assert b"host: 10.0.0.9:8080" in head.lower()
    assert json.loads(body)["password"] == "secret"
    wire.ok(b'{"result": "allow", "user": "u7"}')
    assert result(asked).user == "u7"
    again = house.login()
    wire.ok(b'{"result": "deny"}')
    assert str(result(again)) == "the credentials were refused"


def test_an_answer_in_pieces_and_one_that_is_too_large() -> None:
    house = House()
    asked = house.login()
    wire = house.accept()
    wire.answer(b'HTTP/1.1 200 OK\r\ncontent-length: 19\r\n\r\n{"result": ')
    wire.answer(b'"allow"}')
    assert result(asked).user == "alice"
    large = house.login()
    wire.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 70000\r\n\r\n" + b"x" * 70000)
    house.turn()
    assert isinstance(result(large), PostFailed)


def test_time_is_bounded() -> None:
    house = House()
    asked = house.login()
    house.accept()
    house.turn(2.1)
    assert str(result(asked)) == "no response within the deadline"


def test_a_server_that_cannot_be_reached() -> None:
    house = House()
    asked = house.login()
    for _ in range(2):
        if house.connecting:
            house.refuse()
        house.turn(1.0)
    assert str(result(asked)).startswith("no connection to 10.0.0.9:8080: Connection was refused")


def test_a_connection_that_broke_is_tried_once_more() -> None:
    house = House()
    asked = house.login()
    house.accept().reset()
    house.turn(1.0)
    house.accept().ok(b'{"result": "allow"}')
    assert result(asked).user == "alice"


def test_a_device_that_went_away_takes_its_question_back() -> None:
    house = House()
    asked = house.login()
    wire = house.accept()
    asked.cancel()
    assert isinstance(result(asked), CancelledError)
    house.turn()
    assert wire.closed == "abort" or wire.closed == "close"


def test_hosts_are_clusters_that_no_route_can_name() -> None:
    settings = [
        SETTINGS,
        AuthenticatorSettings(kind="http", url="http://10.0.0.9:8080/other"),
        AuthenticatorSettings(kind="http", url="http://login.example/x"),
        AuthenticatorSettings(kind="anonymous"),
    ]
    first, second = clusters_of_questions(settings)
    assert (first.name, first.endpoints) == ("authenticator:10.0.0.9:8080", ("http://10.0.0.9:8080",))
    assert (second.name, second.dns) == ("authenticator:login.example:80", "login.example:80")
