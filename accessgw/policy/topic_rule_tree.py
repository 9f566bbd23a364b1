"""Topic filters with placeholders in a tree, asked for the first rule whose filter covers or overlaps another one."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator

from accessgw.model.identity import Identity

NONE = sys.maxsize
"""Instead of a rule's number: no rule."""

Applies = Callable[[int, Identity], bool]

_PLACEHOLDER = re.compile(r"\{(device|user|app)\}")


class _Branch:
    """One level of the rules' filters.
    Rules are added in their order, so all that is in here is in order of `least`."""

    __slots__ = ("below", "least", "plus", "rest", "rules", "templates")

    def __init__(self, least: int) -> None:
        self.least = least
        """First rule from here on."""
        # Most branches have one of these; ten thousand rules make many branches.
        self.below: dict[str, _Branch] | None = None
        self.plus: _Branch | None = None
        self.templates: dict[str, tuple[_Template, _Branch]] | None = None
        """Levels with placeholders, as they are written."""
        self.rules: list[int] | None = None
        """Of filters that end here."""
        self.rest: list[int] | None = None
        """Of filters that go on with `#`."""


class _Template:
    """A level with placeholders."""

    __slots__ = ("alone", "first", "parts")

    def __init__(self, level: str, *, first: bool) -> None:
        self.first = first
        # Literals at even places, names of placeholders at odd ones.
        self.parts = _PLACEHOLDER.split(level)
        self.alone = self.parts[1] if len(self.parts) == 3 and not self.parts[0] and not self.parts[2] else ""

    def expand(self, identity: Identity) -> str | None:
        """The level for this identity. None where a value is empty, would be read as more than one level or as a
        wildcard, or would make the topic one of the server's own, which begin with `$`: such a level matches nothing.
        """
        if self.alone:
            value: str = getattr(identity, self.alone)
            return value if _is_plain(value) and not (self.first and value[0] == "$") else None
        parts = self.parts.copy()
        for place in range(1, len(parts), 2):
            parts[place] = getattr(identity, parts[place])
            if not _is_plain(parts[place]):
                return None
        level = "".join(parts)
        return None if self.first and level[0] == "$" and self.parts[0][:1] != "$" else level


class RuleTree:
    """Filters and the numbers of their rules. Filters of lower rules must be added first."""

    __slots__ = ("_root", "_wild")

    def __init__(self) -> None:
        self._root = _Branch(NONE)
        self._wild = False
        """Some filters begin with a wildcard or a placeholder."""

    def add(self, filter: str, rule: int) -> None:
        """Raises ValueError where a wildcard is not a level of its own, or `#` not the last."""
        levels = filter.split("/")
        if not filter:
            raise ValueError("expected a topic filter, got an empty string")
        for place, level in enumerate(levels):
            if ("+" in level or "#" in level) and level not in ("+", "#"):
                raise ValueError(f"expected wildcards to be whole levels, got {filter!r}")
            if level == "#" and place < len(levels) - 1:
                raise ValueError(f"expected # as the last level only, got {filter!r}")
        branch = self._root
        branch.least = min(branch.least, rule)
        self._wild = self._wild or levels[0] in ("#", "+") or _PLACEHOLDER.search(levels[0]) is not None
        for place, level in enumerate(levels):
            if level == "#":
                branch.rest = _appended(branch.rest, rule)
                return
            branch = _below(branch, level, rule, first=place == 0)
        branch.rules = _appended(branch.rules, rule)

    def covering(self, levels: list[str], identity: Identity, best: int, applies: Applies) -> int:
        """The first rule before `best` whose filter covers the asked one as a whole, else `best`.

        A topic name is a filter without wildcards. `#` alone is `+/#`: a topic has one level at least.
        """
        if levels[0] == "#":
            levels = ["+", "#"]
        root = self._root
        if root.least >= best:
            return best
        if root.below is not None and levels[0] not in root.below and not self._wild:
            # The usual end: most of the rules that may be meant for somebody are about other topics.
            return best
        branches = [root]
        hidden = levels[0].startswith("$")
        for level in levels:
            following: list[_Branch] = []
            for branch in branches:
                if branch.rest is not None and not hidden:
                    best = _first(branch.rest, identity, best, applies)
                if level == "#":
                    continue
                plus = branch.plus
                if plus is not None and plus.least < best and not hidden:
                    following.append(plus)
                if level == "+":
                    continue
                if branch.below is not None:
                    below = branch.below.get(level)
                    if below is not None and below.least < best:
                        following.append(below)
                if branch.templates is not None:
                    for template, other in branch.templates.values():
                        if other.least < best and template.expand(identity) == level:
                            following.append(other)
            if not following:
                return best
            branches, hidden = following, False
        for branch in branches:
            if branch.rules is not None:
                best = _first(branch.rules, identity, best, applies)
            if branch.rest is not None:
                best = _first(branch.rest, identity, best, applies)
        return best

    def overlapping(self, levels: list[str], identity: Identity, best: int, applies: Applies) -> int:
        """The first rule before `best` whose filter has a topic in common with the asked one, else `best`."""
        if levels[0] == "#":
            levels = ["+", "#"]
        end = len(levels)
        hidden = levels[0].startswith("$")
        # Depth first, and lowest rules first: what is found early leaves out nearly all of a wide branch.
        pending = [(iter((self._root,)), 0)]
        while pending:
            branches, depth = pending[-1]
            branch = next(branches, None)
            if branch is None or branch.least >= best:
                # Those that follow begin with later rules.
                pending.pop()
                continue
            top_hidden = hidden and depth == 0
            if branch.rest is not None and not top_hidden:
                best = _first(branch.rest, identity, best, applies)
            if branch.rules is not None and (depth == end or levels[depth] == "#"):
                best = _first(branch.rules, identity, best, applies)
            if depth == end:
                continue
            level = levels[depth]
            below = depth if level == "#" else depth + 1
            if branch.plus is not None and not top_hidden:
                pending.append((iter((branch.plus,)), below))
            if branch.templates is not None:
                expanded = _expanded(branch.templates, level, identity, top=depth == 0)
                pending.append((expanded, below))
            if branch.below is None:
                continue
            if level in ("#", "+"):
                pending.append((_all_below(branch.below, top=depth == 0), below))
            elif (literal := branch.below.get(level)) is not None:
                pending.append((iter((literal,)), below))
        return best


def _appended(rules: list[int] | None, rule: int) -> list[int]:
    if rules is None:
        return [rule]
    rules.append(rule)
    return rules


def _below(branch: _Branch, level: str, rule: int, *, first: bool) -> _Branch:
    if level == "+":
        if branch.plus is None:
            branch.plus = _Branch(rule)
        return branch.plus
    if _PLACEHOLDER.search(level):
        if branch.templates is None:
            branch.templates = {}
        if level not in branch.templates:
            branch.templates[level] = (_Template(level, first=first), _Branch(rule))
        return branch.templates[level][1]
    if branch.below is None:
        branch.below = {}
    if level not in branch.below:
        branch.below[level] = _Branch(rule)
    return branch.below[level]


def _all_below(branches: dict[str, _Branch], *, top: bool) -> Iterator[_Branch]:
    if not top:
        return iter(branches.values())
    return (below for level, below in branches.items() if not level.startswith("$"))


def _expanded(
    templates: dict[str, tuple[_Template, _Branch]], level: str, identity: Identity, *, top: bool
) -> Iterator[_Branch]:
    for template, below in templates.values():
        value = template.expand(identity)
        if value is None:
            continue
        if value == level or (level in ("#", "+") and not (top and value.startswith("$"))):
            yield below


def _first(rules: list[int], identity: Identity, best: int, applies: Applies) -> int:
    for rule in rules:
        if rule >= best:
            break
        if applies(rule, identity):
            return rule
    return best


def _is_plain(value: str) -> bool:
    return bool(value) and "/" not in value and "+" not in value and "#" not in value
