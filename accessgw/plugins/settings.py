"""Checks of a filter's settings; errors begin with the key, so that the loader can put its path before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def expect_keys(path: str, table: dict[str, Any], known: Sequence[str]) -> None:
    """Raises ValueError for a key that is not known."""
    for key in table:
        if key not in known:
            raise ValueError(f"{_join(path, key)}: unknown key (known: {', '.join(known)})")


def expect_table(path: str, value: Any) -> dict[str, Any]:
    """A table with text keys."""
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a table, got {value!r}")
    return value


def expect_number(path: str, value: Any, least: float, open_bound: bool = False) -> float:
    """A number of at least `least` (more than it with `open_bound`)."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or value < least or (open_bound and value == least) or value == float("inf"):
        raise ValueError(
            f"{path}: expected a number {'above' if open_bound else 'of at least'} {least:g}, got {value!r}"
        )
    return float(value)


def expect_texts(path: str, value: Any) -> tuple[str, ...]:
    """A list of text that is not empty."""
    if not isinstance(value, list | tuple) or not value or not all(isinstance(item, str) and item for item in value):
        raise ValueError(f"{path}: expected a list of text, got {value!r}")
    return tuple(value)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
