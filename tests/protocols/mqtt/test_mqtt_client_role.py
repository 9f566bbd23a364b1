"""Dialogues of the client role: CONNECT and its answer, the server's maxima, keep alive; and both roles against each
other."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.mqtt.connection import Connection, Role
from protocols.mqtt.encoding import encode
from protocols.mqtt.limits import Limits
from protocols.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Property,
    Puback,
    Publish,
    Pubrec,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Unsubscribe,
)
from protocols.mqtt.reasons import Reason
from protocols.mqtt.state import State
from tests.protocols.mqtt.mqtt_strategies import VERSIONS, open_client, publishes

METHOD = {Property.AUTHENTICATION_METHOD: "SCRAM"}


def started(version: int = 5, **connect) -> Connection:
    client = Connection(Role.CLIENT, limits=Limits(), now=0.0)
    client.send(Connect("me", version, **connect))
    client.to_send(0.0)
    return client


@pytest.mark.parametrize("version", VERSIONS)
def test_connect_comes_first_and_once(version):
    """[MQTT-3.1.0-1] [MQTT3-3.1.0-1]"""
    client = Connection(Role.CLIENT, limits=Limits(), now=0.0)
    for packet in (Pingreq(), Publish("t", b""), Subscribe(1, [SubscriptionRequest("a")]), Disconnect()):
        with pytest.raises(LocalError):
            client.send(packet)
    client.send(Connect("me", version))
    with pytest.raises(LocalError):
        client.send(Connect("me", version))
    assert client.to_send(0.0)[:1] == b"\x10"
    client.send(Publish("t", b"early"))
    assert client.state is State.CONNECTING
    client.receive(encode(Connack(), version), 0.0)
    assert client.events() == [Connack()]
    assert client.state is State.OPEN


def test_connect_tells_our_limits():
    """[MQTT-3.3.2-10]"""
    server = Connection(Role.SERVER, limits=Limits(), now=0.0)
    client = Connection(Role.CLIENT, limits=Limits(receive_maximum=7, topic_alias_maximum=3), now=0.0)
    client.send(Connect("me", properties={Property.MAXIMUM_PACKET_SIZE: 99}))
    server.receive(client.to_send(0.0), 0.0)
    assert (server.peer_receive_maximum, server.peer_topic_alias_maximum, server.peer_max_packet) == (7, 3, 99)
    server.accept(Connack())
    client.receive(server.to_send(0.0), 0.0)
    assert client.peer_receive_maximum == 128
    server.send(Publish("t", b"", properties={Property.TOPIC_ALIAS: 3}))
    client.receive(server.to_send(0.0), 0.0)
    with pytest.raises(RemoteError) as raised:
        client.receive(encode(Publish("t", bytes(95)), 5), 0.0)
    assert raised.value.code == Reason.PACKET_TOO_LARGE
    assert client.to_send(0.0) == b"\xe0\x01\x95"


@pytest.mark.parametrize(
    ("version", "data", "reason"), [(5, b"\x20\x03\x00\x87\x00", 0x87), (4, b"\x20\x02\x00\x05", 5)]
)
def test_a_refusal_closes(version, data, reason):
    client = started(version)
    client.receive(data + b"\xd0\x00", 0.0)
    assert client.events() == [Connack(False, reason)]
    assert client.closed
    assert client.next_timer() is None
    with pytest.raises(LocalError):
        client.send(Pingreq())


def test_the_servers_maxima_are_heeded():
    """[MQTT-3.2.2-11] [MQTT-3.2.2-14] [MQTT-3.2.2-15] [MQTT-3.2.2-17] [MQTT-3.2.2-18] [MQTT-3.3.4-7]"""
    client = open_client(5, connack=Connack(properties={
        Property.MAXIMUM_QOS: 1, Property.RETAIN_AVAILABLE: 0, Property.MAXIMUM_PACKET_SIZE: 30,
        Property.TOPIC_ALIAS_MAXIMUM: 2, Property.WILDCARD_AVAILABLE: 0, Property.SHARED_AVAILABLE: 0,
        Property.SUBSCRIPTION_IDENTIFIERS_AVAILABLE: 0, Property.RECEIVE_MAXIMUM: 1,
    }))  # fmt: skip
    for packet in (
        Publish("t", b"", 2, packet_id=1), Publish("t", b"", retain=True), Publish("t", bytes(30)),
        Publish("t", b"", properties={Property.TOPIC_ALIAS: 3}), Subscribe(1, [SubscriptionRequest("a/#")]),
        Publish("t", b"", properties={Property.SUBSCRIPTION_IDENTIFIER: [1]}), Unsubscribe(1, ["a" * 30]),
        Subscribe(1, [SubscriptionRequest("$share/g/a")]),
        Subscribe(1, [SubscriptionRequest("a")], {Property.SUBSCRIPTION_IDENTIFIER: 1}),
    ):  # fmt: skip
        with pytest.raises(LocalError):
            client.send(packet)
    assert client.to_send(0.0) == b""
    client.send(Publish("t", b"", 1, packet_id=1, properties={Property.TOPIC_ALIAS: 2}))
    with pytest.raises(LocalError):
        client.send(Publish("t", b"", 1, packet_id=2))
    client.send(Subscribe(3, [SubscriptionRequest("a", 2)]))
    client.receive(encode(Puback(1), 5) + encode(Suback(3, [1]), 5), 0.0)
    client.send(Publish("t", b"", 1, packet_id=2))
    client.receive(encode(Pubrec(2, 0x80), 5), 0.0)
    client.send(Publish("t", b"", 1, packet_id=3))


def test_a_client_holds_the_server_to_what_it_asked_for():
    """[MQTT-3.1.2-28] [MQTT-3.1.2-29] [MQTT-4.12.0-5] [MQTT-4.12.0-6]"""
    problem = {Property.REASON_STRING: "so"}
    client = open_client(5, properties={Property.REQUEST_PROBLEM_INFORMATION: 0})
    for packet in (Publish("t", b"", properties={Property.USER_PROPERTY: [("a", "b")]}),):
        client.receive(encode(packet, 5), 0.0)
    with pytest.raises(RemoteError) as raised:
        client.receive(encode(Puback(1, 0, problem), 5), 0.0)
    assert raised.value.code == Reason.PROTOCOL_ERROR
    for properties, asked in (
        ({Property.RESPONSE_INFORMATION: "r"}, {}), (METHOD, {}), ({}, METHOD),
        ({Property.AUTHENTICATION_METHOD: "PLAIN"}, METHOD),
    ):  # fmt: skip
        with pytest.raises(RemoteError):
            started(properties=asked).receive(encode(Connack(properties=properties), 5), 0.0)
    with pytest.raises(RemoteError):
        started().receive(encode(Auth(0x18, METHOD), 5), 0.0)


def test_enhanced_authentication_between_both_roles():
    """[MQTT-4.12.1-1] [MQTT-4.12.1-2]"""
    server = Connection(Role.SERVER, limits=Limits(), now=0.0)
    client = Connection(Role.CLIENT, limits=Limits(), now=0.0)

    def exchange(sender, packet):
        sender.send(packet)
        other = server if sender is client else client
        other.receive(sender.to_send(0.0), 0.0)
        return other.events()

    exchange(client, Connect("me", properties=METHOD))
    with pytest.raises(LocalError):
        client.send(Publish("t", b""))
    for _ in range(2):
        exchange(server, Auth(0x18, METHOD))
        exchange(client, Auth(0x18, METHOD))
    (connack,) = exchange(server, Connack())
    assert connack.properties[Property.AUTHENTICATION_METHOD] == "SCRAM"
    exchange(client, Auth(0x19, METHOD))
    assert exchange(server, Auth(0, METHOD)) == [Auth(0, METHOD)]
    exchange(client, Auth(0x19, METHOD))
    server.disconnect(0x87)
    client.receive(server.to_send(0.0), 0.0)
    assert client.events() == [Disconnect(0x87)]
    assert client.closed


# ------------------------------------------------------------------ keep alive


@pytest.mark.parametrize("version", VERSIONS)
def test_pings_keep_the_connection(version):
    """[MQTT-3.1.2-20] [MQTT3-3.1.2-23]"""
    client = started(version, keep_alive=10)
    assert client.next_timer() is None
    client.receive(encode(Connack(), version), 1.0)
    assert client.next_timer() == 10.0
    client.send(Publish("t", b""))
    client.to_send(4.0)
    client.receive(encode(Publish("t", b"x"), version), 5.0)
    assert client.next_timer() == 14.0
    client.handle_timer(13.9)
    assert client.to_send(13.9) == b""
    client.handle_timer(14.0)
    assert client.to_send(14.0) == b"\xc0\x00"
    assert client.next_timer() == 24.0
    client.receive(b"\xd0\x00", 15.0)
    assert client.next_timer() == 24.0
    client.handle_timer(24.0)
    with pytest.raises(RemoteError) as raised:
        client.handle_timer(34.0)
    assert raised.value.code == Reason.KEEP_ALIVE_TIMEOUT
    assert client.closed
    assert client.next_timer() is None
    client.handle_timer(99.0)


def test_the_servers_keep_alive_replaces_ours():
    """[MQTT-3.1.2-21] [MQTT-3.2.2-21] [MQTT-3.2.2-22]"""
    client = started(keep_alive=10)
    client.receive(encode(Connack(properties={Property.SERVER_KEEP_ALIVE: 5}), 5), 0.0)
    assert (client.keep_alive, client.next_timer()) == (5, 5.0)
    client = started(keep_alive=10)
    client.receive(encode(Connack(properties={Property.SERVER_KEEP_ALIVE: 0}), 5), 0.0)
    assert client.next_timer() is None
    assert open_client(4).next_timer() is None


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_says_goodbye(version):
    client = open_client(version)
    client.disconnect()
    assert client.to_send(0.0) == b"\xe0\x00"
    assert client.closed
    client = started(version)
    client.send(Disconnect())
    assert client.to_send(0.0) == b"\xe0\x00"
    assert client.closed
    client = Connection(Role.CLIENT, limits=Limits(), now=0.0)
    client.disconnect()
    assert (client.to_send(0.0), client.closed) == (b"", True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("data", [b"\xc0\x00", b"\x82\x06\x00\x01\x00\x01a\x00", b"\x10\x00", b"\x20\x03\x00\x00\x00"])
def test_what_only_clients_send_does_not_come_from_a_server(version, data):
    client = open_client(version)
    with pytest.raises(RemoteError) as raised:
        client.receive(data, 0.0)
    assert raised.value.code == Reason.PROTOCOL_ERROR
    assert client.to_send(0.0) == (b"\xe0\x01\x82" if version == 5 else b"")


def test_a_server_answers_no_disconnect_to_broken_bytes_of_mqtt_3():
    client = open_client(4)
    with pytest.raises(RemoteError):
        client.receive(b"\x00\x00", 0.0)
    assert client.to_send(0.0) == b""


@given(st.sampled_from(VERSIONS), st.data())
@settings(max_examples=50, deadline=None)
def test_both_roles_understand_each_other(version, data):
    server = Connection(Role.SERVER, limits=Limits(topic_alias_maximum=65535, receive_maximum=65535), now=0.0)
    client = Connection(Role.CLIENT, limits=Limits(topic_alias_maximum=65535, receive_maximum=65535), now=0.0)
    client.send(Connect("me", version))
    server.receive(client.to_send(0.0), 0.0)
    server.accept(Connack())
    client.receive(server.to_send(0.0), 0.0)
    server.events(), client.events()
    for publish in data.draw(st.lists(publishes(version).filter(lambda each: each.topic))):
        server.send(publish)
        identified = Property.SUBSCRIPTION_IDENTIFIER in publish.properties
        if not identified:
            client.send(publish)
        client.receive(server.to_send(0.0), 0.0)
        server.receive(client.to_send(0.0), 0.0)
        received = client.events()
        assert [(p.topic, p.payload, p.qos, p.retain, p.dup, p.packet_id) for p in received] == [
            (publish.topic, publish.payload, publish.qos, publish.retain, publish.dup, publish.packet_id)
        ]
        assert server.events() == ([] if identified else received)
    client.send(Pingreq())
    server.receive(client.to_send(0.0), 0.0)
    server.send(Pingresp())
    client.receive(server.to_send(0.0), 0.0)
    assert (server.events(), client.events()) == ([Pingreq()], [Pingresp()])
