"""Keeps messages from going round between brokers that are bridged to each other.

A bridge of MQTT 5 writes the name of its gateway into every message (a user property, after those of gateways that
carried it before), and a gateway takes no message that it has carried out already. MQTT 3.1.1 has no place for a name:
there a message is known by topic and payload when a bridge of the other side brings it back within half a minute.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b

from accessgw.core.interfaces.mqtt_state import Message
from protocols.mqtt.packets import Properties, Property

MARK = "accessgw-via"
"""Name of the user property; its value is the gateway's."""
ECHO_SECONDS = 30.0
"""An echo of MQTT 3.1.1 is one within this time."""
MAX_SENT = 10_000
"""Messages that are remembered to know their echoes by."""

Carries = Callable[[Message], bool]


class LoopGuard:
    """Knows messages that come back. `origin` names this gateway, unlike any other and the same after a restart."""

    def __init__(self, origin: str, seconds: Callable[[], float], bridge_clients: set[str]) -> None:
        """`bridge_clients` are the client ids that say they are bridges (of MQTT 3.1.1), kept by whoever connects
        them."""
        self._origin = origin
        self._seconds = seconds
        self._bridge_clients = bridge_clients
        self.unmarked: Sequence[Carries] = ()
        """Bridges that cannot mark: each says whether it carries a message out."""
        self._sent: OrderedDict[bytes, tuple[float, int]] = OrderedDict()
        """Digest -> until when, how many."""

    def mark(self, properties: Properties) -> Properties:
        """The properties of a message that leaves."""
        before = properties.get(Property.USER_PROPERTY, ())
        return {**properties, Property.USER_PROPERTY: [*before, (MARK, self._origin)]}

    def returned(self, message: Message) -> bool:
        """Whether this gateway has carried it out before. Called once for every message."""
        if message.properties:
            pairs = message.properties.get(Property.USER_PROPERTY)
            if pairs and (MARK, self._origin) in pairs:
                return True
        if not self.unmarked or not self._bridge_clients:
            return False
        if message.publisher in self._bridge_clients:
            return self._is_echo(message)
        if any(carries(message) for carries in self.unmarked):
            self._remember(message)
        return False

    def _remember(self, message: Message) -> None:
        digest = _digest(message)
        _, count = self._sent.pop(digest, (0.0, 0))
        self._sent[digest] = (self._seconds() + ECHO_SECONDS, count + 1)
        if len(self._sent) > MAX_SENT:
            self._sent.popitem(last=False)

    def _is_echo(self, message: Message) -> bool:
        digest = _digest(message)
        until, count = self._sent.get(digest, (0.0, 0))
        if not count:
            return False
        if until < self._seconds():
            del self._sent[digest]
            return False
        if count == 1:
            del self._sent[digest]
        else:
            self._sent[digest] = (until, count - 1)
        return True


def _digest(message: Message) -> bytes:
    return blake2b(message.topic.encode() + b"\0" + message.payload, digest_size=16).digest()
