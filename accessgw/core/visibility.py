"""Visibility of a push: the `where` of a request, compiled once and asked per session.

    {"app": "wallet", "os": ["ios", "android"], "app_version": ">=2.1,<3", "region": "eu"}

All conditions must hold; of a list one must. A fact that the session does not have never matches.
Facts are the identity's `app` and `app_version` and every attribute by its name. Names that are, or end in,
`version` may be compared (`<`, `<=`, `>`, `>=`, `==`, `!=`, several joined by commas); everything else is
equality of text.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from accessgw.model.identity import Identity

MAX_CONDITIONS = 16
MAX_VALUES = 64
MAX_TEXT = 256
MAX_NUMBER = 2**63
"""What every store and every JSON library can carry."""

Version = tuple[tuple[int, ...], int, str]
Test = Callable[[str], bool]

_OPERATORS: dict[str, Callable[[Version, Version], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


class InvalidWhere(ValueError):
    """A `where` that means nothing; `path` says which part, the message what was expected."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


class Visibility:
    """A compiled `where`."""

    __slots__ = ("_tests",)

    def __init__(self, tests: tuple[tuple[str, tuple[Test, ...]], ...]) -> None:
        self._tests = tests

    def admits(self, identity: Identity) -> bool:
        """Whether a session of this identity gets the push."""
        for name, tests in self._tests:
            if name == "app":
                fact: str | None = identity.app
            elif name == "app_version":
                fact = identity.app_version
            else:
                fact = identity.attributes.get(name)
            if not fact:
                return False
            for test in tests:
                if test(fact):
                    break
            else:
                return False
        return True


def compile_where(where: Mapping[str, Any]) -> Visibility | None:
    """The visibility that `where` describes, None when it is empty. Raises InvalidWhere."""
    if not where:
        return None
    if len(where) > MAX_CONDITIONS:
        raise InvalidWhere("where", f"expected at most {MAX_CONDITIONS} conditions, got {len(where)}")
    tests = []
    for name, value in where.items():
        path = f"where.{name}"
        if not isinstance(name, str) or not 0 < len(name) <= MAX_TEXT:
            raise InvalidWhere("where", f"expected the name of a fact (1..{MAX_TEXT} characters), got {name!r:.60}")
        values = value if isinstance(value, list | tuple) else [value]
        if not 0 < len(values) <= MAX_VALUES:
            raise InvalidWhere(path, f"expected 1..{MAX_VALUES} values, got {len(values)}")
        tests.append((name, tuple(_test(name, one, path) for one in values)))
    return Visibility(tuple(tests))


def _test(name: str, value: Any, path: str) -> Test:
    if isinstance(value, bool):
        value = "true" if value else "false"
    elif isinstance(value, int) and abs(value) < MAX_NUMBER:
        value = str(value)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
        raise InvalidWhere(
            path, f"expected text of 1..{MAX_TEXT} characters, a number or a list of them, got {value!r}"
        )
    if not name.endswith("version"):
        return value.__eq__
    comparisons = [_comparison(part.strip(), path) for part in value.split(",")]
    if len(comparisons) == 1:
        return comparisons[0]
    return lambda fact: all(holds(fact) for holds in comparisons)


def _comparison(text: str, path: str) -> Test:
    sign = next((sign for sign in _OPERATORS if text.startswith(sign)), "")
    text = text[len(sign) :].strip()
    compare = _OPERATORS[sign or "=="]
    wanted = parse_version(text)
    if wanted is None:
        raise InvalidWhere(path, f'expected a version such as "2.1" after an optional comparison, got {text!r}')

    def holds(fact: str) -> bool:
        version = parse_version(fact)
        return version is not None and compare(version, wanted)

    return holds


@lru_cache(maxsize=4096)
def parse_version(text: str) -> Version | None:
    """`2.1`, `v2.1.0` and `2.1+build7` are equal; `2.1-beta` comes before them. None when it is no version."""
    text = text.strip().removeprefix("v").split("+", 1)[0]
    release, _, prerelease = text.partition("-")
    parts = release.split(".")
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        return None
    numbers = [int(part) for part in parts]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers), 0 if prerelease else 1, prerelease
