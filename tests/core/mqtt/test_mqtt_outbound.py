"""Messages on their way to clients: windows, queues and their bounds, aliases, large fan-outs, and coming back."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accessgw.core.interfaces.mqtt_state import Message
from accessgw.core.mqtt.publication import PACKET_IDS, properties_at
from protocols.mqtt import packets
from protocols.mqtt.packets import V5, V311, Property
from protocols.mqtt.reasons import Reason
from tests.core.mqtt.mqtt_world import Client, World


def numbers(client: Client) -> list[int]:
    return [int(payload) for payload in client.payloads]


def publishes(client: Client) -> list[packets.Publish]:
    return [packet for packet in client.frames if isinstance(packet, packets.Publish)]


def connected(
    world: World, name: str = "c", *, qos: int = 1, expiry: float = 0.0, topic: str = "t", **more: Any
) -> Client:
    client = world.client(name, **more)
    client.connect(expiry=expiry)
    client.subscribe(topic, qos=qos)
    return client


def test_every_packet_id_stands_at_its_number() -> None:
    assert [int.from_bytes(two, "big") for two in PACKET_IDS] == list(range(65536))
    assert {len(two) for two in PACKET_IDS} == {2}


# ------------------------------------------------------------------ windows and queues


@pytest.mark.parametrize("expiry", [0.0, 3600.0])
@pytest.mark.parametrize("qos", [1, 2])
def test_no_more_in_flight_than_the_client_takes(qos: int, expiry: float) -> None:
    """[MQTT-3.3.4-9] [MQTT-4.6.0-6]"""
    world = World()
    client = connected(world, qos=qos, expiry=expiry, receive_maximum=3)
    for number in range(20):
        world.publish(b"%d" % number, qos=2)
    assert len(client.outstanding) == 3
    world.run(client)
    assert numbers(client) == list(range(20))
    assert client.session is not None
    assert not client.session.inflight
    assert client.session.parked is None
    assert client.session.parked_bytes == 0


@pytest.mark.parametrize("expiry", [0.0, 3600.0])
@pytest.mark.parametrize(
    ("policy", "left"), [("drop_old", [0, 7, 8, 9]), ("drop_new", [0, 1, 2, 3]), ("disconnect", [])]
)
def test_a_full_queue(policy: str, left: list[int], expiry: float) -> None:
    world = World(max_inflight=1, max_queued=3, queue_overflow=policy)
    client = connected(world, expiry=expiry)
    other = connected(world, "other", prompt=True)
    for number in range(10):
        world.publish(b"%d" % number)
        world.turn(2)
    assert world.counters.dropped_messages["queue_full"] >= 1
    if policy == "disconnect":
        assert client.displaced == [Reason.QUOTA_EXCEEDED]
        assert client.session is None
    else:
        assert world.counters.dropped_messages == {"queue_full": 6}
        world.run(client)
        assert numbers(client) == left
    world.run(other)
    assert numbers(other) == list(range(10)), "nobody else is harmed"


def test_a_queue_is_bounded_in_bytes_and_a_giant_does_not_empty_it() -> None:
    world = World(max_inflight=1, max_queued_bytes=100)
    client = connected(world)
    world.publish(b"0")
    world.publish(b"1" * 40)
    world.publish(b"2" * 40)
    world.publish(b"x" * 200)
    assert client.session is not None
    assert client.session.parked_bytes == 82
    world.publish(b"3" * 40)
    assert client.session.parked_bytes == 82
    world.run(client)
    assert client.payloads == [b"0", b"2" * 40, b"3" * 40]
    assert world.counters.dropped_messages == {"queue_full": 2}


@pytest.mark.parametrize("expiry", [0.0, 3600.0])
def test_a_reader_that_is_slow_gets_no_qos_0_and_the_rest_waits(expiry: float) -> None:
    world = World(max_qos0_buffer=1000)
    client = connected(world, qos=2, expiry=expiry)
    client.buffered = world.outbound.max_buffer + 1
    world.publish(b"0", qos=0)
    world.publish(b"1", qos=1)
    assert client.frames == []
    assert world.counters.dropped_messages == {"slow_reader": 1}
    client.buffered = 0
    assert client.session is not None
    world.outbound.pull(client.session)
    assert numbers(client) == [1]


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("expiry", [0.0, 3600.0])
def test_a_message_too_large_for_the_client_is_as_if_it_were_sent(qos: int, expiry: float) -> None:
    """[MQTT-3.1.2-24] [MQTT-3.1.2-25]"""
    world = World(max_inflight=2)
    client = connected(world, qos=2, expiry=expiry, max_packet=100)
    for number in range(4):
        world.publish(b"x" * 200, qos=qos)
        world.publish(b"%d" % number, qos=qos)
        if qos:
            world.run(client)
    assert numbers(client) == [0, 1, 2, 3]
    assert world.counters.dropped_messages == {"too_large": 4}
    assert client.session is not None
    assert not client.session.inflight
    assert [row.number for row in world.memory.inflight("c").result] == []


def test_messages_that_wait_expire_and_the_rest_of_their_life_is_told() -> None:
    """[MQTT-3.3.2-5] [MQTT-3.3.2-6]"""
    world = World(max_inflight=1)
    for client in (connected(world), connected(world, "d", expiry=3600.0)):
        world.publish(b"0")
        world.publish(b"1", expires_at=world.wall() + 10)
        world.publish(b"2", expires_at=world.wall() + 100)
        world.clock.advance(20)
        world.run(client)
        assert client.payloads[-2:] == [b"0", b"2"]
        assert client.got[-1].properties[Property.MESSAGE_EXPIRY] == 80
        client.cut(expiry=0)


def test_a_life_of_no_seconds_is_told_as_it_is() -> None:
    """[MQTT-3.3.2-5] [MQTT-3.3.2-6] To whoever takes it at once, and to nobody later."""
    world = World(max_inflight=1)
    clients = [connected(world), connected(world, "d", expiry=3600.0)]
    for payload in (b"at once", b"never"):
        world.publish(payload, expires_at=world.wall())
    world.clock.advance(1)
    world.run(*clients)
    for client in clients:
        assert [(one.payload, one.properties[Property.MESSAGE_EXPIRY]) for one in client.got] == [(b"at once", 0)]


@given(st.floats(1.6e9, 2**31 + 100), st.sampled_from([1, 10, 3600, 0x7FFFFFFF, 0xFFFFFFFF]), st.floats(0, 30))
def test_the_rest_of_a_life_is_what_was_asked_for_less_the_time_waited(now: float, life: int, waited: float) -> None:
    """[MQTT-3.3.2-6] Wherever the time of day rounds, and never more than the packet has room for."""
    message = Message("t", b"", at=now, expires_at=now + life)
    assert properties_at(message, now)[Property.MESSAGE_EXPIRY] == life
    rest = properties_at(message, now + waited)[Property.MESSAGE_EXPIRY]
    assert max(0, life - waited - 0.001) <= rest <= life
    set_back = properties_at(message, now - 3600)[Property.MESSAGE_EXPIRY]
    assert set_back <= 0xFFFFFFFF


# ------------------------------------------------------------------ topic aliases


def test_aliases_resolve_at_every_receiver() -> None:
    """Three receivers with different maxima, more topics than aliases, and packets that do not fit. The client's end of
    the wire resolves them, and refuses those that it was not told. [MQTT-3.1.2-26] [MQTT-3.3.2-8]"""
    world = World(max_inflight=2)
    clients = [
        connected(world, f"c{maximum}", qos=1, topic="#", aliases=maximum, max_packet=80) for maximum in (0, 1, 3, 32)
    ]
    sent: list[tuple[str, bytes]] = []
    for number, (topic, qos) in enumerate(itertools.product([f"topic/{n % 7}" for n in range(60)], (0, 1))):
        payload = b"%d" % number if number % 9 else b"x" * 100
        if number % 9:
            sent.append((topic, payload))
        world.publish(payload, topic, qos)
        if number % 3 == 0:
            world.run(*clients)
    world.run(*clients)
    for client in clients:
        assert sorted((one.topic, one.payload) for one in client.got) == sorted(sent)
        for topic in {topic for topic, _ in sent}:
            at_once = [one.payload for one in client.got if one.topic == topic and one.qos]
            assert at_once == [payload for name, payload in sent if name == topic and payload in at_once]
    many = clients[-1].session
    assert many is not None
    assert many.aliases


def test_no_alias_is_used_up_before_connack() -> None:
    """A message of QoS 0 between CONNECT and CONNACK is not sent, nor does its alias count as told."""
    world = World()
    client = connected(world, expiry=100, aliases=5)
    client.cut()
    client.connect(welcome=False)
    world.publish(b"lost", qos=0)
    client.welcomed()
    world.publish(b"seen", qos=0)
    assert [(one.topic, one.payload) for one in client.got] == [("t", b"seen")]


@pytest.mark.parametrize("version", [V311, V5])
def test_nothing_is_sent_or_counted_before_connack(version: int) -> None:
    world = World()
    client = world.client("c", version=version)
    client.connect()
    client.subscribe("t", qos=0)
    client.cut()
    client.connect(welcome=False)
    sent: list[bytes] = []
    client.put = sent.append  # type: ignore[method-assign]  # instead of decoding it
    assert world.publish(b"x") == [Reason.NO_MATCHING_SUBSCRIBERS]
    assert sent == []
    assert (world.counters.sent_qos0, world.counters.sent_bytes, world.broker.receivers.reached) == (0, 0, 0)


# ------------------------------------------------------------------ large fan-outs


def test_large_fan_outs_go_in_slices_and_keep_the_order() -> None:
    world = World(max_inflight=100)
    many = [connected(world, f"many{n}", topic="all") for n in range(4500)]
    durable = connected(world, "durable", expiry=100.0, topic="all")
    small = connected(world, "small", topic="few")
    outcomes = [world.publish(b"0", "all"), world.publish(b"1", "few"), world.publish(b"2", "all", 0),
                world.publish(b"3", "all")]  # fmt: skip
    assert outcomes == [[], [], [], []]
    assert small.payloads == []
    turns = 0
    while world.broker._backlog:
        world.turn()
        turns += 1
    assert turns >= 6
    assert outcomes == [[0], [0], [0], [0]]
    assert small.payloads == [b"1"]
    for client in [*many, durable]:
        assert [one for one in client.payloads if one != b"2"] == [b"0", b"3"]
        assert b"2" in client.payloads
    assert world.broker.receivers.reached == 3 * 4501 + 1


def test_small_messages_behind_a_large_fan_out_share_turns() -> None:
    world = World(max_inflight=1000)
    for number in range(2001):
        connected(world, f"many{number}", topic="all")
    small = connected(world, "small", topic="few")
    world.publish(b"", "all")
    for number in range(150):
        world.publish(b"%d" % number, "few")
    world.turn(3)
    assert numbers(small) == list(range(150))
    assert not world.broker._backlog


def test_the_backlog_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accessgw.core.mqtt.broker.MAX_BACKLOG", 10)
    world = World()
    for number in range(2001):
        connected(world, f"many{number}")
    outcomes = [world.publish(b"%d" % number) for number in range(20)]
    assert outcomes[10:] == [[Reason.QUOTA_EXCEEDED]] * 10
    assert world.counters.dropped_messages == {"backlog": 10}
    world.turn(50)
    assert outcomes[:10] == [[0]] * 10
    assert world.publish(b"more") == []


def test_sessions_that_change_during_a_large_fan_out() -> None:
    """One ends and begins anew: the new one gets nothing of it. One comes back: it gets the message, once."""
    world = World()
    ends, returns = (connected(world, name, expiry=100.0) for name in ("ends", "returns"))
    for number in range(4500):
        connected(world, f"many{number}")
    world.publish(b"0")
    world.turn()
    ends.cut()
    ends.connect(clean=True, expiry=100.0)
    returns.cut()
    returns.connect(expiry=100.0)
    world.turn(5)
    world.run(ends, returns)
    assert ends.payloads == []
    assert world.memory.waiting("ends") == 0
    assert world.memory.inflight("ends").result == []
    assert returns.payloads == [b"0"]
    assert returns.session is not None
    assert not returns.session.inflight


def test_an_outlet_that_fails_does_not_stop_large_fan_outs(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    bad = connected(world, "bad")
    for number in range(2001):
        connected(world, f"many{number}")
    monkeypatch.setattr(bad, "put", lambda frame: 1 / 0)
    monkeypatch.setattr("accessgw.core.mqtt.broker.log", Silent())
    first, good = world.publish(b"0"), connected(world, "good", topic="u")
    world.turn(5)
    assert len(first) == 1
    world.publish(b"1", "u")
    assert good.payloads == [b"1"]


class Silent:
    def failure(self, *args: Any, **more: Any) -> None: ...


# ------------------------------------------------------------------ a client that comes back


@pytest.mark.parametrize("version", [5, V311])
def test_what_was_in_flight_is_sent_again_first(version: int) -> None:
    """With DUP, the same ids and the same order; PUBREL where PUBREC had come; then what waited. Messages that were
    acknowledged do not come again. [MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-4.3.2-2] [MQTT-4.3.3-2] [MQTT-4.3.3-5]"""
    world = World(max_inflight=4)
    client = connected(world, qos=2, expiry=100.0, version=version)
    for number in range(7):
        world.publish(b"%d" % number, qos=1 if number == 2 else 2)
    client.answer()  # PUBREC of 0
    client.answer()  # PUBREC of 1
    client.answer()  # PUBACK of 2
    assert client.answers[-1] == ("pubcomp", 2)
    client.answer()  # PUBREC of 3
    client.answer()  # PUBCOMP of 0
    world.publish(b"7", qos=2)
    client.cut()
    world.publish(b"8", qos=2)
    before = len(client.frames)
    assert not any(one.dup for one in publishes(client))
    client.connect()
    again = client.frames[before:]
    kinds = [(type(one).__name__, one.packet_id, getattr(one, "dup", None)) for one in again[:3]]  # type: ignore[union-attr]
    assert ("Pubrel", 2, None) in kinds
    world.run(client)
    assert sorted(numbers(client)) == list(range(9))
    assert numbers(client) == sorted(numbers(client))
    assert world.counters.redelivered == sum(one.dup for one in publishes(client))


def test_a_smaller_window_than_what_is_in_flight() -> None:
    world = World(max_inflight=10)
    client = connected(world, expiry=100.0, qos=2, receive_maximum=10)
    for number in range(15):
        world.publish(b"%d" % number, qos=2)
    client.cut()
    client.receive_maximum = 2
    client.connect()
    assert len(client.outstanding) == 2
    assert all(one.dup for one in publishes(client)[10:12])
    world.run(client)
    assert numbers(client) == list(range(15))


def test_packets_too_large_for_the_next_connection_do_not_break_its_window() -> None:
    """[MQTT-3.1.2-25]"""
    world = World(max_inflight=10)
    client = connected(world, expiry=100.0)
    for number in range(10):
        world.publish(b"x" * 500 if number % 2 == 0 else b"%d" % number)
    client.got.clear()
    client.cut()
    client.receive_maximum, client.max_packet = 2, 100
    client.connect()
    assert len(client.outstanding) == 2
    world.run(client)
    assert numbers(client) == [1, 3, 5, 7, 9]
    assert client.session is not None
    assert not client.session.inflight


def test_thousands_of_packets_too_large_for_the_next_connection() -> None:
    world = World(max_inflight=5000)
    client = connected(world, expiry=100.0)
    for _ in range(3000):
        world.publish(b"x" * 100)
    client.cut()
    client.max_packet = 50
    client.connect()
    assert client.session is not None
    assert not client.session.inflight
    assert world.counters.dropped_messages == {"too_large": 3000}


EVENTS = ("commit", "fire", "cut", "connect", "read")


@pytest.mark.parametrize("qos", [1, 2])
def test_every_order_of_commit_disconnect_reconnect_and_read(qos: int) -> None:
    """A message that was in flight, one whose commit is late, one more meanwhile: whatever comes first, they arrive in
    order, QoS 2 once, and no packet id stays behind."""
    for order in itertools.permutations(EVENTS):
        if order.index("connect") < order.index("cut"):
            continue
        world = World(max_inflight=3)
        client = connected(world, qos=qos, expiry=100.0)
        world.publish(b"0", qos=qos)
        world.store.hand = True
        world.publish(b"1", qos=qos)
        for event in order:
            if event in ("cut", "connect"):
                getattr(client, event)()
            elif event == "read":
                world.store.read_one()
            else:
                getattr(world.store, event)()
        world.publish(b"2", qos=qos)
        world.run(client)
        assert list(dict.fromkeys(numbers(client))) == [0, 1, 2], order
        if qos == 2:
            assert numbers(client) == [0, 1, 2], order
        assert client.session is not None
        assert not client.session.inflight, order


def test_pushes_that_took_room_during_a_read_do_not_overrun_the_window() -> None:
    """[MQTT-3.3.4-9]"""
    world = World(max_inflight=4)
    client = connected(world, expiry=100.0, receive_maximum=4)
    client.cut()
    for number in range(6):
        world.publish(b"%d" % number)
    world.store.hand = True
    client.connect()
    session = client.session
    assert session is not None
    session.pushes = {}
    for seq in range(3):
        session.pushes[session.allocate(0)] = (1, seq)
    world.store.settle()
    assert numbers(client) == [0]
    for packet_id in list(session.pushes):
        del session.pushes[packet_id], session.inflight[packet_id]
    world.run(client)
    assert numbers(client) == list(range(6))


# ------------------------------------------------------------------ a store that fails


def test_a_publish_that_cannot_be_stored() -> None:
    """The publisher is told, no packet id leaks, and what comes later arrives."""
    world = World(max_inflight=1)
    client = connected(world, expiry=100.0)
    for _ in range(3):
        world.store.refuse = 1
        assert world.publish(b"x") == [Reason.UNSPECIFIED]
    assert client.session is not None
    assert not client.session.inflight
    assert world.counters.dropped_messages == {"store_unavailable": 3}
    world.publish(b"0")
    world.store.refuse = 1
    assert world.publish(b"x") == [Reason.UNSPECIFIED]
    world.publish(b"1")
    world.run(client)
    assert numbers(client) == [0, 1]


@pytest.mark.parametrize("step", ["inflight", "read", "assign", "pubrec"])
def test_a_queue_that_cannot_be_read_costs_the_connection_alone(step: str) -> None:
    world = World(max_inflight=2)
    client = connected(world, qos=2, expiry=100.0)
    for number in range(4):
        world.publish(b"%d" % number, qos=2)
    if step != "pubrec":
        client.cut()
        if step != "inflight":
            world.publish(b"4", qos=2)
    refuse_next(world, step)
    if step == "pubrec":
        client.answer()
    else:
        client.connect()
        while not client.displaced and client.answer():
            pass
    world.store.refuse = 0
    assert client.displaced == [Reason.SERVER_UNAVAILABLE]
    world.store.settle()
    client.connect()
    world.run(client)
    got = numbers(client)
    assert got == sorted(set(got))
    assert set(range(4)) <= set(got)
    assert client.session is not None
    assert not client.session.inflight


def refuse_next(world: World, step: str) -> None:
    """Refuse the next command of this kind, once."""
    store = world.store
    method = "_command" if step in ("assign", "pubrec") else "_read"
    real = getattr(store, method)

    def failing(*args: Any) -> Any:
        if (method == "_read" or args[0] == step) and (step != "read" or store.asked[-1] != "inflight"):
            store.refuse = 1
            setattr(store, method, real)
        return real(*args)

    setattr(store, method, failing)


def test_an_acknowledgement_that_cannot_be_stored_gives_no_id_to_two_messages() -> None:
    """[MQTT-2.2.1-4]"""
    world = World(max_inflight=1)
    client = connected(world, expiry=100.0)
    world.publish(b"0")
    world.store.refuse = 1
    client.answer()
    assert client.session is not None
    client.session.next_id = 1
    world.publish(b"1")
    assert [one.packet_id for one in publishes(client)] == [1, 1]
    client.cut()
    client.connect()
    world.run(client)
    assert numbers(client) == [0, 1, 1]
    assert world.memory.inflight("c").result == []
