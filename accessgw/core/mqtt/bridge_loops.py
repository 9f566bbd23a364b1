"""Keeps messages from going round between brokers that are bridged to each other.

With MQTT 5 a message carries the names of the gateways that it has been at, as user properties; none takes it twice,
and none sends it where it was. Gateways tell each other their names when a bridge connects. MQTT 3.1.1 has no place for
names: brokers that know the bridge bit do not send a bridge its own messages back, and where that does not help, what a
bridge brings is known by topic and payload for half a minute after a device of ours has published the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b

from accessgw.core.interfaces.mqtt_state import Message
from protocols.mqtt.packets import Properties, Property

MARK = "accessgw-via"
"""Name of the user properties, of PUBLISH, and of CONNECT and CONNACK; the value is the gateway's name."""
PREFIX = "$bridge/"
"""Beginning of the client ids of bridges; no client of the network may have such a one."""
ECHO_SECONDS = 30.0
"""An echo of MQTT 3.1.1 is one within this time."""
MAX_REMEMBERED = 10_000
"""Messages that are remembered to know their echoes by."""

Carries = Callable[[str], bool]


def name_in(properties: Properties) -> str:
    """The name of the gateway at the other end, from its CONNECT or CONNACK; empty when it is none of ours."""
    return next((value for name, value in properties.get(Property.USER_PROPERTY, ()) if name == MARK), "")


class LoopGuard:
    """Knows messages that come back. `origin` names this gateway, unlike any other and the same after a restart."""

    def __init__(self, origin: str, seconds: Callable[[], float], bridge_clients: set[str]) -> None:
        """`bridge_clients` are the client ids that say they are bridges (of MQTT 3.1.1), kept by whoever connects
        them."""
        self.origin = origin
        self._seconds = seconds
        self._bridge_clients = bridge_clients
        self.unmarked: Sequence[Carries] = ()
        """Bridges of MQTT 3.1.1: each says whether a topic of ours is one that it carries."""
        self._remembered: OrderedDict[bytes, float] = OrderedDict()
        """Digest -> until when."""

    def returned(self, message: Message) -> bool:
        """Whether a message that a client publishes has been at this gateway before. Called once for every message."""
        if message.publisher.startswith(PREFIX):
            return False  # its bridge has asked `arrives`
        if message.properties and self._been_at(message.properties, self.origin):
            return True
        if not self.unmarked:
            return False
        if message.publisher in self._bridge_clients:
            return self._is_echo(message)
        if any(carries(message.topic) for carries in self.unmarked):
            self._remember(message)
        return False

    def arrives(self, message: Message, remote: str, *, v5: bool, bridge_bit: bool) -> bool:
        """A bridge brings a message: mark it with where it was, and with us. False when it was here before.

        `remote` is the name of the gateway that it comes from, `bridge_bit` whether that takes us for a bridge."""
        if not v5:
            return (bridge_bit and not self._bridge_clients) or not self._is_echo(message)
        if self._been_at(message.properties, self.origin):
            return False
        for name in (remote, self.origin):
            message.properties = self._marked(message.properties, name)
        return True

    def leaves(self, properties: Properties, remote: str) -> Properties | None:
        """The properties of a message that a bridge of MQTT 5 sends to `remote`; None when it was there before."""
        if remote and self._been_at(properties, remote):
            return None
        return self._marked(properties, self.origin)

    def _been_at(self, properties: Properties, name: str) -> bool:
        return (MARK, name) in properties.get(Property.USER_PROPERTY, ())

    def _marked(self, properties: Properties, name: str) -> Properties:
        if not name or self._been_at(properties, name):
            return properties
        return {**properties, Property.USER_PROPERTY: [*properties.get(Property.USER_PROPERTY, ()), (MARK, name)]}

    def _remember(self, message: Message) -> None:
        digest = _digest(message)
        self._remembered[digest] = self._seconds() + ECHO_SECONDS
        self._remembered.move_to_end(digest)
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)

    def _is_echo(self, message: Message) -> bool:
        return self._remembered.get(_digest(message), 0.0) > self._seconds()


def _digest(message: Message) -> bytes:
    return blake2b(message.topic.encode() + b"\0" + message.payload, digest_size=16).digest()
