"""Dictionaries and histories on connections of the MMTP binding, and how they roll out, with the real client side."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from accessgw.core.interfaces.pushes import OutgoingPush
from accessgw.core.link_codings import MAX_OFFERS
from accessgw.core.rollout import PAUSE, SLICE, Packs, Rollout
from accessgw.model.mmtp_settings import MmtpSettings
from accessgw.model.pushes import Scope, StreamKey
from accessgw.model.reasons import CloseReason
from accessgw.model.route_settings import RouteSettings
from accessgw.policy.dictionary_life import witness_of
from protocols.mmtp import events
from protocols.mmtp.bodies import MINI
from protocols.mmtp.bundles import Bundle
from protocols.mmtp.dict_frames import DictKind, encode_want
from protocols.mmtp.exchange import dict_frame
from protocols.mmtp.gateway_exchange import PackedDictionary
from protocols.mmtp.handshake import Goaway, Hello
from protocols.mmtp.statuses import Status
from tests.core.coding_world import BODY, ORDERS, CodedDevice, CodingWorld, Memory, dictionary, push_to, table
from tests.system.coded_device import ALL

# -------------------------------------------------------------------- dictionaries


def test_connected_devices_come_to_what_is_in_force_and_back() -> None:
    world = CodingWorld()
    memory = Memory()
    device = world.coded(memory)
    plain = device.pay(BODY)
    one, two = dictionary(1, "qpay", "apay"), dictionary(2, "qpay", "apay")
    world.dictionaries.put_in_force(one)
    device.settle()
    assert sorted(memory.dictionaries) == [1]
    assert device.pay(BODY) < plain - 50
    assert one.bodies == 2

    world.dictionaries.put_in_force(two)
    device.settle()
    assert sorted(memory.dictionaries) == [2]
    assert device.pay(BODY) < plain - 50
    assert two.bodies == 2

    world.dictionaries.put_in_force(one)
    device.settle()
    assert sorted(memory.dictionaries) == [1]
    device.pay(BODY)
    device.lose()
    again = world.coded(memory)
    (welcomed,) = again.take(events.WelcomeReceived)
    assert welcomed.welcome.bundle == Bundle([one]).digest
    assert world.coding_counters.bundles == {"known": 1}
    again.pay(BODY)
    assert (one.bodies, one.errors) == (6, 0)

    world.dictionaries.put_in_force()
    again.settle()
    assert not memory.dictionaries
    again.pay(BODY)


def test_a_dictionary_that_was_rolled_back_is_not_used_while_its_predecessor_is_on_its_way() -> None:
    world = CodingWorld()
    one, two = dictionary(1, "apay"), dictionary(2, "apay")
    world.dictionaries.put_in_force(two)
    device = world.coded(Memory())
    device.settle()
    waiting = device.binding.wire
    assert set(waiting.classes_in_use().values()) == {two}
    # the device hears nothing for now
    world.dictionaries.put_in_force(one)
    world.clock.advance(0.1)
    assert not waiting.classes_in_use()
    device.settle()
    assert set(waiting.classes_in_use().values()) == {one}


def test_an_old_dictionary_stands_in_until_its_successor_is_there() -> None:
    world = CodingWorld()
    one, two = dictionary(1, "apay"), dictionary(2, "apay")
    world.dictionaries.put_in_force(one)
    device = world.coded(Memory())
    device.settle()
    world.dictionaries.put_in_force(two)
    world.clock.advance(0.1)
    assert set(device.binding.wire.classes_in_use().values()) == {one}
    device.settle()
    assert set(device.binding.wire.classes_in_use().values()) == {two}


def test_a_device_with_an_unknown_set_comes_to_the_one_in_force() -> None:
    """As after a connection that ended between have and retire."""
    world = CodingWorld()
    one, two = dictionary(1, "qpay"), dictionary(2, "qpay")
    world.dictionaries.put_in_force(one)
    world.dictionaries.put_in_force(two)
    memory = Memory()
    memory.dictionaries = {1: one, 2: two}
    world.authenticator.hold = True
    device = world.coded(memory)
    number = device.call("pay", BODY)
    world.authenticator.let_go()
    assert [(e.call, e.status) for e in device.take(events.CallReset)] == [(number, Status.DICTIONARY_MISS)]
    assert world.coding_counters.bundles == {"unknown": 1}
    device.settle()
    assert sorted(memory.dictionaries) == [2]
    device.pay(BODY)
    device.lose()
    world.authenticator.hold = False
    again = world.coded(memory)
    assert again.take(events.WelcomeReceived)[0].welcome.bundle == Bundle([two]).digest


def test_many_dictionaries_come_a_few_at_a_time() -> None:
    world = CodingWorld()
    many = [dictionary(id, f"qoperation{id}") for id in range(1, 12)]
    world.dictionaries.put_in_force(*many)
    silent = world.coded(Memory(), device="d2")
    silent.wire.take_offers(dictionary_bytes=0, tables=False)
    world.clock.advance(1.0)
    assert len(silent.binding._codings._offered) <= MAX_OFFERS
    memory = Memory()
    device = world.coded(memory)
    device.settle()
    assert sorted(memory.dictionaries) == list(range(1, 12))


def test_secret_answers_travel_raw() -> None:
    world = CodingWorld(
        RouteSettings(operation="*", cluster="c"), RouteSettings(operation="key.*", cluster="c", secret=True)
    )
    one = dictionary(1, "apay", "apassword", "akey.get")
    world.dictionaries.secret.add("password")
    world.dictionaries.put_in_force(one)
    device = world.coded(Memory())
    device.settle()
    body = BODY * 4
    assert device.pay(body) < 200
    assert one.bodies == 1
    assert device.pay(body, operation="password") > len(body)
    assert device.pay(body, operation="key.get") > len(body)
    assert one.bodies == 1


def test_what_a_device_could_not_expand_is_counted() -> None:
    world = CodingWorld()
    one = dictionary(1, "apay")
    world.dictionaries.put_in_force(one)
    device = world.coded(Memory())
    device.settle()
    device.pay(BODY)
    device.wire.go_away(Goaway(status=Status.COMPRESSION))
    device.binding.data_received(device.wire.to_send(0.0))
    assert one.errors == 1


def test_what_bodies_became_is_told_with_whose_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests and answers of a call, a push, what either side could not expand; also what came before WELCOME."""
    world = CodingWorld(RouteSettings(operation="pay", cluster="c", idempotent=True))
    one = dictionary(1, "qpay", "apay", "porders")
    world.dictionaries.put_in_force(one)
    told = one.watcher = Told()
    alice, nobody = witness_of("alice"), 0
    memories = {device: Memory() for device in ("d1", "d2")}
    for device, token in (("d1", "ok:alice"), ("d2", "ok")):
        world.coded(memories[device], device=device, token=token).settle()
    assert not told.counted
    for device, token, witness in (("d1", "ok:alice", alice), ("d2", "ok", nobody)):
        coded = CodedDevice(world, memories[device])
        coded.wire.send_hello(
            Hello(device=device, token=token, boot=1, counter=9, app="shop", capabilities=ALL),
            None,
            Bundle(memories[device].dictionaries.values()),
        )
        coded.wire.request("pay", [], BODY)
        coded.send()
        assert [told.counted.pop(0), told.counted] == [(witness, len(BODY)), []], "it came with HELLO"
        world.upstreams.last.answer(200, BODY * 2)
        assert [told.counted.pop(0), told.counted] == [(witness, len(BODY) * 2), []]
        coded.binding.introduce(3, ORDERS, 1, 0)
        push_to(coded, ORDERS, 1, BODY * 3)
        assert [told.counted.pop(0), told.counted] == [(witness, len(BODY) * 3), []]
        coded.wire.go_away(Goaway(status=Status.COMPRESSION))
        coded.binding.data_received(coded.wire.to_send(0.0))
        assert [told.failed.pop(0), told.failed] == [witness, []]
    corrupt = world.coded(memories["d1"], generation=(1, 10))
    monkeypatch.setattr("protocols.mmtp.device_calls.pack", lambda *_: (MINI, b"\xff" * 20))
    corrupt.call("pay", BODY)
    assert told.failed == [alice]


class Told:
    """A Watcher."""

    def __init__(self) -> None:
        self.counted: list[tuple[int, int]] = []
        self.failed: list[int] = []

    def count(self, witness: int, raw: int, packed: int) -> None:
        assert packed < raw
        self.counted.append((witness, raw))

    def fail(self, witness: int) -> None:
        self.failed.append(witness)


def test_a_flood_of_wants_ends_the_connection_and_sends_one_transfer() -> None:
    world = CodingWorld()
    device = world.coded(Memory())
    device.wire.take_offers(dictionary_bytes=0, tables=False)
    world.dictionaries.put_in_force(dictionary(1, "qpay"))
    world.clock.advance(0.1)
    before = sum(map(len, device.connection.written))
    flood = dict_frame(DictKind.WANT, encode_want(1, 0)) * 100
    for _ in range(40):
        device.binding.data_received(flood)
    assert device.connection.closed is CloseReason.FLOOD
    assert sum(map(len, device.connection.written)) - before < 2000


@pytest.mark.parametrize("seed", range(12))
def test_whatever_changes_in_whatever_moment_no_call_fails_and_devices_arrive(seed: int) -> None:
    """Sets of dictionaries come and go in the middle of transfers and of connections."""
    source = Random(seed)
    world = CodingWorld(tables=(table(1),))
    every = [
        dictionary(id, *source.choice([("qpay", "apay"), ("qpay",), ("apay", "p*"), ("q*",)])) for id in range(1, 9)
    ]
    memory = Memory()
    device = world.coded(memory)
    for _ in range(120):
        step = source.randrange(6)
        if step == 0:
            world.dictionaries.put_in_force(*source.sample(every, source.randrange(4)))
        elif step == 1:
            world.clock.advance(source.choice([0.0, 0.01, 0.02]))
        elif step == 2:
            device.listen()
        elif step == 3:
            device.lose()
            device = world.coded(memory)
        else:
            device.pay(BODY)
    device.settle()
    device.pay(BODY)
    assert device.connection.closed is None
    # what the device is about to be offered once more waits for its next connection
    device.lose()
    device = world.coded(memory)
    device.settle()
    wanted = world.dictionaries.bundle
    assert sorted(memory.dictionaries) == (sorted(wanted.by_id) if wanted is not None else [])
    assert not any(one.errors for one in every)
    assert device.binding.wire.classes_in_use() == (wanted.classes if wanted is not None else {})


# -------------------------------------------------------------------- pushes


def test_private_streams_that_opted_in_have_a_history() -> None:
    world = CodingWorld(mmtp=MmtpSettings(history_biz=("orders", "chat.*")))
    device = world.coded(Memory())
    device.binding.introduce(3, ORDERS, 1, 0)
    first = push_to(device, ORDERS, 1, BODY)
    assert push_to(device, ORDERS, 2, BODY.replace(b"12", b"13")) < first / 3
    note = StreamKey(Scope.USER, "alice", "chat.one")
    device.binding.stream_note(3, note, "truncated", 1, 4)
    assert device.binding.wire.stream_has_history(3)
    for other in (
        StreamKey(Scope.USER, "alice", "news"),
        StreamKey(Scope.TOPIC, "t", "orders"),
        StreamKey(Scope.BROADCAST, "", "orders"),
    ):
        device.binding.introduce(3, other, 1, 0)
        assert not device.binding.wire.stream_has_history(3)
        push_to(device, other, 1, BODY)
    world.dictionaries.secret.add("orders")
    device.binding.introduce(3, ORDERS, 1, 2)
    assert not device.binding.wire.stream_has_history(3)


def test_what_becomes_secret_travels_raw_on_a_stream_with_a_history() -> None:
    world = CodingWorld(mmtp=MmtpSettings(history_biz=("orders",)))
    device = world.coded(Memory())
    device.binding.introduce(3, ORDERS, 1, 0)
    push_to(device, ORDERS, 1, BODY)
    world.dictionaries.secret.add("orders")
    assert push_to(device, ORDERS, 2, BODY) > len(BODY)
    world.dictionaries.secret.clear()
    assert push_to(device, ORDERS, 3, BODY) < len(BODY) / 3  # both sides have kept the second in mind


def test_devices_of_a_user_share_what_their_history_makes_of_a_body() -> None:
    world = CodingWorld(mmtp=MmtpSettings(history_biz=("orders",)))
    devices = [world.coded(Memory(), device=f"d{number}") for number in range(2)]
    for device in devices:
        device.binding.introduce(3, ORDERS, 1, 0)
    for seq in range(1, 4):
        push = OutgoingPush(ORDERS, 3, 1, seq, BODY)
        for device in devices:
            push_to(device, ORDERS, seq, BODY, push)
        (shared,) = push.encodings.values()
        assert len(shared._forms) == 1


def test_pushes_of_a_class_are_encoded_once_for_each_dictionary() -> None:
    world = CodingWorld()
    one = dictionary(1, "porders")
    world.dictionaries.put_in_force(one)
    coded = [world.coded(Memory(), device=f"d{number}") for number in range(3)]
    for device in coded:
        device.settle()
    plain = world.coded(Memory(), device="d9", capabilities=frozenset())
    push = OutgoingPush(ORDERS, 3, 1, 1, BODY)
    sizes = set()
    for device in (*coded, plain):
        device.binding.introduce(3, ORDERS, 1, 0)
        sizes.add(push_to(device, ORDERS, 1, BODY, push))
    assert len(push.encodings) == 2
    assert max(sizes) > 2 * min(sizes)
    assert one.bodies == 1
    world.dictionaries.secret.add("orders")
    assert push_to(coded[0], ORDERS, 2, BODY) > len(BODY)


# -------------------------------------------------------------------- rollouts


def test_a_rollout_takes_little_time_at_once() -> None:
    clock = Clock()
    spent = [0.0]

    class Follower:
        followed = 0

        def follow(self) -> None:
            spent[0] += 0.0005
            self.followed += 1

    rollout = Rollout(clock, lambda: spent[0])
    followers = [Follower() for _ in range(20)]
    for follower in followers:
        rollout.enter("shop", follower)
    rollout.changed("shop")
    clock.advance(0)
    assert spent[0] <= SLICE + 0.0005
    before = spent[0]
    clock.advance(0)
    assert spent[0] == before
    rollout.leave("shop", followers[0])
    rollout.changed("shop")  # those that were met are met again
    for _ in range(20):
        clock.advance(PAUSE)
    assert all(follower.followed >= 1 for follower in followers[1:])
    assert not clock.getDelayedCalls()


def test_a_device_with_an_unknown_bundle_stays_however_many_dictionaries_there_are() -> None:
    """Two frames each, and a peer takes so many of them only."""
    world = CodingWorld()
    world.dictionaries.all = {id: dictionary(id, f"pbiz{id}") for id in range(1, 2001)}
    memory = Memory()
    memory.dictionaries = {1990: dictionary(1990, "pbiz1990"), 5000: dictionary(5000, "pbiz")}
    device = world.coded(memory)
    device.settle()
    assert device.connection.closed is None
    assert sorted(memory.dictionaries) == [5000]
    assert device.pay(BODY) > 0


def test_a_dictionary_is_packed_once_and_those_who_waited_are_offered_it() -> None:
    world = CodingWorld()
    work: list[tuple[Callable[[], PackedDictionary], Deferred[PackedDictionary]]] = []

    def run(packing: Callable[[], PackedDictionary]) -> Deferred[PackedDictionary]:
        work.append((packing, Deferred()))
        return work[-1][1]

    world.codings.packs = Packs(run, world.rollout)
    devices = [world.coded(Memory(), device=f"d{number}") for number in range(3)]
    one = dictionary(1, "qpay")
    world.dictionaries.put_in_force(one)
    for device in devices:
        device.settle()
        assert not device.memory.dictionaries
    devices[0].lose()
    ((packing, done),) = work
    done.callback(packing())
    for device in devices[1:]:
        device.settle()
        assert sorted(device.memory.dictionaries) == [1]
    assert len(work) == 1
    assert world.coding_counters.dictionaries_offered == 2


def test_a_dictionary_that_could_not_be_packed_is_tried_again() -> None:
    world = CodingWorld()
    broken = [True]

    def run(packing: Callable[[], PackedDictionary]) -> Deferred[PackedDictionary]:
        return fail(ValueError("no thread")) if broken else succeed(packing())

    world.codings.packs = Packs(run, world.rollout)
    device = world.coded(Memory())
    one = dictionary(1, "qpay")
    world.dictionaries.put_in_force(one)
    device.settle()
    assert not device.memory.dictionaries
    broken.clear()
    device.lose()
    again = world.coded(device.memory)
    again.settle()
    assert sorted(device.memory.dictionaries) == [1]
