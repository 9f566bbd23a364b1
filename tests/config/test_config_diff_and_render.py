from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from accessgw.config import applicable, diff, load, loads, render, to_dict
from accessgw.config.diff import TAKES_EFFECT
from accessgw.config.reference import reference
from accessgw.config.render import MASK

ROOT = Path(__file__).resolve().parents[2]
BASE = """
state_dir = "var"
filters = [{name = "rate-limit", settings = {rate = 3.5, api_token = "deep", since = 2026-01-02}}]

[[listeners]]
name = "tls"
transport = "tls"
port = 7443

[[listeners]]
name = "plain"
port = 7080

[[clusters]]
name = "a"
endpoints = ["http://127.0.0.1:1"]

[[routes]]
operation = "x.*"
cluster = "a"
when = {"header:x-a" = "1"}

[control]
port = 7900
tokens = [{token = "hush", roles = ["read"]}]

[webhook]
secret = "quiet"
"""


def changed(*replacements: tuple[str, str]) -> tuple[list[str], list[str]]:
    text = BASE
    for before, after in replacements:
        assert before in text
        text = text.replace(before, after)
    difference = diff(loads(BASE), loads(text))
    return difference.applied, difference.needs_restart


def test_no_difference() -> None:
    assert changed() == ([], [])


@pytest.mark.parametrize(
    ("before", "after", "applied", "restart"),
    [
        ("7443", "7444", [], ["listeners[tls].port"]),
        ('name = "plain"', 'name = "simple"', [], ["listeners[plain]", "listeners[simple]"]),
        ('"var"', '"other"', [], ["state_dir"]),
        ("port = 7900", "port = 7901", [], ["control.port"]),
        ('"hush"', '"hushed"', ["control.tokens[0].token"], []),
        ('["http://127.0.0.1:1"]', '["http://127.0.0.1:2"]', ["clusters[a].endpoints"], []),
        ('operation = "x.*"', 'operation = "y.*"', ["routes[0].operation"], []),
        ("[webhook]", "[store]\nmax_pending = 5\n[webhook]", [], ["store.max_pending"]),
        ("[webhook]", "[pushes]\nmax_batch = 5\nretention = 5\n[webhook]", ["pushes.max_batch"], ["pushes.retention"]),
        ('"quiet"', '"loud"', [], ["webhook.secret"]),
        ("[webhook]", "[limits]\nmax_age = 5\n[webhook]", ["limits.max_age"], []),
    ],
)
def test_changes_say_whether_a_reload_is_enough(
    before: str, after: str, applied: list[str], restart: list[str]
) -> None:
    assert changed((before, after)) == (applied, restart)


def test_an_added_cluster_is_one_change() -> None:
    more = '[[clusters]]\nname = "b"\nendpoints = ["unix:/run/b"]\n\n[[clusters]]\nname = "a"'
    assert changed(('[[clusters]]\nname = "a"', more)) == (["clusters[b]"], [])


def test_what_needs_a_restart_keeps_its_value_and_the_rest_is_applied() -> None:
    old = loads(BASE)
    text = BASE.replace("7443", "7444").replace('"var"', '"other"').replace('"x.*"', '"y.*"').replace("hush", "new")
    text = text.replace('name = "plain"', 'name = "simple"').replace("7900", "7901")
    new = loads(text + "[store]\nkind = 'memory'\n[log]\naccess = 'x'\nqueue = 3\n")
    result = applicable(old, new)
    assert result.listeners == old.listeners
    assert (result.state_dir, result.store, result.log) == (old.state_dir, old.store, old.log)
    assert result.control.port == 7900
    assert result.control.tokens[0].token == "new"
    assert result.routes == new.routes
    assert diff(old, result).needs_restart == []
    # nothing is both kept back and reported as applied
    assert set(diff(old, result).applied) == set(diff(old, new).applied)


@pytest.mark.parametrize("path", TAKES_EFFECT)
def test_names_of_settings_that_take_effect_exist(path: str) -> None:
    value: object = loads(BASE)
    for name in path.split("."):
        value = getattr(value, name)


def test_the_rendered_configuration_loads_back() -> None:
    settings = loads(BASE)
    assert loads(render(settings, mask_secrets=False)) == settings


def test_the_development_configuration_renders() -> None:
    data = tomllib.loads(render(load(ROOT / "etc/accessgw.toml", {})))
    assert data["listeners"][0]["port"] == 7443


def test_secrets_are_masked() -> None:
    text = render(loads(BASE))
    for secret in ("hush", "quiet", "deep"):
        assert secret not in text
    data = to_dict(loads(BASE))
    assert data["control"]["tokens"][0]["token"] == MASK
    assert data["webhook"]["secret"] == MASK
    assert data["filters"][0]["settings"]["api_token"] == MASK
    assert data["filters"][0]["settings"]["rate"] == 3.5
    # an unset secret stays visibly unset
    assert to_dict(loads(BASE.replace('"quiet"', '""')))["webhook"]["secret"] == ""


def test_awkward_strings_survive() -> None:
    base = loads('zone = "\\u0000 \\" \\\\ 支付 \\u007f"\n[[listeners]]\nname = "a"\nport = 1\n')
    assert loads(render(base, mask_secrets=False)).zone == '\0 " \\ 支付 \x7f'


def test_the_reference_page_is_current() -> None:
    page = (ROOT / "docs/ops/configuration.md").read_text(encoding="utf-8")
    assert page == reference(), "run `make docs`"
