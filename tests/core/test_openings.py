"""Where a device begins when it is looked up more than once at a time."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail

from accessgw.core.delivery import Opening
from accessgw.core.interfaces.stores import StoreUnavailable
from accessgw.core.stream_start import MAX_TURNS, Openings
from accessgw.model.identity import Identity
from accessgw.model.pushes import PushRequest, Scope, StreamKey, StreamState
from accessgw.model.settings import PushSettings
from tests.core.push_world import WALL, FakeStore

EVERYBODY = StreamKey(Scope.BROADCAST, "", "news")
Found = list[tuple[StreamState, Opening]]


class StaleCursors:
    """Chooses those questions that are answered when they are asked, though that is heard later: those for cursors."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store

    def getrandbits(self, _: int) -> bool:
        return self._store.calls[-1] == "cursors"


class World:
    """A device that nobody knows, a stream of everybody with one push, and a store that answers when it is told."""

    def __init__(self) -> None:
        self.store = FakeStore(lambda: WALL)
        self.push()
        self.store.slow = True
        self.openings = Openings(self.store, PushSettings(new_device_broadcast_tail=0))  # type: ignore[arg-type]  # a fake

    def push(self) -> None:
        slow, self.store.slow = self.store.slow, False
        self.store.append([PushRequest(EVERYBODY, b"x")], now=WALL)
        self.store.slow = slow

    def look_up(self) -> tuple[list[Any], Deferred[Any]]:
        outcome: list[Any] = []
        looking: Deferred[Found] = Deferred.fromCoroutine(
            self.openings.load(Identity("d1", ""), {}, lambda topics: None)
        )
        return outcome, looking.addBoth(outcome.append)

    def answer_all(self) -> None:
        while self.store.waiting:
            self.store.release()


@pytest.fixture
def world() -> World:
    return World()


def test_what_came_since_the_first_look_up_is_owed_after_a_second_that_began_before_its_end(world: World) -> None:
    world.store.early = StaleCursors(world.store)  # type: ignore[assignment]  # reads of it only
    first, _ = world.look_up()
    second, _ = world.look_up()
    while not first:
        world.store.release()
    world.push()
    world.answer_all()
    assert [opening.position for found in (first, second) for _, opening in found[0]] == [1, 1]
    assert world.store.saved["d1"][EVERYBODY].seq == 1


def test_one_that_fails_or_is_cancelled_leaves_the_others_their_turns(world: World) -> None:
    outcomes = [world.look_up() for _ in range(4)]
    outcomes[1][1].cancel()
    assert outcomes[1][0][0].check(CancelledError)
    waiting, world.store.waiting = world.store.waiting, []
    for result, _ in waiting:
        result.errback(StoreUnavailable("as asked"))
    assert outcomes[0][0][0].check(StoreUnavailable)
    world.answer_all()
    assert [opening.position for outcome, _ in outcomes[2:] for _, opening in outcome[0]] == [1, 1]
    assert not world.openings._turns


def test_of_too_many_the_one_that_has_waited_longest_fails(world: World) -> None:
    outcomes = [world.look_up() for _ in range(2 + MAX_TURNS)]
    (failed,) = [number for number, (outcome, _) in enumerate(outcomes) if outcome]
    assert failed == 1
    assert outcomes[1][0][0].check(StoreUnavailable)
    outcomes[2][1].cancel()
    outcomes += [world.look_up() for _ in range(2)]
    assert [number for number, (outcome, _) in enumerate(outcomes) if outcome] == [1, 2, 3]
    world.answer_all()
    assert all(outcome for outcome, _ in outcomes)
    assert not world.openings._turns


def test_a_store_that_fails_at_once_leaves_nobody_waiting(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = [world.look_up() for _ in range(500)]
    for question in ("cursors", "subscriptions", "streams_of"):
        monkeypatch.setattr(world.store, question, lambda *_: fail(StoreUnavailable("too many reads wait")))
    waiting, world.store.waiting = world.store.waiting, []
    for result, _ in waiting:
        result.errback(StoreUnavailable("too many reads wait"))
    assert all(outcome[0].check(StoreUnavailable) for outcome, _ in outcomes)
    assert not world.openings._turns


def test_other_devices_do_not_wait(world: World) -> None:
    world.look_up()
    asked = len(world.store.calls)
    Deferred.fromCoroutine(world.openings.load(Identity("d2", ""), {}, lambda topics: None))
    # the streams of everybody are looked up for both
    assert world.store.calls[asked:] == ["cursors", "subscriptions", "streams_of device"]
    world.answer_all()
    assert not world.openings._turns
