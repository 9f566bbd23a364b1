"""Which bodies of calls and pushes are samples for dictionaries, and whose they are said to be."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from accessgw.core.push_samples import PushSamples
from accessgw.model.identity import Strength
from accessgw.model.pushes import PushRequest, Scope, StreamKey
from accessgw.model.route_settings import RouteSettings
from tests.core.coding_world import CodedDevice, CodingWorld, Memory


def test_bodies_of_routed_calls_are_samples_of_whoever_asked() -> None:
    world = CodingWorld(
        RouteSettings(operation="pay", cluster="c", idempotent=True),
        RouteSettings(operation="key.*", cluster="c", secret=True),
    )
    world.calls._observe = world.dictionaries.observe
    device = world.coded(Memory())
    nobody = world.coded(Memory(), device="d2", token="ok")
    device.pay(b"asked")
    assert world.dictionaries.observed == [
        ("shop", "q", "pay", "alice", b"asked"),
        ("shop", "a", "pay", "alice", b"asked"),
    ]
    world.dictionaries.observed.clear()
    bind(nobody)
    nobody.pay(b"mine")
    assert {user for _, _, _, user, _ in world.dictionaries.observed} == {"d2"}
    world.dictionaries.observed.clear()
    device.pay(operation="key.get")
    device.call("gw.time")
    device.call("unrouted", b"body")
    device.call("pay", b"first", more=True)
    world.upstreams.last.answer(500, b"failed")
    assert world.dictionaries.observed == []


def bind(device: CodedDevice, **proved: Any) -> None:
    """As if its token named it."""
    session = device.binding.session
    assert session is not None
    session.identity = replace(session.identity, **{"bound": True, **proved})


@pytest.mark.parametrize("strength", [Strength.ANONYMOUS, Strength.TOKEN])
def test_who_has_only_said_a_device_id_is_nobody(strength: Strength) -> None:
    """Device ids cost nothing: fifty of them, with one token or none, must not be fifty users."""
    world = CodingWorld(RouteSettings(operation="pay", cluster="c", idempotent=True, require="none"))
    world.calls._observe = world.dictionaries.observe
    device = world.coded(Memory(), token="ok")
    bind(device, strength=strength, bound=False)
    device.pay(b"planted")
    PushSamples(world.sessions.registry, world.dictionaries.observe)(
        PushRequest(StreamKey(Scope.DEVICE, "d1", "orders"), b"planted")
    )
    assert len(world.dictionaries.observed) == 3
    assert {user for _, _, _, user, _ in world.dictionaries.observed} == {""}


def test_pushes_are_samples_of_their_receiver_if_somebody_knows_who_that_is() -> None:
    world = CodingWorld()
    observed = world.dictionaries.observed
    samples = PushSamples(world.sessions.registry, world.dictionaries.observe)
    world.coded(Memory())
    bind(world.coded(Memory(), device="d2", token="ok", app="other"))
    for scope, id in (
        (Scope.USER, "alice"),
        (Scope.DEVICE, "d1"),
        (Scope.DEVICE, "d2"),
        (Scope.DEVICE, "d9"),
        (Scope.USER, "bob"),
        (Scope.TOPIC, "alice"),
        (Scope.BROADCAST, ""),
    ):
        samples(PushRequest(StreamKey(scope, id, "orders"), id.encode()))
    assert observed == [
        ("shop", "p", "orders", "alice", b"alice"),
        ("shop", "p", "orders", "alice", b"d1"),
        ("other", "p", "orders", "d2", b"d2"),
    ]
