"""Numbers that name streams on the wire: equal on all connections of a worker, small, and used again."""

from __future__ import annotations

from heapq import heappop, heappush

from accessgw.model.pushes import Scope, StreamKey

Name = tuple[str, ...]


def alias_name(key: StreamKey) -> Name:
    """What shares an alias: a connection has one device and one user, so that for their streams the
    scope and biz say all, and one number serves every device (decision 0040)."""
    if key.scope in (Scope.DEVICE, Scope.USER):
        return (key.scope, key.biz)
    return (key.scope, key.id, key.biz)


class AliasTable:
    """Counts who uses each number; the smallest free one is given out, so that busy workers stay within
    one or two bytes."""

    __slots__ = ("_free", "_next", "_used")

    def __init__(self) -> None:
        self._used: dict[Name, list[int]] = {}
        self._free: list[int] = []
        self._next = 1

    def __len__(self) -> int:
        return len(self._used)

    def take(self, key: StreamKey) -> int:
        """The alias of the stream, held until `release`."""
        name = alias_name(key)
        entry = self._used.get(name)
        if entry is None:
            if self._free:
                alias = heappop(self._free)
            else:
                alias = self._next
                self._next += 1
            self._used[name] = entry = [alias, 0]
        entry[1] += 1
        return entry[0]

    def release(self, key: StreamKey) -> None:
        """One user of the stream's alias less; the last one frees the number."""
        name = alias_name(key)
        entry = self._used[name]
        entry[1] -= 1
        if not entry[1]:
            del self._used[name]
            heappush(self._free, entry[0])
