"""Messages to one client that asked for no topic: answers to its calls, requests of services."""

from __future__ import annotations

from accessgw.core.interfaces.mqtt_state import Message
from accessgw.core.mqtt.broker import Broker
from accessgw.core.mqtt.session import MqttSession
from protocols.mqtt.packets import Properties

PUBLISHER = "$gateway"


class Direct:
    """Sends to connected clients. The Devices of Requests."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def version(self, client_id: str) -> int:
        """The protocol level of its connection, 0 when it has none."""
        session = self._broker.sessions.get(client_id)
        return 0 if session is None or session.outlet is None or not session.window else session.version

    def send(self, client_id: str, topic: str, payload: bytes, properties: Properties) -> bool:
        """With QoS 1. False when it is not connected."""
        session = self._broker.sessions.get(client_id)
        if session is None or session.outlet is None or not session.window:
            return False
        self.to_session(session, topic, payload, 1, properties)
        return True

    def to_session(self, session: MqttSession, topic: str, payload: bytes, qos: int, properties: Properties) -> None:
        """As if it had subscribed to the topic."""
        broker = self._broker
        message = Message(topic, payload, qos, False, properties, broker.wall(), publisher=PUBLISHER)
        broker.deliver_alone(message, session, qos)
