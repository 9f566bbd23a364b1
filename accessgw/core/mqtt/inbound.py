"""Messages of a client: checked, handed to the broker, and acknowledged in order when the gateway answers for them."""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.interfaces.mqtt_state import Message
from accessgw.core.mqtt.push_link import PushLink
from accessgw.core.mqtt.session import MqttSession
from accessgw.model.reasons import CloseReason
from accessgw.policy.topic_rules import Decision
from protocols.mqtt import packets
from protocols.mqtt.packets import NO_PROPERTIES, Property
from protocols.mqtt.reasons import FAILURE, Reason

log = Logger()

QUOTA_EXCEEDED = int(Reason.QUOTA_EXCEEDED)

MAX_UNANSWERED = 64
"""Messages of a client that wait for the store or a service, past which it is not read."""

MAX_DECISIONS = 64
"""Topics whose permission is remembered per connection."""

Acknowledgement = list[int]
"""Packet id, QoS, and the reason code: -1 until it is known."""


class Inbound(PushLink):
    """A connection that publishes."""

    __slots__ = ()

    def _on_publish(self, packet: packets.Publish) -> None:
        services, session = self._services, self.session
        assert session is not None
        counters = services.counters
        qos, topic, payload, retain = packet.qos, packet.topic, packet.payload, packet.retain
        counters.received_bytes += len(payload)
        if qos == 1:
            counters.received_qos1 += 1
        elif qos == 0:
            counters.received_qos0 += 1
        else:
            counters.received_qos2 += 1
            if packet.packet_id in session.received:
                self._answer(packet.packet_id, 2, session.receive_again(packet.packet_id))
                return
            if len(session.received) >= services.settings.max_unreleased:
                counters.drop("unreleased")
                self._answer(packet.packet_id, 2, QUOTA_EXCEEDED)
                return
        if topic[0] == "$" and self._special(packet, session):
            return
        key = (topic, qos, retain)
        decision = self._decisions.get(key) if self._decided_by is services.access else None
        if decision is None:
            decision = self._decide(key)
        if not decision.allowed:
            self._denied(packet)
            return
        now = services.wall()
        properties = packet.properties
        expires_at: float | None = None
        if properties:
            properties, expires_at = _without_expiry(properties, now)
        longest = services.settings.max_message_expiry
        if longest:
            latest = now + longest
            expires_at = latest if expires_at is None else min(expires_at, latest)
        message = Message(topic, payload, qos, retain, properties, now, expires_at, session.client_id, session.identity)
        if qos == 1:
            outcome = services.broker.publish(message)
            if type(outcome) is int and outcome < FAILURE and self._acks is None and self._trace is None:
                self.wire.puback(packet.packet_id, outcome if outcome and session.v5 else 0)
                if self._in_batch:
                    counters.packets_sent += 1
                else:
                    self._sent("puback")
            else:
                self._answer(packet.packet_id, 1, outcome)
        elif qos == 0:
            outcome = services.broker.publish(message)
            if type(outcome) is Deferred:
                # It waits behind large fan-outs: whoever sends faster than they go is not read.
                self._answer(0, 0, outcome)
        else:
            self._receive_exactly_once(session, packet.packet_id, message)

    def _decide(self, key: tuple[str, int, bool]) -> Decision:
        """May it publish so? Remembered until the rules change."""
        services, session = self._services, self.session
        assert session is not None and session.identity is not None
        if self._decided_by is not services.access or len(self._decisions) >= MAX_DECISIONS:
            self._decided_by = services.access
            self._decisions = {}
        decision = self._decisions[key] = services.may_publish(session.identity, *key)
        return decision

    def _denied(self, packet: packets.Publish) -> None:
        """MQTT 5 says so; before, the message is acknowledged and goes nowhere (3.1.1, section 3.3.5)."""
        services, session = self._services, self.session
        assert session is not None
        decision = self._decisions.get((packet.topic, packet.qos, packet.retain))
        services.denied("publish", session.identity, packet.topic, decision)
        if services.broker.trace.watched:
            message = Message(packet.topic, packet.payload, packet.qos, packet.retain, publisher=session.client_id)
            services.broker.trace.tell(message, "denied")
        if packet.qos:
            self._answer(packet.packet_id, packet.qos, Reason.NOT_AUTHORIZED if session.v5 else Reason.SUCCESS)
            if packet.qos > 1 and not session.v5:
                session.remember(packet.packet_id)

    def _special(self, packet: packets.Publish, session: MqttSession) -> bool:
        """Topics of the gateway itself. True when that was all."""
        services = self._services
        topic = packet.topic
        if services.calls is not None and services.calls.is_call(topic):
            if self._calls is None:
                self._calls = services.calls.connection(session, self)
            self._answer_special(packet, session, self._calls.start(packet))
            return True
        if services.requests is not None and services.requests.is_answer(topic):
            reason = services.requests.answered(session.client_id, topic, packet.payload, packet.properties)
            self._answer_special(packet, session, reason)
            return True
        self._denied(packet)
        return True

    def _answer_special(self, packet: packets.Publish, session: MqttSession, reason: int) -> None:
        if packet.qos > 1 and (reason < FAILURE or not session.v5):
            session.remember(packet.packet_id)
        if packet.qos:
            self._answer(packet.packet_id, packet.qos, reason if session.v5 else Reason.SUCCESS)

    def _receive_exactly_once(self, session: MqttSession, packet_id: int, message: Message) -> None:
        """QoS 2, method B of section 4.3.3: the message goes on at once, its id is kept until PUBREL."""
        session.remember(packet_id)
        received = (session.client_id, packet_id) if session.durable else None
        self._answer(packet_id, 2, session.receive(packet_id, self._services.broker.publish(message, received)))

    def _answer(self, packet_id: int, qos: int, outcome: int | Deferred[int]) -> None:
        """Acknowledge a message when the gateway answers for it, in order."""
        if isinstance(outcome, int):
            if self._acks is None:
                self._acknowledge(packet_id, qos, outcome)
            else:
                self._acks.append([packet_id, qos, outcome])
            return
        ack = [packet_id, qos, -1]
        acks = self._acks
        if acks is None:
            acks = self._acks = deque()
        acks.append(ack)
        if len(acks) >= MAX_UNANSWERED and not self._held_back:
            # The store, or a service, is slower than the client: it is not read until they have caught up.
            self._held_back = True
            self.connection.pause()
        outcome.addCallback(self._answered, ack)

    def _answered(self, reason: int, ack: Acknowledgement) -> None:
        ack[2] = reason
        acks = self._acks
        while acks and acks[0][2] >= 0 and not self._closed:
            self._acknowledge(*acks.popleft())
        if not acks:
            self._acks = None
        if self._held_back and not self._closed and (not acks or len(acks) <= MAX_UNANSWERED // 2):
            self._read_on()

    def _acknowledge(self, packet_id: int, qos: int, reason: int) -> None:
        session = self.session
        if session is None or self._closed or not qos:
            return
        if not session.v5:
            if reason >= FAILURE:
                # There is no other way to say that it was not taken; the client sends it again.
                self._say_and_close(reason, CloseReason.OVERLOAD, f"a message was not taken: reason {reason}")
                return
            reason = 0
        if qos == 1:
            self.wire.puback(packet_id, reason)
            self._sent("puback", packet_id)
        else:
            self.wire.pubrec(packet_id, reason)
            self._sent("pubrec", packet_id)

    def _on_pubrel(self, packet: packets.Pubrel) -> None:
        session = self.session
        assert session is not None
        packet_id = packet.packet_id
        if not session.release(packet_id):
            self._pubcomp(packet_id, Reason.PACKET_ID_NOT_FOUND if session.v5 else Reason.SUCCESS)
            return
        if not session.durable:
            self._pubcomp(packet_id, Reason.SUCCESS)
            return
        # The client may use the id for another message as soon as it has PUBCOMP.
        released = self._services.store.released(session.client_id, packet_id)
        released.addCallbacks(
            lambda _: self._pubcomp(packet_id, Reason.SUCCESS), self._not_released, (), {}, (packet_id,)
        )

    def _pubcomp(self, packet_id: int, reason: int) -> None:
        if not self._closed:
            self.wire.pubcomp(packet_id, reason)
            self._sent("pubcomp", packet_id)

    def _not_released(self, failure: Failure, packet_id: int) -> None:
        log.error("a released id of {client} cannot be stored: {error}", client=self.info.device, error=failure.value)
        session = self.session
        if session is not None:
            session.remember(packet_id)
            self._say_and_close(Reason.SERVER_UNAVAILABLE, CloseReason.OVERLOAD)


def _without_expiry(properties: packets.Properties, now: float) -> tuple[packets.Properties, float | None]:
    """The properties that receivers get, and when the message expires."""
    kept = dict(properties)
    kept.pop(Property.TOPIC_ALIAS, None)
    expiry = kept.pop(Property.MESSAGE_EXPIRY, None)
    return kept or NO_PROPERTIES, None if expiry is None else now + expiry
