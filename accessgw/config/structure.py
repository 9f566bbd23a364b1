"""Checks plain data (parsed TOML) against the settings' structs: every problem at once, each with its path."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from typing import Any

from msgspec import inspect

from accessgw.config.errors import Problem


def check(value: Any, kind: inspect.Type, path: str = "") -> Iterator[Problem]:
    """The problems of `value` as a setting of type `kind`; none means that msgspec will convert it."""
    declared, expected, secret = _unwrap(kind)
    if isinstance(declared, inspect.StructType):
        yield from _check_struct(value, declared, path)
    elif isinstance(declared, inspect.VarTupleType):
        if isinstance(value, list):
            for index, item in enumerate(value):
                yield from check(item, declared.item_type, f"{path}[{index}]")
        else:
            yield _unexpected(path, "a list", value)
    elif isinstance(declared, inspect.DictType):
        if isinstance(value, dict):
            for key, item in value.items():
                yield from check(item, declared.value_type, f"{path}.{key}")
        else:
            yield _unexpected(path, "a table", value)
    elif not _fits(value, declared):
        yield _unexpected(path, expected or describe(declared), value, secret)


def _unwrap(kind: inspect.Type) -> tuple[inspect.Type, str, bool]:
    """The type without annotations and `| None` (TOML has no null), how to name it, and whether it is secret."""
    if isinstance(kind, inspect.UnionType):
        (kind,) = (member for member in kind.types if not isinstance(member, inspect.NoneType))
    if isinstance(kind, inspect.Metadata):
        extra = kind.extra or {}
        return kind.type, extra.get("expected", ""), extra.get("secret", False)
    return kind, "", False


def bare(kind: inspect.Type) -> inspect.Type:
    """The type without its annotations."""
    return _unwrap(kind)[0]


def is_secret(kind: inspect.Type) -> bool:
    """Whether a value of this type must never be shown."""
    return _unwrap(kind)[2]


def expectation(kind: inspect.Type) -> str:
    """What a value must be, as error messages and the reference say it: `an integer in 1..65535`."""
    declared, expected, _ = _unwrap(kind)
    return expected or describe(declared)


def _check_struct(value: Any, kind: inspect.StructType, path: str) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield _unexpected(path, "a table", value)
        return
    prefix = f"{path}." if path else ""
    fields = {field.name: field for field in kind.fields}
    for key, item in value.items():
        if key in fields:
            yield from check(item, fields[key].type, prefix + key)
        else:
            near = difflib.get_close_matches(key, fields, 1)
            yield Problem(prefix + key, f'unknown key, did you mean "{near[0]}"?' if near else "unknown key")
    for name, field in fields.items():
        if field.required and name not in value:
            yield Problem(prefix + name, f"required, expected {expectation(field.type)}, got nothing")


def _fits(value: Any, kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.IntType):
        return isinstance(value, int) and not isinstance(value, bool) and _within(value, kind)
    if isinstance(kind, inspect.FloatType):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and math.isfinite(value) and _within(value, kind)
    if isinstance(kind, inspect.StrType):
        return isinstance(value, str)
    if isinstance(kind, inspect.BoolType):
        return isinstance(value, bool)
    if isinstance(kind, inspect.LiteralType):
        return isinstance(value, str | int) and not isinstance(value, bool) and value in kind.values
    return isinstance(kind, inspect.AnyType)


def _within(value: float, kind: inspect.IntType | inspect.FloatType) -> bool:
    return (
        (kind.gt is None or value > kind.gt)
        and (kind.ge is None or value >= kind.ge)
        and (kind.lt is None or value < kind.lt)
        and (kind.le is None or value <= kind.le)
    )


def describe(kind: inspect.Type) -> str:
    """A type in words."""
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        noun = "an integer" if isinstance(kind, inspect.IntType) else "a number"
        if kind.ge is not None and kind.le is not None:
            return f"{noun} in {kind.ge}..{kind.le}"
        if kind.ge is not None:
            return f"{noun} of at least {kind.ge}"
        return f"{noun} greater than {kind.gt}" if kind.gt is not None else noun
    if isinstance(kind, inspect.LiteralType):
        return "one of " + ", ".join(map(shown, kind.values))
    if isinstance(kind, inspect.VarTupleType):
        return "a list"
    if isinstance(kind, inspect.StructType | inspect.DictType):
        return "a table"
    return {inspect.StrType: "a string", inspect.BoolType: "true or false"}.get(type(kind), "a value")


def shown(value: Any) -> str:
    """A value as messages quote it; long ones are cut."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = value if len(value) <= 60 else value[:57] + "..."
        return '"' + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text) + '"'
    if isinstance(value, list | tuple):
        return "a list"
    return "a table" if isinstance(value, dict) else str(value)


def _unexpected(path: str, expected: str, value: Any, secret: bool = False) -> Problem:
    got = f"a value of type {type(value).__name__}" if secret else shown(value)
    return Problem(path or "configuration", f"expected {expected}, got {got}")
