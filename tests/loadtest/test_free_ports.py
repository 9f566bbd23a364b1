"""Ports that are drawn for servers: distinct, unbound, not the kernel's to give away, not another process's."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.free_ports import BLOCK, PortSource, blocks, free_ports, outgoing

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def few() -> range:
    """Six free ports that nobody else draws meanwhile."""
    at = free_ports(6, adjacent=True)[0]
    return range(at, at + 6)


def test_ports_of_one_draw_and_of_the_next_ones_are_distinct_and_can_be_bound() -> None:
    drawn = [port for count in (1, 3, 2, 4) for port in free_ports(count)]
    assert len(set(drawn)) == 10
    held = [socket.create_server(("127.0.0.1", port)) for port in drawn]
    assert not set(free_ports(20)) & set(drawn)
    for one in held:
        one.close()


def test_none_is_of_those_that_outgoing_connections_get() -> None:
    taken = outgoing()
    assert not blocks(taken) or not set(free_ports(100)) & set(taken)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert {server.getsockname()[1], client.getsockname()[1]} <= set(taken)


def test_blocks_leave_out_all_that_the_kernel_gives_away() -> None:
    found = blocks(range(32_768, 61_000))
    ports = [port for block in found for port in block]
    assert len(ports) == len(set(ports)) == len(found) * BLOCK
    assert (min(ports), max(ports)) == (10_000, 65_499)
    assert 32_499 in ports and 61_000 in ports
    assert not set(ports) & set(range(32_500, 61_000))
    assert blocks(range(1024, 65_536)) == []


def test_what_somebody_has_bound_is_passed_over(few: range) -> None:
    source = PortSource([], few)
    with socket.create_server(("127.0.0.2", few[1])), socket.create_server(("127.0.0.1", few[4])):
        assert set(source.draw(4)) == {few[0], few[2], few[3], few[5]}
        with pytest.raises(RuntimeError, match="expected 5 free ports among 6"):
            source.draw(5)
        assert len(source.draw(4)) == 4, "what was held for the refused draw is free again"


def test_adjacent_ones_leave_no_gap(few: range) -> None:
    source = PortSource([], few)
    with socket.create_server(("127.0.0.1", few[1])):
        for _ in range(6):
            first, second = source.draw(2, adjacent=True)
            assert second == first + 1
            assert few[1] not in (first, second)


def test_a_port_comes_again_only_after_all_others(few: range) -> None:
    source = PortSource([], few)
    drawn = [source.draw(1)[0] for _ in range(12)]
    assert set(drawn[:6]) == set(few)
    assert drawn[:6] == drawn[6:]


def test_another_process_draws_from_another_block() -> None:
    mine = set(free_ports(50))
    code = "from loadtest.free_ports import free_ports; print(*free_ports(50))"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {port // BLOCK for port in mine} & {int(port) // BLOCK for port in said.split()}


def test_a_block_is_another_s_when_its_owner_has_left_it(few: range) -> None:
    block, otherwise = few[:3], few[3:]
    owner = PortSource([block], otherwise)
    assert set(owner.draw(3)) == set(block)
    late = PortSource([block], otherwise)
    assert set(late.draw(3)) == set(otherwise)
    owner.close()
    heir = PortSource([block], otherwise)
    assert set(heir.draw(3)) == set(block)
    heir.close()
