"""Dialogues of the server role, state by state: what may come, what may be sent, what a connection remembers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.mqtt.connection import Connection, Role
from protocols.mqtt.decoding import decode
from protocols.mqtt.encoding import encode, publish_parts
from protocols.mqtt.limits import DEFAULT_LIMITS, Limits
from protocols.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    PacketType,
    Pingreq,
    Pingresp,
    Property,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Unsuback,
)
from protocols.mqtt.reasons import Reason
from protocols.mqtt.rules import input_of
from protocols.mqtt.state import TABLE, State, Variant, packet_type
from tests.protocols.mqtt.mqtt_strategies import VERSIONS, open_client, open_server, packets

METHOD = {Property.AUTHENTICATION_METHOD: "SCRAM"}


def connecting(version: int = 5, limits: Limits = DEFAULT_LIMITS, **connect) -> Connection:
    server = Connection(Role.SERVER, limits=limits, now=0.0)
    server.receive(encode(Connect("me", version, **connect), version), 0.0)
    server.events()
    return server


def said(connection: Connection) -> list:
    """The packets that are to be sent."""
    data = connection.to_send(0.0)
    found = []
    while data:
        size = 2
        while data[size - 1] > 127:
            size += 1
        length = sum((byte & 127) << 7 * at for at, byte in enumerate(data[1:size]))
        found.append(decode(data[: size + length], connection.version))
        data = data[size + length :]
    return found


def code_of(connection: Connection, data: bytes) -> int:
    with pytest.raises(RemoteError) as raised:
        connection.receive(data, 0.0)
    assert connection.closed
    return raised.value.code


# ------------------------------------------------------------------ the table


def test_the_table_never_leaves_closed_and_nothing_reopens():
    assert not [row for row in TABLE if row[0] is State.CLOSED]
    assert State.START not in TABLE.values()


def test_every_state_is_reached():
    reached, found = {State.START}, True
    while found:
        found = {after for (state, _, _), after in TABLE.items() if state in reached} - reached
        reached |= found
    assert reached == set(State)


def test_only_one_side_sends_what_belongs_to_it():
    """[MQTT-3.14.0-1] [MQTT-3.2.0-1] [MQTT-3.1.2-30] [MQTT-4.12.0-6]"""
    senders = {}
    for _, role, what in TABLE:
        senders.setdefault(packet_type(what), set()).add(role)
    both = {Role.SERVER, Role.CLIENT}
    client = (PacketType.CONNECT, PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE, PacketType.PINGREQ)
    server = (PacketType.CONNACK, PacketType.SUBACK, PacketType.UNSUBACK, PacketType.PINGRESP)
    for kind in PacketType:
        assert senders[kind] == ({Role.CLIENT} if kind in client else {Role.SERVER} if kind in server else both)
    before = [what for state, role, what in TABLE if role is Role.SERVER and state is State.CONNECTING]
    assert set(before) == {PacketType.CONNACK, Variant.REFUSAL}


@given(st.sampled_from(VERSIONS), st.data())
@settings(max_examples=150, deadline=None)
def test_sending_follows_the_table_and_errors_change_nothing(version, data):
    """Whatever is sent, it is a row of the table and leaves bytes, or LocalError leaves the connection as it was."""
    make = data.draw(st.sampled_from((open_server, open_client)))
    connection = make(version)
    for packet in data.draw(st.lists(packets(version), max_size=4)):
        state = connection.state
        try:
            connection.send(packet)
        except LocalError:
            assert connection.state is state
            assert connection.to_send(0.0) == b""
        else:
            assert connection.state is TABLE[state, connection.role, input_of(packet)]
            assert connection.to_send(0.0)


# ------------------------------------------------------------------ connecting


@pytest.mark.parametrize("version", VERSIONS)
def test_connect_and_accept(version):
    """[MQTT-3.1.4-5] [MQTT-3.2.0-2] [MQTT3-3.1.4-4]"""
    server = Connection(Role.SERVER, limits=Limits(), now=0.0)
    assert server.version == 0
    server.receive(encode(Connect("me", version, keep_alive=30), version), 0.0)
    assert server.events() == [Connect("me", version, keep_alive=30)]
    assert (server.version, server.keep_alive, server.state) == (version, 30, State.CONNECTING)
    server.accept(Connack(True))
    (connack,) = said(server)
    assert connack.session_present is (version != 3)
    assert server.state is State.OPEN
    for again in (Connack(), Connack(False, 0x80)):
        with pytest.raises(LocalError):
            server.send(again)
    assert server.next_timer() is None


def test_accept_tells_the_limits_that_are_not_the_standards():
    """[MQTT-3.2.2-9]"""
    server = connecting(
        limits=Limits(
            max_qos=1,
            retain_available=False,
            wildcard_available=False,
            shared_available=False,
            subscription_identifiers_available=False,
        )
    )
    server.accept(Connack(properties={Property.RECEIVE_MAXIMUM: 5, Property.SERVER_KEEP_ALIVE: 9}))
    (connack,) = said(server)
    assert connack.properties == {
        Property.RECEIVE_MAXIMUM: 5, Property.MAXIMUM_PACKET_SIZE: 1024 * 1024, Property.TOPIC_ALIAS_MAXIMUM: 32,
        Property.MAXIMUM_QOS: 1, Property.RETAIN_AVAILABLE: 0, Property.WILDCARD_AVAILABLE: 0,
        Property.SHARED_AVAILABLE: 0, Property.SUBSCRIPTION_IDENTIFIERS_AVAILABLE: 0, Property.SERVER_KEEP_ALIVE: 9,
    }  # fmt: skip
    assert server.keep_alive == 9
    for number in range(1, 6):
        server.receive(encode(Publish("t", b"", 1, packet_id=number), 5), 0.0)
    assert code_of(server, encode(Publish("t", b"", 1, packet_id=6), 5)) == Reason.RECEIVE_MAXIMUM_EXCEEDED


def test_a_server_without_qos_still_takes_subscriptions_with_it():
    """[MQTT-3.2.2-10]"""
    server = open_server(5, Limits(max_qos=0))
    server.receive(encode(Subscribe(1, [SubscriptionRequest("a", 2)]), 5), 0.0)
    assert len(server.events()) == 1


@pytest.mark.parametrize(
    ("version", "reason", "expected"),
    [
        (5, 0x87, b"\x20\x03\x00\x87\x00"), (5, 0x8D, b"\x20\x03\x00\x80\x00"), (4, 0x87, b"\x20\x02\x00\x05"),
        (4, 0x85, b"\x20\x02\x00\x02"), (4, 0x86, b"\x20\x02\x00\x04"), (4, 0x88, b"\x20\x02\x00\x03"),
        (3, 0x84, b"\x20\x02\x00\x01"), (4, 0x9D, b""), (4, 0x80, b""),
    ],
)  # fmt: skip
def test_refusals(version, reason, expected):
    """[MQTT-3.2.2-7] [MQTT-3.2.2-6] [MQTT-3.1.4-6] [MQTT-3.1.4-2] [MQTT3-3.2.2-5] [MQTT3-3.2.2-6] [MQTT3-3.1.4-5]"""
    server = connecting(version)
    server.refuse(reason)
    assert server.to_send(0.0) == expected
    assert server.closed
    server.receive(encode(Publish("t", b""), version), 0.0)
    assert server.events() == []
    server.refuse(reason)
    server.disconnect(0x80)
    server.puback(1)
    server.send_frame(b"\x30\x03\x00\x01t")
    assert server.to_send(0.0) == b""
    with pytest.raises(LocalError):
        server.send(Pingresp())
    with pytest.raises(LocalError):
        server.accept(Connack())


def test_a_refusal_leaves_out_what_the_client_has_no_room_for():
    """[MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.1.2-24]"""
    server = connecting(properties={Property.MAXIMUM_PACKET_SIZE: 10})
    server.refuse(0x87, {Property.REASON_STRING: "not today", Property.USER_PROPERTY: [("a", "b")]})
    assert said(server) == [Connack(False, 0x87)]
    server = connecting(properties={Property.MAXIMUM_PACKET_SIZE: 2})
    server.refuse(0x87)
    assert server.to_send(0.0) == b""
    server = connecting(properties={Property.MAXIMUM_PACKET_SIZE: 10})
    with pytest.raises(LocalError):
        server.accept(Connack(properties={Property.ASSIGNED_CLIENT_ID: "a name that is long"}))
    assert server.state is State.CONNECTING


def test_a_client_may_go_on_before_connack():
    server = connecting()
    server.receive(encode(Publish("t", b"x", 1, packet_id=2), 5) + b"\xc0\x00", 0.0)
    assert server.events() == [Publish("t", b"x", 1, packet_id=2), Pingreq()]
    for packet in (Puback(2), Pingresp(), Publish("t", b""), Disconnect(0x80), Auth(0x18)):
        with pytest.raises(LocalError):
            server.send(packet)
    with pytest.raises(LocalError):
        server.puback(2)
    with pytest.raises(LocalError):
        server.send_frame(encode(Publish("t", b""), 5))
    assert server.to_send(0.0) == b""


def test_response_information_is_for_whom_asks():
    """[MQTT-3.1.2-28]"""
    answer = Connack(properties={Property.RESPONSE_INFORMATION: "r"})
    server = connecting()
    with pytest.raises(LocalError):
        server.accept(answer)
    server.accept(Connack())
    server = connecting(properties={Property.REQUEST_RESPONSE_INFORMATION: 1})
    server.accept(answer)
    assert said(server)[0].properties[Property.RESPONSE_INFORMATION] == "r"


# ------------------------------------------------------------------ enhanced authentication


def test_an_exchange_of_authentication():
    """[MQTT-4.12.0-2] [MQTT-4.12.0-3] [MQTT-4.12.0-5] [MQTT-3.15.2-1]"""
    server = connecting(properties=METHOD)
    assert server.state is State.AUTHENTICATING
    server.send(Auth(0x18, {**METHOD, Property.AUTHENTICATION_DATA: b"1"}))
    server.receive(encode(Auth(0x18, {**METHOD, Property.AUTHENTICATION_DATA: b"2"}), 5), 0.0)
    assert server.events() == [Auth(0x18, {**METHOD, Property.AUTHENTICATION_DATA: b"2"})]
    server.accept(Connack(properties={Property.AUTHENTICATION_DATA: b"3"}))
    auth, connack = said(server)
    assert auth.reason == 0x18
    assert connack.properties[Property.AUTHENTICATION_METHOD] == "SCRAM"
    server.receive(encode(Auth(0x19, METHOD), 5), 0.0)
    assert server.state is State.REAUTHENTICATING
    server.receive(encode(Publish("t", b"x"), 5), 0.0)
    server.send(Publish("t", b"y"))
    server.send_frame(encode(Publish("t", b"z"), 5))
    server.puback(4)
    server.send(Auth(0x18, METHOD))
    server.receive(encode(Auth(0x18, METHOD), 5), 0.0)
    server.send(Auth(0, METHOD))
    assert server.state is State.OPEN
    assert [type(each) for each in server.events()] == [Auth, Publish, Auth]
    assert len(said(server)) == 5


@pytest.mark.parametrize(
    "packet",
    [Publish("t", b""), Pingreq(), Subscribe(1, [SubscriptionRequest("a")]), Auth(0x19, METHOD), Auth(0, METHOD),
     Auth(0x18), Auth(0x18, {Property.AUTHENTICATION_METHOD: "PLAIN"})],
)  # fmt: skip
def test_nothing_but_its_auth_may_come_while_authenticating(packet):
    """[MQTT-3.1.2-30] [MQTT-4.12.0-5]"""
    server = connecting(properties=METHOD)
    assert code_of(server, encode(packet, 5)) == Reason.PROTOCOL_ERROR
    assert said(server) == [Connack(False, 0x82)]


def test_auth_needs_a_method_in_connect():
    """[MQTT-4.12.0-6] [MQTT-4.12.1-1]"""
    assert code_of(connecting(), encode(Auth(0x18, METHOD), 5)) == Reason.PROTOCOL_ERROR
    assert code_of(open_server(5), encode(Auth(0x19, METHOD), 5)) == Reason.PROTOCOL_ERROR
    server = open_server(5, properties=METHOD)
    for packet in (Auth(0x18, METHOD), Auth(0, METHOD), Auth(0x19, METHOD)):
        with pytest.raises(LocalError):
            server.send(packet)
    other = {Property.AUTHENTICATION_METHOD: "PLAIN"}
    assert code_of(open_server(5, properties=METHOD), encode(Auth(0x19, other), 5)) == Reason.PROTOCOL_ERROR
    plain = connecting()
    with pytest.raises(LocalError):
        plain.accept(Connack(properties=METHOD))
    assert code_of(open_server(4), b"\xf0\x00") in (Reason.MALFORMED_PACKET, Reason.PROTOCOL_ERROR)


# ------------------------------------------------------------------ topic aliases


def test_aliases_are_resolved_and_may_change():
    """[MQTT-3.3.2-12] [MQTT-3.3.2-7]"""
    server = open_server(5, Limits(topic_alias_maximum=2))
    kept = {Property.CONTENT_TYPE: "x"}

    def come(topic, alias, **more):
        server.receive(encode(Publish(topic, b"p", properties={Property.TOPIC_ALIAS: alias, **more}), 5), 0.0)
        (packet,) = server.events()
        return packet

    assert come("a", 1) == Publish("a", b"p")
    assert come("b", 2) == Publish("b", b"p")
    assert come("", 1) == Publish("a", b"p")
    assert come("c", 1) == Publish("c", b"p")
    server.receive(encode(Publish("", b"p", properties={Property.TOPIC_ALIAS: 1, **kept}), 5), 0.0)
    assert server.events() == [Publish("c", b"p", properties=kept)]
    anew = open_server(5, Limits(topic_alias_maximum=2))
    assert code_of(anew, encode(Publish("", b"p", properties={Property.TOPIC_ALIAS: 1}), 5)) == Reason.PROTOCOL_ERROR


@pytest.mark.parametrize("alias", [0, 3, 65535])
def test_aliases_outside_what_is_allowed(alias):
    """[MQTT-3.3.2-8] [MQTT-3.3.2-9] [MQTT-3.2.2-17] [MQTT-3.2.2-18]"""
    data = b"\x30\x07\x00\x01a\x03\x23" + alias.to_bytes(2, "big")
    data = bytes((0x30, len(data) - 2)) + data[2:]
    for maximum in (0, 2):
        server = open_server(5, Limits(topic_alias_maximum=maximum))
        assert code_of(server, data) == Reason.TOPIC_ALIAS_INVALID
        assert server.to_send(0.0) == b"\xe0\x01\x94"


def test_our_aliases_are_what_the_client_allows():
    """[MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-11]"""
    server = open_server(5, properties={Property.TOPIC_ALIAS_MAXIMUM: 1})
    assert server.peer_topic_alias_maximum == 1
    server.send(Publish("a", b"", properties={Property.TOPIC_ALIAS: 1}))
    for connection, alias in ((server, 2), (open_server(5), 1)):
        with pytest.raises(LocalError):
            connection.send(Publish("a", b"", properties={Property.TOPIC_ALIAS: alias}))


# ------------------------------------------------------------------ flow control


def test_receive_maximum_counts_what_is_not_answered():
    """[MQTT-3.3.4-7]"""
    server = open_server(5, Limits(receive_maximum=2))

    def come(packet_id, qos=1):
        server.receive(encode(Publish("t", b"x", qos, packet_id=packet_id), 5), 0.0)

    come(1)
    come(2, 2)
    server.puback(1)
    come(3, 2)
    server.pubrec(2)
    server.receive(encode(Pubrel(2), 5), 0.0)
    server.pubcomp(2)
    come(4)
    server.pubrec(3, 0x87)
    come(5)
    server.send(Puback(4))
    come(6)
    server.send(Puback(5))
    server.send(Puback(6))
    come(7, 2)
    server.send(Pubrec(7, 0x97))
    come(8, 2)
    come(9, 2)
    server.send(Pubrec(8))
    server.send(Pubcomp(8))
    come(10)
    server.receive(encode(Publish("t", b"qos 0 does not count"), 5), 0.0)
    server.to_send(0.0)
    assert code_of(server, encode(Publish("t", b"", 1, packet_id=11), 5)) == Reason.RECEIVE_MAXIMUM_EXCEEDED
    assert server.to_send(0.0) == b"\xe0\x01\x93"


def test_with_properties_and_before_connack_messages_count_as_well():
    server = connecting(limits=Limits(receive_maximum=1))
    server.receive(encode(Publish("t", b"", 1, packet_id=1), 5), 0.0)
    data = encode(Publish("t", b"", 1, packet_id=2, properties={Property.CONTENT_TYPE: "x"}), 5)
    assert code_of(server, data) == Reason.RECEIVE_MAXIMUM_EXCEEDED


def test_before_mqtt_5_there_is_no_receive_maximum():
    server = open_server(4, Limits(receive_maximum=1))
    for number in range(1, 10):
        server.receive(encode(Publish("t", b"", 1, packet_id=number), 4), 0.0)
    assert len(server.events()) == 9


def test_we_send_no_more_than_the_client_takes():
    """[MQTT-3.3.4-9] [MQTT-3.3.4-10] [MQTT-4.9.0-1] [MQTT-4.9.0-2] [MQTT-4.9.0-3]"""
    server = open_server(5, properties={Property.RECEIVE_MAXIMUM: 1})
    assert server.peer_receive_maximum == 1
    for answer in (Puback(1), Pubcomp(1), Pubrec(1, 0x80)):
        server.send(Publish("t", b"", 2, packet_id=1))
        with pytest.raises(LocalError):
            server.send(Publish("t", b"", 1, packet_id=2))
        server.send(Publish("t", b""))
        server.send(Suback(1, [0]))
        server.receive(encode(answer, 5), 0.0)
    server.send(Publish("t", b"", 2, packet_id=1))
    server.receive(encode(Pubrec(1), 5), 0.0)
    with pytest.raises(LocalError):
        server.send(Publish("t", b"", 1, packet_id=2))


# ------------------------------------------------------------------ what the client has room for


def test_packets_beyond_the_clients_maximum():
    """[MQTT-3.1.2-24] [MQTT-3.4.2-2] [MQTT-3.4.2-3] [MQTT-3.9.2-1] [MQTT-3.9.2-2] [MQTT-3.11.2-1] [MQTT-3.11.2-2]
    [MQTT-3.5.2-2] [MQTT-3.5.2-3] [MQTT-3.6.2-2] [MQTT-3.6.2-3] [MQTT-3.7.2-2] [MQTT-3.7.2-3] [MQTT-3.14.2-3]
    [MQTT-3.14.2-4] [MQTT-3.15.2-2] [MQTT-3.15.2-3]"""
    server = open_server(5, properties={Property.MAXIMUM_PACKET_SIZE: 20})
    assert server.peer_max_packet == 20
    problem = {Property.REASON_STRING: "because it is so", Property.USER_PROPERTY: [("a", "b")]}
    for packet in (
        Puback(1, 0x80),
        Pubrec(1, 0x80),
        Pubrel(1, 0x92),
        Pubcomp(1, 0x92),
        Suback(1, [0]),
        Unsuback(1, [0]),
        Disconnect(0x80),
    ):
        long = type(packet)(**{name: getattr(packet, name) for name in packet.__slots__} | {"properties": problem})
        server.send(long)
        assert said(server) == [packet]
    server = open_server(5, properties={Property.MAXIMUM_PACKET_SIZE: 20})
    server.send(Publish("t", bytes(14)))
    for packet in (Publish("t", bytes(15)), Suback(1, [0] * 20)):
        with pytest.raises(LocalError):
            server.send(packet)
    head, tail = publish_parts("t", bytes(15), 5, qos=0, retain=False, properties={})
    with pytest.raises(LocalError):
        server.send_frame(head + tail)
    assert said(server) == [Publish("t", bytes(14))]


def test_problem_information_is_for_whom_wants_it():
    """[MQTT-3.1.2-29]"""
    server = open_server(5, properties={Property.REQUEST_PROBLEM_INFORMATION: 0})
    problem = {Property.REASON_STRING: "so", Property.USER_PROPERTY: [("a", "b")]}
    server.send(Puback(1, 0x80, problem))
    server.send(Suback(1, [0x80], problem))
    server.send(Publish("t", b"", properties={Property.USER_PROPERTY: [("a", "b")]}))
    server.disconnect(0x80, problem)
    assert [bool(each.properties) for each in said(server)] == [False, False, True, True]
    server = open_server(5)
    server.send(Puback(1, 0x80, problem))
    assert said(server) == [Puback(1, 0x80, problem)]


# ------------------------------------------------------------------ short forms, the end


@pytest.mark.parametrize("version", VERSIONS)
def test_short_forms_of_acknowledgements(version):
    """[MQTT-2.2.1-5] [MQTT3-2.3.1-6]"""
    server = open_server(version)
    server.puback(1)
    server.pubrec(300)
    server.pubrel(65535)
    server.pubcomp(4, 0x92)
    reason = 0x92 if version == 5 else 0
    assert said(server) == [Puback(1), Pubrec(300), Pubrel(65535), Pubcomp(4, reason)]
    for packet_id in (0, 65536, -1):
        for short in (server.puback, server.pubrec, server.pubrel, server.pubcomp):
            with pytest.raises(LocalError):
                short(packet_id)
    assert server.to_send(0.0) == b""


def test_a_puback_alone_needs_no_event():
    server = open_server(5, properties={Property.RECEIVE_MAXIMUM: 1})
    server.send(Publish("t", b"", 1, packet_id=300))
    assert server.acked_alone(b"\x40\x02\x01\x2c") == 300
    assert server.events() == []
    server.send(Publish("t", b"", 1, packet_id=1))
    for data in (b"\x40\x02\x00\x00", b"\x40\x03\x00\x01\x00", b"\x50\x02\x00\x01", b"\x40\x02\x00"):
        assert server.acked_alone(data) == 0
    server.receive(b"\x40", 0.0)
    server.events()
    assert server.acked_alone(b"\x40\x02\x00\x01") == 0
    assert connecting().acked_alone(b"\x40\x02\x00\x01") == 0


def test_disconnect_by_the_server():
    """[MQTT-3.14.0-1] [MQTT-3.14.4-1] [MQTT-3.14.4-2]"""
    server = open_server(5)
    server.disconnect(0x8E, {Property.REASON_STRING: "other"})
    assert said(server) == [Disconnect(0x8E, {Property.REASON_STRING: "other"})]
    assert server.closed
    server = open_server(4)
    server.disconnect(0x8E)
    assert (server.to_send(0.0), server.closed) == (b"", True)
    for reason, told in ((0x8A, 0x87), (0x88, 0x89), (0x85, 0x80), (0x97, 0x97)):
        server = open_server(5)
        server.disconnect(reason)
        assert said(server) == [Disconnect(told)]
    server = connecting(5)
    server.disconnect(0x8A)
    assert (said(server), server.closed) == ([Connack(False, 0x8A)], True)
    server = connecting(4)
    server.disconnect(0x8B)
    assert (server.to_send(0.0), server.closed) == (b"\x20\x02\x00\x03", True)
    server = Connection(Role.SERVER, limits=DEFAULT_LIMITS, now=0.0)
    server.disconnect(0x8B)
    assert (server.to_send(0.0), server.closed) == (b"", True)
    server = open_server(5)
    for reason, properties in (
        (0x04, {}),
        (0x01, {}),
        (0x80, {Property.SESSION_EXPIRY: 1}),
        (0x80, {Property.TOPIC_ALIAS: 1}),
    ):
        with pytest.raises(LocalError):
            server.disconnect(reason, properties)
        assert not server.closed


@pytest.mark.parametrize("version", [3, 4])
def test_what_only_mqtt_5_has_is_not_sent_before(version):
    server = open_server(version)
    for packet in (Disconnect(), Auth()):
        with pytest.raises(LocalError):
            server.send(packet)
    assert server.state is State.OPEN


def test_what_came_before_an_error_is_still_there():
    server = open_server(5)
    server.puback(5)
    good = encode(Publish("t", b"x"), 5)
    assert code_of(server, good + good + b"\x36\x00") == Reason.MALFORMED_PACKET
    assert server.events() == [Publish("t", b"x")] * 2
    assert said(server) == [Puback(5), Disconnect(0x81)]


def test_the_end_of_the_transport_closes():
    server = open_server(5)
    server.receive(b"\x30", 0.0)
    server.receive_eof()
    assert server.closed
    server.receive(b"\x03\x00\x01t\x00", 0.0)
    assert server.events() == []


def test_events_and_bytes_are_handed_out_once():
    server = open_server(5)
    server.receive(b"\xc0\x00", 0.0)
    assert server.events() == [Pingreq()]
    assert server.events() == []
    server.send(Pingresp())
    assert server.to_send(0.0) == b"\xd0\x00"
    assert server.to_send(0.0) == b""


def test_other_buffers_than_bytes_are_received():
    server = open_server(5)
    server.receive(memoryview(bytearray(encode(Publish("t", b"x"), 5))), 0.0)
    assert server.events() == [Publish("t", b"x")]
