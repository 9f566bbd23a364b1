"""Pushes between the core and the application: one queue per biz, and those who wait for the next push."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from accessgw.client.model import Push

W = TypeVar("W")

UNCLAIMED_NOTE = 32
"""Pushes of a biz that nobody iterates, after which a note says so."""


class Inbox(Generic[W]):
    """Hands each push to one taker. `give(waiter, push)` wakes a waiter, False when that waits no more.

    A taker of biz None takes from every biz that has no taker of its own waiting. Pushes that nobody
    takes stay, unacknowledged: the gateway's window (64) then bounds what is held here.
    """

    def __init__(self, give: Callable[[W, Push], bool], unclaimed: Callable[[str, int], None]) -> None:
        self._give = give
        self._unclaimed = unclaimed
        self._queues: dict[str, deque[tuple[int, Push]]] = {}
        self._waiters: dict[str | None, deque[W]] = {}
        self._claimed: set[str | None] = set()
        self._arrived = 0

    def put(self, push: Push) -> bool:
        """A push came. Whether somebody took it at once."""
        for biz in (push.biz, None):
            while waiters := self._waiters.get(biz):
                waiter = waiters.popleft()
                if not waiters:
                    del self._waiters[biz]
                if self._give(waiter, push):
                    return True
        queue = self._queues.setdefault(push.biz, deque())
        self._arrived += 1
        queue.append((self._arrived, push))
        if len(queue) == UNCLAIMED_NOTE and not self._claimed & {push.biz, None}:
            self._unclaimed(push.biz, len(queue))
        return False

    def claim(self, biz: str | None) -> None:
        """Somebody iterates this biz."""
        self._claimed.add(biz)

    def put_back(self, push: Push) -> None:
        """Whoever was given it could not take it: it is the oldest again."""
        self._queues.setdefault(push.biz, deque()).appendleft((0, push))

    def take(self, biz: str | None) -> Push | None:
        """The oldest push of the biz (of any biz for None), None when there is none."""
        if biz is None:
            if not self._queues:
                return None
            biz = min(self._queues, key=lambda name: self._queues[name][0][0])
        queue = self._queues.get(biz)
        if queue is None:
            return None
        _, push = queue.popleft()
        if not queue:
            del self._queues[biz]
        return push

    def wait(self, biz: str | None, waiter: W) -> None:
        """Give the next push of the biz to this waiter."""
        self._waiters.setdefault(biz, deque()).append(waiter)

    def forget(self, biz: str | None, waiter: W) -> None:
        """It does not wait any more."""
        waiters = self._waiters.get(biz)
        if waiters is not None and waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[biz]

    def waiters(self) -> list[W]:
        """Everybody who waits, to be told that nothing will come; they are forgotten."""
        everybody = [waiter for waiters in self._waiters.values() for waiter in waiters]
        self._waiters.clear()
        return everybody
