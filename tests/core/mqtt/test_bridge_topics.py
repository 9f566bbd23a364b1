"""Names of topics on either side of a bridge, and messages that come back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accessgw.core.interfaces.mqtt_state import Message
from accessgw.core.mqtt.bridge_loops import ECHO_SECONDS, LoopGuard, name_in
from accessgw.core.mqtt.bridge_topics import Carried, TopicMap
from accessgw.model.mqtt_settings import BridgeTopicSettings
from protocols.mqtt import packets
from protocols.mqtt.packets import NO_PROPERTIES, Property
from tests.core.mqtt.bridge_fakes import World, settings


def topic(filter: str, direction: Any = "both", **more: Any) -> BridgeTopicSettings:
    return BridgeTopicSettings(filter=filter, direction=direction, **more)


def test_prefixes_are_exchanged_both_ways() -> None:
    names = TopicMap([topic("data/#", local_prefix="here/", remote_prefix="there/", qos=2)])
    assert names.to_remote("here/data/x") == Carried("there/data/x", 2)
    assert names.to_local("there/data/x") == Carried("here/data/x", 2)
    assert names.to_remote("there/data/x") is None
    assert names.to_local("here/data/x") is None
    assert [request.filter for request in names.local_requests()] == ["here/data/#"]
    assert [request.filter for request in names.remote_requests()] == ["there/data/#"]


def test_the_first_rule_that_matches_says_where_a_topic_goes() -> None:
    names = TopicMap([topic("a/b", "out", remote_prefix="one/", qos=0), topic("a/#", "out", remote_prefix="two/")])
    assert names.to_remote("a/b") == Carried("one/a/b", 0)
    assert names.to_remote("a/c") == Carried("two/a/c", 1)


def test_directions_are_kept_apart() -> None:
    names = TopicMap([topic("out/#", "out"), topic("in/#", "in")])
    assert names.to_remote("in/x") is None
    assert names.to_local("out/x") is None
    assert names.carries("in/x") and names.carries("out/x") and not names.carries("x")


def test_a_filter_for_all_below_a_prefix_takes_the_prefix_itself() -> None:
    """[MQTT-4.7.1-2]"""
    names = TopicMap([topic("#", local_prefix="here/", remote_prefix="there/")])
    assert names.to_remote("here") == Carried("there", 1)
    assert TopicMap([topic("#", local_prefix="here/")]).to_remote("here") is None


def test_an_empty_filter_maps_one_topic_onto_another() -> None:
    names = TopicMap([topic("", local_prefix="here/x", remote_prefix="there/y")])
    assert names.to_remote("here/x") == Carried("there/y", 1)
    assert names.to_local("there/y") == Carried("here/x", 1)
    assert names.to_remote("here/x/z") is None


def test_a_filter_is_subscribed_once_with_the_highest_qos() -> None:
    names = TopicMap([topic("a", "out", qos=0), topic("a", "out", qos=2), topic("a", "in", qos=1)])
    assert [(request.filter, request.qos) for request in names.local_requests()] == [("a", 2)]
    assert [(request.filter, request.qos) for request in names.remote_requests()] == [("a", 1)]


PREFIXES = st.just("") | st.text("ab/", max_size=4).map(lambda text: text + "/")


@given(st.text("ab/", min_size=1), PREFIXES, PREFIXES)
def test_what_goes_out_comes_back_under_its_own_name(name: str, here: str, there: str) -> None:
    names = TopicMap([topic("#", local_prefix=here, remote_prefix=there)])
    carried = names.to_remote(here + name)
    assert carried is not None
    assert carried.topic == there + name
    assert names.to_local(carried.topic) == Carried(here + name, 1)


# ------------------------------------------------------------------ loops


class Seconds:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def marked(*names: str) -> dict[int, Any]:
    return {Property.USER_PROPERTY: [("accessgw-via", name) for name in names]}


def message(publisher: str = "device", properties: Any = NO_PROPERTIES, payload: bytes = b"p") -> Message:
    return Message("t", payload, properties=properties, publisher=publisher)


def test_a_message_that_was_here_is_known_by_its_mark_and_no_other() -> None:
    guard = LoopGuard("us", Seconds(), set())
    assert guard.returned(message(properties=marked("them", "us")))
    assert not guard.returned(message(properties=marked("them")))
    assert not guard.returned(message(properties={Property.USER_PROPERTY: [("us", "us")]}))
    assert not guard.returned(message())


def test_a_message_goes_nowhere_twice_and_its_marks_do_not_grow() -> None:
    guard = LoopGuard("us", Seconds(), set())
    assert guard.leaves(NO_PROPERTIES, "them") == marked("us")
    assert guard.leaves(marked("us"), "") == marked("us")
    assert guard.leaves(marked("them"), "them") is None
    came = message("$bridge/b")
    assert guard.arrives(came, "them", v5=True, bridge_bit=False)
    assert came.properties == marked("them", "us")
    assert not guard.arrives(came, "them", v5=True, bridge_bit=False)
    assert not guard.returned(came)


def test_the_mark_of_connect_names_the_gateway() -> None:
    assert name_in({Property.USER_PROPERTY: [("a", "b"), ("accessgw-via", "them")]}) == "them"
    assert name_in(NO_PROPERTIES) == ""


@pytest.mark.parametrize("bridge_bit", [True, False])
def test_an_echo_of_version_4_is_known_by_its_content_for_a_while(bridge_bit: bool) -> None:
    seconds = Seconds()
    peers = {"their-bridge"}
    guard = LoopGuard("us", seconds, peers)
    guard.unmarked = [lambda topic: topic == "t"]
    assert not guard.returned(message())
    assert guard.returned(message("their-bridge"))
    assert not guard.arrives(message("$bridge/b"), "", v5=False, bridge_bit=bridge_bit)
    assert not guard.returned(message("their-bridge", payload=b"other"))
    assert not guard.returned(message("another-device"))
    seconds.now += ECHO_SECONDS + 1
    assert not guard.returned(message("their-bridge"))
    assert guard.arrives(message("$bridge/b"), "", v5=False, bridge_bit=bridge_bit)


def test_a_broker_that_takes_us_for_a_bridge_sends_no_echo_so_that_none_is_looked_for() -> None:
    guard = LoopGuard("us", Seconds(), set())
    guard.unmarked = [lambda topic: True]
    assert not guard.returned(message())
    assert guard.arrives(message("$bridge/b"), "", v5=False, bridge_bit=True)
    assert not guard.arrives(message("$bridge/b"), "", v5=False, bridge_bit=False)


def test_what_a_bridge_brought_in_does_not_go_out_by_it_but_by_another() -> None:
    both = topic("t/#", qos=2)
    world = World(settings(both), settings(both, name="c"))
    first, second = world.remotes
    first.accept()
    second.accept()
    first.say(packets.Publish("t/x", b"m", 1, packet_id=1))
    assert [type(packet) for packet in first.came()] == [packets.Puback]
    (out,) = second.came()
    assert isinstance(out, packets.Publish)
    assert out.properties == marked("us")


def test_a_gateway_at_the_other_end_is_not_sent_what_was_there() -> None:
    world = World(settings(topic("t/#", qos=2)))
    world.remote.accept(USER_PROPERTY=[("accessgw-via", "them")])
    world.publish("t/x", b"theirs", 2, properties=marked("them"))
    world.publish("t/x", b"theirs", 1, properties=marked("them"))
    world.publish("t/x", b"ours", 1)
    (out,) = world.remote.came()
    assert out.payload == b"ours"  # type: ignore[union-attr]
    assert world.row()["inflight"] == 1
    assert world.publish("t/x", b"ours", 1, properties=marked("us")) == 0x10
    assert world.counters.dropped_messages == {"loop": 1}
