"""A bridge against another broker that the test plays by hand."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, globalLogPublisher

from accessgw.core.mqtt.session_keeper import Opening
from accessgw.model.mqtt_settings import BridgeTopicSettings, MqttSettings
from protocols.mqtt import packets
from protocols.mqtt.packets import Property
from protocols.mqtt.reasons import Reason
from tests.core.mqtt.bridge_fakes import IN, OUT, World, settings

MARK = ("accessgw-via", "us")


def published(came: list[packets.Packet]) -> list[packets.Publish]:
    return [packet for packet in came if isinstance(packet, packets.Publish)]


def told(publish: packets.Publish) -> tuple[Any, ...]:
    return publish.topic, publish.payload, publish.qos, publish.dup, publish.packet_id


# ------------------------------------------------------------------ connecting


def test_connect_of_version_5_asks_for_a_lasting_session_and_tells_our_name() -> None:
    world = World(settings(username="u", password="p", keep_alive=30))
    connect = world.remote.accept()
    assert (connect.client_id, connect.version, connect.clean_start, connect.keep_alive) == (
        "accessgw-node-b",
        5,
        False,
        30,
    )
    assert (connect.username, connect.password, connect.bridge, connect.will) == ("u", b"p", False, None)
    assert connect.properties[Property.SESSION_EXPIRY] == 0xFFFFFFFF
    assert connect.properties[Property.USER_PROPERTY] == [MARK]
    assert world.row() | {"since": 0} == {
        "name": "b", "address": "broker.example:1883", "connected": True, "since": 0, "sent": 0, "received": 0,
        "queued": 0, "inflight": 0, "error": "",
    }  # fmt: skip


def test_clean_start_asks_for_a_session_that_ends_with_the_connection() -> None:
    connect = World(settings(clean_start=True, client_id="mine")).remote.accept()
    assert connect.clean_start
    assert connect.client_id == "mine"
    assert Property.SESSION_EXPIRY not in connect.properties


@pytest.mark.parametrize("refusal", ["return code 1", "closes"])
def test_a_broker_that_does_not_know_the_bridge_bit_is_asked_without_it_and_then_always(refusal: str) -> None:
    world = World(settings(version=4))
    world.remote.user.connected()
    (connect,) = world.remote.came()
    assert isinstance(connect, packets.Connect)
    assert connect.bridge
    if refusal == "closes":
        world.remote.lose()
    else:
        world.remote.say(packets.Connack(False, Reason.UNSUPPORTED_VERSION))
    world.clock.advance(100)
    assert not world.remote.accept().bridge
    assert not world.reconnect().accept().bridge


def test_back_off_doubles_to_its_limit_with_jitter_and_begins_anew_after_a_stable_connection() -> None:
    world = World(settings(retry_initial=1.0, retry_max=4.0))
    found = []
    for random in (1.0, 1.0, 1.0, 1.0, 0.0):
        world.random = random
        world.remote.lose("refused")
        found.append(min(call.getTime() for call in world.clock.getDelayedCalls()) - world.clock.seconds())
        world.clock.advance(found[-1])
    assert found == [1.0, 2.0, 4.0, 4.0, 2.0]
    world.remote.accept()
    world.clock.advance(11)
    world.random = 1.0
    world.remote.lose("gone")
    retries = [call for call in world.clock.getDelayedCalls() if call.func.__name__ == "_dial"]
    assert [call.getTime() - world.clock.seconds() for call in retries] == [1.0]
    assert world.counters.bridge_failures == {"b": 6}


def test_a_refusal_is_told_once_until_it_changes() -> None:
    lines: list[str] = []

    def note(event: dict[str, Any]) -> None:
        if event.get("log_level") is LogLevel.warn and "bridge" in str(event.get("log_format")):
            lines.append(event["error"])

    globalLogPublisher.addObserver(note)
    try:
        world = World(settings())
        for reason in (Reason.BAD_CREDENTIALS, Reason.BAD_CREDENTIALS, Reason.BANNED):
            world.remote.user.connected()
            world.remote.say(packets.Connack(False, reason))
            assert not world.remote.open
            world.clock.advance(100)
    finally:
        globalLogPublisher.removeObserver(note)
    assert lines == [
        "the other broker refused the bridge: bad credentials",
        "the other broker refused the bridge: banned",
    ]
    assert world.row()["error"] == lines[-1]
    world.remote.accept()
    assert world.row()["error"] == ""


def test_a_broker_that_does_not_answer_is_left() -> None:
    world = World(settings())
    world.remote.user.connected()
    world.clock.advance(15.1)
    assert not world.remotes[0].open
    assert "no answer" in world.row()["error"]


def test_the_state_is_retained_below_sys_as_mosquitto_has_it() -> None:
    world = World(settings())
    topic = "$SYS/broker/connection/b/state"
    retained = world.broker.retained
    assert retained.get(topic).payload == b"0"  # type: ignore[union-attr]
    world.remote.accept()
    assert retained.get(topic).payload == b"1"  # type: ignore[union-attr]
    assert world.counters.bridge_connected == {"b": 1}
    world.remote.lose()
    assert retained.get(topic).payload == b"0"  # type: ignore[union-attr]
    world.bridges.apply([])
    assert retained.get(topic) is None


def test_keep_alive_of_the_server_holds_and_a_missing_answer_ends_the_connection() -> None:
    """[MQTT-3.1.2-21]"""
    world = World(settings(keep_alive=60))
    world.remote.accept(SERVER_KEEP_ALIVE=10)
    world.remote.came()
    world.clock.advance(10.1)
    assert world.remote.came() == [packets.Pingreq()]
    world.remote.say(packets.Pingresp())
    world.clock.advance(10.1)
    assert world.remote.came() == [packets.Pingreq()]
    world.clock.advance(10.1)
    assert not world.remotes[0].open
    assert "PINGRESP" in world.row()["error"]


def test_stopping_says_disconnect_and_does_not_come_back() -> None:
    world = World(settings())
    world.remote.accept()
    world.bridges.stop()
    assert world.remote.came() == [packets.Disconnect()]
    assert not world.remote.open
    world.clock.advance(1000)
    assert len(world.remotes) == 1
    assert world.broker.sessions["$bridge/b"].outlet is None


def test_a_bridge_that_is_stopped_while_it_dials_or_waits_is_gone() -> None:
    world = World(settings())
    world.bridges.stop()
    assert not world.remote.open
    world = World(settings())
    world.remote.lose()
    world.bridges.stop()
    world.clock.advance(1000)
    assert len(world.remotes) == 1


# ------------------------------------------------------------------ out


def test_messages_wait_while_the_other_broker_is_away_and_then_go_in_order() -> None:
    world = World(settings())
    for number in range(150):
        assert world.publish("out/x", b"%d" % number, 1 + number % 2) == Reason.SUCCESS
    assert world.row()["queued"] == 150
    world.remote.accept()
    got: list[bytes] = []
    while came := world.remote.came():
        for packet in came:
            if isinstance(packet, packets.Publish):
                got.append(packet.payload)
                answer = packets.Puback if packet.qos == 1 else packets.Pubrec
                world.remote.say(answer(packet.packet_id))
            elif isinstance(packet, packets.Pubrel):
                world.remote.say(packets.Pubcomp(packet.packet_id))
    assert got == [b"%d" % number for number in range(150)]
    assert (world.row()["queued"], world.row()["inflight"], world.row()["sent"]) == (0, 0, 150)


def test_a_bridge_has_a_bound_of_its_own_for_what_waits() -> None:
    world = World(settings(max_queued=5), settings=MqttSettings(max_queued=2, queue_overflow="drop_old"))
    for number in range(7):
        world.publish("out/x", b"%d" % number)
    assert world.row()["queued"] == 5
    assert world.counters.dropped_messages == {"queue_full": 2}
    world.remote.accept()
    assert [packet.payload for packet in published(world.remote.came())] == [b"2", b"3", b"4", b"5", b"6"]


def test_the_queue_outlives_a_restart_however_many_sessions_there_are() -> None:
    world = World(settings(), settings=MqttSettings(max_sessions=1))
    world.keeper.open(Opening("device", None, "", 5, False, 100.0, None), _Outlet())
    world.keeper.end(world.broker.sessions["$bridge/b"])
    world.remote.lose()
    world.clock.advance(100)
    world.publish("out/x", b"kept")
    again = World(settings(), store=world.store)
    again.remote.accept()
    assert [packet.payload for packet in published(again.remote.came())] == [b"kept"]


def test_no_more_are_in_flight_than_the_other_broker_takes() -> None:
    """[MQTT-3.3.4-9]"""
    world = World(settings())
    world.remote.accept(RECEIVE_MAXIMUM=2)
    for number in range(5):
        world.publish("out/x", b"%d" % number)
    first = published(world.remote.came())
    assert [packet.payload for packet in first] == [b"0", b"1"]
    world.remote.say(packets.Puback(first[0].packet_id), packets.Puback(first[1].packet_id))
    assert [packet.payload for packet in published(world.remote.came())] == [b"2", b"3"]


def test_what_was_in_flight_comes_again_with_dup_under_its_packet_id() -> None:
    """[MQTT-3.3.1-1] [MQTT-4.4.0-1]"""
    world = World(settings(*OUT, *IN))
    world.remote.accept()
    world.publish("out/x", b"once", 1)
    world.publish("out/x", b"exactly", 2)
    world.publish("out/x", b"released", 2)
    first = published(world.remote.came())
    world.remote.say(packets.Pubrec(first[2].packet_id))
    assert world.remote.came() == [packets.Pubrel(first[2].packet_id)]
    world.reconnect()
    world.remote.user.connected()
    world.remote.came()
    world.remote.say(packets.Connack(True))
    (subscribe,) = world.remote.suback()
    assert subscribe.packet_id not in {packet.packet_id for packet in first}
    came = world.remote.came()
    assert [told(packet) for packet in published(came)] == [
        ("out/x", b"once", 1, True, first[0].packet_id),
        ("out/x", b"exactly", 2, True, first[1].packet_id),
    ]
    assert packets.Pubrel(first[2].packet_id) in came


def test_after_a_restart_what_was_in_flight_comes_again_and_no_subscribe_takes_its_packet_id() -> None:
    """[MQTT-2.2.1-3]"""
    before = World(settings(*OUT, *IN))
    before.remote.accept()
    before.publish("out/x", b"m", 2)
    (sent,) = published(before.remote.came())
    before.broker.sessions["$bridge/b"].next_id = 65535
    before.publish("out/x", b"n", 1)
    (last,) = published(before.remote.came())
    assert last.packet_id == 65535
    world = World(settings(*OUT, *IN), store=before.store)
    world.remote.user.connected()
    world.remote.came()
    world.remote.say(packets.Connack(True))
    (subscribe,) = world.remote.suback()
    assert subscribe.packet_id == 65534
    assert [(told(packet)) for packet in published(world.remote.came())] == [
        ("out/x", b"m", 2, True, sent.packet_id),
        ("out/x", b"n", 1, True, 65535),
    ]


@pytest.mark.parametrize("allowed", [0, 1])
def test_qos_is_lowered_to_what_the_other_broker_takes_and_the_queue_still_empties(allowed: int) -> None:
    world = World(settings())
    world.remote.accept(MAXIMUM_QOS=allowed)
    world.publish("out/x", b"1", 1)
    world.publish("out/x", b"2", 2)
    came = published(world.remote.came())
    assert [(packet.payload, packet.qos) for packet in came] == [(b"1", allowed), (b"2", allowed)]
    if allowed:
        world.remote.say(*(packets.Puback(packet.packet_id) for packet in came))
    assert (world.row()["queued"], world.row()["inflight"]) == (0, 0)


def test_a_message_that_is_too_large_for_the_other_broker_is_dropped_and_told() -> None:
    """[MQTT-3.1.2-24]"""
    world = World(settings())
    world.remote.accept(MAXIMUM_PACKET_SIZE=200)
    for qos in range(3):
        world.publish("out/x", b"x" * 300, qos)
    world.publish("out/x", b"small", 2)
    assert [packet.payload for packet in published(world.remote.came())] == [b"small"]
    assert world.counters.dropped_messages == {"bridge_too_large": 3}
    assert world.row()["inflight"] == 1
    assert "larger" in world.row()["error"]


def test_a_message_that_the_other_broker_refuses_is_not_sent_again() -> None:
    world = World(settings())
    world.remote.accept()
    world.publish("out/x", b"1", 1)
    world.publish("out/x", b"2", 2)
    one, two = published(world.remote.came())
    world.remote.say(packets.Puback(one.packet_id, Reason.NOT_AUTHORIZED))
    world.remote.say(packets.Pubrec(two.packet_id, Reason.QUOTA_EXCEEDED))
    assert world.row()["inflight"] == 0
    assert world.counters.dropped_messages == {"bridge_refused": 2}
    assert "quota_exceeded" in world.row()["error"]


def test_properties_expiry_and_the_retain_flag_go_along() -> None:
    world = World(settings())
    world.remote.accept(RETAIN_AVAILABLE=1)
    properties = {Property.CONTENT_TYPE: "text/plain", Property.USER_PROPERTY: [("a", "b")]}
    world.publish("out/x", b"m", 1, retain=True, properties=properties, expires_at=world.wall() + 60)
    (publish,) = published(world.remote.came())
    assert publish.retain
    assert publish.properties == {
        Property.CONTENT_TYPE: "text/plain",
        Property.USER_PROPERTY: [("a", "b"), MARK],
        Property.MESSAGE_EXPIRY: 60,
    }


def test_retained_messages_of_a_new_subscription_go_once() -> None:
    world = World(settings())
    world.publish("out/kept", b"before", 1, retain=True)
    world = World(settings(), store=world.store)
    world.publish("out/zero", b"zero", 0, retain=True)
    world.remote.accept()
    came = published(world.remote.came())
    assert (b"zero", True) in {(packet.payload, packet.retain) for packet in came}
    assert b"before" in {packet.payload for packet in came}
    for packet in came:
        if packet.qos:
            world.remote.say(packets.Puback(packet.packet_id))
    world.reconnect().accept(present=True)
    assert published(world.remote.came()) == []


def test_an_operator_who_discards_the_session_empties_the_queue_and_the_bridge_goes_on() -> None:
    world = World(settings())
    world.remote.accept()
    world.publish("out/x", b"lost")
    session = world.broker.sessions["$bridge/b"]
    assert session.outlet is not None
    session.outlet.displace(Reason.ADMINISTRATIVE_ACTION)
    world.keeper.end(session)
    world.clock.advance(100)
    world.publish("out/x", b"kept")
    world.remote.accept()
    assert [packet.payload for packet in published(world.remote.came())] == [b"kept"]


# ------------------------------------------------------------------ in


def test_a_message_is_acknowledged_only_when_it_is_durable() -> None:
    """[MQTT-4.3.2-4]"""
    world = World(settings(*IN))
    world.keeper.open(Opening("reader", None, "", 5, False, 100.0, None), _Outlet())
    world.broker.tree.subscribe(world.broker.sessions["reader"], packets.SubscriptionRequest("in/#", 1))
    world.remote.accept()
    world.store.slow = True
    world.remote.say(packets.Publish("in/x", b"1", 1, packet_id=7), packets.Publish("in/x", b"0", 0))
    assert world.remote.came() == []
    world.store.release()
    assert world.remote.came() == [packets.Puback(7)]
    assert world.row()["received"] == 2


def test_acknowledgements_keep_the_order_of_the_messages() -> None:
    """[MQTT-4.6.0-2]"""
    world = World(settings(*IN))
    world.remote.accept()
    world.store.slow = True
    world.remote.say(packets.Publish("in/x", b"1", 2, packet_id=7))
    world.store.slow = False
    world.remote.say(packets.Publish("in/y", b"2", 1, packet_id=8))
    assert world.remote.came() == []
    world.store.release()
    assert world.remote.came() == [packets.Pubrec(7), packets.Puback(8)]


def test_qos_2_arrives_once_whatever_is_repeated() -> None:
    """[MQTT-4.3.3-10]"""
    world = World(settings(*IN))
    world.remote.accept()
    publish = packets.Publish("in/x", b"m", 2, packet_id=7)
    world.remote.say(publish)
    assert [type(packet) for packet in world.remote.came()] == [packets.Pubrec]
    world.reconnect().accept(present=True)
    publish.dup = True
    world.remote.say(publish)
    assert [type(packet) for packet in world.remote.came()] == [packets.Pubrec]
    again = World(settings(*IN), store=world.store)
    again.remote.accept(present=True)
    again.remote.say(publish)
    assert [type(packet) for packet in again.remote.came()] == [packets.Pubrec]
    assert len(world.seen) + len(again.seen) == 1
    again.remote.say(packets.Pubrel(7))
    assert again.remote.came() == [packets.Pubcomp(7)]
    publish.dup = False
    again.remote.say(publish)
    assert len(again.seen) == 1


def test_packet_ids_of_a_session_that_the_other_broker_has_forgotten_are_new() -> None:
    world = World(settings(*IN))
    world.remote.accept()
    world.remote.say(packets.Publish("in/x", b"old", 2, packet_id=7))
    world.reconnect().accept(present=False)
    world.remote.say(packets.Publish("in/x", b"new", 2, packet_id=7))
    assert [message.payload for message in world.seen] == [b"old", b"new"]


def test_what_cannot_be_stored_is_not_acknowledged_and_comes_again() -> None:
    world = World(settings(*IN))
    world.remote.accept()
    world.store.refusing = True
    world.remote.say(packets.Publish("in/x", b"m", 2, packet_id=7))
    assert not [packet for packet in world.remote.came() if isinstance(packet, packets.Pubrec)]
    assert not world.remotes[0].open
    world.store.refusing = False
    world.clock.advance(100)
    world.remote.accept(present=True)
    world.remote.say(packets.Publish("in/x", b"m", 2, dup=True, packet_id=7))
    assert [type(packet) for packet in world.remote.came()] == [packets.Pubrec]


def test_topics_of_the_gateway_and_topics_that_nobody_asked_for_are_not_taken() -> None:
    world = World(settings(BridgeTopicSettings(filter="#", direction="in", remote_prefix="r/", qos=1)))
    world.remote.accept()
    for number, topic in enumerate(("r/$SYS/x", "elsewhere", "r/" + "x" * 2000, "r/good"), 1):
        world.remote.say(packets.Publish(topic, b"m", 1, packet_id=number))
    assert [packet.packet_id for packet in world.remote.came() if isinstance(packet, packets.Puback)] == [1, 2, 3, 4]
    assert [message.topic for message in world.seen] == ["good"]
    assert world.counters.dropped_messages == {"bridge_topic_invalid": 2}


def test_a_subscription_that_is_refused_is_told_and_the_rest_goes_on() -> None:
    world = World(settings(*OUT, *IN))
    world.remote.user.connected()
    world.remote.came()
    world.remote.say(packets.Connack())
    (subscribe,) = [packet for packet in world.remote.came() if isinstance(packet, packets.Subscribe)]
    assert subscribe.requests == [packets.SubscriptionRequest("in/#", 2, True, True, 1)]
    world.remote.say(packets.Suback(subscribe.packet_id, [Reason.NOT_AUTHORIZED]))
    assert world.row()["connected"]
    world.publish("out/x", b"m")
    assert len(published(world.remote.came())) == 1


def test_a_broker_without_wildcards_gets_what_can_be_subscribed() -> None:
    world = World(settings(*IN, BridgeTopicSettings(filter="plain", direction="in")))
    world.remote.user.connected()
    world.remote.came()
    world.remote.say(packets.Connack(False, 0, {Property.WILDCARD_AVAILABLE: 0}))
    assert [packet.requests[0].filter for packet in world.remote.suback()] == ["plain"]
    assert world.row()["connected"]


def test_the_other_broker_is_not_read_while_too_much_waits_for_the_store() -> None:
    world = World(settings(*IN, version=4))
    world.remote.accept()
    world.store.slow = True
    world.remote.say(*(packets.Publish("in/x", b"m", 2, packet_id=number) for number in range(1, 1030)))
    assert world.remote.paused
    world.store.release()
    assert not world.remote.paused
    assert len(world.remote.came()) == 1029


def test_nonsense_of_the_other_broker_ends_the_connection_and_nothing_else() -> None:
    world = World(settings())
    world.remote.accept()
    world.remote.user.received(b"\xf0\xff\xff\xff\xff\xff")
    assert not world.remotes[0].open
    assert "broke the protocol" in world.row()["error"]
    world.clock.advance(100)
    world.remote.accept()
    assert world.row()["connected"]


class _Outlet:
    buffered = 0

    def put(self, frame: bytes) -> None: ...

    def pubrel(self, packet_id: int, reason: int = 0) -> None: ...

    def displace(self, reason: int) -> None: ...


def test_retained_messages_are_not_fed_twice_when_the_store_is_slower_than_the_other_broker() -> None:
    world = World()
    world.publish_retained("out/kept")
    subscribed: list[Any] = []
    quick = world.store.subscribe

    def slow(client_id: str, subscriptions: Any) -> Any:
        done: Any = Deferred()
        subscribed.append((done, quick, client_id, subscriptions))
        return done

    world.store.subscribe = slow  # type: ignore[method-assign]
    world.bridges.apply([settings()])
    world.remote.accept()
    while subscribed:
        done, store, client_id, subscriptions = subscribed.pop(0)
        store(client_id, subscriptions).chainDeferred(done)
        world.remote.turn()
    assert [packet.payload for packet in published(world.remote.came())] == [b"kept"]
