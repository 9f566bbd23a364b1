"""Messages of the other broker on their way in: published here, acknowledged there when we answer for them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.interfaces.mqtt_state import Message
from accessgw.core.mqtt.session import MqttSession
from protocols.errors import RemoteError
from protocols.mqtt.names import check_topic_name
from protocols.mqtt.packets import NO_PROPERTIES, Property, Publish
from protocols.mqtt.reasons import FAILURE, Reason

if TYPE_CHECKING:
    from accessgw.core.mqtt.bridge import Bridge

log = Logger()

MAX_WAITING = 1024
"""Unanswered messages past which the other broker is not read."""


class Answers(Protocol):
    """The connection to the other broker."""

    def puback(self, packet_id: int, reason: int) -> None: ...

    def pubrec(self, packet_id: int, reason: int) -> None: ...

    def pubcomp(self, packet_id: int) -> None: ...

    def hold(self, full: bool) -> None:
        """Stop reading, or go on."""

    def fail(self, error: str) -> None:
        """End the connection: what is not acknowledged comes again on the next one."""


class Inbound:
    """What came on one connection. Ids of QoS 2 are those of the session, which outlives it."""

    def __init__(
        self, bridge: Bridge, session: MqttSession, answers: Answers, *, remote: str, v5: bool, bridge_bit: bool
    ) -> None:
        """`remote`: the other gateway's name, empty for any other broker; `bridge_bit`: it takes us for a bridge."""
        self._bridge = bridge
        self._remote = remote
        self._v5 = v5
        self._bridge_bit = bridge_bit
        self._session = session
        self._answers = answers
        self._acks: deque[list[int]] = deque()
        """[packet id, QoS, reason or -1]: acknowledgements in the order of the messages (section 4.6)."""
        self._full = False
        self._ended = False

    def end(self) -> None:
        """The connection is over: nothing is answered any more."""
        self._ended = True
        self._acks.clear()

    def forget(self) -> None:
        """The other broker has begun a new session: its packet ids mean other messages."""
        session = self._session
        for packet_id in list(session.received):
            session.release(packet_id)
            self._bridge.store.released(session.client_id, packet_id).addErrback(_unstored)

    def publish(self, packet: Publish) -> None:
        """A PUBLISH came."""
        bridge, session = self._bridge, self._session
        packet_id, qos = packet.packet_id, packet.qos
        if qos == 2 and packet_id in session.received:
            self._answer(packet_id, qos, session.receive_again(packet_id))
            return
        message = self._message(packet)
        if message is None:
            if qos == 2:
                session.remember(packet_id)
            self._answer(packet_id, qos, Reason.SUCCESS)
            return
        bridge.count_received()
        if qos < 2:
            self._answer(packet_id, qos, bridge.broker.publish(message))
            return
        session.remember(packet_id)
        outcome = bridge.broker.publish(message, (session.client_id, packet_id))
        self._answer(packet_id, qos, session.receive(packet_id, outcome))

    def pubrel(self, packet_id: int) -> None:
        """A PUBREL came: the id is free once that is durable."""
        session = self._session
        if not session.release(packet_id) or not session.durable:
            self._answers.pubcomp(packet_id)
            return
        released = self._bridge.store.released(session.client_id, packet_id)
        released.addCallbacks(lambda _: self._released(packet_id), self._not_released, errbackArgs=(packet_id,))

    def _released(self, packet_id: int) -> None:
        if not self._ended:
            self._answers.pubcomp(packet_id)

    def _not_released(self, failure: Failure, packet_id: int) -> None:
        self._session.remember(packet_id)
        if not self._ended:
            self._answers.fail(f"the store is not available: {failure.value}")

    def _message(self, packet: Publish) -> Message | None:
        """As it is published here; None when it is not for us."""
        bridge = self._bridge
        settings = bridge.broker.settings
        carried = bridge.topics.to_local(packet.topic)
        if carried is None:
            return None
        try:
            check_topic_name(carried.topic, settings.max_topic_length, settings.max_topic_levels)
        except RemoteError as error:
            bridge.refuse("topic_invalid", f"a message is not taken: {error}")
            return None
        if carried.topic.startswith("$"):
            bridge.refuse(
                "topic_invalid", f"a message is not taken: {carried.topic[:80]} is a topic of the gateway's own"
            )
            return None
        now = bridge.wall()
        properties = dict(packet.properties)
        properties.pop(Property.SUBSCRIPTION_IDENTIFIER, None)
        expiry = properties.pop(Property.MESSAGE_EXPIRY, None)
        expires_at = None if expiry is None else now + expiry
        if settings.max_message_expiry:
            latest = now + settings.max_message_expiry
            expires_at = latest if expires_at is None else min(expires_at, latest)
        message = Message(
            carried.topic,
            packet.payload,
            min(packet.qos, carried.qos),
            packet.retain and settings.retain_available,
            properties or NO_PROPERTIES,
            now,
            expires_at,
            bridge.client_id,
        )
        if not bridge.guard.arrives(message, self._remote, v5=self._v5, bridge_bit=self._bridge_bit):
            bridge.counters.drop("loop")
            return None
        return message

    def _answer(self, packet_id: int, qos: int, outcome: int | Deferred[int]) -> None:
        if not qos:
            return
        ack = [packet_id, qos, -1]
        self._acks.append(ack)
        if isinstance(outcome, int):
            self._answered(outcome, ack)
        else:
            outcome.addCallback(self._answered, ack)
        if not self._full and len(self._acks) > MAX_WAITING:
            self._full = True
            self._answers.hold(True)

    def _answered(self, reason: int, ack: list[int]) -> None:
        ack[2] = reason
        acks = self._acks
        while acks and acks[0][2] >= 0 and not self._ended:
            packet_id, qos, reason = acks.popleft()
            if reason == Reason.UNSPECIFIED:
                # Not stored, so not acknowledged: the other broker keeps it.
                self._answers.fail("a message cannot be stored")
                return
            if reason >= FAILURE:
                self._bridge.refuse("refused", f"a message was refused: {Reason(reason).name.lower()}")
            if qos == 1:
                self._answers.puback(packet_id, reason)
            else:
                self._answers.pubrec(packet_id, reason)
        if self._full and len(acks) <= MAX_WAITING // 2 and not self._ended:
            self._full = False
            self._answers.hold(False)


def _unstored(failure: Failure) -> None:
    log.error("a packet id of a bridge cannot be forgotten: {error}", error=failure.value)
