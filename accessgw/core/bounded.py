"""A Deferred that somebody else has to fire, with a bound on how long we wait for it."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred, TimeoutError

from accessgw.core.interfaces.clock import Clock

T = TypeVar("T")


def bounded(result: Deferred[T], seconds: float, clock: Clock, what: str) -> Deferred[T]:
    """`result`, which fails with TimeoutError (and is cancelled) after `seconds`. No timer when it has fired."""
    if result.called:
        return result

    def late(value: object, timeout: float) -> Any:
        raise TimeoutError(f"{what}: no result within {timeout} s")

    return result.addTimeout(seconds, cast(Any, clock), late)
