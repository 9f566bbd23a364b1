"""What connections get beside calls and pushes: who follows a change, in slices, and dictionaries packed for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.interfaces.clock import Clock
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.gateway_exchange import PackedDictionary

log = Logger()

Run = Callable[[Callable[[], PackedDictionary]], "Deferred[PackedDictionary]"]
"""Runs it on a thread."""

SLICE = 0.002
"""Seconds of the reactor that a rollout takes at a time."""
PAUSE = 0.008
"""Seconds between two slices: a rollout is never in a hurry."""
MAX_PACKED = 256
"""Packed dictionaries that are kept, some 10 KiB each."""


class Follower(Protocol):
    """A connection that takes tables or dictionaries."""

    def follow(self) -> None:
        """Come one step nearer to what is in force; nothing happens when that is reached."""


class Rollout:
    """Followers by application."""

    def __init__(self, clock: Clock, seconds: Callable[[], float] | None = None) -> None:
        """`seconds` measures the slice (the clock's unless given)."""
        self._clock = clock
        self._seconds: Callable[[], float] = clock.seconds if seconds is None else seconds
        self._followers: dict[str, dict[Follower, None]] = {}
        self._work: dict[object, list[Follower]] = {}
        self._scheduled = False

    def enter(self, app: str, follower: Follower) -> None:
        """It is connected."""
        self._followers.setdefault(app, {})[follower] = None

    def leave(self, app: str, follower: Follower) -> None:
        """It is not any more."""
        followers = self._followers.get(app)
        if followers is not None:
            followers.pop(follower, None)
            if not followers:
                del self._followers[app]

    def changed(self, app: str) -> None:
        """All connections of the application follow; a walk over them that is under way begins anew."""
        followers = self._followers.get(app)
        if followers:
            self._walk(app, followers)

    def all_changed(self) -> None:
        """As changed, of every application."""
        for app in list(self._followers):
            self.changed(app)

    def again(self, followers: Iterable[Follower]) -> None:
        """These follow once more."""
        self._walk(object(), followers)

    def _walk(self, key: object, followers: Iterable[Follower]) -> None:
        self._work[key] = list(followers)
        if not self._scheduled:
            self._scheduled = True
            self._clock.callLater(0, self._run)

    def _run(self) -> None:
        self._scheduled = False
        until = self._seconds() + SLICE
        while self._work:
            key = next(iter(self._work))
            followers = self._work[key]
            while followers:
                try:
                    followers.pop().follow()
                except Exception:
                    log.failure("a connection could not follow a change of dictionaries or tables")
                if self._seconds() >= until:
                    self._scheduled = True
                    self._clock.callLater(PAUSE, self._run)
                    return
            # a change that came meanwhile put a list of its own there
            if self._work.get(key) is followers:
                del self._work[key]


class Packs:
    """Packs dictionaries on a thread (some 20 ms each), once for all connections."""

    def __init__(self, run: Run, rollout: Rollout) -> None:
        self._run = run
        self._rollout = rollout
        self._made: dict[tuple[int, int], PackedDictionary] = {}
        self._waiting: dict[tuple[int, int], dict[Follower, None]] = {}

    def get(self, dictionary: Dictionary, base: Dictionary | None, follower: Follower) -> PackedDictionary | None:
        """The packed dictionary; None while it is made: the follower follows once more when it is there."""
        key = (dictionary.id, 0 if base is None else base.id)
        made = self._made.get(key)
        if made is not None and made.dictionary is dictionary:
            return made
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting[follower] = None
            return None
        self._waiting[key] = {follower: None}
        packing = self._run(lambda: PackedDictionary(dictionary, base))
        packing.addCallbacks(lambda packed: self._packed(key, packed), lambda failure: self._failed(key, failure))
        return self._made.get(key)

    def _packed(self, key: tuple[int, int], packed: PackedDictionary) -> None:
        while len(self._made) >= MAX_PACKED:
            del self._made[next(iter(self._made))]
        self._made[key] = packed
        self._rollout.again(self._waiting.pop(key))

    def _failed(self, key: tuple[int, int], failure: Failure) -> None:
        # those who wait are offered it with the next change, or on their next connection
        del self._waiting[key]
        log.error("dictionary {id} could not be packed: {reason}", id=key[0], reason=failure.getErrorMessage())
