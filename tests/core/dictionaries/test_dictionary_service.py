"""Dictionaries in a gateway: trained, tried, judged, taken back, and found again by another process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail

from accessgw.core.interfaces.control import ControlError
from accessgw.core.interfaces.stores import StoreUnavailable
from accessgw.model.dictionaries import DictionaryRecord
from accessgw.stores.memory_dictionaries import MemoryDictionaryStore
from tests.core.dictionaries.dictionary_world import DEVICES, SETTINGS, World, result


@pytest.fixture
def world() -> World:
    return World()


def test_a_training_shows_its_progress_and_ends_as_a_canary_of_some_devices(world: World) -> None:
    world.feed()
    (row,) = world.train()
    assert (row["id"], row["state"], row["percent"], row["classes"]) == (1, "training", 0, ["qpay"])
    world.trainer.progress(45)
    assert world.service.show(1)["percent"] == 45
    assert world.ids_for("device1") == () and not world.changed
    world.trainer.finish()
    assert world.states() == {1: "canary"}
    assert world.changed == ["wallet"]
    having = [device for device in DEVICES if world.ids_for(device)]
    assert 70 < len(having) < 130
    assert having == [device for device in DEVICES if world.ids_for(device)]
    assert world.ids_for(having[0], "other") == ()
    assert world.service.dictionary(1).classes == ("qpay",)
    assert world.trainer.jobs[0].users == 2 and len(world.trainer.jobs[0].samples) == 60


def test_a_candidate_waits_where_there_is_no_share() -> None:
    world = World(canary_share=0.0)
    world.trained()
    assert world.states() == {1: "candidate"}
    assert world.service.dictionary(1) is None
    result(world.service.activate(1, 0.1))
    assert world.states() == {1: "canary"}


def test_activate_and_rollback(world: World) -> None:
    first = world.trained()
    assert result(world.service.activate(first, 1.0))["state"] == "active"
    assert {world.ids_for(device) for device in DEVICES} == {(1,)}
    second = world.trained()
    assert {world.ids_for(device) for device in DEVICES} == {(1,), (2,)}
    result(world.service.activate(second, 1.0))
    assert world.states() == {1: "retired", 2: "active"}
    assert result(world.service.roll_back(2))["state"] == "rolled_back"
    assert world.states() == {1: "active", 2: "rolled_back"}
    assert world.ids_for("device1") == (1,)
    assert result(world.service.roll_back(1))["state"] == "rolled_back"
    assert world.ids_for("device1") == ()


def test_clients_that_are_no_devices_get_no_canaries_and_nothing_that_was_taken_back(world: World) -> None:
    def seen() -> tuple[list[int], list[int]]:
        bundle = world.service.active("wallet")
        active = [one.id for one in bundle.dictionaries] if bundle is not None else []
        return active, sorted(one.id for one in world.service.used("wallet"))

    assert seen() == ([], [])
    first = world.trained()
    assert seen() == ([], [])
    result(world.service.activate(first, 1.0))
    second = world.trained()
    assert seen() == ([1], [1])
    result(world.service.activate(second, 1.0))
    assert seen() == ([2], [1, 2])
    result(world.service.roll_back(2))
    assert seen() == ([1], [1])
    assert world.service.active("other") is None and world.service.used("other") == []
    world = World(canary_share=1.0)
    world.trained()
    assert {world.ids_for(device) for device in DEVICES} == {(1,)} and seen() == ([], [])
    result(world.service.activate(1, 1.0))
    assert seen() == ([1], [1]) and world.changed == ["wallet"] * 2, "who looked before is told"


def test_earlier_sets_stay_known_until_they_are_forgotten(world: World) -> None:
    result(world.service.activate(world.trained(), 1.0))
    first = world.service.bundle_for("wallet", "device1")
    result(world.service.activate(world.trained(), 1.0))
    second = world.service.bundle_for("wallet", "device1")
    assert first.digest != second.digest
    assert world.service.known(first.digest) is first and world.service.known(second.digest) is second
    assert world.service.known(b"\0" * 8) is None
    again = world.restarted()
    assert again.ids_for("device1") == (2,)
    assert [one.id for one in again.service.known(first.digest).dictionaries] == [1]
    again.clock.advance(1001)
    again.clock.pump([1, 1])
    assert again.states() == {2: "active"}
    assert again.service.known(first.digest) is None and again.service.dictionary(1) is None
    assert World(again.store).states() == {2: "active"}


def test_the_bundle_is_the_same_object_until_something_changes(world: World) -> None:
    result(world.service.activate(world.trained(), 1.0))
    bundle = world.service.bundle_for("wallet", "d")
    assert world.service.bundle_for("wallet", "e") is bundle
    dictionary = world.service.dictionary(1)
    world.trained()
    assert world.service.dictionary(1) is dictionary, "its compiled tables are dear"


def test_a_worse_canary_is_rolled_back_by_itself(world: World) -> None:
    result(world.service.activate(world.trained(), 1.0))
    world.trained()
    world.pass_bodies(1, 10, 0.3)
    world.pass_bodies(2, 5, 0.5)
    world.pass_bodies(2, 4, 0.5)
    world.clock.advance(1)
    assert world.states()[2] == "canary"
    assert world.service.show(2)["trial"] == {
        "users": 5, "of_users": 5, "failed": 0, "bodies": 9, "of": 10, "ratio": 0.5,
    }  # fmt: skip
    world.pass_bodies(2, 5, 0.5)
    world.clock.advance(1)
    assert world.states() == {1: "active", 2: "rolled_back"}
    assert world.service.show(2)["reason"] == "ratio 0.500 against 0.300"
    assert world.counters.rollbacks == 1 and world.changed.count("wallet") == 4
    assert {world.ids_for(device) for device in DEVICES} == {(1,)}


def test_a_canary_that_cannot_be_expanded_is_rolled_back(world: World) -> None:
    world.trained()
    for witness in (1, 1, 1, 2, 3, 4):
        world.service.dictionary(1).fail(witness)
    world.clock.advance(1)
    assert world.states() == {1: "canary"} and world.service.show(1)["trial"]["failed"] == 4
    world.service.dictionary(1).fail(5)
    world.clock.advance(1)
    assert world.states() == {1: "rolled_back"}
    assert world.counters.errors == 7 and "errors for 5 of 5 users" in world.service.show(1)["reason"]


def test_many_canaries_are_judged_in_turn(world: World) -> None:
    for number in range(9):
        world.feed(name=f"pay{number}")
    ids = [row["id"] for row in world.train()]
    for id in ids:
        world.trainer.finish()
        if id != 2:
            for witness in range(1, 6):
                world.service.dictionary(id).fail(witness)
    for judged in (4, 8, 9):
        world.clock.advance(1)
        assert [id for id, state in world.states().items() if state == "rolled_back"] == [
            i for i in ids[:judged] if i != 2
        ]
    for witness in range(1, 6):
        world.service.dictionary(2).fail(witness)
    world.clock.advance(1)
    assert set(world.states().values()) == {"rolled_back"}


@pytest.mark.parametrize("which", [1, 2])
def test_a_hostile_user_neither_takes_a_canary_back_nor_brings_it_through(world: World, which: int) -> None:
    """As many bodies as it likes, as bad or as good as it likes, on either side of the comparison; those who have
    proved nothing are one together."""
    world = World(promote=True)
    result(world.service.activate(world.trained(), 1.0))
    world.trained()
    for _ in range(3):
        for witness in (0, 7):
            for _ in range(2000):
                world.service.dictionary(which).fail(witness)
            world.service.dictionary(which).count(10**9, 10**9 if which == 2 else 1, witness)
        world.clock.pump([1] * 6)
        assert world.states() == {1: "active", 2: "canary"}
    for witness in range(11, 21):
        for id in (1, 2):
            world.service.dictionary(id).count(1000, 300, witness)
    world.clock.pump([1] * 6)
    assert world.states() == {1: "retired", 2: "active"}, "the others decide"


def test_a_good_canary_is_promoted_only_where_that_is_wanted(world: World) -> None:
    for promote, state in ((False, "canary"), (True, "active")):
        world = World(promote=promote)
        world.trained()
        world.pass_bodies(1, 10, 0.3)
        world.clock.pump([1] * 6)
        assert world.states() == {1: state}
        assert world.counters.promotions == int(promote)


def test_a_refused_training_says_why_and_the_next_one_runs(world: World) -> None:
    world.feed()
    world.feed(name="refund")
    assert [row["id"] for row in world.train()] == [1, 2]
    world.trainer.finish("too little is common")
    assert world.states() == {1: "refused", 2: "training"}
    assert world.service.show(1)["reason"] == "too little is common"
    world.trainer.finish()
    assert world.states() == {1: "refused", 2: "canary"}
    assert world.counters.trainings == {"refused": 1, "trained": 1}
    with pytest.raises(ControlError):
        world.service.content(1)


def test_a_broken_training_is_told_by_the_next_process_and_its_id_stays_used(world: World) -> None:
    world.feed()
    world.train()
    again = world.restarted()
    assert again.states() == {1: "refused"}
    assert "ended during the training" in again.service.show(1)["reason"]
    again.feed()
    assert again.trained() == 2


def test_figures_outlive_the_process(world: World) -> None:
    world.trained()
    world.pass_bodies(1, 5, 0.3)
    result(world.service.stop())
    assert (world.restarted().service.show(1)["bodies"], world.restarted().service.show(1)["raw_bytes"]) == (5, 5000)
    world = World()
    world.trained()
    world.pass_bodies(1, 5, 0.3)
    world.clock.pump([1] * 5)
    assert world.restarted().service.show(1)["bodies"] == 5, "they are written every few seconds"


def test_a_trial_goes_on_after_a_restart(world: World) -> None:
    result(world.service.activate(world.trained(), 1.0))
    world.pass_bodies(1, 100, 0.9)
    world.trained()
    world.pass_bodies(1, 10, 0.3)
    world.pass_bodies(2, 5, 0.5)
    result(world.service.stop())
    again = world.restarted()
    again.pass_bodies(2, 5, 0.5)
    again.clock.advance(1)
    assert again.states()[2] == "rolled_back"
    assert again.service.show(2)["reason"] == "ratio 0.500 against 0.300"


def test_a_trial_counts_from_when_it_began_and_ends_with_it(world: World) -> None:
    result(world.service.activate(world.trained(), 1.0))
    world.pass_bodies(1, 100, 0.9)
    assert world.service.dictionary(1).watcher is None
    world.trained()
    assert world.service.dictionary(1).watcher is not None
    first = world.service.dictionary(2).watcher
    world.clock.advance(1)
    result(world.service.activate(2, 0.7))
    assert world.service.dictionary(2).watcher is first, "wider, it goes on"
    result(world.service.roll_back(2))
    assert world.service.dictionary(1).watcher is world.service.dictionary(2).watcher is None
    world.clock.advance(1)
    world.pass_bodies(2, 100, 0.9)
    result(world.service.activate(2, 0.5))
    assert world.service.show(2)["trial"]["users"] == 0, "another one begins anew"
    world.pass_bodies(1, 10, 0.3)
    world.pass_bodies(2, 10, 0.3)
    world.clock.advance(1)
    assert world.states()[2] == "canary"
    world.clock.pump([1] * 5)
    assert world.restarted().service.show(2)["trial"]["users"] == 5
    result(world.service.activate(2, 1.0))
    assert world.restarted().service.dictionary(1).watcher is None


def test_a_change_that_the_store_did_not_take_does_not_happen(world: World) -> None:
    world.trained()
    put, world.store.put = world.store.put, lambda records, lazy=False: fail(StoreUnavailable("disk full"))
    with pytest.raises(StoreUnavailable):
        result(world.service.activate(1, 1.0))
    assert world.states() == {1: "canary"}
    world.store.put = put
    assert result(world.service.activate(1, 1.0))["state"] == "active"


class HeldStore(MemoryDictionaryStore):
    """Answers to what is not lazy when a test lets it, or fails as one does whose disk is full. What is asked for counts
    in the order of asking, as in the durable store."""

    def __init__(self) -> None:
        super().__init__()
        self.hold = self.fails = False
        self.held: list[Deferred[Any]] = []

    def _later(self, done: Deferred[Any]) -> Deferred[Any]:
        if not self.hold:
            return done
        waiting: Deferred[Any] = Deferred()
        self.held.append(waiting)
        return waiting.addCallback(lambda _: done)

    def let_go(self) -> None:
        held, self.held, self.hold = self.held, [], False
        for waiting in held:
            waiting.callback(None)

    def add(self, record: DictionaryRecord) -> Deferred[DictionaryRecord]:
        return fail(StoreUnavailable("disk full")) if self.fails else self._later(super().add(record))

    def put(self, records: Sequence[DictionaryRecord], *, lazy: bool = False) -> Deferred[None]:
        if self.fails:
            return fail(StoreUnavailable("disk full"))
        done = super().put(records, lazy=lazy)
        return done if lazy else self._later(done)

    def remove(self, ids: Sequence[int], bundles: Sequence[Sequence[int]]) -> Deferred[None]:
        return self._later(super().remove(ids, bundles))


def test_figures_that_are_written_during_a_change_do_not_undo_it() -> None:
    world = World(HeldStore())
    result(world.service.activate(world.trained(), 1.0))
    world.pass_bodies(1, 5, 0.3)
    world.store.hold = True
    rolling = world.service.roll_back(1)
    world.clock.pump([1] * 5)
    assert world.states() == {1: "active"}, "it is not durable yet"
    assert world.restarted().states() == {1: "rolled_back"}, "the process ends here"
    world.store.let_go()
    assert result(rolling)["state"] == "rolled_back"
    world.clock.pump([1] * 5)
    again = world.restarted()
    assert again.states() == {1: "rolled_back"} and again.service.show(1)["bodies"] == 5


def test_what_comes_back_while_it_is_being_forgotten_waits_and_is_told() -> None:
    world = World(HeldStore())
    result(world.service.activate(world.trained(), 1.0))
    result(world.service.activate(world.trained(), 1.0))
    world.store.hold = True
    world.clock.advance(1001)
    assert world.states() == {1: "retired", 2: "active"}
    back, rolled = world.service.activate(1, 1.0), world.service.roll_back(2)
    world.store.let_go()
    with pytest.raises(ControlError) as caught:
        result(back)
    assert caught.value.status == 404
    assert result(rolled)["state"] == "rolled_back"
    assert world.states() == world.restarted().states() == {2: "rolled_back"}


def test_a_training_whose_result_the_store_does_not_take_can_be_begun_again() -> None:
    world = World(HeldStore())
    world.feed()
    world.train()
    world.store.fails = True
    world.trainer.finish()
    assert world.states() == {1: "refused"} and "did not take" in world.service.show(1)["reason"]
    assert world.service.dictionary(1) is None
    world.store.fails = False
    assert world.trained() == 2
    assert world.states() == {1: "refused", 2: "canary"}
    assert world.restarted().states() == {1: "refused", 2: "canary"}


def test_a_broken_training_can_be_begun_again_though_the_store_does_not_take_its_end() -> None:
    world = World(HeldStore())
    world.feed()
    world.train()
    world.store.fails = True
    again = world.restarted()
    assert again.states() == {1: "refused"}
    world.store.fails = False
    again.feed()
    assert again.trained() == 2


def test_trainings_that_the_store_took_run_when_it_fails_on_the_next() -> None:
    world = World(HeldStore())
    world.feed()
    world.feed(name="refund")
    add, taken = world.store.add, []

    def add_one(record: DictionaryRecord) -> Deferred[DictionaryRecord]:
        taken.append(record)
        return add(record) if len(taken) == 1 else fail(StoreUnavailable("disk full"))

    world.store.add = add_one
    with pytest.raises(StoreUnavailable):
        world.train()
    world.trainer.finish()
    assert world.states() == {1: "canary"}


def test_two_operators_at_once_begin_one_training() -> None:
    world = World(HeldStore())
    world.feed()
    world.store.hold = True
    first, second = world.service.train(None, ()), world.service.train("wallet", ("qpay",))
    world.store.let_go()
    assert [row["id"] for row in result(first)] == [1]
    with pytest.raises(ControlError) as caught:
        result(second)
    assert caught.value.code == "busy"
    assert world.states() == {1: "training"}


@pytest.mark.parametrize("secret", ["name", "route"])
def test_what_becomes_secret_while_it_is_trained_is_refused(secret: str) -> None:
    world = World()
    world.feed(name="pay.one")
    world.train("wallet", "qpay.*")
    if secret == "name":
        world.service.reconfigure(replace(SETTINGS, secret=("pay.one",)))
    else:
        world.secret_operations = ("pay.one",)
    world.trainer.finish()
    assert world.states() == {1: "refused"} and "covers pay.one" in world.service.show(1)["reason"]
    assert world.service.dictionary(1) is None


def test_a_wall_clock_that_is_set_back_or_forward_breaks_nothing() -> None:
    world = World(promote=True, train_interval=100.0)
    world.trained()
    world.began -= 10_000
    world.pass_bodies(1, 10, 0.3)
    world.clock.pump([1] * 6)
    assert world.states() == {1: "canary"}, "it waits until its time has come again"
    world.began += 20_000
    world.clock.pump([1] * 2)
    assert world.states()[1] == "active"
    world.restarted()


def test_the_same_class_of_two_apps_is_two(world: World) -> None:
    world.feed()
    world.feed(app="other")
    rows = world.train()
    assert [(row["app"], row["classes"]) for row in rows] == [("wallet", ["qpay"]), ("other", ["qpay"])]
    world.trainer.finish()
    world.trainer.finish()
    for row in rows:
        result(world.service.activate(row["id"], 1.0))
    assert world.ids_for("d", "wallet") == (1,) and world.ids_for("d", "other") == (2,)
    assert world.service.bundle_for("third", "d") is None


@pytest.mark.parametrize(
    ("app", "classes", "code"),
    [
        ("wallet", ["xpay"], "invalid"),
        ("wallet", ["qgw.time"], "secret"),
        ("wallet", ["qnothing"], "too_little"),
        ("nobody", [], "too_little"),
        ("nobody", ["qpay"], "too_little"),
    ],
)
def test_what_cannot_be_trained_is_told(world: World, app: str, classes: list[str], code: str) -> None:
    world.feed()
    with pytest.raises(ControlError) as caught:
        world.train(app, *classes)
    assert caught.value.code == code
    assert world.states() == {}


@pytest.mark.parametrize(
    ("fed", "ready"),
    [
        ({"size": 171}, True),  # 10 260 bytes
        ({"size": 170}, False),
        ({"count": 49, "size": 500}, False),
        ({"users": 1}, False),
    ],
)
def test_what_is_said_to_be_ready_can_be_trained(world: World, fed: dict[str, int], ready: bool) -> None:
    world.feed(**fed)
    (row,) = world.service.overview()["classes"]
    assert row["ready"] == ready
    for classes in ((), ("qpay",)):
        if ready:
            assert len(world.train("wallet", *classes)) == 1
            world.trainer.finish()
        else:
            with pytest.raises(ControlError) as caught:
                world.train("wallet", *classes)
            assert caught.value.code == "too_little"


def test_a_dictionary_does_not_cover_secret_requests() -> None:
    """A device cannot know that one of the operations of a class is secret.
    What the gateway sends it keeps raw itself."""
    world = World(secret=("pay.login",))
    world.secret_operations = ("card.*",)
    for name in ("pay.once", "card", "cards", "other"):
        world.feed(name=name)
        world.feed(name=name, kind="a")
    for classes, covered in (("qpay.*", "pay.login"), ("qcar*", "card.*"), ("q*", "pay.login"), ("qg*", "gw.*")):
        with pytest.raises(ControlError) as caught:
            world.train("wallet", classes)
        assert caught.value.code == "secret" and f"covers {covered}" in str(caught.value)
    for classes in ("apay.*", "a*", "qcards*", "qother"):
        (row,) = world.train("wallet", classes)
        assert row["classes"] == [classes]
        world.trainer.finish()


def test_a_training_is_not_begun_twice_and_not_past_the_bound() -> None:
    world = World(max_dictionaries=1)
    world.feed()
    world.train()
    with pytest.raises(ControlError) as caught:
        world.train("wallet", "qpay")
    assert caught.value.code == "busy"
    world.trainer.finish()
    with pytest.raises(ControlError) as caught:
        world.train()
    assert caught.value.code == "too_many"


def test_several_classes_together_are_one_dictionary(world: World) -> None:
    world.feed(count=30)
    world.feed(name="pay.later", count=30)
    (row,) = world.train("wallet", "qpay*", "apay*")
    assert len(world.trainer.jobs[0].samples) == 60
    world.trainer.finish()
    result(world.service.activate(row["id"], 1.0))
    bundle = world.service.bundle_for("wallet", "d")
    assert bundle.for_class("q", "pay.later").id == bundle.for_class("a", "pay").id == 1
    assert bundle.for_class("p", "pay") is None


@pytest.mark.parametrize("act", ["activate", "roll_back", "show", "content"])
def test_an_unknown_id_is_told(world: World, act: str) -> None:
    with pytest.raises(ControlError) as caught:
        done = getattr(world.service, act)(*((7, 1.0) if act == "activate" else (7,)))
        result(done)
    assert caught.value.status == 404


def test_trainings_by_the_clock() -> None:
    world = World(train_interval=100.0)
    world.feed()
    world.clock.advance(1)
    assert world.states() == {1: "training"}
    world.trainer.finish()
    world.clock.pump([1] * 90)
    assert world.states() == {1: "canary"}
    world.clock.pump([1] * 20)
    assert world.states() == {1: "canary", 2: "training"}


def test_a_secret_of_a_reload_is_kept_from_then_on(world: World) -> None:
    world.feed()
    assert not world.service.is_secret("pay")
    world.service.reconfigure(replace(SETTINGS, secret=("pay",)))
    world.feed()
    assert world.service.is_secret("pay") and world.service.overview()["classes"] == []


def test_disabled_it_samples_nothing_and_knows_nothing(world: World) -> None:
    result(world.service.activate(world.trained(), 1.0))
    off = world.restarted(enabled=False)
    off.feed()
    assert off.service.overview() == {"enabled": False, "dictionaries": [], "classes": []}
    assert off.service.bundle_for("wallet", "d") is None
    assert not off.clock.getDelayedCalls()
    with pytest.raises(ControlError) as caught:
        off.train()
    assert caught.value.code == "not_enabled"
    result(off.service.stop())
    assert world.restarted().ids_for("d") == (1,), "what was in the store is still there"


def test_a_stop_during_a_training_leaves_it_refused(world: World) -> None:
    world.feed()
    world.train()
    result(world.service.stop())
    assert world.states() == {1: "refused"}
    assert not world.clock.getDelayedCalls()


def test_who_watches_no_more_is_not_called(world: World) -> None:
    seen: list[str] = []
    end = world.service.on_change(seen.append)
    end()
    end()
    world.trained()
    assert seen == [] and world.changed == ["wallet"]


def test_what_codecs_have_counted_becomes_figures(world: World) -> None:
    id = world.trained()
    dictionary = world.service.dictionary(id)
    assert dictionary in world.service.readable()
    for _ in range(3):
        dictionary.count(100, 40)
    dictionary.fail()
    row = world.service.show(id)
    assert (row["bodies"], row["raw_bytes"], row["packed_bytes"], row["errors"]) == (3, 300, 120, 1)
    dictionary.count(100, 100)
    world.clock.advance(1.0)
    assert (world.counters.bodies, world.counters.raw, world.counters.packed, world.counters.errors) == (4, 400, 220, 1)
    assert (dictionary.bodies, dictionary.errors) == (0, 0)
