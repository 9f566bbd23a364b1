"""The conditions of a route (`when`): compiled once, asked for every call."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable

from accessgw.model.calls import Call

Condition = Callable[[Call], bool]

_VERSION = re.compile(r"\d{1,9}(?:\.\d{1,9}){0,7}", re.ASCII)
_COMPARISON = re.compile(r"(>=|<=|==|>|<|=)?\s*(\S*)")
_COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
    "=": operator.eq,
}


def compile_condition(key: str, value: str) -> Condition:
    """One entry of `when`; ValueError says what was expected.

    Values are compared as they are; `*` is any value that is not empty, `abc*` one that begins so.
    """
    if key == "app_version":
        return _version_condition(value)
    matches = _matcher(value)
    if key == "app":
        return lambda call: matches(call.identity.app)
    if key == "user":
        return lambda call: matches(call.identity.user)
    kind, colon, name = key.partition(":")
    if colon and name and kind == "header":
        wanted = name.lower()
        return lambda call: any(matches(text) for header, text in call.headers if header == wanted)
    if colon and name and kind == "attribute":
        return lambda call: matches(call.identity.attributes.get(name, ""))
    raise ValueError("unknown condition, expected app, app_version, user, header:NAME or attribute:NAME")


def parse_version(text: str) -> tuple[int, ...] | None:
    """The numbers that a version begins with, without trailing zeros (2.10-beta3 gives (2, 10)); None without any."""
    match = _VERSION.match(text)
    if match is None:
        return None
    numbers = [int(part) for part in match[0].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _matcher(expected: str) -> Callable[[str], bool]:
    if expected == "*":
        return bool
    if expected.endswith("*"):
        return lambda text: text.startswith(expected[:-1])
    if not expected:
        raise ValueError('expected a value, or "*" for any, got an empty one')
    return lambda text: text == expected


def _version_condition(value: str) -> Condition:
    match = _COMPARISON.fullmatch(value.strip())
    wanted = parse_version(match[2]) if match and _VERSION.fullmatch(match[2]) else None
    if match is None or wanted is None:
        raise ValueError(f'expected a version such as ">=2.1", got "{value}"')
    compare, bound = _COMPARE[match[1] or "=="], wanted

    def holds(call: Call) -> bool:
        version = parse_version(call.identity.app_version)
        return version is not None and compare(version, bound)

    return holds
