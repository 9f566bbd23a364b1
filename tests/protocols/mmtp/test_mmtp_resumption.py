"""Connections that break at any byte and are made again: everything decodes, and nearly all states are resumed."""

from __future__ import annotations

import pytest

from tests.protocols.mmtp.wire_world import World

HISTORIES = 200


def test_states_are_resumed_wherever_the_connection_broke() -> None:
    named = resumed = decoded = 0
    for seed in range(HISTORIES):
        world = World(seed)
        for _ in range(6):
            world.live()
        named += world.named
        resumed += world.resumed
        decoded += world.decoded
    assert named > HISTORIES
    assert decoded > 20 * HISTORIES
    assert resumed >= 0.95 * named, f"{resumed} of {named} states were resumed"


@pytest.mark.parametrize("seed", range(40))
def test_what_the_gateway_has_lost_costs_a_repetition_and_nothing_else(seed: int) -> None:
    world = World(10_000 + seed, forgetful=True)
    for _ in range(6):
        world.live()
    assert world.decoded
