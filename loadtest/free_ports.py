"""Ports for servers in processes of their own, which are told theirs before they start: free, distinct, and staying so."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import cycle
from pathlib import Path

BLOCK = 500
"""Ports that one process goes through; a port comes again after all others of its block."""
_FIRST, _STOP = 10_000, 1 << 16
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")


def outgoing() -> range:
    """Ports that the kernel gives to outgoing connections and to who binds port 0."""
    first, last = map(int, _OUTGOING.read_text().split())
    return range(first, last + 1)


def blocks(taken: range) -> list[range]:
    """What can be shared among processes beside that range."""
    starts = range(_FIRST, _STOP - BLOCK + 1, BLOCK)
    return [range(start, start + BLOCK) for start in starts if start + BLOCK <= taken.start or start >= taken.stop]


class PortSource:
    """Free TCP ports, in turn, out of a block that no other process draws from.

    Between the draw and the server's own bind nobody holds a port. So none is drawn twice soon; none is of those that the
    kernel gives away meanwhile, unless it has left no block beside them; and processes that run at once keep out of each
    other's blocks: a block belongs to who has bound its name, which ends with the process.
    """

    def __init__(self, shared: Iterable[range], otherwise: range) -> None:
        """`otherwise`: where to draw, from a random place on, when each of `shared` belongs to somebody."""
        self._lease = socket.socket(socket.AF_UNIX)
        at = random.randrange(len(otherwise))
        mine = next(filter(self._leased, shared), None)
        ports: Sequence[int] = mine or [*otherwise[at:], *otherwise[:at]]
        self._count = len(ports)
        self._next = cycle(ports)

    def _leased(self, block: range) -> bool:
        try:
            self._lease.bind(f"\0accessgw-ports-{block.start}")
        except OSError:
            return False
        return True

    def draw(self, count: int, adjacent: bool = False) -> list[int]:
        """That many ports that nobody has bound; `adjacent`: each one the next of the one before. RuntimeError where there
        are not so many."""
        held: dict[int, socket.socket] = {}
        try:
            for _ in range(2 * self._count):
                port = next(self._next)
                if adjacent and port - 1 not in held:
                    _let_go(held)
                if (bound := _bound(port)) is not None:
                    held[port] = bound
                if len(held) == count:
                    return list(held)
        finally:
            _let_go(held)
        raise RuntimeError(f"expected {count} free ports among {self._count}, got fewer")

    def close(self) -> None:
        """Leave the block to others."""
        self._lease.close()


def _bound(port: int) -> socket.socket | None:
    """Bound at every address, without SO_REUSEADDR: connections that have just ended do not linger there either."""
    held = socket.socket()
    try:
        held.bind(("", port))
    except OSError:
        held.close()
        return None
    return held


def _let_go(held: dict[int, socket.socket]) -> None:
    for one in held.values():
        one.close()
    held.clear()


@cache
def _of_this_process() -> PortSource:
    taken = outgoing()
    return PortSource(blocks(taken), taken)


def free_ports(count: int, adjacent: bool = False) -> list[int]:
    """Distinct ports that nobody listens on; see `PortSource.draw`."""
    return _of_this_process().draw(count, adjacent)
