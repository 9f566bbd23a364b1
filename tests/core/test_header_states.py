"""States of header codecs: found in memory or in the store, verified by digest, bounded."""

from __future__ import annotations

from hashlib import sha256

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from accessgw.core.header_states import SWEEP_INTERVAL, HeaderStates, Named
from accessgw.core.interfaces.stores import StoreUnavailable
from accessgw.core.timers import TimingWheel
from accessgw.model.counters import HeaderCounters
from accessgw.model.header_states import Direction, HeaderState, StateKey
from accessgw.model.mmtp_settings import HeaderStateSettings
from accessgw.stores.memory_header_states import MemoryHeaderStateStore

KEY = StateKey("d", "u", b"12345678")


class Store(MemoryHeaderStateStore):
    def __init__(self) -> None:
        super().__init__(100)
        self.loads = 0
        self.down = False

    def load(self, key: StateKey) -> Deferred[list[HeaderState]]:
        self.loads += 1
        return fail(StoreUnavailable("gone")) if self.down else super().load(key)


class World:
    def __init__(self, store: Store | None = None, cache_bytes: int = 1 << 20) -> None:
        self.clock = Clock()
        self.store = store or Store()
        self.counters = HeaderCounters()
        self.states = HeaderStates(
            HeaderStateSettings(cache_bytes=cache_bytes, kept=1000.0),
            self.store,
            TimingWheel(self.clock),
            self.clock.seconds,
            self.counters,
        )

    def commit(self, checkpoint: int, encoded: bytes, direction: Direction = "up", key: StateKey = KEY) -> None:
        self.states.commit(key, HeaderState(direction, checkpoint, encoded), (1, 1))

    def find(self, *named: tuple[Direction, int, bytes], key: StateKey = KEY) -> dict[Direction, bytes]:
        found: list[dict[Direction, bytes]] = []
        asked = [Named(direction, number, sha256(state).digest()[:8]) for direction, number, state in named]
        self.states.find(key, asked).addCallback(found.append)
        return found[0]


def test_a_state_made_here_is_found_without_the_store() -> None:
    world = World()
    world.commit(1, b"up")
    world.commit(4, b"down", "down")
    assert world.find(("up", 1, b"up"), ("down", 4, b"down")) == {"up": b"up", "down": b"down"}
    assert world.store.loads == 0
    assert world.counters.resumed == 2


def test_a_state_of_another_worker_is_read_though_older_ones_are_known_here() -> None:
    here = World()
    here.commit(1, b"one")
    there = World(here.store)
    there.commit(2, b"two")
    assert here.find(("up", 2, b"two")) == {"up": b"two"}
    assert here.store.loads == 1
    assert here.find(("up", 2, b"two")) == {"up": b"two"}
    assert here.store.loads == 1


def test_a_number_that_came_again_on_another_worker_is_found_there() -> None:
    here = World()
    here.commit(3, b"first")
    there = World(here.store)
    there.commit(3, b"again")
    assert here.find(("up", 3, b"again")) == {"up": b"again"}
    assert here.find(("up", 3, b"again")) == {"up": b"again"}
    assert here.store.loads == 1


def test_a_digest_that_differs_and_a_number_that_is_gone_are_misses() -> None:
    world = World()
    world.commit(1, b"one")
    assert world.find(("up", 1, b"other"), ("down", 1, b"one")) == {}
    assert world.counters.missed == {"digest": 1, "unknown": 1}
    assert world.find(("up", 1, b"one"), key=KEY._replace(user="v")) == {}


def test_older_checkpoints_go_and_those_of_a_former_run_too() -> None:
    world = World()
    for number in range(1, 6):
        world.commit(number, b"%d" % number)
    assert world.find(("up", 3, b"3")) == {"up": b"3"}
    assert world.find(("up", 2, b"2")) == {}
    world.commit(1, b"anew")
    assert world.find(("up", 5, b"5")) == {}
    assert world.find(("up", 1, b"anew")) == {"up": b"anew"}


def test_a_store_that_cannot_say_is_a_miss() -> None:
    world = World()
    world.store.down = True
    assert world.find(("up", 1, b"one")) == {}
    assert world.counters.missed == {"unknown": 1}


def test_the_cache_is_bounded_and_the_store_knows_the_rest() -> None:
    world = World(cache_bytes=2000)
    keys = [KEY._replace(device=f"d{number}") for number in range(10)]
    for key in keys:
        world.commit(1, b"x" * 100, key=key)
    assert world.find(("up", 1, b"x" * 100), key=keys[-1])
    assert world.store.loads == 0
    assert world.find(("up", 1, b"x" * 100), key=keys[0])
    assert world.store.loads == 1


def test_old_states_are_forgotten_in_time() -> None:
    world = World()
    world.commit(1, b"one")
    world.states.start()
    world.clock.pump([SWEEP_INTERVAL] * 20)
    assert World(world.store).find(("up", 1, b"one")) == {}
