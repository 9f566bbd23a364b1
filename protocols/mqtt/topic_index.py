"""A set of topic names that can be asked which of them match a filter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

LOOK = 100
"""Entries that one step of a search looks at: some fifty microseconds."""

BRANCH_BYTES = 250
"""What a level costs that has one other below it."""

_Branch: TypeAlias = "dict[str | None, str | _Branch]"
"""Level -> the topic that ends there, or what lies below it; None -> the topic that ends at the branch itself.

A topic with nothing below it is thus one entry of its parent and not a dict of its own.
"""


class TopicIndex:
    """Topic names by their levels:
    adding and removing take time by the levels of one topic, matching by what matches."""

    __slots__ = ("_count", "_root", "branches")

    def __init__(self) -> None:
        self._root: _Branch = {}
        self._count = 0
        self.branches = 0
        """Levels with something below them: each costs a dict, BRANCH_BYTES or more."""

    def __len__(self) -> int:
        return self._count

    def __contains__(self, topic: object) -> bool:
        if not isinstance(topic, str):
            return False
        entry: str | _Branch | None = self._root
        for level in topic.split("/"):
            if not isinstance(entry, dict):
                return False
            entry = entry.get(level)
        return isinstance(entry, str) or (entry is not None and None in entry)

    def add(self, topic: str) -> bool:
        """False when it was there."""
        branch = self._root
        *above, last = topic.split("/")
        for level in above:
            below = branch.get(level)
            if below is None:
                below = branch[level] = {}
                self.branches += 1
            elif isinstance(below, str):
                below = branch[level] = {None: below}
                self.branches += 1
            branch = below
        entry = branch.get(last)
        if entry is None:
            branch[last] = topic
        elif isinstance(entry, str) or None in entry:
            return False
        else:
            entry[None] = topic
        self._count += 1
        return True

    def remove(self, topic: str) -> bool:
        """False when it was not there."""
        path: list[tuple[_Branch, str]] = []
        branch = self._root
        levels = topic.split("/")
        for level in levels[:-1]:
            below = branch.get(level)
            if not isinstance(below, dict):
                return False
            path.append((branch, level))
            branch = below
        last = levels[-1]
        entry = branch.get(last)
        if isinstance(entry, dict):
            if None not in entry:
                return False
            del entry[None]
        elif entry is None:
            return False
        else:
            del branch[last]
            while path and not branch:
                branch, level = path.pop()
                del branch[level]
                self.branches -= 1
            if path and len(branch) == 1 and None in branch:
                parent, level = path.pop()
                parent[level] = branch[None]
                self.branches -= 1
        self._count -= 1
        return True

    def match(self, filter: str) -> Iterator[str]:
        """Topics that match, lazily and in no particular order (section 4.7).

        The set may change between steps: a topic added meanwhile may be missed, one removed meanwhile may still come;
        every other one comes exactly once. A step goes on until the next match; see `look`.
        """
        return (topic for topic in self.look(filter) if topic is not None)

    def look(self, filter: str) -> Iterator[str | None]:
        """As match, but no step takes long: None says that LOOK more entries did not match."""
        looked = 0
        levels = filter.split("/")
        end = len(levels)
        # Each frame: a branch, how many levels of the filter have been used up there, and what is to be visited in it.
        frames: list[tuple[_Branch, int, Iterator[str | None]]] = []
        entry: str | _Branch | None = self._root
        depth = 0
        while True:
            if isinstance(entry, str):
                if depth == end or levels[depth] == "#":
                    looked = 0
                    yield entry
            elif entry is not None:
                if depth == end:
                    frames.append((entry, depth, iter((None,))))
                elif levels[depth] in ("#", "+"):
                    frames.append((entry, depth, _wild(entry, top=not frames)))
                else:
                    frames.append((entry, depth, iter((levels[depth],))))
            while frames:
                branch, depth, keys = frames[-1]
                key = next(keys, _END)
                if key is not _END:
                    break
                frames.pop()
            else:
                return
            assert key is None or isinstance(key, str)
            looked += 1
            if looked >= LOOK:
                looked = 0
                yield None
            entry = branch.get(key)
            if key is None:
                # The branch's own topic ends where the branch stands, with no level of the filter used up.
                continue
            if depth < end and levels[depth] != "#":
                depth += 1


_END = object()


def _wild(branch: _Branch, *, top: bool) -> Iterator[str | None]:
    """The entries as they are now; leading wildcards do not match topics that begin with `$` (section 4.7.2)."""
    keys = list(branch)
    if top:
        return (key for key in keys if not (key and key[0] == "$"))
    return iter(keys)
