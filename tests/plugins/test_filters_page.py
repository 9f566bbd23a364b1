"""docs/ops/filters.md: its example works as it stands, and its tables name every setting of the built-in filters."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from twisted.internet.task import Clock

from accessgw.core.filters import GROUP, FilterChain, load
from accessgw.core.interfaces import Refused
from accessgw.model.calls import Answer, Call
from accessgw.model.counters import CallCounters, PushCounters
from accessgw.model.identity import Identity
from accessgw.model.settings import FilterSettings
from accessgw.plugins import access_rules, rate_limit
from protocols.mmtp.statuses import Status

PAGE = (Path(__file__).resolve().parent.parent.parent / "docs/ops/filters.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.S | re.M)


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The page's module, with its test."""
    module = ModuleType("closing_hours")
    monkeypatch.setitem(sys.modules, "closing_hours", module)
    for code in blocks("python"):
        exec(compile(code, "closing_hours.py", "exec", dont_inherit=True), vars(module))
    return module


@pytest.fixture
def available(example: ModuleType) -> dict[str, Callable[[], Any]]:
    """What the page's entry point offers."""
    package, _ = blocks("toml")
    ((name, value),) = tomllib.loads(package)["project"]["entry-points"][GROUP].items()
    module, _, factory = value.partition(":")
    return {name: lambda: getattr(sys.modules[module], factory)}


def test_the_test_on_the_page_passes(example: ModuleType) -> None:
    example.test_closed_at_night()


def test_the_configuration_on_the_page_makes_the_filter(available: dict[str, Callable[[], Any]]) -> None:
    ((one),) = tomllib.loads(blocks("toml")[1])["filters"]
    made = load([FilterSettings(**one)], available)
    chain = FilterChain(made, Clock(), CallCounters(), PushCounters())
    assert chain.call(Call("feed.list", Identity("d1"), 1, [])) is None
    ((_, closing),) = made
    closing._hour = lambda: 23
    with pytest.raises(Refused) as caught:
        chain.call(Call("payments.pay", Identity("d1"), 2, []))
    assert caught.value.status == Status.FORBIDDEN
    closing._maintenance = True
    answer = chain.call(Call("payments.pay", Identity("d1"), 3, []))
    assert isinstance(answer, Answer)
    assert (answer.status, answer.body) == (503, b'{"error": "maintenance"}')


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "filters[0].settings.prefix: expected the beginning of operation names, got None"),
        ({"prefix": "a.", "opens": 25}, "filters[0].settings.opens: expected an hour in 0..24, got 25"),
        ({"prefix": "a.", "open": 8}, "filters[0].settings.open: unknown key"),
    ],
)
def test_its_complaints_carry_the_path(
    available: dict[str, Callable[[], Any]], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match="filters") as caught:
        load([FilterSettings(name="closing-hours", settings=settings)], available)
    assert str(caught.value).startswith(message)


def test_the_tables_name_every_setting_of_the_built_in_filters() -> None:
    def named(title: str) -> set[str]:
        return set(re.findall(r"^\| `(\w+)` \|", section(title), re.M))

    rules = access_rules._KEYS
    assert named("access-rules") == {"default", "rules", *rules}
    with pytest.raises(ValueError, match="known:") as caught:
        rate_limit.make({"none": 1})
    known = re.search(r"known: (.*)\)", str(caught.value))
    assert known is not None
    assert named("rate-limit") == set(known[1].split(", "))
