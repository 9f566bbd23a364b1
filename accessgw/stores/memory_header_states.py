"""States of header codecs in a dict: for tests and trials, with the meaning of the durable store."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed

from accessgw.model.header_states import KEPT_CHECKPOINTS, Direction, HeaderState, StateKey

_Row = tuple[HeaderState, tuple[int, int], float]
"""State, generation, when it was written."""


class MemoryHeaderStateStore:
    """The HeaderStateStore in memory; see core.interfaces."""

    def __init__(self, max_states: int) -> None:
        self._max_states = max_states
        self._kept: dict[StateKey, dict[tuple[Direction, int], _Row]] = {}

    def save(self, key: StateKey, state: HeaderState, generation: tuple[int, int], now: float) -> None:
        rows = self._kept.setdefault(key, {})
        newest = state.checkpoint
        for place, (other, written_by, _) in list(rows.items()):
            beside = other.checkpoint > newest or other.checkpoint <= newest - KEPT_CHECKPOINTS
            if other.direction == state.direction and beside and written_by <= generation:
                del rows[place]
        known = rows.pop((state.direction, newest), None)
        rows[state.direction, newest] = (state, generation, now) if known is None or known[1] <= generation else known

    def load(self, key: StateKey) -> Deferred[list[HeaderState]]:
        return succeed([state for state, _, _ in self._kept.get(key, {}).values()])

    def sweep(self, before: float) -> Deferred[int]:
        excess = sum(map(len, self._kept.values())) - self._max_states
        swept = 0
        for key, rows in list(self._kept.items()):
            for place, (_, _, at) in list(rows.items()):
                if at < before or swept < excess:
                    del rows[place]
                    swept += 1
            if not rows:
                del self._kept[key]
        return succeed(swept)
