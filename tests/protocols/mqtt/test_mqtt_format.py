"""What the standards require of packets' bytes, statement by statement: wrong packets, and how the peer is told."""

from __future__ import annotations

import pytest

from protocols.errors import RemoteError
from protocols.mqtt.connection import Connection, Role
from protocols.mqtt.decoding import decode
from protocols.mqtt.encoding import encode
from protocols.mqtt.limits import DEFAULT_LIMITS, Limits
from protocols.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Property,
    Publish,
    Pubrel,
    Subscribe,
    SubscriptionRequest,
    Will,
)
from tests.protocols.mqtt.mqtt_strategies import open_client, open_server

MALFORMED, PROTOCOL_ERROR = 0x81, 0x82


def frame(first: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes((first, len(body))) + body


def string(raw: bytes) -> bytes:
    return len(raw).to_bytes(2, "big") + raw


def connect(version=5, flags=0x02, payload=string(b"me"), name=b"MQTT", properties=b"\0", first=0x10, keep_alive=60):
    head = string(name) + bytes((version, flags)) + keep_alive.to_bytes(2, "big")
    return frame(first, head + (properties if version == 5 else b"") + payload)


def refused(connection: Connection, data: bytes) -> tuple[int, bytes]:
    """(code, what the peer is told) of bytes that must be refused."""
    with pytest.raises(RemoteError) as raised:
        connection.receive(data, 0.0)
    assert connection.closed
    connection.events()
    said = connection.to_send(0.0)
    connection.receive(b"\xc0\x00", 0.0)
    assert connection.events() == []
    assert connection.to_send(0.0) == b""
    return raised.value.code, said


def refused_connect(data: bytes, limits: Limits = DEFAULT_LIMITS) -> tuple[int, bytes]:
    return refused(Connection(Role.SERVER, limits=limits, now=0.0), data)


def connack(code: int) -> bytes:
    return bytes((0x20, 3, 0, code, 0))


def disconnect(code: int) -> bytes:
    return bytes((0xE0, 1, code))


def accepted(data: bytes) -> Connect:
    connection = Connection(Role.SERVER, limits=DEFAULT_LIMITS, now=0.0)
    connection.receive(data, 0.0)
    (packet,) = connection.events()
    assert isinstance(packet, Connect)
    return packet


# ------------------------------------------------------------------ CONNECT


def test_the_example_of_a_connect_is_understood():
    """[MQTT-3.1.3-3] [MQTT-3.1.3-4] [MQTT-3.1.2-9]: variable header as in figure 3-6 of MQTT 5, and a whole payload."""
    data = bytes.fromhex(
        "10 3d 0004 4d515454 05 ce 000a 05 11 0000000a"
        "0002 6964 05 18 00000005 0001 77 0002 6869 0004 75736572 0006 736563726574"
    )
    data = data[:1] + bytes((len(data) - 2,)) + data[2:]
    packet = accepted(data)
    assert packet == Connect(
        "id", 5, True, 10, "user", b"secret",
        Will("w", b"hi", 1, False, {Property.WILL_DELAY: 5}), {Property.SESSION_EXPIRY: 10},
    )  # fmt: skip
    assert encode(packet, 5) == data


def test_the_first_packet_must_be_connect():
    """[MQTT-3.1.0-1] [MQTT3-3.1.0-1]: said without waiting for the rest of it."""
    for first in (b"\xc0\x00", b"\x30", b"\x20\x02\x00\x00", b"GET / HTTP/1.1\r\n", b"\x00", b"\xf0\x00"):
        assert refused_connect(first) == (PROTOCOL_ERROR, b"")


@pytest.mark.parametrize(("version", "said"), [(3, b""), (4, b""), (5, disconnect(PROTOCOL_ERROR))])
def test_a_second_connect_is_an_error(version, said):
    """[MQTT-3.1.0-2] [MQTT3-3.1.0-2]"""
    again = encode(Connect("me", version), version)
    assert refused(open_server(version), again) == (PROTOCOL_ERROR, said)
    waiting = Connection(Role.SERVER, limits=DEFAULT_LIMITS, now=0.0)
    waiting.receive(again, 0.0)
    assert refused(waiting, again)[0] == PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("name", "version", "said"),
    [
        (b"MQTT", 6, connack(0x84)), (b"MQTT", 0x85, b"\x20\x02\x00\x01"), (b"MQTT", 3, b"\x20\x02\x00\x01"),
        (b"MQTT", 0, b"\x20\x02\x00\x01"), (b"MQIsdp", 4, b"\x20\x02\x00\x01"), (b"MQIsdp", 5, b"\x20\x02\x00\x01"),
        (b"mqtt", 5, b""), (b"HTTP", 4, b""), (b"", 4, b""),
    ],
)  # fmt: skip
def test_other_protocols_and_levels_are_not_supported(name, version, said):
    """[MQTT-3.1.2-1] [MQTT-3.1.2-2] [MQTT3-3.1.2-1] [MQTT3-3.1.2-2]"""
    body = string(name) + bytes((version, 2, 0, 60)) + string(b"me") + b"\0"
    assert refused_connect(frame(0x10, body)) == (0x84, said)


def test_bridges_make_themselves_known_by_the_high_bit_of_the_level():
    assert accepted(connect(0x84)).bridge
    packet = accepted(connect(0x83, name=b"MQIsdp"))
    assert (packet.version, packet.bridge) == (3, True)
    assert not accepted(connect(4)).bridge


def test_the_reserved_connect_flag_must_be_unset():
    """[MQTT-3.1.2-3] [MQTT3-3.1.2-3] [MQTT3-3.1.4-1] [MQTT-3.1.4-1]"""
    assert refused_connect(connect(5, flags=3)) == (MALFORMED, connack(MALFORMED))
    assert refused_connect(connect(4, flags=3)) == (MALFORMED, b"")


@pytest.mark.parametrize("flags", [0x0A, 0x12, 0x22])
def test_without_a_will_its_flags_are_unset(flags):
    """[MQTT-3.1.2-11] [MQTT-3.1.2-13] [MQTT3-3.1.2-11] [MQTT3-3.1.2-13] [MQTT3-3.1.2-15]"""
    assert refused_connect(connect(5, flags=flags)) == (MALFORMED, connack(MALFORMED))
    assert refused_connect(connect(4, flags=flags)) == (MALFORMED, b"")


def test_a_will_has_qos_0_to_2():
    """[MQTT-3.1.2-12] [MQTT3-3.1.2-14]"""
    for version, properties in ((4, b""), (5, b"\0")):
        payload = string(b"me") + properties + string(b"w") + string(b"x")
        for qos in range(3):
            will = accepted(connect(version, flags=0x06 | qos << 3, payload=payload)).will
            assert will is not None
            assert will.qos == qos
        assert refused_connect(connect(version, flags=0x1E, payload=payload))[0] == MALFORMED


def test_a_will_must_be_there_when_its_flag_is_set():
    """[MQTT-3.1.2-9] [MQTT3-3.1.2-9]"""
    assert refused_connect(connect(5, flags=0x06)) == (MALFORMED, connack(MALFORMED))
    assert refused_connect(connect(4, flags=0x06)) == (MALFORMED, b"")


def test_user_name_and_password_are_there_when_their_flags_are_set():
    """[MQTT-3.1.2-16] [MQTT-3.1.2-17] [MQTT-3.1.2-18] [MQTT-3.1.2-19] [MQTT3-3.1.2-18] [MQTT3-3.1.2-19]
    [MQTT3-3.1.2-20] [MQTT3-3.1.2-21]"""
    one = string(b"me") + string(b"one")
    two = one + string(b"two")
    assert accepted(connect(5, flags=0x42, payload=one)).password == b"one"
    for version in (4, 5):
        assert accepted(connect(version, flags=0x82, payload=one)).username == "one"
        packet = accepted(connect(version, flags=0xC2, payload=two))
        assert (packet.username, packet.password) == ("one", b"two")
        for flags, payload in ((0x02, one), (0x82, string(b"me")), (0x82, two), (0xC2, one), (0xC2, two + b"\0")):
            assert refused_connect(connect(version, flags=flags, payload=payload))[0] == MALFORMED


def test_before_mqtt_5_a_password_needs_a_user_name():
    """[MQTT3-3.1.2-22]"""
    assert refused_connect(connect(4, flags=0x42, payload=string(b"me") + string(b"pw"))) == (MALFORMED, b"")


def test_mqtt_3_1_may_announce_user_name_and_password_and_leave_them_out():
    packet = accepted(connect(3, flags=0xC2, name=b"MQIsdp"))
    assert (packet.username, packet.password) == (None, None)
    packet = accepted(connect(3, flags=0xC2, name=b"MQIsdp", payload=string(b"me") + string(b"user")))
    assert (packet.username, packet.password) == ("user", None)


def test_the_client_id_may_be_empty_where_the_server_may_choose_one():
    """[MQTT3-3.1.3-7] [MQTT3-3.1.3-8] [MQTT3-3.1.3-9]"""
    assert accepted(connect(5, flags=0, payload=string(b""))).client_id == ""
    assert accepted(connect(4, payload=string(b""))).client_id == ""
    assert refused_connect(connect(4, flags=0, payload=string(b""))) == (0x85, b"\x20\x02\x00\x02")
    assert refused_connect(connect(3, payload=string(b""), name=b"MQIsdp")) == (0x85, b"\x20\x02\x00\x02")
    assert refused_connect(connect(5, payload=b"")) == (MALFORMED, connack(MALFORMED))


def test_client_ids_of_23_letters_and_digits_are_accepted():
    """[MQTT-3.1.3-5] [MQTT3-3.1.3-5]"""
    for name in (b"ABCDEFGHIJKLMNOPQRSTUVW", b"0123456789xyz", b"a"):
        for version in (4, 5):
            assert accepted(connect(version, payload=string(name))).client_id == name.decode()


@pytest.mark.parametrize("raw", [b"\xed\xa0\x80", b"\xc0\x80", b"\xff", b"a\0b", b"\xf4\x90\x80\x80", b"\xe2\x82"])
def test_strings_are_well_formed_utf8_without_the_null_character(raw):
    """[MQTT-1.5.4-1] [MQTT-1.5.4-2] [MQTT3-1.5.3-1] [MQTT3-1.5.3-2] [MQTT-3.1.3-4] [MQTT-3.1.3-11] [MQTT-3.1.3-12]
    [MQTT-3.3.2-1] [MQTT-3.8.3-1] [MQTT-3.10.3-1] [MQTT-4.7.3-2] [MQTT3-4.7.3-2] [MQTT3-3.1.3-10] [MQTT3-3.3.2-1]
    [MQTT3-3.8.3-1] [MQTT3-3.10.3-1] [MQTT-1.5.7-1] [MQTT-3.3.2-13] [MQTT-3.3.2-19]"""
    bad = string(raw)
    for version, none in ((4, b""), (5, b"\0")):
        for data in (
            connect(version, payload=bad),
            connect(version, flags=0x82, payload=string(b"me") + bad),
            connect(version, flags=0x06, payload=string(b"me") + none + bad + string(b"")),
        ):
            assert refused_connect(data)[0] == MALFORMED
        for data in (
            frame(0x30, bad + none),
            frame(0x82, b"\0\1" + none + bad + b"\0"),
            frame(0xA2, b"\0\1" + none + bad),
        ):
            said = disconnect(MALFORMED) if version == 5 else b""
            assert refused(open_server(version), data) == (MALFORMED, said)
    for tag, value in ((0x03, bad), (0x08, bad), (0x26, string(b"a") + bad), (0x26, bad + string(b"a"))):
        fields = bytes((tag,)) + value
        assert refused(open_server(5), frame(0x30, string(b"t") + bytes((len(fields),)) + fields))[0] == MALFORMED


def test_a_byte_order_mark_stays_in_the_string():
    """[MQTT-1.5.4-3] [MQTT3-1.5.3-3]"""
    server = open_server(4)
    server.receive(frame(0x30, string(b"\xef\xbb\xbfa")), 0.0)
    assert server.events() == [Publish("\ufeffa", b"")]
    assert accepted(connect(5, payload=string(b"\xef\xbb\xbf"))).client_id == "\ufeff"


def test_a_will_is_refused_where_its_qos_or_retaining_is_not_offered():
    """[MQTT-3.2.2-12] [MQTT-3.2.2-13]"""
    loud = encode(Connect("me", will=Will("w", b"", 2)), 5)
    assert refused_connect(loud, Limits(max_qos=1)) == (0x9B, connack(0x9B))
    kept = encode(Connect("me", will=Will("w", b"", 0, True)), 5)
    assert refused_connect(kept, Limits(retain_available=False)) == (0x9A, connack(0x9A))


def test_a_will_topic_has_no_wildcards():
    """[MQTT-4.7.1-1]"""
    payload = string(b"me") + b"\0" + string(b"w/#") + string(b"")
    assert refused_connect(connect(5, flags=0x06, payload=payload)) == (0x90, connack(0x90))


def test_authentication_data_needs_a_method():
    assert refused_connect(connect(5, properties=b"\x04\x16\0\1x")) == (PROTOCOL_ERROR, connack(PROTOCOL_ERROR))


def test_a_connect_that_is_too_large_is_refused_by_its_header():
    code, said = refused_connect(b"\x10\xff\xff\x03", Limits(max_connect=1000))
    assert (code, said) == (0x95, b"")
    begun = connect(5)
    assert refused_connect(b"\x10\xff\xff\x03" + begun[2:], Limits(max_connect=1000)) == (0x95, connack(0x95))


# ------------------------------------------------------------------ fixed header, lengths, packet ids


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize(
    "first",
    [0x00, 0x0F, 0x41, 0x48, 0x52, 0x60, 0x63, 0x6A, 0x72, 0x80, 0x83, 0x8A, 0xA0, 0xA3, 0xC1, 0xE1, 0xE8, 0xF1],
)
def test_reserved_flags_and_types_are_malformed(version, first):
    """[MQTT-2.1.3-1] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT-3.14.1-1] [MQTT-3.15.1-1] [MQTT3-2.2.2-1]
    [MQTT3-2.2.2-2] [MQTT3-3.6.1-1] [MQTT3-3.8.1-1] [MQTT3-3.10.1-1] [MQTT3-3.14.1-1]"""
    server = open_server(version, properties={Property.AUTHENTICATION_METHOD: "x"} if version == 5 else {})
    code, said = refused(server, bytes((first, 2, 0, 1)))
    assert code in (MALFORMED, PROTOCOL_ERROR)
    if first >> 4 and not (first >> 4 == 15 and version == 4):
        assert code == MALFORMED
    assert said == (disconnect(code) if version == 5 else b"")


def test_mqtt_3_1_marks_repetition_in_more_packets():
    server = open_server(3)
    server.receive(b"\x6a\x02\x00\x07" + b"\x8a\x06\x00\x01\x00\x01a\x01", 0.0)
    assert server.events() == [Pubrel(7), Subscribe(1, [SubscriptionRequest("a", 1)])]


def test_before_mqtt_5_a_remaining_length_may_be_padded():
    server = open_server(4)
    server.receive(b"\x30\x85\x80\x00\x00\x01aHi\xc0\x80\x00", 0.0)
    assert server.events() == [Publish("a", b"Hi"), Pingreq()]
    padded = connect(4)
    padded = padded[:1] + bytes((padded[1] | 128, 0)) + padded[2:]
    assert accepted(padded).version == 4


def test_remaining_lengths_take_the_fewest_bytes_and_four_at_most():
    """[MQTT-1.5.5-1]"""
    assert refused(open_server(5), b"\x30\x85\x00\x00\x01aHi") == (MALFORMED, disconnect(MALFORMED))
    padded = connect(5)
    assert refused_connect(padded[:1] + bytes((padded[1] | 128, 0)) + padded[2:]) == (MALFORMED, connack(MALFORMED))
    for version in (4, 5):
        assert refused(open_server(version), b"\x30\xff\xff\xff\xff")[0] == MALFORMED


def test_a_packet_that_is_too_large_is_refused_by_its_header():
    server = open_server(5, Limits(max_packet=1024))
    assert refused(server, b"\x30\xfe\x07") == (0x95, disconnect(0x95))
    server = open_server(5, Limits(max_packet=1024))
    server.receive(b"\x30\xfd\x07" + string(b"t") + b"\0" + bytes(1017), 0.0)
    assert len(server.events()) == 1


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("first", [0x32, 0x34, 0x40, 0x50, 0x62, 0x70, 0x82, 0xA2])
def test_a_packet_id_is_not_0(version, first):
    """[MQTT-2.2.1-3] [MQTT3-2.3.1-1]"""
    body = (
        string(b"t") + b"\0\0\0" if first >> 4 == 3 else b"\0\0" if first < 0x80 else b"\0\0\0" + string(b"t") + b"\0"
    )
    assert refused(open_server(version), frame(first, body))[0] == PROTOCOL_ERROR


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("first", [0x30, 0x32, 0x40, 0x50, 0x62, 0x70, 0x82, 0xA2])
def test_a_packet_that_ends_too_early_is_malformed(version, first):
    for body in (b"", b"\0"):
        assert refused(open_server(version), frame(first, body))[0] == MALFORMED


@pytest.mark.parametrize("body", [b"\0\1\0", b"\0\1\0\0"])
def test_before_mqtt_5_acknowledgements_have_no_reason(body):
    for first in (0x40, 0x50, 0x62, 0x70):
        assert refused(open_server(4), frame(first, body)) == (MALFORMED, b"")
    assert refused(open_server(4), frame(0xE0, b"\0")) == (MALFORMED, b"")


def test_pings_have_no_body():
    for version in (4, 5):
        assert refused(open_server(version), b"\xc0\x01\x00")[0] == MALFORMED


def test_disconnect_of_a_client_closes_and_is_an_event():
    """[MQTT-3.14.4-1]"""
    for version, data, reason in ((4, b"\xe0\x00", 0), (5, b"\xe0\x00", 0), (5, b"\xe0\x02\x04\x00", 4)):
        server = open_server(version)
        server.receive(data + b"\xc0\x00", 0.0)
        assert server.events() == [Disconnect(reason)]
        assert server.closed
        assert server.to_send(0.0) == b""


# ------------------------------------------------------------------ PUBLISH


@pytest.mark.parametrize("version", [4, 5])
def test_qos_3_does_not_exist(version):
    """[MQTT-3.3.1-4] [MQTT3-3.3.1-4]"""
    body = string(b"t") + b"\0\1\0"
    for first in (0x36, 0x37, 0x3E):
        assert refused(open_server(version), frame(first, body))[0] == MALFORMED


def test_qos_0_is_never_a_repetition():
    """[MQTT-3.3.1-2] [MQTT3-3.3.1-2]"""
    for version in (4, 5):
        assert refused(open_server(version), frame(0x38, string(b"t") + b"\0"))[0] == MALFORMED


@pytest.mark.parametrize("topic", [b"a/#", b"+", b"a+b", b"#"])
def test_topic_names_have_no_wildcards(topic):
    """[MQTT-3.3.2-2] [MQTT3-3.3.2-2] [MQTT-4.7.1-1]"""
    assert refused(open_server(5), frame(0x30, string(topic) + b"\0")) == (0x90, disconnect(0x90))
    assert refused(open_server(4), frame(0x30, string(topic))) == (0x90, b"")


def test_an_empty_topic_needs_an_alias():
    """[MQTT-4.7.3-1] [MQTT3-4.7.3-1]"""
    assert refused(open_server(5), frame(0x30, b"\0\0\0hello")) == (PROTOCOL_ERROR, disconnect(PROTOCOL_ERROR))
    assert refused(open_server(4), frame(0x30, b"\0\0hello"))[0] == 0x90


def test_topics_are_bounded():
    server = open_server(5, Limits(max_topic_length=4, max_topic_levels=2))
    server.receive(frame(0x30, string(b"a/bc") + b"\0"), 0.0)
    assert refused(server, frame(0x30, string(b"a/bcd") + b"\0")) == (0x90, disconnect(0x90))
    server = open_server(5, Limits(max_topic_length=4, max_topic_levels=2))
    assert refused(server, frame(0x30, string(b"a//b") + b"\0"))[0] == 0x90
    server = open_server(5, Limits(max_topic_length=4, max_topic_levels=2))
    assert refused(server, frame(0x82, b"\0\1\0" + string("ééé".encode()) + b"\0")) == (0x8F, disconnect(0x8F))


@pytest.mark.parametrize(
    ("limits", "publish", "code"),
    [
        (Limits(max_qos=1), Publish("t", b"", 2, packet_id=1), 0x9B),
        (Limits(max_qos=0), Publish("t", b"some", 1, packet_id=1), 0x9B),
        (Limits(retain_available=False), Publish("t", b"some", retain=True), 0x9A),
    ],
)
def test_what_is_not_offered_is_refused(limits, publish, code):
    """[MQTT-3.2.2-11] [MQTT-3.2.2-14]"""
    assert refused(open_server(5, limits), encode(publish, 5)) == (code, disconnect(code))
    assert refused(open_server(4, limits), encode(publish, 4)) == (code, b"")


def test_a_client_tells_no_subscription_identifier():
    """[MQTT-3.3.4-6]"""
    data = encode(Publish("t", b"", properties={Property.SUBSCRIPTION_IDENTIFIER: [1]}), 5)
    assert refused(open_server(5), data) == (PROTOCOL_ERROR, disconnect(PROTOCOL_ERROR))
    client = open_client(5)
    client.receive(data, 0.0)
    assert client.events() == [Publish("t", b"", properties={Property.SUBSCRIPTION_IDENTIFIER: [1]})]


# ------------------------------------------------------------------ properties


def test_properties_come_once():
    data = frame(0x30, string(b"t") + b"\x04\x01\x00\x01\x00")
    assert refused(open_server(5), data) == (PROTOCOL_ERROR, disconnect(PROTOCOL_ERROR))
    for tag in (b"\x11\0\0\0\1", b"\x21\0\1", b"\x27\0\0\0\x99", b"\x22\0\0", b"\x19\0", b"\x17\0", b"\x15\0\1x"):
        once = bytes((len(tag),)) + tag
        twice = bytes((2 * len(tag),)) + 2 * tag
        assert accepted(connect(5, properties=once))
        assert refused_connect(connect(5, properties=twice)) == (PROTOCOL_ERROR, connack(PROTOCOL_ERROR))


def test_properties_belong_to_the_packet():
    """[MQTT-3.1.3-1]: unknown ones and those of other packets are malformed."""
    for fields in (b"\x23\0\1", b"\x01\0", b"\x99", b"\x00\0", b"\x0b\1", b"\x24\1"):
        data = connect(5, properties=bytes((len(fields),)) + fields)
        assert refused_connect(data) == (MALFORMED, connack(MALFORMED))
    for first, head in ((0x40, b"\0\1\0"), (0xE0, b"\0"), (0x82, b"\0\1"), (0xA2, b"\0\1")):
        data = frame(first, head + b"\x02\x01\x00")
        assert refused(open_server(5), data) == (MALFORMED, disconnect(MALFORMED))


@pytest.mark.parametrize("fields", [b"\x21\0\0", b"\x27\0\0\0\0", b"\x17\2", b"\x19\2"])
def test_values_out_of_range_are_a_protocol_error(fields):
    data = connect(5, properties=bytes((len(fields),)) + fields)
    assert refused_connect(data) == (PROTOCOL_ERROR, connack(PROTOCOL_ERROR))


def test_a_response_topic_is_a_topic_name():
    """[MQTT-3.3.2-14]"""
    for topic in (b"a/#", b"+", b""):
        fields = b"\x08" + string(topic)
        data = frame(0x30, string(b"t") + bytes((len(fields),)) + fields)
        assert refused(open_server(5), data) == (PROTOCOL_ERROR, disconnect(PROTOCOL_ERROR))


@pytest.mark.parametrize(
    "properties", [b"\x05\x02\0\0", b"\x80\x00", b"\x7f", b"\x01\x02", b"\x03\x26\0\1", b"\x02\x0b\x80"]
)
def test_properties_that_are_cut_off_are_malformed(properties):
    assert refused(open_server(5), frame(0x30, string(b"t") + properties)) == (MALFORMED, disconnect(MALFORMED))


def test_user_properties_keep_their_order_and_are_bounded():
    """[MQTT-3.3.2-18]"""
    pairs = [("a", "1"), ("b", "2"), ("a", "3")]
    data = encode(Publish("t", b"", properties={Property.USER_PROPERTY: pairs}), 5)
    server = open_server(5, Limits(max_user_properties=3))
    server.receive(data, 0.0)
    assert server.events()[0].properties[Property.USER_PROPERTY] == pairs
    assert refused(open_server(5, Limits(max_user_properties=2)), data) == (0x97, disconnect(0x97))


# ------------------------------------------------------------------ SUBSCRIBE and UNSUBSCRIBE


@pytest.mark.parametrize("version", [4, 5])
def test_subscribe_and_unsubscribe_have_a_filter(version):
    """[MQTT-3.8.3-2] [MQTT-3.10.3-2] [MQTT3-3.8.3-3] [MQTT3-3.10.3-2]"""
    none = b"\0" if version == 5 else b""
    for first in (0x82, 0xA2):
        assert refused(open_server(version), frame(first, b"\0\1" + none))[0] == PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("options", "v5", "v4"),
    [(0x40, MALFORMED, MALFORMED), (0x80, MALFORMED, MALFORMED), (0x03, PROTOCOL_ERROR, PROTOCOL_ERROR),
     (0x30, PROTOCOL_ERROR, MALFORMED), (0x04, None, MALFORMED), (0x2E, None, MALFORMED)],
)  # fmt: skip
def test_subscription_options(options, v5, v4):
    """[MQTT-3.8.3-5] [MQTT3-3.8.3-4]"""
    for version, none, code in ((5, b"\0", v5), (4, b"", v4)):
        data = frame(0x82, b"\0\1" + none + string(b"a") + bytes((options,)))
        server = open_server(version)
        if code is None:
            server.receive(data, 0.0)
            assert server.events() == [
                Subscribe(1, [SubscriptionRequest("a", options & 3, True, bool(options & 8), options >> 4)])
            ]
        else:
            assert refused(server, data)[0] == code


def test_no_local_is_not_for_shared_subscriptions():
    """[MQTT-3.8.3-4]"""
    data = frame(0x82, b"\0\1\0" + string(b"$share/g/a") + b"\4")
    assert refused(open_server(5), data) == (PROTOCOL_ERROR, disconnect(PROTOCOL_ERROR))


@pytest.mark.parametrize(
    "topic_filter",
    [b"", b"a#", b"#/a", b"a/#/b", b"a+", b"+a/b", b"a/b+", b"##", b"$share/g", b"$share//a", b"$share/+/a", b"$share/g/",
     b"$share/a#/b", b"$share", b"$share/g/a#"],
)  # fmt: skip
def test_filters_have_wildcards_only_as_whole_levels(topic_filter):
    """[MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.3-1] [MQTT-4.8.2-1] [MQTT-4.8.2-2] [MQTT3-4.7.1-1] [MQTT3-4.7.1-2]
    [MQTT3-4.7.1-3] [MQTT3-4.7.3-1]"""
    assert refused(open_server(5), frame(0x82, b"\0\1\0" + string(topic_filter) + b"\0")) == (0x8F, disconnect(0x8F))
    assert refused(open_server(4), frame(0x82, b"\0\1" + string(topic_filter) + b"\0")) == (0x8F, b"")
    assert refused(open_server(5), frame(0xA2, b"\0\1\0" + string(topic_filter)))[0] == 0x8F


@pytest.mark.parametrize(
    ("limits", "request_", "properties", "code"),
    [
        (Limits(wildcard_available=False), SubscriptionRequest("a/#"), {}, 0xA2),
        (Limits(wildcard_available=False), SubscriptionRequest("$share/g/+"), {}, 0xA2),
        (Limits(shared_available=False), SubscriptionRequest("$share/g/a"), {}, 0x9E),
        (Limits(subscription_identifiers_available=False), SubscriptionRequest("a"),
         {Property.SUBSCRIPTION_IDENTIFIER: 1}, 0xA1),
        (Limits(max_filters=0), SubscriptionRequest("a"), {}, 0x97),
    ],
)  # fmt: skip
def test_subscriptions_that_are_not_offered(limits, request_, properties, code):
    data = encode(Subscribe(1, [request_], properties), 5)
    assert refused(open_server(5, limits), data) == (code, disconnect(code))


def test_a_subscription_identifier_is_not_0_and_comes_once():
    for properties in (b"\x02\x0b\x00", b"\x04\x0b\x01\x0b\x02"):
        data = frame(0x82, b"\0\1" + properties + string(b"a") + b"\0")
        assert refused(open_server(5), data) == (PROTOCOL_ERROR, disconnect(PROTOCOL_ERROR))


# ------------------------------------------------------------------ reasons


@pytest.mark.parametrize(
    ("first", "wrong"), [(0x40, 0x92), (0x40, 1), (0x50, 0x92), (0x62, 0x80), (0x70, 0x10), (0x50, 2)]
)
def test_acknowledgements_have_reasons_of_their_own(first, wrong):
    """[MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1]"""
    for body in (bytes((0, 1, wrong)), bytes((0, 1, wrong, 0))):
        assert refused(open_server(5), frame(first, body)) == (PROTOCOL_ERROR, disconnect(PROTOCOL_ERROR))


@pytest.mark.parametrize("wrong", [0x01, 0x10, 0x87, 0x8B, 0x8D, 0x8E, 0x8F, 0x9A, 0x9D, 0xA2, 0xFF])
def test_a_client_disconnects_for_reasons_of_a_client(wrong):
    """[MQTT-3.14.2-1]"""
    assert refused(open_server(5), bytes((0xE0, 1, wrong))) == (PROTOCOL_ERROR, disconnect(PROTOCOL_ERROR))


def test_disconnect_does_not_make_a_session_last_that_was_not_to():
    data = encode(Disconnect(0, {Property.SESSION_EXPIRY: 5}), 5)
    assert refused(open_server(5), data) == (PROTOCOL_ERROR, disconnect(PROTOCOL_ERROR))
    lasting = open_server(5, properties={Property.SESSION_EXPIRY: 1})
    lasting.receive(data, 0.0)
    assert lasting.events() == [Disconnect(0, {Property.SESSION_EXPIRY: 5})]
    server = open_server(5)
    server.receive(encode(Disconnect(0, {Property.SESSION_EXPIRY: 0}), 5), 0.0)
    assert server.closed


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x20\x03\x02\x00\x00", MALFORMED), (b"\x20\x03\x01\x80\x00", PROTOCOL_ERROR), (b"\x20\x03\x00\x01\x00", PROTOCOL_ERROR),
        (b"\x20\x03\x00\x8d\x00", PROTOCOL_ERROR), (b"\x20\x02\x00\x00", MALFORMED), (b"\x20\x01\x00", MALFORMED),
        (b"\x20\x04\x00\x00\x00\x00", MALFORMED), (b"\x30\x03\x00\x01t", PROTOCOL_ERROR), (b"\xd0\x00", PROTOCOL_ERROR),
        (b"\xe0\x00", PROTOCOL_ERROR),
    ],
)  # fmt: skip
def test_what_a_client_does_not_take_for_connack(data, code):
    """[MQTT-3.2.0-1] [MQTT-3.2.2-1] [MQTT-3.2.2-6] [MQTT-3.2.2-8] [MQTT-3.14.0-1] [MQTT3-3.2.0-1]"""
    client = Connection(Role.CLIENT, limits=DEFAULT_LIMITS, now=0.0)
    client.send(Connect("me"))
    client.to_send(0.0)
    assert refused(client, data) == (code, disconnect(code))


def test_return_codes_of_a_server_before_mqtt_5():
    """[MQTT3-3.2.2-4] [MQTT3-3.9.3-2]"""
    assert decode(b"\x20\x02\x01\x00", 4) == Connack(True, 0)
    for data in (
        b"\x20\x02\x00\x06",
        b"\x20\x02\x01\x05",
        b"\x90\x03\0\1\x03",
        b"\x90\x03\0\1\x87",
        b"\x90\x02\0\1",
        b"\xb0\x03\0\1\0",
    ):
        with pytest.raises(RemoteError):
            decode(data, 4)


@pytest.mark.parametrize(
    ("first", "body"), [(0x90, b"\0\1\0\x03"), (0x90, b"\0\1\0"), (0xB0, b"\0\1\0\x01"), (0xB0, b"\0\1\0")]
)
def test_subscriptions_are_answered_with_reasons_of_theirs(first, body):
    """[MQTT-3.9.3-2] [MQTT-3.11.3-2]"""
    assert refused(open_client(5), frame(first, body))[0] in (MALFORMED, PROTOCOL_ERROR)


def test_a_server_disconnects_without_a_session_expiry():
    """[MQTT-3.14.2-2] [MQTT-3.14.2-1]"""
    assert refused(open_client(5), encode(Disconnect(0x8B, {Property.SESSION_EXPIRY: 1}), 5))[0] == PROTOCOL_ERROR
    assert refused(open_client(5), encode(Disconnect(0x04), 5))[0] == PROTOCOL_ERROR
    client = open_client(5)
    client.receive(encode(Disconnect(0x9C, {Property.SERVER_REFERENCE: "other"}), 5), 0.0)
    assert client.closed
    assert refused(open_client(4), b"\xe0\x00") == (PROTOCOL_ERROR, b"")
