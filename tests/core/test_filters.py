"""Loading filters, and the chain on pushes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from accessgw.core.filters import FilterChain, installed, load
from accessgw.core.interfaces import Filter, Refused
from accessgw.model.counters import CallCounters, PushCounters
from accessgw.model.pushes import PushRequest, Scope, StreamKey
from accessgw.model.settings import FilterSettings
from protocols.mmtp.statuses import Status

PUSH = PushRequest(StreamKey(Scope.USER, "alice", "orders"), b"1")


def factory(settings: dict[str, Any]) -> Filter:
    if "bad" in settings:
        raise ValueError("bad: expected nothing")
    return Filter()


def broken() -> Any:
    raise ImportError("no module named x")


def test_loading() -> None:
    available = {"mine": lambda: factory, "broken": broken}
    ((name, made),) = load([FilterSettings(name="mine")], available)
    assert name == "mine"
    assert isinstance(made, Filter)
    for settings, message in (
        (FilterSettings(name="other"), "filters[1].name: no filter 'other' is installed (known: broken, mine)"),
        (FilterSettings(name="mine", settings={"bad": 1}), "filters[1].settings.bad: expected nothing"),
        (FilterSettings(name="broken"), "filters[1].name: filter 'broken' could not be loaded: ImportError"),
    ):
        with pytest.raises(ValueError, match="filters") as caught:
            load([FilterSettings(name="mine"), settings], available)
        assert str(caught.value).startswith(message)


def test_nothing_is_looked_for_without_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accessgw.core.filters.entry_points", None)  # would raise when called
    assert load([]) == []
    with pytest.raises(TypeError):
        load([FilterSettings(name="mine")])


def test_the_built_in_filters_are_offered() -> None:
    assert {"rate-limit", "access-rules"} <= set(installed())
    ((_, limit),) = load([FilterSettings(name="rate-limit", settings={"per_device": {"rate": 1}})])
    assert type(limit).__name__ == "RateLimit"


class Appends(Filter):
    def __init__(self, text: bytes, later: bool = False) -> None:
        self.text = text
        self.pending: list[tuple[Deferred[PushRequest | None], PushRequest]] | None = [] if later else None

    def push(self, push: PushRequest) -> Any:
        changed = replace(push, body=push.body + self.text)
        if self.pending is None:
            return changed
        self.pending.append((Deferred(), changed))
        return self.pending[-1][0]


class Breaks(Filter):
    def push(self, push: PushRequest) -> Any:
        if push.body.endswith(b"no"):
            raise Refused(Status.FORBIDDEN, "no")
        raise ZeroDivisionError


def chain(*filters: Filter) -> tuple[FilterChain, Clock, PushCounters]:
    clock, counters = Clock(), PushCounters()
    named = [(str(index), one) for index, one in enumerate(filters)]
    return FilterChain(named, clock, CallCounters(), counters), clock, counters


def test_pushes_go_through_every_filter() -> None:
    assert chain()[0].push(PUSH) is PUSH
    assert chain(Filter())[0].push(PUSH) is PUSH
    result = chain(Appends(b"2"), Filter(), Appends(b"3"))[0].push(PUSH)
    assert isinstance(result, PushRequest)
    assert result.body == b"123"


def test_pushes_wait_for_deferred_filters() -> None:
    waits = Appends(b"2", later=True)
    filters, clock, counters = chain(Appends(b"1"), waits, Appends(b"3"))
    outcome: list[Any] = []
    filters.push(PUSH).addBoth(outcome.append)  # type: ignore[union-attr]
    assert waits.pending is not None
    result, changed = waits.pending.pop()
    result.callback(changed)
    assert outcome[0].body == b"1123"
    filters.push(PUSH).addBoth(outcome.append)  # type: ignore[union-attr]
    clock.advance(6.0)
    assert outcome[1].value.status == Status.INTERNAL
    assert counters.filter_errors == 1


def test_a_filter_may_refuse_a_push_and_its_defects_cost_that_push() -> None:
    filters, _, counters = chain(Breaks())
    for body, status in ((b"no", Status.FORBIDDEN), (b"x", Status.INTERNAL)):
        with pytest.raises(Refused) as caught:
            filters.push(replace(PUSH, body=body))
        assert caught.value.status == status
    assert counters.filter_errors == 1
