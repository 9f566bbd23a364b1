"""Where header codecs stood, kept for a device's next connection: the newest in memory, all in the store."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import sha256
from hmac import compare_digest
from typing import NamedTuple

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.interfaces.clock import Timers
from accessgw.core.interfaces.stores import HeaderStateStore
from accessgw.model.counters import HeaderCounters
from accessgw.model.header_states import KEPT_CHECKPOINTS, Direction, HeaderState, StateKey
from accessgw.model.mmtp_settings import HeaderStateSettings

log = Logger()

SWEEP_INTERVAL = 60.0
"""Seconds between two looks for states that are too old."""
_OVERHEAD = 300
"""Bytes that one state weighs beside its own."""

Kept = dict[tuple[Direction, int], bytes]


class Named(NamedTuple):
    """A checkpoint as HELLO names it."""

    direction: Direction
    checkpoint: int
    digest: bytes


class HeaderStates:
    """What bindings ask when a device names a checkpoint, and tell when one was made.

    A state is found by device, user, table, direction and number; the digest that the device named only verifies it.
    """

    def __init__(
        self,
        settings: HeaderStateSettings,
        store: HeaderStateStore,
        timers: Timers,
        wall: Callable[[], float],
        counters: HeaderCounters,
    ) -> None:
        self._settings = settings
        self._store = store
        self._timers = timers
        self._wall = wall
        self._counters = counters
        self._cache: OrderedDict[StateKey, Kept] = OrderedDict()
        """Least recently used first; perhaps not all that the store has of a key."""
        self._cached_bytes = 0

    def start(self) -> None:
        """Begin to forget what is too old."""
        self._sweep()

    # ------------------------------------------------------------------ asking

    def find(self, key: StateKey, named: Sequence[Named]) -> Deferred[dict[Direction, bytes]]:
        """The states that a device names, those that are missing or different left out."""
        cached = self._cache.get(key)
        if cached is not None:
            self._cache.move_to_end(key)
            if all(_is(cached.get((name.direction, name.checkpoint)), name.digest) for name in named):
                return succeed(self._verified(cached, named))
        # Another worker may have written since.
        loading = self._store.load(key).addCallbacks(lambda states: self._loaded(key, states, named), self._not_loaded)
        return loading.addCallback(self._verified, named)

    def _verified(self, kept: Kept, named: Sequence[Named]) -> dict[Direction, bytes]:
        found: dict[Direction, bytes] = {}
        missed = self._counters.missed
        for name in named:
            state = kept.get((name.direction, name.checkpoint))
            if state is not None and _is(state, name.digest):
                self._counters.resumed += 1
                found[name.direction] = state
            else:
                reason = "unknown" if state is None else "digest"
                missed[reason] = missed.get(reason, 0) + 1
        return found

    # ------------------------------------------------------------------ telling

    def commit(self, key: StateKey, state: HeaderState, generation: tuple[int, int]) -> None:
        """A checkpoint was made on the connection that is in force."""
        self._counters.committed += 1
        self._store.save(key, state, generation, self._wall())
        kept = self._forget(key) if key in self._cache else {}
        for direction, checkpoint in list(kept):
            beside = checkpoint > state.checkpoint or checkpoint <= state.checkpoint - KEPT_CHECKPOINTS
            if direction == state.direction and beside:
                del kept[direction, checkpoint]
        kept[state.direction, state.checkpoint] = state.encoded
        self._remember(key, kept)

    # ------------------------------------------------------------------ the cache

    def _loaded(self, key: StateKey, states: list[HeaderState], named: Sequence[Named]) -> Kept:
        """Under what is known here: a state that was made lately may not be written yet. But a number can come again
        with another state on another worker, and then the one that the device names is the later one."""
        stored = {(state.direction, state.checkpoint): state.encoded for state in states}
        kept = dict(stored)
        if key in self._cache:
            kept.update(self._forget(key))
        for direction, checkpoint, digest in named:
            state = stored.get((direction, checkpoint))
            if state is not None and _is(state, digest):
                kept[direction, checkpoint] = state
        if kept:
            self._remember(key, kept)
        return kept

    def _not_loaded(self, failure: Failure) -> Kept:
        """Whoever asked may have waited long enough, and cancelled it."""
        if failure.check(CancelledError) is not None:
            return {}
        log.error("states of header codecs cannot be read: {reason}", reason=failure.getErrorMessage())
        return {}

    def _remember(self, key: StateKey, kept: Kept) -> None:
        self._cache[key] = kept
        self._cached_bytes += _weight(kept)
        while self._cached_bytes > self._settings.cache_bytes and self._cache:
            self._forget(next(iter(self._cache)))

    def _forget(self, key: StateKey) -> Kept:
        kept = self._cache.pop(key)
        self._cached_bytes -= _weight(kept)
        return kept

    # ------------------------------------------------------------------ time

    def _sweep(self) -> None:
        def again(swept: int) -> None:
            self._timers.schedule(0.0 if swept else SWEEP_INTERVAL, self._sweep)

        def failed(failure: Failure) -> None:
            log.error("old header states could not be swept: {reason}", reason=failure.getErrorMessage())
            self._timers.schedule(SWEEP_INTERVAL, self._sweep)

        self._store.sweep(self._wall() - self._settings.kept).addCallbacks(again, failed)


def _is(state: bytes | None, digest: bytes) -> bool:
    return state is not None and compare_digest(sha256(state).digest()[: len(digest)], digest)


def _weight(kept: Kept) -> int:
    return _OVERHEAD + sum(_OVERHEAD + len(state) for state in kept.values())
