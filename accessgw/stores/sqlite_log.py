"""The logs of pushes as the writer thread keeps them: places, collapse, retention, idempotency keys."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from accessgw.core.interfaces.stores import AppendOutcome, IdempotencyConflict
from accessgw.model.pushes import PushRequest, StreamKey
from accessgw.model.settings import PushSettings
from accessgw.stores import sqlite_rows as rows
from accessgw.stores.rules import IDEMPOTENCY_TTL, EpochSource, kept_pushes

MAX_CACHED_STREAMS = 100_000
SWEEP = 500
"""Rows of each kind that one sweep looks for."""


class Append(NamedTuple):
    """One append call; `visibility` has the JSON of each request's `where`."""

    requests: Sequence[PushRequest]
    visibility: Sequence[str | None]
    now: int
    key: str
    digest: bytes


class Sweep(NamedTuple):
    """Remove what retention and ttl allow."""

    now: int


@dataclass(slots=True, eq=False)
class _Stream:
    """One row of table stream, and how many pushes it may hold."""

    key: StreamKey
    number: int
    epoch: int
    head: int
    floor: int
    kept: int
    limit: int


class _Known(NamedTuple):
    """An idempotency key in use."""

    digest: bytes
    places: list[tuple[int, int]]
    at: int


class _Pending:
    """What the appends of one transaction come to, before it is written."""

    __slots__ = ("known", "newest", "pushes", "requests", "streams")

    def __init__(self, known: dict[str, _Known]) -> None:
        self.streams: dict[int, _Stream] = {}
        self.pushes: dict[tuple[int, int], rows.Row] = {}
        """(stream, seq) -> row of table push."""
        self.newest: dict[tuple[int, str], int] = {}
        """(stream, collapse key) -> seq of the newest push with it."""
        self.known = known
        self.requests: dict[str, _Known] = {}


class StreamLog:
    """Commands Append and Sweep. Runs on the writer thread."""

    def __init__(self, settings: PushSettings, new_epoch: EpochSource) -> None:
        self._settings = settings
        self._new_epoch = new_epoch
        self._streams: dict[StreamKey, _Stream] = {}
        self._by_number: dict[int, _Stream] = {}
        self._last_number = -1

    def forget(self) -> None:
        self._streams.clear()
        self._by_number.clear()
        self._last_number = -1

    def apply(self, connection: sqlite3.Connection, commands: Sequence[Append | Sweep]) -> list[Any]:
        appends = [command for command in commands if isinstance(command, Append)]
        pending = _Pending(self._load(connection, appends))
        results: list[Any] = [
            self._place(command, pending) if isinstance(command, Append) else None for command in commands
        ]
        self._write(connection, pending)
        for index, command in enumerate(commands):
            if isinstance(command, Sweep):
                results[index] = self._sweep(connection, command.now)
        return results

    # ------------------------------------------------------------ append

    def _load(self, connection: sqlite3.Connection, appends: list[Append]) -> dict[str, _Known]:
        """Make sure that every existing stream of the appends is cached; the idempotency keys in use."""
        if self._last_number < 0:
            self._last_number = connection.execute("SELECT coalesce(max(number), 0) FROM stream").fetchone()[0]
        if len(self._streams) > MAX_CACHED_STREAMS:
            self._streams.clear()
            self._by_number.clear()
        missing = list({r.stream for append in appends for r in append.requests if r.stream not in self._streams})
        found = rows.select(
            connection,
            "at, scope, id, biz",
            [(at, str(key.scope), key.id, key.biz) for at, key in enumerate(missing)],
            "wanted.at, number, epoch, head, floor, kept",
            "wanted CROSS JOIN stream USING (scope, id, biz)",
        )
        for at, *row in found:
            self._remember(missing[at], row)
        keys = list({append.key for append in appends if append.key})
        known = rows.select(
            connection,
            "position, key",
            list(enumerate(keys)),
            "wanted.position, hex(digest), places, at",
            "wanted CROSS JOIN request USING (key)",
        )
        return {
            keys[position]: _Known(bytes.fromhex(digest), [(epoch, seq) for epoch, seq in json.loads(places)], at)
            for position, digest, places, at in known
        }

    def _remember(self, key: StreamKey, row: Sequence[int]) -> _Stream:
        number, epoch, head, floor, kept = row
        limit = kept_pushes(self._settings, key.scope)
        stream = _Stream(key, number, epoch, head, floor, kept, limit)
        self._streams[key] = self._by_number[stream.number] = stream
        return stream

    def _place(self, append: Append, pending: _Pending) -> AppendOutcome | IdempotencyConflict:
        """Give the pushes their places, or say that they have them already. Nothing is written yet."""
        if append.key:
            known = pending.known.get(append.key)
            if known is not None and append.now - known.at < rows.micros(IDEMPOTENCY_TTL):
                if known.digest != append.digest:
                    return IdempotencyConflict(f"idempotency key {append.key!r} was used for another request")
                return AppendOutcome(list(known.places), repeated=True)
        places = []
        for request, visibility in zip(append.requests, append.visibility, strict=True):
            stream = self._streams.get(request.stream)
            if stream is None:
                self._last_number += 1
                stream = self._remember(request.stream, (self._last_number, self._new_epoch(), 0, 0, 0))
            stream.head = seq = stream.head + 1
            stream.kept += 1
            number = stream.number
            pending.streams[number] = stream
            if request.collapse:
                older = pending.newest.get((number, request.collapse))
                if older is not None:
                    del pending.pushes[number, older]
                    stream.kept -= 1
                pending.newest[number, request.collapse] = seq
            expires_at = None if request.ttl is None else append.now + rows.micros(request.ttl)
            pending.pushes[number, seq] = (
                number, seq, append.now, expires_at, int(request.priority),
                request.collapse or None, visibility, request.body,
            )  # fmt: skip
            places.append((stream.epoch, seq))
        if append.key:
            pending.known[append.key] = pending.requests[append.key] = _Known(append.digest, places, append.now)
        return AppendOutcome(list(places))

    def _write(self, connection: sqlite3.Connection, pending: _Pending) -> None:
        rows.insert(
            connection,
            "push (stream, seq, appended_at, expires_at, priority, collapse, visibility, body)",
            list(pending.pushes.values()),
        )
        self._collapse(connection, pending)
        self._trim(connection, pending)
        rows.insert(
            connection,
            "stream (number, scope, id, biz, epoch, head, floor, kept)",
            [
                (s.number, str(s.key.scope), s.key.id, s.key.biz, s.epoch, s.head, s.floor, s.kept)
                for s in pending.streams.values()
            ],
            "ON CONFLICT (number) DO UPDATE SET head = excluded.head, floor = excluded.floor, kept = excluded.kept",
        )
        rows.insert(
            connection,
            "request (key, digest, places, at)",
            [(key, known.digest, json.dumps(known.places), known.at) for key, known in pending.requests.items()],
            "ON CONFLICT (key) DO UPDATE SET digest = excluded.digest, places = excluded.places, at = excluded.at",
        )

    def _collapse(self, connection: sqlite3.Connection, pending: _Pending) -> None:
        """Remove what the newest push of each collapse key makes superfluous; the floor stays."""
        gone = rows.select(
            connection,
            "stream, collapse, newest",
            [(number, key, seq) for (number, key), seq in pending.newest.items()],
            "push.number, stream",
            "wanted CROSS JOIN push USING (stream, collapse) WHERE push.seq < wanted.newest",
        )
        for _, number in gone:
            pending.streams[number].kept -= 1
        self._delete(connection, [push for push, _ in gone])

    def _trim(self, connection: sqlite3.Connection, pending: _Pending) -> None:
        """Move the floors of streams that hold more than they may."""
        by_excess: dict[int, list[rows.Row]] = {}
        for stream in pending.streams.values():
            if stream.kept > stream.limit:
                by_excess.setdefault(stream.kept - stream.limit, []).append((stream.number,))
        floors = [
            floor
            for excess, streams in by_excess.items()
            for floor in rows.select(
                connection,
                "stream",
                streams,
                "wanted.stream, (SELECT seq FROM push WHERE push.stream = wanted.stream ORDER BY seq LIMIT 1 "
                f"OFFSET {excess - 1})",
                "wanted",
            )
        ]
        for number, floor in floors:
            pending.streams[number].floor = floor
            pending.streams[number].kept = pending.streams[number].limit
        self._delete_below(connection, floors)

    # ------------------------------------------------------------ sweep

    def _sweep(self, connection: sqlite3.Connection, now: int) -> int:
        before = connection.total_changes
        stale = now - rows.micros(self._settings.retention)
        floors = rows.query(
            connection,
            "stream, newest",
            "(SELECT stream, max(seq) AS newest FROM (SELECT stream, seq FROM push WHERE appended_at <= ? "
            "ORDER BY appended_at LIMIT ?) GROUP BY stream)",
            (stale, SWEEP),
        )
        aged = rows.select(
            connection,
            "stream, floor",
            [tuple(floor) for floor in floors],
            "push.stream",
            "wanted CROSS JOIN push USING (stream) WHERE push.seq <= wanted.floor",
        )
        self._delete_below(connection, floors)
        expired = rows.query(
            connection,
            "number, stream",
            "(SELECT number, stream FROM push WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
            (now, SWEEP),
        )
        self._delete(connection, [push for push, _ in expired])
        connection.execute(
            "DELETE FROM request WHERE rowid IN (SELECT rowid FROM request WHERE at <= ? ORDER BY at LIMIT ?)",
            (now - rows.micros(IDEMPOTENCY_TTL), SWEEP),
        )
        gone = connection.total_changes - before
        self._account(connection, dict(floors), [number for (number,) in aged] + [number for _, number in expired])
        return gone

    def _account(self, connection: sqlite3.Connection, floors: dict[int, int], lost: list[int]) -> None:
        """Tell the streams of their new floors and of the pushes that they lost (a number for each)."""
        counts: dict[int, int] = {}
        for number in lost:
            counts[number] = counts.get(number, 0) + 1
        rows.execute(
            connection,
            "stream, floor, lost",
            [(number, floors.get(number, 0), count) for number, count in counts.items()],
            "UPDATE stream SET floor = max(stream.floor, wanted.floor), kept = kept - wanted.lost "
            "FROM wanted WHERE stream.number = wanted.stream",
        )
        for number, count in counts.items():
            stream = self._by_number.get(number)
            if stream is not None:
                stream.kept -= count
                stream.floor = max(stream.floor, floors.get(number, 0))

    # ------------------------------------------------------------ deletes

    def _delete(self, connection: sqlite3.Connection, pushes: list[int]) -> None:
        if pushes:
            connection.execute(
                "DELETE FROM push WHERE number IN (SELECT value FROM json_each(?))", (json.dumps(pushes),)
            )

    def _delete_below(self, connection: sqlite3.Connection, floors: Sequence[Sequence[int]]) -> None:
        rows.execute(
            connection,
            "stream, floor",
            [tuple(floor) for floor in floors],
            "DELETE FROM push WHERE number IN "
            "(SELECT push.number FROM wanted CROSS JOIN push USING (stream) WHERE push.seq <= wanted.floor)",
        )
