"""SCRAM as enhanced authentication: playbooks of both sides, names that do not exist, damaged steps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accessgw.crypto.authenticators import enhanced_from_settings, from_settings
from accessgw.crypto.scram import ScramAuthenticator
from accessgw.crypto.services import AuthenticatorServices
from accessgw.model.identity import Credentials, Identity, Strength
from accessgw.model.settings import AuthenticatorSettings
from protocols.scram import ClientExchange, ScramError, Verifier
from tests.crypto.crypto_fakes import World, outcome


class House:
    def __init__(self, path: Path) -> None:
        self.file = path / "scram"
        users = {"alice": Verifier.of("secret", b"a" * 16, 5000), "bob": Verifier.of("hunter2", b"b" * 16, 5000)}
        self.file.write_text("".join(f"{user}:{verifier}\n" for user, verifier in users.items()))
        self.settings = AuthenticatorSettings(kind="scram", file=str(self.file))
        self.world = World()
        self.one = ScramAuthenticator(self.settings, self.world.services)

    def exchange(self, **credentials: Any) -> Any:
        return self.one.begin(Credentials(**{"device": "d1", **credentials}))

    def login(self, user: str, password: str, **credentials: Any) -> Any:
        exchange = self.exchange(**credentials)
        client = ClientExchange(user, password, lambda: "abc")
        first = outcome(exchange.step(client.first()))
        if isinstance(first, str):
            return first
        challenge, nobody = first
        assert nobody is None
        last = outcome(exchange.step(client.respond(challenge)))
        if isinstance(last, str):
            return last
        client.finish(last[0])
        return last[1]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture(scope="module")
def long_lived(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(tmp_path_factory.mktemp("scram"))


def test_both_sides_prove_that_they_know_the_password(house: House) -> None:
    expected = Identity("d1", "alice", "shop", "2", Strength.TOKEN, "scram")
    assert house.login("alice", "secret", app="shop", app_version="2") == expected
    assert house.login("alice", "secret", username="alice").user == "alice"
    assert house.login("alice", "secret", certificate_identity="d1").strength is Strength.CERTIFICATE


def test_who_is_refused(house: House) -> None:
    assert house.login("alice", "hunter2").startswith("invalid-proof")
    assert house.login("carol", "secret") == house.login("alice", "hunter2")
    assert "user name" in house.login("alice", "secret", username="bob")
    assert "certificate" in house.login("alice", "secret", certificate_identity="d2")
    assert house.world.failures == ["scram"] * 5


def challenge_of(one: ScramAuthenticator, user: str) -> tuple[str, str]:
    """(salt, iterations) that a user is shown."""
    exchange = one.begin(Credentials(device="d1"))
    message, _ = outcome(exchange.step(ClientExchange(user, "x", lambda: "abc").first()))
    found = re.fullmatch(r"r=[^,]+,s=([^,]+),i=([0-9]+)", message.decode())
    assert found
    return found[1], found[2]


def test_a_name_that_does_not_exist_is_challenged_like_any_other(house: House) -> None:
    known, unknown, other = (challenge_of(house.one, user) for user in ("alice", "carol", "dave"))
    assert unknown == challenge_of(house.one, "carol"), "another salt each time would tell that there is no such user"
    again = ScramAuthenticator(house.settings, World().services)
    assert unknown == challenge_of(again, "carol"), "and so would another one after a restart"
    assert unknown[0] != other[0] != known[0]
    assert unknown[1] == known[1] == "5000"
    assert len(unknown[0]) == len(known[0])


def test_a_file_without_users_challenges_too(tmp_path: Path) -> None:
    (tmp_path / "scram").write_text("")
    one = ScramAuthenticator(AuthenticatorSettings(kind="scram", file=str(tmp_path / "scram")), World().services)
    assert challenge_of(one, "carol")[1] == "4096"


def test_a_changed_file_counts_for_the_next_exchange(house: House) -> None:
    house.login("alice", "secret")
    house.file.write_text(f"alice:{Verifier.of('changed', b'c' * 20, 6000)}")
    house.world.clock.advance(1)
    assert house.login("alice", "changed").user == "alice"
    assert challenge_of(house.one, "carol")[1] == "6000"


def test_an_exchange_is_over_after_its_end_or_its_first_error(house: House) -> None:
    exchange = house.exchange()
    client = ClientExchange("alice", "secret", lambda: "abc")
    challenge, _ = outcome(exchange.step(client.first()))
    proof = client.respond(challenge)
    assert outcome(exchange.step(proof))[1] is not None
    assert outcome(exchange.step(proof)) == "the exchange is over"
    broken = house.exchange()
    assert "other-error" in outcome(broken.step(b""))
    assert outcome(broken.step(client.first())) == "the exchange is over"


def test_a_step_that_comes_before_the_last_one_was_answered_fails(house: House) -> None:
    house.world.held = True
    house.file.write_text(f"alice:{Verifier.of('changed', b'c' * 20, 6000)}")
    house.world.clock.advance(1)
    exchange = house.exchange()
    client = ClientExchange("alice", "changed", lambda: "abc")
    first = exchange.step(client.first())
    assert outcome(exchange.step(client.first())) == "the exchange is over"
    house.world.work()
    assert outcome(first)[0].startswith(b"r=abc")


@given(first=st.binary(max_size=60), second=st.binary(max_size=60))
def test_hostile_data_is_refused_and_nothing_else(long_lived: House, first: bytes, second: bytes) -> None:
    exchange = long_lived.exchange()
    assert isinstance(outcome(exchange.step(b"n,,n=" + first)), str | tuple)
    assert isinstance(outcome(exchange.step(b"c=biws," + second)), str)


def test_settings(tmp_path: Path, house: House) -> None:
    services = AuthenticatorServices()
    methods = enhanced_from_settings([AuthenticatorSettings(kind="anonymous"), house.settings], services)
    assert list(methods) == ["SCRAM-SHA-256"]
    assert [one.name for one in from_settings([house.settings, AuthenticatorSettings(kind="anonymous")], lambda: 0.0)] == [
        "anonymous"
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"authenticators\[1\].kind: expected one of kind scram"):
        enhanced_from_settings([house.settings, house.settings])
    house.file.write_text("alice:secret")
    with pytest.raises(ValueError, match=r"authenticators\[0\].file: .*scram:1: expected SCRAM-SHA-256"):
        enhanced_from_settings([house.settings])


def test_the_clients_side_does_not_trust_a_server_without_the_password(house: House) -> None:
    client = ClientExchange("alice", "secret", lambda: "abc")
    exchange = house.exchange()
    challenge, _ = outcome(exchange.step(client.first()))
    client.respond(challenge)
    with pytest.raises(ScramError):
        client.finish(b"v=" + b"A" * 43 + b"=")
