"""Checks of query parameters and body keys that the paths of the control API share."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from accessgw.core.interfaces.control import ControlError

Value = TypeVar("Value")


def only(query: dict[str, str], *known: str) -> dict[str, str]:
    """The query, when it has no other parameters. Raises ControlError 400, as all functions here do."""
    for key in query:
        if key not in known:
            raise ControlError(400, "invalid", f"{key}: unknown parameter, expected {', '.join(known)}", key)
    return query


def only_keys(body: dict[str, Any], known: str) -> None:
    """Nothing, when the body has no other key."""
    for key in body:
        if key != known:
            raise ControlError(400, "invalid", f"{key}: unknown key, expected {known}", key)


def one_of(query: dict[str, str], name: str, choices: dict[str, Value]) -> Value:
    """The value that the parameter stands for; it is empty when absent."""
    text = query.get(name, "")
    if text not in choices:
        expected = " or ".join(choice for choice in choices if choice)
        raise ControlError(400, "invalid", f'{name}: expected {expected}, got "{text}"', name)
    return choices[text]


def shown(value: Any) -> str:
    """A value of a body as messages quote it: JSON, as it came; long ones are cut."""
    if value is None:
        return "nothing"
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        if not text.isprintable():
            text = json.dumps(value, separators=(",", ":"))
    except RecursionError:
        return "something nested very deep"
    return text if len(text) <= 60 else text[:57] + "..."


def page_limit(query: dict[str, str], default: int, most: int) -> int:
    """The parameter `limit`, an integer in 1..`most`."""
    text = query.get("limit", str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= most):
        raise ControlError(400, "invalid", f'limit: expected an integer in 1..{most}, got "{text}"', "limit")
    return int(text)
