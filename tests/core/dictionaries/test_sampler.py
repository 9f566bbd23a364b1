"""Samples of live bodies: bounded, fair among users, without what is secret, and cheap when not taken."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from accessgw.core.dictionaries.sampler import CLASSES_PER_USER, Sampler
from accessgw.model.dictionary_settings import DictionarySettings

BODY = b'{"amount": 100, "currency": "CNY"}'


def sampler(**settings: object) -> Sampler:
    given = {"users": 3, "messages": 100, "messages_per_user": 5, "max_classes": 8, **settings}
    return Sampler(DictionarySettings(**given), random.Random(1).random)


def reservoir(made: Sampler, name: str = "pay", app: str = "wallet", kind: str = "q"):
    return dict(made.classes()).get((app, kind, name))


def test_a_class_is_bounded_in_samples_and_every_time_has_its_chance() -> None:
    made = sampler(messages=200)
    for number in range(4000):
        made.observe("wallet", "q", "pay", f"u{number}", b"%08d of the bodies" % number)
    samples = reservoir(made).samples
    assert len(samples) == 200
    quarters = Counter(int(sample.body[:8]) // 1000 for sample in samples)
    assert all(25 <= quarters[quarter] <= 80 for quarter in range(4)), quarters


def test_samples_stay_young() -> None:
    made = sampler(messages=100)
    for number in range(60_000):
        made.observe("wallet", "q", "pay", f"u{number}", b"%08d of the bodies" % number)
    ages = sorted(60_000 - int(sample.body[:8]) for sample in reservoir(made).samples)
    assert ages[len(ages) // 2] < 10_000, "half of them are of the last sixth"


def test_the_same_random_numbers_take_the_same_samples() -> None:
    taken = []
    for _ in range(2):
        made = sampler()
        for number in range(3000):
            made.observe("wallet", "q", "pay", f"u{number}", b"%08d of the bodies" % number)
        taken.append([sample.body for sample in reservoir(made).samples])
    assert taken[0] == taken[1]


def test_a_class_is_bounded_in_bytes() -> None:
    made = sampler(messages=10_000, sample_bytes=64 * 1024, max_body=8000)
    for number in range(2000):
        made.observe("wallet", "q", "pay", f"u{number}", bytes(100 + number * 37 % 7900))
        assert made.size <= 64 * 1024
    assert made.size == sum(len(sample.body) for sample in reservoir(made).samples) > 32 * 1024


def test_one_user_has_few_samples_however_much_they_send() -> None:
    made = sampler()
    for number in range(10_000):
        made.observe("wallet", "q", "pay", "loud", b"%08d again and again" % number)
    for number in range(20):
        made.observe("wallet", "q", "pay", f"quiet{number}", BODY)
    assert Counter(sample.user for sample in reservoir(made).samples).most_common(1)[0][1] == 5
    assert reservoir(made).users == 21


@pytest.mark.parametrize("name", ["auth.login", "auth.token.refresh", "pin", "gw.subscribe"])
def test_secret_names_are_left_out(name: str) -> None:
    made = sampler(secret=("auth.*", "pin"))
    made.observe("wallet", "q", name, "u", BODY)
    made.observe("wallet", "p", name, "u", BODY)
    made.observe("wallet", "q", "pins", "u", BODY)
    assert made.is_secret(name) and not made.is_secret("pins")
    assert [key for key, _ in made.classes()] == [("wallet", "q", "pins")]


def test_what_becomes_secret_is_dropped() -> None:
    made = sampler()
    made.observe("wallet", "q", "pay", "u", BODY)
    assert not made.is_secret("pay")
    made.replace_secrets(["pay"])
    made.observe("wallet", "q", "pay", "u", BODY)
    assert made.is_secret("pay") and len(made) == 0 and made.size == 0


def test_large_and_tiny_bodies_and_those_of_nobody_are_left_out() -> None:
    made = sampler(max_body=1000)
    for user, body in (("u", bytes(1001)), ("u", b"tiny"), ("", BODY)):
        made.observe("wallet", "q", "pay", user, body)
    assert len(made) == 0
    made.observe("wallet", "q", "pay", "u", bytes(1000))
    assert len(made) == 1


def test_apps_and_kinds_are_apart() -> None:
    made = sampler()
    made.observe("wallet", "q", "pay", "u", BODY)
    made.observe("wallet", "a", "pay", "u", BODY)
    made.observe("other", "q", "pay", "u", BODY)
    assert len(made) == 3
    assert len(made.matching("wallet", "qpay")) == 1
    assert len(made.matching("wallet", "q*")) == 1
    made.observe("wallet", "q", "pay.later", "u", BODY)
    assert len(made.matching("wallet", "qpay*")) == 2


def test_a_class_of_enough_users_is_never_displaced() -> None:
    made = sampler()
    for user in range(3):
        made.observe("wallet", "q", "pay", f"u{user}", BODY)
    for number in range(1000):
        made.observe("wallet", "q", f"made-up-{number}", f"attacker{number}", BODY)
    assert reservoir(made).users == 3
    assert len(made) == 8
    assert made.displaced > 900


def test_a_young_class_of_two_users_outlives_names_of_one_each() -> None:
    made = sampler()
    made.observe("wallet", "q", "pay", "alice", BODY)
    made.observe("wallet", "q", "pay", "bob", BODY)
    for number in range(1000):
        made.observe("wallet", "q", f"made-up-{number}", f"attacker{number}", BODY)
    assert reservoir(made).users == 2


def test_one_user_cannot_fill_the_classes() -> None:
    made = sampler()
    for number in range(1000):
        made.observe("wallet", "q", f"made-up-{number}", "attacker", BODY)
    assert len(made) == CLASSES_PER_USER


def test_without_a_place_a_new_class_is_not_looked_at() -> None:
    made = sampler(max_classes=1)
    for user in range(3):
        made.observe("wallet", "q", "pay", f"u{user}", BODY)
    made.observe("wallet", "q", "other", "u", BODY)
    assert len(made) == 1 and made.no_room == 1


def test_endless_names_are_no_class() -> None:
    made = sampler()
    made.observe("wallet", "q", "x" * 257, "u", BODY)
    assert len(made) == 0
