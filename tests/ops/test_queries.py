from __future__ import annotations

import json
from typing import Any

import pytest

from accessgw.ops.queries import shown


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "nothing"),
        (True, "true"),
        ("yes", '"yes"'),
        ("\u00e9", '"\u00e9"'),
        ("\x1b[2J", r'"\u001b[2J"'),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        ("x" * 100, '"' + "x" * 56 + "..."),
        # what json.loads makes of a hostile body
        (json.loads(r'"\ud800"'), r'"\ud800"'),
        (10**40, "1" + "0" * 40),
        (json.loads("NaN"), "NaN"),
    ],
)
def test_values_are_quoted_as_json_that_can_be_printed(value: Any, words: str) -> None:
    assert shown(value) == words
    assert shown(value).isprintable() and shown(value).encode()


def test_what_is_nested_too_deep_is_no_error() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    assert shown(value) == "something nested very deep"
