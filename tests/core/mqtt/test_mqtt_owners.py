"""Whose a session is: only who proved the same goes on with it."""

from __future__ import annotations

import itertools

from accessgw.core.mqtt.owners import owner_of, user_of
from accessgw.core.mqtt.services import harmless
from accessgw.model.identity import Identity, Strength

USERS = ["", "alice", "[", '["alice","","anonymous"]', '["","","anonymous"]']


def test_owners_differ_where_anything_that_was_proved_differs() -> None:
    persons = [
        Identity("d", user, app, strength=strength)
        for user, app, strength in itertools.product(USERS, ["", "a", "b"], Strength)
    ]
    assert len({owner_of(person) for person in persons}) == len(persons)
    assert [user_of(owner_of(person)) for person in persons] == [person.user for person in persons]


def test_most_owners_are_users() -> None:
    assert owner_of(Identity("d", "alice")) == "alice"
    assert owner_of(Identity("d")) == ""


def test_an_owner_is_known_after_a_new_start_of_the_device() -> None:
    first = Identity("d", "alice", app_version="1", authenticator="jwt", expires_at=1.0, attributes={"os": "a"})
    second = Identity("d", "alice", app_version="2", authenticator="file", attributes={"os": "b"})
    assert owner_of(first) == owner_of(second)


def test_what_is_no_owner_is_a_user() -> None:
    assert user_of("[x") == "[x"


def test_control_characters_are_written_out_for_logs() -> None:
    assert harmless("a/\n\x1b[2J\u2028é") == "a/\\n\\x1b[2J\\u2028é"
