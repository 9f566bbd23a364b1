"""Deadlines of many exchanges over one reactor timer: never early, at most one tick late."""

from __future__ import annotations

from typing import Any, Protocol

from accessgw.core.interfaces.clock import Clock

TICK = 0.02
"""Seconds."""


class Expiring(Protocol):
    """What has a deadline."""

    deadline_slot: int
    """Belongs to Deadlines; 0 at first."""

    def expired(self) -> None: ...


class Deadlines:
    """Sets of exchanges by the tick in which they end."""

    __slots__ = ("_call", "_clock", "_next", "_slots")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._slots: dict[int, set[Expiring]] = {}
        self._call: Any = None
        self._next = 0
        """First tick that was not looked at yet."""

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def add(self, item: Expiring, deadline: float) -> None:
        """`item.expired()` is called once `deadline` (clock seconds) has passed, in a later turn at least."""
        now = self._clock.seconds()
        if self._call is None:
            self._next = int(now / TICK) + 1
            self._call = self._clock.callLater(TICK, self._tick)
        slot = max(int(deadline / TICK) + 1, self._next)
        item.deadline_slot = slot
        found = self._slots.get(slot)
        if found is None:
            self._slots[slot] = {item}
        else:
            found.add(item)

    def remove(self, item: Expiring) -> None:
        """Forget it; harmless when it has expired."""
        found = self._slots.get(item.deadline_slot)
        if found is not None:
            found.discard(item)
            if not found:
                del self._slots[item.deadline_slot]

    def stop(self) -> None:
        """Forget all."""
        self._slots.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _tick(self) -> None:
        self._call = None
        reached = int(self._clock.seconds() / TICK)
        if reached - self._next > len(self._slots):  # a long pause: look at what there is, not at every tick
            due = sorted(slot for slot in self._slots if slot <= reached)
        else:
            due = [slot for slot in range(self._next, reached + 1) if slot in self._slots]
        self._next = max(self._next, reached + 1)
        if len(self._slots) > len(due):
            self._call = self._clock.callLater(TICK, self._tick)
        for slot in due:
            for item in self._slots.pop(slot, ()):
                item.expired()
