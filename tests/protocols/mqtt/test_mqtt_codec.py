"""Round trips of every packet in every version, every split of the bytes, and bytes that no one should send."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.mqtt.decoding import decode
from protocols.mqtt.encoding import encode, encode_publish, mark_dup, publish_parts
from protocols.mqtt.limits import Limits
from protocols.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    PacketType,
    Pingreq,
    Property,
    Puback,
    Pubcomp,
    Publish,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Unsuback,
    Unsubscribe,
    Will,
)
from protocols.mqtt.properties import ALLOWED, decode_properties, encode_properties, encode_varint, read_varint
from tests.protocols.mqtt.mqtt_strategies import (
    VERSIONS,
    acknowledgements,
    open_server,
    property_sets,
    publishes,
    qos_levels,
    topics,
    versioned_packets,
)


@given(versioned_packets)
@settings(max_examples=400, deadline=None)
def test_what_is_encoded_decodes_to_the_same(versioned):
    """[MQTT-3.1.3-1] [MQTT-2.2.2-1] [MQTT-3.1.2-16] [MQTT-3.1.2-17] [MQTT-3.1.2-18] [MQTT-3.1.2-19] [MQTT3-3.1.3-1]"""
    version, packet = versioned
    assert decode(encode(packet, version), version) == packet


@given(versioned_packets)
@settings(max_examples=100, deadline=None)
def test_a_packet_that_is_cut_off_or_has_more_is_malformed_or_another(versioned):
    version, packet = versioned
    frame = encode(packet, version)
    for end in range(len(frame)):
        with pytest.raises(RemoteError):
            decode(frame[:end], version)
    with pytest.raises(RemoteError):
        decode(frame + b"\0", version)


@given(st.integers(0, 268_435_455))
def test_variable_byte_integers_round_trip_in_the_fewest_bytes(value):
    """[MQTT-1.5.5-1]"""
    encoded = encode_varint(value)
    assert read_varint(encoded, 0, len(encoded)) == (value, len(encoded))
    assert len(encoded) == (1 if value < 128 else 2 if value < 16384 else 3 if value < 2097152 else 4)


@pytest.mark.parametrize(
    "encoded", [b"\x80\x00", b"\xff\x80\x00", b"\x80\x80\x80\x00", b"\x80\x80\x80\x80\x01", b"\x80"]
)
def test_longer_numbers_than_need_be_are_malformed(encoded):
    """[MQTT-1.5.5-1]"""
    with pytest.raises(RemoteError) as raised:
        read_varint(encoded, 0, len(encoded))
    assert raised.value.code == 0x81


@given(property_sets(ALLOWED[PacketType.CONNACK] | ALLOWED[PacketType.CONNECT]))
def test_properties_alone_round_trip(properties):
    assert decode_properties(encode_properties(properties)) == properties


@given(st.sampled_from(VERSIONS), st.data())
def test_parts_of_a_publish_are_the_frame(version, data):
    publish = data.draw(publishes(version).filter(lambda each: each.topic))
    head, tail = publish_parts(
        publish.topic, publish.payload, version, qos=publish.qos, retain=publish.retain, properties=publish.properties
    )
    frame = head + publish.packet_id.to_bytes(2, "big") + tail if publish.qos else head + tail
    assert (mark_dup(frame) if publish.dup else frame) == encode_publish(publish, version)


@given(topics, st.binary(max_size=40000), qos_levels, st.booleans())
@settings(max_examples=50, deadline=None)
def test_parts_carry_identifiers_and_alias(topic, payload, qos, retain):

    head, tail = publish_parts(
        topic,
        payload,
        5,
        qos=qos,
        retain=retain,
        properties={Property.CONTENT_TYPE: "x"},
        identifiers=(7, 300),
        alias=2,
    )
    packet = decode(head + b"\0\x09" + tail if qos else head, 5)
    assert packet == Publish(
        topic, payload, qos, retain, False, 9 if qos else 0,
        {Property.CONTENT_TYPE: "x", Property.SUBSCRIPTION_IDENTIFIER: [7, 300], Property.TOPIC_ALIAS: 2},
    )  # fmt: skip


def test_an_alias_may_stand_for_the_topic():
    head, tail = publish_parts("a/b", b"p", 5, qos=0, retain=False, properties={}, alias=3, with_topic=False)
    assert decode(head + tail, 5) == Publish("", b"p", properties={Property.TOPIC_ALIAS: 3})
    for version, alias in ((5, 0), (4, 3)):
        with pytest.raises(LocalError):
            publish_parts("a/b", b"p", version, qos=0, retain=False, properties={}, alias=alias, with_topic=False)


@pytest.mark.parametrize("topic", ["", "a/#", "+", "a\0b", "\ud800", "x" * 65536, "é" * 40000])
def test_no_other_topics_leave(topic):
    """[MQTT-3.3.2-2] [MQTT-4.7.3-1] [MQTT-4.7.3-2] [MQTT-4.7.3-3] [MQTT-1.5.4-1] [MQTT-1.5.4-2]"""
    for version in VERSIONS:
        with pytest.raises(LocalError):
            publish_parts(topic, b"", version, qos=0, retain=False, properties={})


@given(st.lists(st.sampled_from(VERSIONS).flatmap(lambda v: st.tuples(st.just(v), publishes(v)))), st.data())
@settings(max_examples=40, deadline=None)
def test_every_split_gives_the_same_packets(versioned, data):
    for version in VERSIONS:
        sent = [each for of, each in versioned if of == version and not each.properties]
        stream = b"".join(encode(each, version) for each in sent)
        whole, bytewise, parts = (open_server(version) for _ in range(3))
        whole.receive(stream, 0.0)
        for at in range(len(stream)):
            bytewise.receive(stream[at : at + 1], 0.0)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
        for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            parts.receive(stream[begin:end], 0.0)
        assert whole.events() == bytewise.events() == parts.events() == sent


@given(st.sampled_from(VERSIONS), st.data())
@settings(max_examples=100, deadline=None)
def test_short_ways_agree_with_the_decoder(version, data):
    """What receive() recognises itself is what the decoder would have made of it."""
    packets = data.draw(st.lists(publishes(version).filter(lambda p: not p.properties) | acknowledgements(version)))
    packets.append(Pingreq())
    server = open_server(version)
    frames = [encode(each, version) for each in packets]
    server.receive(b"".join(frames), 0.0)
    assert server.events() == [decode(each, version) for each in frames]


@given(st.binary(max_size=300), st.sampled_from(VERSIONS))
@settings(max_examples=200, deadline=None)
def test_random_bytes_raise_nothing_but_remote_errors(data, version):
    """[MQTT3-4.8.0-1]"""
    for feed in (open_server(version), open_server(version, Limits(max_packet=50, max_topic_length=5))):
        try:
            feed.receive(data, 0.0)
        except RemoteError:
            assert feed.closed


@given(versioned_packets, st.data())
@settings(max_examples=300, deadline=None)
def test_changed_packets_raise_nothing_but_remote_errors(versioned, data):
    version, packet = versioned
    frame = bytearray(encode(packet, version))
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode(bytes(frame), version)
    except RemoteError:
        return
    again = decoded.version if isinstance(decoded, Connect) else version
    if isinstance(decoded, Connack) and version == 3:
        return
    assert decode(encode(decoded, again), again) == decoded


@pytest.mark.parametrize("identifier", [0, 4, 0x2B, 0x7F])
def test_unknown_properties_do_not_leave(identifier):
    with pytest.raises(LocalError):
        encode_properties({identifier: 1})


@pytest.mark.parametrize(
    ("identifier", "value"),
    [
        (Property.PAYLOAD_FORMAT, 2), (Property.RECEIVE_MAXIMUM, 0), (Property.MAXIMUM_PACKET_SIZE, 1 << 32),
        (Property.TOPIC_ALIAS, 0), (Property.SUBSCRIPTION_IDENTIFIER, [0]), (Property.SUBSCRIPTION_IDENTIFIER, 1 << 28),
        (Property.RESPONSE_TOPIC, "a/#"), (Property.REASON_STRING, 5), (Property.CORRELATION_DATA, 70),
        (Property.CORRELATION_DATA, b"x" * 65536), (Property.USER_PROPERTY, [("a",)]), (Property.CONTENT_TYPE, "a\0"),
        (Property.MAXIMUM_QOS, "x"), (Property.USER_PROPERTY, 3),
    ],
)  # fmt: skip
def test_values_that_a_property_cannot_have_do_not_leave(identifier, value):
    """[MQTT-3.3.2-8] [MQTT-3.3.2-13] [MQTT-3.3.2-14] [MQTT-3.3.2-19]"""
    with pytest.raises(LocalError):
        encode_properties({identifier: value})


@pytest.mark.parametrize(
    ("version", "packet"),
    [
        (4, Publish("t", b"", 0, packet_id=1)), (4, Publish("t", b"", 0, dup=True)), (4, Publish("t", b"", 3, packet_id=1)),
        (4, Publish("t", b"", 1)), (5, Publish("t", b"", 1, packet_id=65536)), (4, Connect("me", 6)),
        (5, Connect("me", 5, bridge=True)), (4, Connect("me", 4, password=b"x")), (3, Connect("", 3)),
        (4, Connect("", 4, False)), (4, Connect("me", 4, keep_alive=65536)), (4, Connect("\ud800", 4)),
        (4, Connect("x" * 65536, 4)), (4, Connect("me", 4, will=Will("t", b"", 3))), (4, Connect("me", 4, will=Will("#", b""))),
        (5, Connack(True, 0x80)), (4, Connack(False, 6)), (5, Connack(False, 1)), (4, Auth(0)), (5, Auth(1)),
        (5, Disconnect(0x01)), (5, Puback(1, 0x92)), (5, Pubrel(1, 0x80)), (5, Pubcomp(0)), (5, Subscribe(1, [])),
        (5, Subscribe(1, [SubscriptionRequest("a", 3)])), (5, Subscribe(1, [SubscriptionRequest("a", retain_handling=3)])),
        (5, Subscribe(1, [SubscriptionRequest("$share/g/a", no_local=True)])), (5, Subscribe(1, [SubscriptionRequest("a#")])),
        (5, Unsubscribe(1, [])), (5, Suback(1, [])), (5, Suback(1, [3])), (4, Suback(1, [0x87])), (5, Unsuback(1, [])),
        (5, Unsuback(1, [0x92])), (5, Puback(1, 0, {Property.TOPIC_ALIAS: 1})), (5, Publish("t", b"", properties={0x11: 1})),
    ],
)  # fmt: skip
def test_what_a_version_cannot_say_does_not_leave(version, packet):
    """[MQTT-2.2.1-2] [MQTT-2.2.1-3] [MQTT-2.2.1-4] [MQTT-3.1.3-1] [MQTT-3.2.2-6] [MQTT-3.2.2-8] [MQTT-3.3.1-2]
    [MQTT-3.3.1-4] [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1] [MQTT-3.8.3-2] [MQTT-3.8.3-4]
    [MQTT-3.9.3-2] [MQTT-3.11.3-2] [MQTT-3.14.2-1] [MQTT-3.15.2-1] [MQTT-4.3.1-1] [MQTT3-2.3.1-1] [MQTT3-2.3.1-5]
    [MQTT3-3.9.3-2]"""
    with pytest.raises(LocalError):
        encode(packet, version)


@pytest.mark.parametrize("size", [120, 121, 122, 123, 124, 125, 126, 127, 128, 20000, 3_000_000])
def test_publishes_of_every_length_of_length(size):
    for version in VERSIONS:
        for qos in range(3):
            publish = Publish("t", bytes(size), qos, packet_id=7 if qos else 0)
            frame = encode(publish, version)
            assert decode(frame, version) == publish
            server = open_server(version)
            server.receive(frame, 0.0)
            assert server.events() == [publish]
