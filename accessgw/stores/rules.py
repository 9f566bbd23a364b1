"""What every store holds to, whatever it keeps its rows in: bounds of streams, order of cursors, idempotency."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from accessgw.model.pushes import Cursor, Scope, StreamKey
from accessgw.model.settings import PushSettings

EpochSource = Callable[[], int]

IDEMPOTENCY_TTL = 86400.0
"""Seconds that an idempotency key is remembered."""

DROP_WINDOW = 1000
"""Of the oldest events waiting, how many are looked at for one that may be dropped."""

LARGEST = 2**63 - 1
"""Largest number that a row can hold."""


def new_epoch() -> int:
    """A random epoch, 1..2**32 - 1: two histories of a stream practically never share one."""
    return int.from_bytes(os.urandom(4)) or 1


def kept_pushes(settings: PushSettings, scope: str) -> int:
    """How many pushes a stream of this scope keeps."""
    if scope in (Scope.TOPIC, Scope.BROADCAST):
        return settings.max_topic_messages
    return settings.max_stream_messages


def advances(old: Cursor | None, new: Cursor) -> bool:
    """Whether `new` replaces `old`: a cursor never moves backwards within an epoch."""
    return old is None or old.epoch != new.epoch or new.seq > old.seq


def merge_cursors(into: dict[StreamKey, Cursor], cursors: Iterable[Cursor]) -> None:
    """Move the cursors of `into` on to those that replace them. What no row can hold is ignored:
    a device may claim any number, and none beyond the head means anything."""
    for cursor in cursors:
        valid = 0 <= cursor.epoch <= LARGEST and 0 <= cursor.seq <= LARGEST
        if valid and advances(into.get(cursor.stream), cursor):
            into[cursor.stream] = cursor
