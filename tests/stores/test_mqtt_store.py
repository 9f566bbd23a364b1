"""What every MqttStore does: the same tests over SQLite and memory."""

from __future__ import annotations

from typing import Any

import pytest

from accessgw.core.interfaces.mqtt_state import NEVER, Enqueue, Message, StoredSession, StoredSubscription, StoredWill
from accessgw.model.identity import Identity
from protocols.mqtt.packets import V5, V311, Property, SubscriptionRequest, Will
from tests.stores.mqtt_stores import NOW

PROPERTIES = {
    Property.CONTENT_TYPE: "text/钱",
    Property.CORRELATION_DATA: bytes(range(256)),
    Property.USER_PROPERTY: [("a", "1"), ("a", "2"), ("", "")],
}


def sessions(state: Any) -> dict[str, StoredSession]:
    return {session.client_id: session for session in state.sessions}


# ------------------------------------------------------------ sessions


def test_a_new_store_is_empty(mqtt: Any) -> None:
    state = mqtt.store.loaded
    assert (state.sessions, state.wills, state.retained) == ([], {}, [])


def test_a_session_with_all_that_is_its_own_is_loaded_again(mqtt: Any) -> None:
    mqtt.session("a", user="ü", version=V5, expiry=3600.5, disconnected_at=NOW)
    mqtt.session("b", version=V311)
    subscriptions = [
        StoredSubscription(SubscriptionRequest("x/#", 2, True, True, 2), 268_435_455),
        StoredSubscription(SubscriptionRequest("$share/g/y", 1)),
    ]
    mqtt.wait(mqtt.store.subscribe("a", subscriptions))
    mqtt.wait(mqtt.store.publish(Message("t", b""), [], received=("a", 65535)))
    mqtt.wait(mqtt.store.publish(Message("t", b""), [Enqueue("a", 1), Enqueue("a", 2, packet_id=4)], received=("a", 3)))
    found = sessions(mqtt.reopened())
    assert found == {
        "a": StoredSession("a", "ü", V5, 3600.5, NOW, [subscriptions[1], subscriptions[0]], [3, 65535], 1),
        "b": StoredSession("b", "", V311, NEVER, None, [], [], 0),
    }


def test_saving_a_session_again_updates_it_and_leaves_what_has_calls_of_its_own(mqtt: Any) -> None:
    mqtt.session("a", user="u", disconnected_at=NOW)
    mqtt.wait(mqtt.store.subscribe("a", [StoredSubscription(SubscriptionRequest("x"))]))
    mqtt.publish("a")
    mqtt.session("a", user="v", version=V5, expiry=1.0, received=[9], queued=9)
    (found,) = mqtt.reopened().sessions
    kept = [StoredSubscription(SubscriptionRequest("x"))]
    assert found == StoredSession("a", "v", V5, 1.0, None, kept, [], 1)


def test_what_is_saved_is_what_it_was_at_the_call(mqtt: Any) -> None:
    session, message, will = StoredSession("a", user="u"), Message("t", b"1", qos=1), StoredWill(Will("w", b"1"))
    waiting = [mqtt.store.save_session(session), mqtt.store.save_will("a", will)]
    waiting.append(mqtt.store.publish(message, [Enqueue("a", 1)], retained=True))
    session.user, message.payload, will.delay = "v", b"2", 9.0
    for deferred in waiting:
        mqtt.wait(deferred)
    state = mqtt.reopened()
    assert (state.sessions[0].user, state.wills["a"].delay, state.retained[0].payload) == ("u", 0.0, b"1")
    assert mqtt.bodies("a") == [b"1"]


def test_a_subscription_is_replaced_and_removed(mqtt: Any) -> None:
    mqtt.session("a")
    mqtt.session("b")
    mqtt.wait(mqtt.store.subscribe("a", [StoredSubscription(SubscriptionRequest(f, 1)) for f in ("x", "y", "z")]))
    mqtt.wait(mqtt.store.subscribe("b", [StoredSubscription(SubscriptionRequest("x"))]))
    mqtt.wait(mqtt.store.subscribe("a", [StoredSubscription(SubscriptionRequest("x", 2, retain_handling=1), 7)]))
    mqtt.wait(mqtt.store.unsubscribe("a", ["y", "unknown"]))
    found = sessions(mqtt.reopened())
    assert found["a"].subscriptions == [
        StoredSubscription(SubscriptionRequest("x", 2, retain_handling=1), 7),
        StoredSubscription(SubscriptionRequest("z", 1)),
    ]
    assert [each.request.filter for each in found["b"].subscriptions] == ["x"]


def test_an_ended_session_takes_everything_along_but_its_will(mqtt: Any) -> None:
    mqtt.session("a")
    mqtt.session("b")
    mqtt.wait(mqtt.store.subscribe("a", [StoredSubscription(SubscriptionRequest("x"))]))
    mqtt.wait(mqtt.store.save_will("a", StoredWill(Will("w", b"x"))))
    mqtt.publish("a", "b")
    mqtt.wait(mqtt.store.publish(Message("t", b"x"), [Enqueue("a", 2, packet_id=1)], received=("a", 1)))
    mqtt.wait(mqtt.store.end_session("a"))
    mqtt.wait(mqtt.store.end_session("unknown"))
    mqtt.session("a")
    assert (mqtt.read("a"), mqtt.inflight("a")) == ([], [])
    state = mqtt.reopened()
    assert sessions(state)["a"] == StoredSession("a")
    assert list(state.wills) == ["a"]
    assert mqtt.bodies("b") == [b"x"]


def test_calls_take_effect_in_their_order_though_nobody_waits_between(mqtt: Any) -> None:
    store = mqtt.store
    message = Message("t", b"old", qos=1)
    calls = [
        store.save_session(StoredSession("a", user="u")),
        store.subscribe("a", [StoredSubscription(SubscriptionRequest("x"))]),
        store.publish(message, [Enqueue("a", 1)], received=("a", 1), retained=True),
        store.end_session("a"),
        store.publish(message, [Enqueue("a", 1)]),
        store.save_session(StoredSession("a", user="v")),
        store.subscribe(
            "a", [StoredSubscription(SubscriptionRequest("y")), StoredSubscription(SubscriptionRequest("z"))]
        ),
        store.unsubscribe("a", ["y"]),
        store.publish(Message("t", b"new", qos=1), [Enqueue("a", 1)], received=("a", 2)),
        store.publish(Message("t", b"new", qos=1), [], received=("a", 3)),
        store.released("a", 2),
        store.save_will("a", StoredWill(Will("w", b"1"))),
        store.forget_will("a"),
        store.save_will("a", StoredWill(Will("w", b"2"))),
        store.retain(Message("t", b"")),
        store.retain(Message("t", b"last")),
        store.save_session(StoredSession("b")),
    ]
    results = [mqtt.wait(call) for call in calls if call is not None]
    assert results[4] == [0]
    assert mqtt.bodies("a") == [b"new"]
    state = mqtt.reopened()
    wanted = StoredSession(
        "a", "v", subscriptions=[StoredSubscription(SubscriptionRequest("z"))], received=[3], queued=1
    )
    assert sessions(state)["a"] == wanted
    assert state.wills["a"].will.payload == b"2"
    assert [kept.payload for kept in state.retained] == [b"last"]


@pytest.mark.parametrize("name", ["", "d\x001", "d'1", '"', "设备", "d" * 3000, "%_"])
def test_any_client_id_keeps_apart_from_others(mqtt: Any, name: str) -> None:
    mqtt.session("d")
    mqtt.session(name)
    (number,) = mqtt.publish(name, body=b"ours", topic=f"t/{name[:50]}")
    mqtt.publish("d", body=b"theirs")
    assert mqtt.bodies(name) == [b"ours"]
    mqtt.wait(mqtt.store.assign(name, [(number, 1)]))
    assert [queued.message.topic for queued in mqtt.inflight(name)] == [f"t/{name[:50]}"]
    assert set(sessions(mqtt.reopened())) == {"d", name}


def test_what_concerns_no_stored_session_is_ignored(mqtt: Any) -> None:
    store = mqtt.store
    assert mqtt.publish("nobody") == [0]
    mqtt.wait(store.subscribe("nobody", [StoredSubscription(SubscriptionRequest("x"))]))
    mqtt.wait(store.unsubscribe("nobody", ["x"]))
    mqtt.wait(store.assign("nobody", [(1, 1)]))
    mqtt.wait(store.pubrec("nobody", 1))
    mqtt.wait(store.released("nobody", 1))
    store.acknowledged("nobody", 1)
    assert mqtt.wait(store.publish(Message("t", b""), [], received=("nobody", 1))) == []
    assert (mqtt.read("nobody"), mqtt.inflight("nobody")) == ([], [])
    assert mqtt.reopened().sessions == []
    assert mqtt.dropped() == 0


# ------------------------------------------------------------ queues


def test_a_message_is_read_as_it_was_published(open_mqtt: Any) -> None:
    mqtt = open_mqtt(max_queued=2, max_queued_bytes=1000)
    mqtt.session("a")
    message = Message("t/ü", bytes(range(256))[:50], 2, True, PROPERTIES, NOW, NOW + 60.5, "p", Identity("p"))
    mqtt.wait(mqtt.store.publish(message, [Enqueue("a", 1, retain=True, identifiers=(1, 268_435_455))]))
    mqtt.publish("a", body=b"")
    first, second = mqtt.read("a")
    message.identity = None
    assert first.message == message
    assert (first.qos, first.packet_id, first.retain, first.received) == (1, 0, True, False)
    assert first.identifiers == (1, 268_435_455)
    assert (second.message, second.retain, second.identifiers) == (Message("t", b"", qos=1), False, ())
    assert type(second.message.retain) is bool


def test_numbers_grow_and_are_told_in_the_order_of_the_receivers(mqtt: Any) -> None:
    for client in "abc":
        mqtt.session(client)
    first = mqtt.publish("b", "nobody", "a", "c")
    assert first[1] == 0
    second = mqtt.publish("a", "b", "c")
    assert [mqtt.read(client)[0].number for client in "bac"] == [first[0], first[2], first[3]]
    assert [[queued.number for queued in mqtt.read(client)] for client in "abc"] == [
        [first[2], second[0]], [first[0], second[1]], [first[3], second[2]]
    ]  # fmt: skip
    assert min(second) > max(first)
    mqtt.reopened()
    assert min(mqtt.publish("a")) > max(second)


def test_one_client_may_get_a_message_twice(mqtt: Any) -> None:
    mqtt.session("a")
    one, two = mqtt.wait(mqtt.store.publish(Message("t", b"x"), [Enqueue("a", 1), Enqueue("a", 2, identifiers=(5,))]))
    assert [(queued.number, queued.qos, queued.identifiers) for queued in mqtt.read("a")] == [
        (one, 1, ()),
        (two, 2, (5,)),
    ]
    mqtt.store.acknowledged("a", one)
    assert mqtt.wait(mqtt.store.inflight("a")) == []
    assert mqtt.bodies("a") == [b"x"]


def test_reading_is_bounded_by_number_and_bytes_and_gives_at_least_one(mqtt: Any) -> None:
    mqtt.session("a")
    numbers = [mqtt.publish("a", body=body * 10)[0] for body in (b"a", b"b", b"c")]
    place = {number: at for at, number in enumerate(numbers, 1)}

    def read(*arguments: int) -> list[int]:
        return [place[queued.number] for queued in mqtt.read("a", *arguments)]

    assert read() == [1, 2, 3]
    assert read(numbers[0]) == [2, 3]
    assert read(numbers[2]) == []
    assert read(0, 2) == [1, 2]
    assert read(0, 10, 22) == [1, 2]
    assert read(0, 10, 21) == [1]
    assert read(0, 10, 0) == [1]


def test_what_was_assigned_is_in_flight_and_waits_no_more(mqtt: Any) -> None:
    mqtt.session("a")
    numbers = [mqtt.publish("a", body=b"%d" % n)[0] for n in range(3)]
    mqtt.wait(mqtt.store.assign("a", [(numbers[1], 65535), (numbers[0], 1), (10**9, 2)]))
    assert mqtt.bodies("a") == [b"2"]
    found = mqtt.inflight("a")
    assert [(queued.number, queued.packet_id, queued.message.payload) for queued in found] == [
        (numbers[0], 1, b"0"), (numbers[1], 65535, b"1")
    ]  # fmt: skip
    mqtt.wait(mqtt.store.assign("a", [(numbers[0], 7)]))
    assert mqtt.reopened().sessions[0].queued == 1
    assert [queued.packet_id for queued in mqtt.inflight("a")] == [7, 65535]


@pytest.mark.parametrize("packet_id", [0, -1, 65536])
def test_a_packet_id_has_16_bits_and_is_not_0(mqtt: Any, packet_id: int) -> None:
    mqtt.session("a")
    (number,) = mqtt.publish("a")
    with pytest.raises(ValueError, match=f"packet id: expected 1 to 65535, got {packet_id}"):
        mqtt.wait(mqtt.store.assign("a", [(number, 1), (number, packet_id)]))
    assert mqtt.bodies("a") == [b"x"]


def test_what_was_acknowledged_is_gone(mqtt: Any) -> None:
    mqtt.session("a")
    waiting, sent = mqtt.publish("a")[0], mqtt.wait(mqtt.store.publish(Message("t", b"y"), [Enqueue("a", 1, 9)]))[0]
    mqtt.store.acknowledged("a", sent)
    assert mqtt.inflight("a") == []
    mqtt.store.acknowledged("a", waiting)
    mqtt.store.acknowledged("a", waiting)
    assert mqtt.inflight("a") == []
    assert mqtt.read("a") == []
    assert mqtt.reopened().sessions[0].queued == 0


def test_pubrec_keeps_the_packet_id_and_forgets_the_message(mqtt: Any) -> None:
    """Section 4.3.3, method B: the message may go once PUBREC has come, its packet id may not."""
    mqtt.session("a")
    mqtt.session("b")
    message = Message("t", b"x", 2, properties=PROPERTIES)
    number, other = mqtt.wait(mqtt.store.publish(message, [Enqueue("a", 2, 5, True, (3,)), Enqueue("b", 2, 6)]))
    mqtt.wait(mqtt.store.pubrec("a", number))
    mqtt.wait(mqtt.store.pubrec("a", number))
    mqtt.wait(mqtt.store.pubrec("a", 10**9))
    mqtt.reopened()
    (queued,) = mqtt.inflight("a")
    assert (queued.number, queued.packet_id, queued.qos, queued.received) == (number, 5, 2, True)
    assert queued.message == Message("", b"")
    assert [queued.message.payload for queued in mqtt.inflight("b")] == [b"x"]
    mqtt.store.acknowledged("a", number)
    mqtt.store.acknowledged("b", other)
    assert mqtt.inflight("a") == mqtt.inflight("b") == []


def test_pubrec_of_a_message_that_was_not_sent_changes_nothing(mqtt: Any) -> None:
    mqtt.session("a")
    (number,) = mqtt.publish("a")
    mqtt.wait(mqtt.store.pubrec("a", number))
    assert mqtt.bodies("a") == [b"x"]


def test_a_received_packet_id_is_kept_once_until_it_is_released(mqtt: Any) -> None:
    mqtt.session("a")
    for packet_id in (1, 2, 1):
        mqtt.wait(mqtt.store.publish(Message("t", b"x"), [], received=("a", packet_id)))
    mqtt.wait(mqtt.store.released("a", 3))
    assert mqtt.reopened().sessions[0].received == [1, 2]
    mqtt.wait(mqtt.store.released("a", 1))
    assert mqtt.reopened().sessions[0].received == [2]


# ------------------------------------------------------------ bounds


def test_the_oldest_waiting_messages_make_room(mqtt: Any) -> None:
    mqtt.session("a")
    mqtt.session("b")
    numbers = [mqtt.publish("a", body=b"%d" % n)[0] for n in range(6)]
    assert mqtt.dropped() == 0
    mqtt.wait(mqtt.store.assign("a", [(numbers[0], 1)]))
    mqtt.publish("a", "b", body=b"6")
    assert mqtt.dropped() == 0
    assert all(mqtt.publish("a", "b", body=b"7"))
    assert mqtt.bodies("a") == [b"2", b"3", b"4", b"5", b"6", b"7"]
    assert [queued.message.payload for queued in mqtt.inflight("a")] == [b"0"]
    assert mqtt.bodies("b") == [b"6", b"7"]
    assert mqtt.dropped() == 1


def test_room_is_made_by_bytes_of_topic_and_payload(mqtt: Any) -> None:
    mqtt.session("a")
    for name in (b"a", b"b", b"c"):
        mqtt.publish("a", topic="ü", body=name * 30)  # 32 each
    assert mqtt.dropped() == 0
    mqtt.publish("a", topic="1234", body=b"")
    assert (len(mqtt.read("a")), mqtt.dropped()) == (4, 0)
    mqtt.publish("a", topic="ü", body=b"d" * 60)
    assert [body[:1] for body in mqtt.bodies("a")] == [b"c", b"", b"d"]
    assert mqtt.dropped() == 2


def test_a_message_that_no_queue_can_hold_is_not_stored(mqtt: Any) -> None:
    mqtt.session("a")
    mqtt.publish("a")
    assert mqtt.publish("a", body=b"x" * 100) == [0]
    assert mqtt.dropped() == 1
    assert mqtt.publish("a", body=b"y" * 99)[0] > 0
    assert mqtt.bodies("a") == [b"y" * 99]


@pytest.mark.parametrize("policy", ["drop_new", "disconnect"])
def test_or_the_new_message_finds_no_room(open_mqtt: Any, policy: str) -> None:
    mqtt = open_mqtt(queue_overflow=policy)
    mqtt.session("a")
    mqtt.session("b")
    for number in range(6):
        mqtt.publish("a", body=b"%d" % number)
    numbers = mqtt.publish("a", "b", body=b"6")
    assert (numbers[0], numbers[1] > 0) == (0, True)
    assert (mqtt.bodies("a"), mqtt.bodies("b")) == ([b"0", b"1", b"2", b"3", b"4", b"5"], [b"6"])
    assert mqtt.dropped() == 1
    mqtt.store.acknowledged("a", mqtt.read("a")[0].number)
    assert mqtt.publish("a", body=b"7")[0] > 0
    mqtt.wait(mqtt.store.assign("a", [(mqtt.read("a")[0].number, 1)]))
    assert mqtt.publish("a", body=b"8")[0] > 0
    assert mqtt.publish("a", body=b"9") == [0]


def test_what_is_in_flight_counts_in_no_queue(mqtt: Any) -> None:
    mqtt.session("a")
    receivers = [Enqueue("a", 1, packet_id) for packet_id in range(1, 20)]
    assert all(mqtt.wait(mqtt.store.publish(Message("t", b"x" * 200), receivers)))
    for number in range(6):
        mqtt.publish("a", body=b"%d" % number)
    assert (len(mqtt.inflight("a")), len(mqtt.read("a")), mqtt.dropped()) == (19, 6, 0)


def test_a_session_may_have_bounds_of_its_own(open_mqtt: Any) -> None:
    mqtt = open_mqtt(max_queued=2, max_queued_bytes=100)
    mqtt.session("a")
    mqtt.session("b")
    mqtt.store.bound("b", 4, 300)
    for number in range(6):
        mqtt.publish("a", "b", body=b"%d" % number)
    assert (mqtt.bodies("a"), mqtt.bodies("b")) == ([b"4", b"5"], [b"2", b"3", b"4", b"5"])
    assert mqtt.dropped() == 4 + 2
    mqtt.publish("b", body=b"x" * 296)
    assert mqtt.bodies("b") == [b"5", b"x" * 296][-len(mqtt.bodies("b")) :]
    assert sum(len(body) + 1 for body in mqtt.bodies("b")) <= 300
    mqtt.publish("b", body=b"x" * 300)
    assert b"x" * 300 not in mqtt.bodies("b")


def test_how_many_wait_is_known_without_asking_the_disk(mqtt: Any) -> None:
    mqtt.session("a")
    mqtt.publish("a")
    (first,) = mqtt.read("a")
    mqtt.publish("a")
    assert (mqtt.store.waiting("a"), mqtt.store.waiting("nobody")) == (2, 0)
    mqtt.wait(mqtt.store.assign("a", [(first.number, 1)]))
    assert mqtt.store.waiting("a") == 1
    mqtt.reopened()
    assert mqtt.store.waiting("a") == 1


def test_what_waits_for_a_session_that_ends_or_expires_after_a_restart_is_known_too(mqtt: Any) -> None:
    for client in "abc":
        mqtt.session(client)
    mqtt.publish("a", "b")
    mqtt.publish("b", "c", expires_at=NOW + 1)
    mqtt.publish("c", expires_at=NOW + 1)
    mqtt.reopened()
    assert [mqtt.store.waiting(client) for client in "abc"] == [1, 2, 2]
    mqtt.wait(mqtt.store.end_session("a"))
    assert [mqtt.store.waiting(client) for client in "abc"] == [0, 2, 2]
    mqtt.wait(mqtt.store.sweep(NOW + 1))
    assert [mqtt.store.waiting(client) for client in "abc"] == [0, 1, 0]


@pytest.mark.parametrize("bound", [1, 2, 40, 64])
def test_a_storm_into_a_full_queue_leaves_the_newest(open_mqtt: Any, bound: int) -> None:
    mqtt = open_mqtt(max_queued=bound, max_queued_bytes=10**6)
    mqtt.session("a")
    for deferred in [
        mqtt.store.publish(Message("t", b"%d" % number, qos=1), [Enqueue("a", 1), Enqueue("a", 1)])
        for number in range(150)
    ]:
        mqtt.wait(deferred)
    wanted = [b"%d" % (number // 2) for number in range(300)][-bound:]
    assert mqtt.bodies("a") == wanted
    assert mqtt.dropped() == 300 - bound
    mqtt.reopened()
    mqtt.publish("a", body=b"after")
    assert mqtt.bodies("a") == [*wanted[1:], b"after"]


# ------------------------------------------------------------ expiry


def test_what_has_expired_is_left_out_removed_and_counted(mqtt: Any) -> None:
    """[MQTT-3.3.2-5]"""
    mqtt.session("a")
    for number in range(6):
        mqtt.publish("a", body=b"%d" % number, expires_at=NOW + 10 if number % 2 else None)
    mqtt.now = NOW + 9.5
    assert len(mqtt.bodies("a")) == 6
    mqtt.now = NOW + 10
    assert mqtt.bodies("a") == [b"0", b"2", b"4"]
    assert mqtt.inflight("a") == []
    assert mqtt.mqtt_counters.expired == 3
    assert mqtt.reopened().sessions[0].queued == 3


def test_a_read_removes_the_expired_ones_that_it_passes_and_no_others(mqtt: Any) -> None:
    mqtt.session("a")
    numbers = [mqtt.publish("a", body=b"%d" % n, expires_at=None if n % 2 else NOW + 1)[0] for n in range(6)]
    mqtt.now = NOW + 1
    for options, waiting in [
        ({"after": numbers[0], "limit": 1}, 6),
        ({"limit": 1}, 5),
        ({"max_bytes": 3}, 5),
        ({"max_bytes": 4}, 4),
        ({"after": numbers[3], "limit": 2}, 3),
    ]:
        assert mqtt.read("a", **options)
        assert mqtt.inflight("a") == []
        assert mqtt.store.waiting("a") == waiting
    assert mqtt.mqtt_counters.expired == 3


def test_nothing_but_expired_messages_is_read_as_nothing(mqtt: Any) -> None:
    mqtt.session("a")
    for _ in range(3):
        mqtt.publish("a", expires_at=NOW + 1)
    mqtt.now = NOW + 2
    assert mqtt.read("a", limit=1) == []
    assert mqtt.inflight("a") == []
    assert mqtt.reopened().sessions[0].queued == 0


def test_what_was_sent_does_not_expire(mqtt: Any) -> None:
    mqtt.session("a")
    mqtt.wait(mqtt.store.publish(Message("t", b"x", qos=1, expires_at=NOW + 1), [Enqueue("a", 1, 5)]))
    assert mqtt.wait(mqtt.store.sweep(NOW + 2)) == 0
    mqtt.now = NOW + 2
    assert mqtt.read("a") == []
    assert [queued.message.payload for queued in mqtt.inflight("a")] == [b"x"]


def test_expired_messages_leave_room(open_mqtt: Any) -> None:
    mqtt = open_mqtt(queue_overflow="drop_new")
    mqtt.session("a")
    for _ in range(6):
        mqtt.publish("a", expires_at=NOW + 1)
    assert mqtt.publish("a") == [0]
    assert mqtt.wait(mqtt.store.sweep(NOW + 1)) == 6
    assert mqtt.publish("a")[0] > 0


def test_a_sweep_is_bounded_and_says_when_it_is_done(open_mqtt: Any) -> None:
    mqtt = open_mqtt(max_queued=10_000, max_queued_bytes=1 << 20)
    mqtt.session("a")
    mqtt.session("b")
    mqtt.wait(mqtt.store.publish(Message("t", b"x", expires_at=NOW + 1), [Enqueue("a", 1), Enqueue("b", 1)] * 450))
    mqtt.publish("a", body=b"stays", expires_at=NOW + 3)
    mqtt.publish("b", body=b"stays")
    mqtt.wait(mqtt.store.publish(Message("r", b"x", expires_at=NOW + 1), [], retained=True))
    assert mqtt.wait(mqtt.store.sweep(NOW + 0.5)) == 0
    counts = [mqtt.wait(mqtt.store.sweep(NOW + 2)) for _ in range(4)]
    assert sum(counts) == 901
    assert 0 < counts[0] < 901
    assert counts[-1] == 0
    assert mqtt.bodies("a") == mqtt.bodies("b") == [b"stays"]
    assert mqtt.mqtt_counters.expired == 900


# ------------------------------------------------------------ retained


def test_a_retained_message_is_set_replaced_and_removed(mqtt: Any) -> None:
    """[MQTT-3.3.1-5], [MQTT-3.3.1-6]"""
    message = Message("t/1", b"1", 1, True, PROPERTIES, NOW, NOW + 100, "p")
    mqtt.wait(mqtt.store.publish(message, [], retained=True))
    mqtt.wait(mqtt.store.publish(Message("t/2", b"2"), [], retained=True))
    mqtt.wait(mqtt.store.publish(Message("t/3", b"3"), []))
    assert mqtt.reopened().retained == [message, Message("t/2", b"2")]
    mqtt.wait(mqtt.store.publish(Message("t/2", b"2+", 2, at=NOW), [], retained=True))
    mqtt.wait(mqtt.store.publish(Message("t/1", b""), [], retained=True))
    mqtt.wait(mqtt.store.publish(Message("t/1", b""), [], retained=True))
    assert mqtt.reopened().retained == [Message("t/2", b"2+", 2, at=NOW)]


def test_retaining_is_written_behind_in_order(mqtt: Any) -> None:
    mqtt.store.retain(Message("t/1", b"1"))
    mqtt.store.retain(Message("t/2", b"2"))
    mqtt.wait(mqtt.store.publish(Message("t/1", b"1+"), [], retained=True))
    mqtt.store.retain(Message("t/2", b""))
    assert mqtt.reopened().retained == [Message("t/1", b"1+")]


def test_an_expired_retained_message_is_not_loaded(mqtt: Any) -> None:
    mqtt.store.retain(Message("t/1", b"1", expires_at=NOW + 10))
    mqtt.store.retain(Message("t/2", b"2", expires_at=NOW + 10.5))
    mqtt.now = NOW + 10
    assert [message.topic for message in mqtt.reopened().retained] == ["t/2"]
    assert mqtt.wait(mqtt.store.sweep(NOW + 10.25)) == 1
    assert mqtt.wait(mqtt.store.sweep(NOW + 10.25)) == 0
    assert mqtt.wait(mqtt.store.sweep(NOW + 10.5)) == 1


# ------------------------------------------------------------ wills


def test_a_will_is_kept_replaced_and_forgotten(mqtt: Any) -> None:
    first = StoredWill(Will("w/ü", b"\x00", 2, True, PROPERTIES), 1.5, NOW + 1.5)
    mqtt.wait(mqtt.store.save_will("a", first))
    mqtt.wait(mqtt.store.save_will("b", StoredWill(Will("w", b""))))
    mqtt.wait(mqtt.store.save_will("c", StoredWill(Will("w", b""))))
    assert mqtt.reopened().wills == {"a": first, "b": StoredWill(Will("w", b"")), "c": StoredWill(Will("w", b""))}
    mqtt.wait(mqtt.store.save_will("b", first))
    mqtt.store.forget_will("a")
    mqtt.store.forget_will("unknown")
    assert mqtt.wait(mqtt.store.publish(Message("w", b""), [], will_of="c")) == []
    assert mqtt.reopened().wills == {"b": first}


def test_a_published_will_is_forgotten_with_its_publication(mqtt: Any) -> None:
    mqtt.session("a")
    mqtt.wait(mqtt.store.save_will("gone", StoredWill(Will("w", b"will", 1, True))))
    will = Message("w", b"will", 1, True)
    mqtt.wait(mqtt.store.publish(will, [Enqueue("a", 1)], retained=True, will_of="gone"))
    state = mqtt.reopened()
    assert (state.wills, state.retained, mqtt.bodies("a")) == ({}, [will], [b"will"])
