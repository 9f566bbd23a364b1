"""Our codec beside two others: the mqtt5 wheel (packets, both ways) and paho-mqtt (a dialogue with each role)."""

from __future__ import annotations

import contextlib
import socket

import mqtt5
import paho.mqtt.client as paho
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.subscribeoptions import SubscribeOptions

from protocols.mqtt.connection import Connection, Role
from protocols.mqtt.decoding import decode
from protocols.mqtt.encoding import encode
from protocols.mqtt.limits import Limits
from protocols.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
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
    Unsubscribe,
    Will,
)
from tests.protocols.mqtt.mqtt_strategies import packets, qos_levels

_NAMES = {
    Property.PAYLOAD_FORMAT: "payload_format_indicator", Property.MESSAGE_EXPIRY: "message_expiry_interval",
    Property.CONTENT_TYPE: "content_type", Property.RESPONSE_TOPIC: "response_topic",
    Property.CORRELATION_DATA: "correlation_data", Property.SUBSCRIPTION_IDENTIFIER: "subscription_ids",
    Property.SESSION_EXPIRY: "session_expiry_interval", Property.ASSIGNED_CLIENT_ID: "assigned_client_id",
    Property.SERVER_KEEP_ALIVE: "server_keep_alive", Property.AUTHENTICATION_METHOD: "authentication_method",
    Property.AUTHENTICATION_DATA: "authentication_data", Property.REQUEST_PROBLEM_INFORMATION: "request_problem_info",
    Property.WILL_DELAY: "will_delay_interval", Property.REQUEST_RESPONSE_INFORMATION: "request_response_info",
    Property.RESPONSE_INFORMATION: "response_info", Property.SERVER_REFERENCE: "server_reference",
    Property.REASON_STRING: "reason_str", Property.RECEIVE_MAXIMUM: "receive_max",
    Property.TOPIC_ALIAS_MAXIMUM: "topic_alias_max", Property.TOPIC_ALIAS: "topic_alias", Property.MAXIMUM_QOS: "max_qos",
    Property.RETAIN_AVAILABLE: "retain_available", Property.USER_PROPERTY: "user_properties",
    Property.MAXIMUM_PACKET_SIZE: "max_packet_size", Property.WILDCARD_AVAILABLE: "wildcard_subscription_available",
    Property.SUBSCRIPTION_IDENTIFIERS_AVAILABLE: "subscription_id_available",
    Property.SHARED_AVAILABLE: "shared_subscription_available",
}  # fmt: skip

_BOOLEANS = (
    Property.REQUEST_PROBLEM_INFORMATION, Property.REQUEST_RESPONSE_INFORMATION, Property.RETAIN_AVAILABLE,
    Property.WILDCARD_AVAILABLE, Property.SUBSCRIPTION_IDENTIFIERS_AVAILABLE, Property.SHARED_AVAILABLE,
)  # fmt: skip


def keywords(properties) -> dict:
    """Properties as the wheel takes them."""
    made = {}
    for key, value in properties.items():
        made[_NAMES[key]] = (
            bool(value) if key in _BOOLEANS else mqtt5.QoS(value) if key == Property.MAXIMUM_QOS else value
        )
    return made


def theirs(packet: Packet):
    """The same packet of the wheel."""
    more = keywords(getattr(packet, "properties", {}))
    match packet:
        case Connect():
            will = packet.will
            return mqtt5.ConnectPacket(
                packet.client_id, username=packet.username, password=packet.password, clean_start=packet.clean_start,
                keep_alive=packet.keep_alive,
                will=will and mqtt5.Will(will.topic, payload=will.payload, qos=mqtt5.QoS(will.qos), retain=will.retain,
                                         **keywords(will.properties)),
                **more,
            )  # fmt: skip
        case Connack():
            return mqtt5.ConnAckPacket(
                session_present=packet.session_present, reason_code=mqtt5.ConnAckReasonCode(packet.reason), **more
            )
        case Publish():
            return mqtt5.PublishPacket(
                packet.topic, packet.payload, qos=mqtt5.QoS(packet.qos), retain=packet.retain, duplicate=packet.dup,
                packet_id=packet.packet_id or None, **more,
            )  # fmt: skip
        case Puback():
            return mqtt5.PubAckPacket(packet.packet_id, reason_code=mqtt5.PubAckReasonCode(packet.reason), **more)
        case Pubrec():
            return mqtt5.PubRecPacket(packet.packet_id, reason_code=mqtt5.PubRecReasonCode(packet.reason), **more)
        case Pubrel():
            return mqtt5.PubRelPacket(packet.packet_id, reason_code=mqtt5.PubRelReasonCode(packet.reason), **more)
        case Pubcomp():
            return mqtt5.PubCompPacket(packet.packet_id, reason_code=mqtt5.PubCompReasonCode(packet.reason), **more)
        case Subscribe():
            if "subscription_ids" in more:
                more["subscription_id"] = more.pop("subscription_ids")
            chosen = [
                mqtt5.TopicFilter(
                    each.filter, max_qos=mqtt5.QoS(each.qos), no_local=each.no_local,
                    retain_as_published=each.retain_as_published,
                    retain_handling=mqtt5.RetainHandling(each.retain_handling),
                )
                for each in packet.requests
            ]  # fmt: skip
            return mqtt5.SubscribePacket(packet.packet_id, chosen, **more)
        case Suback():
            return mqtt5.SubAckPacket(
                packet.packet_id, [mqtt5.SubAckReasonCode(each) for each in packet.reasons], **more
            )
        case Unsubscribe():
            return mqtt5.UnsubscribePacket(packet.packet_id, packet.filters, **more)
        case Unsuback():
            codes = [mqtt5.UnsubAckReasonCode(each) for each in packet.reasons]
            return mqtt5.UnsubAckPacket(packet.packet_id, codes, **more)
        case Disconnect():
            return mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode(packet.reason), **more)
        case Auth():
            return mqtt5.AuthPacket(reason_code=mqtt5.AuthReasonCode(packet.reason), **more)
        case Pingreq():
            return mqtt5.PingReqPacket()
        case Pingresp():
            return mqtt5.PingRespPacket()
    raise AssertionError(packet)


_UNSAID = {
    Property.PAYLOAD_FORMAT: 0, Property.SESSION_EXPIRY: 0, Property.REQUEST_PROBLEM_INFORMATION: 1,
    Property.REQUEST_RESPONSE_INFORMATION: 0, Property.RECEIVE_MAXIMUM: 65535, Property.TOPIC_ALIAS_MAXIMUM: 0,
    Property.MAXIMUM_QOS: 2, Property.RETAIN_AVAILABLE: 1, Property.WILDCARD_AVAILABLE: 1,
    Property.SUBSCRIPTION_IDENTIFIERS_AVAILABLE: 1, Property.SHARED_AVAILABLE: 1, Property.WILL_DELAY: 0,
}  # fmt: skip


def plain(packet: Packet) -> Packet:
    """Without properties that say what holds anyway, which the wheel leaves out (a CONNACK's Session Expiry of 0 says
    something)."""
    properties = getattr(packet, "properties", None)
    if properties:
        packet.properties = {
            key: value
            for key, value in properties.items()
            if _UNSAID.get(key) != value or (key == Property.SESSION_EXPIRY and not isinstance(packet, Connect))
        }
    if isinstance(packet, Connect) and packet.will:
        plain(packet.will)
    return packet


@given(packets(5))
@settings(max_examples=300, deadline=None)
def test_the_wheel_reads_what_we_write(packet):
    frame = encode(packet, 5)
    assume(frame != b"\xf0\x00")  # The wheel does not know that an AUTH of success may be empty (section 3.15.2.1).
    assert mqtt5.read(frame) == (theirs(packet), len(frame))


@given(packets(5))
@settings(max_examples=300, deadline=None)
def test_we_read_what_the_wheel_writes(packet):
    assert plain(decode(theirs(packet).write(), 5)) == plain(packet)


# ------------------------------------------------------------------ paho-mqtt


class _Paho(paho.Client):
    """A client whose connection is one end of a socket pair."""

    def __init__(self, version: int) -> None:
        super().__init__(paho.CallbackAPIVersion.VERSION2, "device", protocol=version, reconnect_on_failure=False)
        self.here, self.there = socket.socketpair()
        self.here.setblocking(False)

    def _create_socket(self) -> socket.socket:
        return self.there


class Dialogue:
    """paho-mqtt at one end, our server at the other."""

    def __init__(self, version: int) -> None:
        self.client = _Paho(version)
        self.server = Connection(Role.SERVER, limits=Limits(), now=0.0)
        self.heard: list = []
        self.client.on_connect = lambda _c, _u, flags, reason, _p: self.heard.append(
            (flags.session_present, reason.value)
        )
        self.client.on_message = lambda _c, _u, message: self.heard.append(message)
        self.client.on_publish = lambda _c, _u, mid, reason, _p: self.heard.append(("published", mid, reason.value))
        self.client.on_subscribe = lambda _c, _u, mid, reasons, _p: self.heard.append((mid, [r.value for r in reasons]))
        self.client.on_unsubscribe = lambda _c, _u, mid, _r, _p: self.heard.append(("unsubscribed", mid))

    def come(self) -> list[Packet]:
        """What our server hears."""
        while self.client.want_write():
            self.client.loop_write()
        with contextlib.suppress(BlockingIOError):
            self.server.receive(self.client.here.recv(1 << 20), 0.0)
        return self.server.events()

    def go(self) -> None:
        """What our server says, to paho."""
        data = self.server.to_send(0.0)
        self.client.here.sendall(data)
        for _ in range(data.count(b"") + 5):
            self.client.loop_read()

    def close(self) -> None:
        self.client.here.close()
        self.client.there.close()


@pytest.fixture(params=[3, 4, 5])
def dialogue(request):
    made = Dialogue(request.param)
    yield made
    made.close()


def test_a_dialogue_with_paho(dialogue):
    client, server, version = dialogue.client, dialogue.server, dialogue.client._protocol
    client.will_set("will/t", b"gone", 1, True)
    client.username_pw_set("user", "pw")
    client.connect("nowhere", keepalive=77)
    (connect,) = dialogue.come()
    assert connect == Connect("device", version, True, 77, "user", b"pw", Will("will/t", b"gone", 1, True))
    server.accept(Connack())
    dialogue.go()
    assert dialogue.heard.pop() == (False, 0)

    for qos in (0, 1, 2):
        mid = client.publish("a/é", b"x" * 300, qos, retain=qos == 1).mid
        assert dialogue.come() == [Publish("a/é", b"x" * 300, qos, qos == 1, packet_id=mid if qos else 0)]
        if qos == 1:
            server.puback(mid)
        elif qos == 2:
            server.pubrec(mid)
            dialogue.go()
            assert dialogue.come() == [Pubrel(mid)]
            server.pubcomp(mid)
        dialogue.go()
        assert dialogue.heard.pop() == ("published", mid, 0)

    _, mid = client.subscribe([("b/#", 1), ("c/+", 2)])
    assert dialogue.come() == [Subscribe(mid, [SubscriptionRequest("b/#", 1), SubscriptionRequest("c/+", 2)])]
    server.send(Suback(mid, [1, 2]))
    dialogue.go()
    assert dialogue.heard.pop() == (mid, [1, 2])

    server.send(Publish("b/1", b"one", 1, packet_id=5))
    server.send(Publish("c/2", b"two", 2, packet_id=6, retain=True))
    dialogue.go()
    assert dialogue.come() == [Puback(5), Pubrec(6)]
    server.pubrel(6)
    dialogue.go()
    assert dialogue.come() == [Pubcomp(6)]
    assert [(m.topic, m.payload, m.qos, m.retain) for m in dialogue.heard] == [
        ("b/1", b"one", 1, False),
        ("c/2", b"two", 2, True),
    ]

    dialogue.heard.clear()
    _, mid = client.unsubscribe(["b/#", "x"])
    assert dialogue.come() == [Unsubscribe(mid, ["b/#", "x"])]
    server.send(Unsuback(mid, [0, 0x11] if version == 5 else []))
    dialogue.go()
    assert dialogue.heard.pop() == ("unsubscribed", mid)

    client._send_pingreq()
    assert dialogue.come() == [Pingreq()]
    server.send(Pingresp())
    dialogue.go()
    client.disconnect()
    assert dialogue.come() == [Disconnect()]
    assert server.closed


def test_properties_of_paho():
    dialogue = Dialogue(5)
    made = PahoProperties(PacketTypes.CONNECT)
    made.SessionExpiryInterval, made.ReceiveMaximum, made.UserProperty = 60, 9, [("a", "b"), ("a", "c")]
    dialogue.client.connect("nowhere", clean_start=False, properties=made)
    (connect,) = dialogue.come()
    assert connect.properties == {
        Property.SESSION_EXPIRY: 60, Property.RECEIVE_MAXIMUM: 9, Property.USER_PROPERTY: [("a", "b"), ("a", "c")]
    }  # fmt: skip
    assert not connect.clean_start
    dialogue.server.accept(Connack(True, 0, {Property.ASSIGNED_CLIENT_ID: "chosen"}))
    dialogue.go()
    assert dialogue.heard.pop() == (True, 0)

    made = PahoProperties(PacketTypes.PUBLISH)
    made.ResponseTopic, made.CorrelationData, made.MessageExpiryInterval = "r/t", b"\1\2", 5
    made.PayloadFormatIndicator, made.TopicAlias = 1, 3
    for topic in ("long/topic", ""):
        dialogue.client._send_publish(1, topic.encode(), b"x", 1, properties=made)
        assert dialogue.come() == [Publish("long/topic", b"x", 1, packet_id=1, properties={
            Property.RESPONSE_TOPIC: "r/t", Property.CORRELATION_DATA: b"\1\2", Property.MESSAGE_EXPIRY: 5,
            Property.PAYLOAD_FORMAT: 1,
        })]  # fmt: skip

    made = PahoProperties(PacketTypes.SUBSCRIBE)
    made.SubscriptionIdentifier = 268435455
    options = SubscribeOptions(2, True, True, 2)
    _, mid = dialogue.client.subscribe("s/#", options=options, properties=made)
    assert dialogue.come() == [
        Subscribe(mid, [SubscriptionRequest("s/#", 2, True, True, 2)], {Property.SUBSCRIPTION_IDENTIFIER: 268435455})
    ]
    dialogue.server.send(Publish("s/1", b"p", properties={
        Property.SUBSCRIPTION_IDENTIFIER: [1, 300], Property.USER_PROPERTY: [("k", "v")], Property.CONTENT_TYPE: "text",
    }))  # fmt: skip
    dialogue.go()
    heard = dialogue.heard.pop().properties
    assert (heard.SubscriptionIdentifier, heard.UserProperty, heard.ContentType) == ([1, 300], [("k", "v")], "text")
    dialogue.server.disconnect(0x8B, {Property.REASON_STRING: "bye"})
    dialogue.go()
    dialogue.close()


@given(qos_levels, st.binary(max_size=300), st.booleans(), st.sampled_from((4, 5)))
@settings(max_examples=50, deadline=None)
def test_publishes_are_byte_for_byte_those_of_paho(qos, payload, retain, version):
    dialogue = Dialogue(version)
    dialogue.client.connect("nowhere")
    dialogue.come()
    dialogue.client._send_publish(300, b"some/topic", payload, qos, retain, info=paho.MQTTMessageInfo(300))
    while dialogue.client.want_write():
        dialogue.client.loop_write()
    written = dialogue.client.here.recv(1 << 16)
    dialogue.close()
    assert written == encode(Publish("some/topic", payload, qos, retain, packet_id=300 if qos else 0), version)
