"""A process may end at any moment: whatever the store had by then, the next one begins with states that make sense."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from typing import Any

from accessgw.model.dictionaries import DictionaryState
from accessgw.stores.memory_dictionaries import MemoryDictionaryStore
from tests.core.dictionaries.dictionary_world import DEVICES, World, result

WRITES = ("add", "put", "add_bundle", "remove")


class WatchedStore(MemoryDictionaryStore):
    """Remembers what it had before and after each write."""

    def __init__(self) -> None:
        super().__init__()
        self.moments: list[MemoryDictionaryStore] = []

    def _moment(self) -> None:
        moment = MemoryDictionaryStore()
        moment.__dict__ |= {name: deepcopy(value) for name, value in self.__dict__.items() if name != "moments"}
        self.moments.append(moment)

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in WRITES:
            return found

        def write(*what: Any, **how: Any) -> Any:
            self._moment()
            done = found(*what, **how)
            self._moment()
            return done

        return write


def lived() -> WatchedStore:
    """All that can happen to dictionaries, one after the other."""
    store = WatchedStore()
    world = World(store)
    world.feed()
    world.feed(name="refund")
    world.train()
    world.trainer.finish()
    world.trainer.finish("too little is common")
    result(world.service.activate(1, 1.0))
    world.train("wallet", "qpay")
    world.trainer.finish()
    world.pass_bodies(1, 10, 0.3)
    world.pass_bodies(3, 10, 0.5)
    world.clock.pump([1] * 6)  # rolled back by itself, figures written
    result(world.service.activate(3, 1.0))
    result(world.service.roll_back(3))
    world.train("wallet", "qpay")
    world.trainer.finish()
    result(world.service.activate(4, 0.9))
    result(world.service.activate(4, 1.0))
    world.clock.advance(1001)
    world.clock.pump([1, 1])  # forgotten
    assert set(world.states().values()) == {"active"}
    world.train("wallet", "qrefund")
    result(world.service.stop())
    return store


def test_every_moment_is_one_to_go_on_from() -> None:
    moments = lived().moments
    assert len(moments) > 40
    seen: set[str] = set()
    for moment in moments:
        kept = {record.id: record for record in moment.load()[0]}
        seen |= {record.state.value for record in kept.values()}
        world = World(moment)
        states = world.states()
        for id, record in kept.items():
            broken = record.state == DictionaryState.TRAINING
            assert states[id] == ("refused" if broken else record.state.value)
        in_slot = Counter((record.slot, record.state) for record in kept.values())
        assert all(count == 1 for (_, state), count in in_slot.items() if state in ("active", "canary"))
        usable = {id for id, state in states.items() if state in ("active", "canary")}
        assert {id for device in DEVICES for id in world.ids_for(device)} == usable
        for bundle in world.service._bundles._known.values():
            assert all(world.service.dictionary(one.id) is one for one in bundle.dictionaries)
        # and it goes on
        world.feed()
        id = world.train("wallet", "qpay")[0]["id"]
        world.trainer.finish()
        assert id not in kept
        result(world.service.activate(id, 1.0))
        assert all(id in world.ids_for(device) for device in DEVICES)
    assert seen == {state.value for state in DictionaryState} - {"candidate"}
