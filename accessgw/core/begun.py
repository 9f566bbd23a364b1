"""Coroutines that mostly need not wait: their result at once, without a Deferred."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


def begun(coroutine: Coroutine[Deferred[Any], Any, T]) -> T | Deferred[T]:
    """Run it until it is done or has to wait: its result, or a Deferred of that. What it raises before it waits is
    raised here."""
    try:
        waits_for = coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    return Deferred.fromCoroutine(_going_on(coroutine, waits_for))


def _going_on(
    coroutine: Coroutine[Deferred[Any], Any, T], waits_for: Deferred[Any]
) -> Generator[Deferred[Any], Any, T]:
    """The rest of a coroutine that waits already; a second `await` of it is not allowed."""
    try:
        while True:
            try:
                result = yield waits_for
            except Exception as error:
                waits_for = coroutine.throw(error)
            else:
                waits_for = coroutine.send(result)
    except StopIteration as done:
        rest: T = done.value
        return rest
    finally:
        coroutine.close()
