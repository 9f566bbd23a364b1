from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from accessgw.client.mqtt import MAX_INFLIGHT, MqttClient, MqttFailure, reason_text
from protocols.errors import LocalError
from protocols.mqtt.connection import Connection, Role
from protocols.mqtt.packets import (
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
)


class Dialogue:
    """A client and the server's side of the protocol, played by the test."""

    def __init__(self, version: int = 5, keep_alive: int = 0) -> None:
        self.clock = Clock()
        self.messages: list[Publish] = []
        self.packets: list[tuple[str, str]] = []
        self.client = MqttClient(
            Connect("d1", version=version, keep_alive=keep_alive),
            self.clock,
            on_message=self.messages.append,
            on_packet=lambda direction, packet: self.packets.append((direction, type(packet).__name__)),
        )
        self.transport = StringTransport()
        self.server = Connection(Role.SERVER, now=0.0)
        self.client.makeConnection(self.transport)

    def said(self) -> list[Packet]:
        """What the client has sent since the last time."""
        data = self.transport.value()
        self.transport.clear()
        if data:
            self.server.receive(data, self.clock.seconds())
        return self.server.events() if data else []

    def answer(self, *packets: Packet) -> None:
        for packet in packets:
            self.server.send(packet)
        self.client.dataReceived(self.server.to_send(self.clock.seconds()))

    def open(self, connack: Connack | None = None) -> None:
        (connect,) = self.said()
        assert isinstance(connect, Connect)
        self.server.accept(connack or Connack())
        self.client.dataReceived(self.server.to_send(0.0))

    def lose(self) -> None:
        self.client.connectionLost(Failure(ConnectionDone()))


def result(deferred: Deferred[Any]) -> Any:
    """What it fired with; the exception of a failure."""
    got: list[Any] = []
    deferred.addBoth(got.append)
    (value,) = got or [None]
    return value.value if isinstance(value, Failure) else value


@pytest.fixture(params=[4, 5])
def dialogue(request: pytest.FixtureRequest) -> Dialogue:
    dialogue = Dialogue(request.param)
    dialogue.open()
    return dialogue


def test_connect_and_leave(dialogue: Dialogue) -> None:
    assert result(dialogue.client.accepted).reason == 0
    dialogue.client.disconnect()
    assert isinstance(dialogue.said()[0], Disconnect)
    assert dialogue.transport.disconnecting
    dialogue.lose()
    assert str(result(dialogue.client.ended)) == "disconnected"
    assert dialogue.packets == [("send", "Connect"), ("receive", "Connack"), ("send", "Disconnect")]
    assert dialogue.clock.getDelayedCalls() == []


@pytest.mark.parametrize(("version", "text"), [(4, "the server refused: not authorized (5)"), (5, "(0x87): no")])
def test_a_refusal(version: int, text: str) -> None:
    dialogue = Dialogue(version)
    dialogue.said()
    dialogue.server.refuse(0x87, {Property.REASON_STRING: "no"} if version == 5 else {})
    dialogue.client.dataReceived(dialogue.server.to_send(0.0))
    dialogue.lose()
    failure = result(dialogue.client.accepted)
    assert isinstance(failure, MqttFailure)
    assert text in str(failure)


def test_publishing_at_each_qos(dialogue: Dialogue) -> None:
    assert result(dialogue.client.publish("t", b"0")) == 0
    assert dialogue.said() == [Publish("t", b"0")]
    once = dialogue.client.publish("t", b"1", 1)
    (message,) = dialogue.said()
    assert message == Publish("t", b"1", 1, packet_id=1)
    assert not once.called
    dialogue.answer(Puback(1))
    assert result(once) == 0
    exactly = dialogue.client.publish("t", b"2", 2, retain=True)
    assert dialogue.said() == [Publish("t", b"2", 2, retain=True, packet_id=2)]
    dialogue.answer(Pubrec(2))
    assert not exactly.called
    assert dialogue.said() == [Pubrel(2)]
    dialogue.answer(Pubcomp(2))
    assert result(exactly) == 0


def test_a_refused_message() -> None:
    dialogue = Dialogue()
    dialogue.open()
    first, second = dialogue.client.publish("t", b"", 1), dialogue.client.publish("t", b"", 2)
    dialogue.said()
    dialogue.answer(Puback(1, 0x97), Pubrec(2, 0x87))
    assert "quota exceeded (0x97)" in str(result(first))
    assert result(second).reason == 0x87


def test_no_more_in_flight_than_the_server_takes() -> None:
    """[MQTT-3.3.4-7]"""
    dialogue = Dialogue()
    dialogue.open(Connack(properties={Property.RECEIVE_MAXIMUM: 2}))
    waiters = [dialogue.client.publish("t", b"%d" % number, 1) for number in range(4)]
    assert [packet.payload for packet in dialogue.said()] == [b"0", b"1"]  # type: ignore[union-attr]
    dialogue.answer(Puback(1))
    assert [packet.payload for packet in dialogue.said()] == [b"2"]  # type: ignore[union-attr]
    dialogue.answer(Puback(2), Puback(3))
    assert [packet.payload for packet in dialogue.said()] == [b"3"]  # type: ignore[union-attr]
    dialogue.answer(Puback(4))
    assert [result(waiter) for waiter in waiters] == [0, 0, 0, 0]


def test_packet_ids_in_use_are_not_given_again() -> None:
    """[MQTT-2.2.1-3]"""
    dialogue = Dialogue(4)
    dialogue.open()
    dialogue.client.publish("t", b"", 1)
    dialogue.said()
    dialogue.client._last_id = 65535
    dialogue.client.publish("t", b"", 1)
    assert [packet.packet_id for packet in dialogue.said()] == [2]  # type: ignore[union-attr]
    assert MAX_INFLIGHT < 65535


def test_messages_come_once_at_qos_2(dialogue: Dialogue) -> None:
    """[MQTT-4.3.3-10]"""
    dialogue.answer(Publish("t", b"2", 2, packet_id=7))
    assert dialogue.said() == [Pubrec(7)]
    dialogue.server.send_frame(_again(dialogue, 7))
    dialogue.client.dataReceived(dialogue.server.to_send(0.0))
    assert [message.payload for message in dialogue.messages] == [b"2"]
    assert dialogue.said() == [Pubrec(7)]
    dialogue.answer(Pubrel(7))
    assert dialogue.said() == [Pubcomp(7)]
    dialogue.answer(Publish("t", b"1", 1, packet_id=8), Publish("t", b"0"))
    assert dialogue.said() == [Puback(8)]
    assert [message.payload for message in dialogue.messages] == [b"2", b"1", b"0"]


def _again(dialogue: Dialogue, packet_id: int) -> bytes:
    from protocols.mqtt.encoding import encode

    return encode(Publish("t", b"2", 2, dup=True, packet_id=packet_id), dialogue.client.version)


def test_subscribing_and_unsubscribing(dialogue: Dialogue) -> None:
    asked = dialogue.client.subscribe([SubscriptionRequest("a/#", 1), SubscriptionRequest("b", 0)])
    (subscribe,) = dialogue.said()
    assert isinstance(subscribe, Subscribe)
    dialogue.answer(Suback(subscribe.packet_id, [1, 0x80]))
    assert result(asked) == [1, 0x80]
    ended = dialogue.client.unsubscribe(["a/#"])
    (unsubscribe,) = dialogue.said()
    assert isinstance(unsubscribe, Unsubscribe)
    dialogue.answer(Unsuback(unsubscribe.packet_id, [0] if dialogue.client.version == 5 else []))
    assert result(ended) == ([0] if dialogue.client.version == 5 else [])


def test_what_waits_learns_that_the_connection_ended(dialogue: Dialogue) -> None:
    waiting = [dialogue.client.publish("t", b"", 1), dialogue.client.subscribe([SubscriptionRequest("a")])]
    dialogue.lose()
    assert all(isinstance(result(one), MqttFailure) for one in waiting)
    assert isinstance(result(dialogue.client.publish("t", b"")), MqttFailure)
    assert isinstance(result(dialogue.client.unsubscribe(["a"])), MqttFailure)


def test_the_servers_disconnect_is_told() -> None:
    dialogue = Dialogue()
    dialogue.open()
    dialogue.server.disconnect(0x8B, {Property.REASON_STRING: "tea time"})
    dialogue.client.dataReceived(dialogue.server.to_send(0.0))
    assert dialogue.transport.disconnecting
    dialogue.lose()
    assert str(result(dialogue.client.ended)) == "the server disconnected: server shutting down (0x8b): tea time"


def test_a_server_that_breaks_the_protocol(dialogue: Dialogue) -> None:
    dialogue.client.dataReceived(b"\xc0\x00")
    assert dialogue.transport.disconnecting
    dialogue.lose()
    assert "the server broke the protocol" in str(result(dialogue.client.ended))


def test_what_may_not_be_sent_is_refused_here(dialogue: Dialogue) -> None:
    assert isinstance(result(dialogue.client.publish("a/#", b"")), LocalError)
    assert isinstance(result(dialogue.client.publish("a/#", b"", 1)), LocalError)
    assert isinstance(result(dialogue.client.subscribe([])), LocalError)
    assert isinstance(result(Dialogue().client.unsubscribe([])), LocalError)


def test_pings_and_a_server_that_does_not_answer() -> None:
    """[MQTT-3.1.2-20]"""
    dialogue = Dialogue(keep_alive=10)
    dialogue.open()
    dialogue.clock.advance(10)
    assert dialogue.said() == [Pingreq()]
    dialogue.answer(Pingresp())
    dialogue.clock.advance(10)
    assert dialogue.said() == [Pingreq()]
    dialogue.clock.advance(10)
    dialogue.clock.advance(10)
    assert dialogue.transport.disconnecting
    dialogue.lose()
    assert result(dialogue.client.ended).reason == 0x8D


def test_reasons_in_words() -> None:
    assert reason_text(0x87) == "not authorized (0x87)"
    assert reason_text(0xFE) == "0xfe"
    assert reason_text(4, 4) == "bad credentials (4)"
    assert reason_text(99, 4) == "unspecified (99)"
