"""A message on its way to its receivers, encoded once for all that get the same bytes."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING
from zlib import crc32

from accessgw.core.interfaces.mqtt_state import Enqueue, Message
from protocols.mqtt.encoding import publish_parts
from protocols.mqtt.packets import V5, V311, Properties, Property

if TYPE_CHECKING:
    from accessgw.core.mqtt.session import MqttSession

Parts = tuple[bytes, bytes]
"""The frame up to its packet id, and after it."""

_BYTES = [bytes((value,)) for value in range(256)]
PACKET_IDS = tuple([high + low for high in _BYTES for low in _BYTES])
"""Packet ids as they stand in a packet."""


LONGEST_EXPIRY = 0xFFFFFFFF
"""Seconds that a Message Expiry Interval has room for."""
ROUNDING = 1e-5
"""Seconds; stores keep times in microseconds."""


class Publication:
    """One message while it is delivered. `now` is the wall clock's."""

    __slots__ = ("_hash", "_now", "_parts", "enqueues", "message", "reached", "targets")

    def __init__(self, message: Message, now: float) -> None:
        self.message = message
        self.reached = 0
        """Receivers that it was sent to or waits for."""
        self.enqueues: list[Enqueue] | None = None
        """Receivers in the store."""
        self.targets: list[tuple[MqttSession, Parts | None, int]] = []
        """Their sessions, with what to send them once it is durable (None: they are behind),
        and on which connection."""
        self._now = now
        self._parts: dict[tuple[bool, int, bool, tuple[int, ...], int, bool], Parts] = {}
        self._hash = -1

    @property
    def size(self) -> int:
        """Bytes of the message."""
        return self.message.size

    def parts(  # noqa: PLR0917 - the hot path
        self,
        v5: bool,
        qos: int,
        retain: bool,
        identifiers: tuple[int, ...],
        alias: int = 0,
        with_topic: bool = True,
    ) -> Parts:
        """The frame for a receiver, without its packet id; of QoS 0 the first part is all."""
        key = (v5, qos, retain, identifiers if v5 else (), alias, with_topic)
        parts = self._parts.get(key)
        if parts is None:
            message = self.message
            parts = self._parts[key] = publish_parts(
                message.topic,
                message.payload,
                V5 if v5 else V311,
                qos=qos,
                retain=retain,
                properties=properties_at(message, self._now) if v5 else message.properties,
                identifiers=identifiers,
                alias=alias,
                with_topic=with_topic,
            )
        return parts

    def parts_for(self, session: MqttSession, qos: int, retain: bool, identifiers: tuple[int, ...]) -> Parts:
        """The same, with a topic alias where the receiver takes them.

        Which alias a topic gets follows from its name and how many the receiver allows, so that
        receivers share the bytes; a topic that meets another on its alias is introduced again.
        """
        aliases = session.aliases
        if aliases is None:
            return self.parts(session.v5, qos, retain, identifiers)
        if self._hash < 0:
            self._hash = crc32(self.message.topic.encode())
        alias = self._hash % session.alias_maximum + 1
        topic = self.message.topic
        known = aliases.get(alias) == topic
        aliases[alias] = topic
        return self.parts(True, qos, retain, identifiers, alias, not known)


def properties_at(message: Message, now: float) -> Properties:
    """The properties as a receiver gets them now: with the rest of the message's life (section 3.3.2.3.3), which is 0
    for one that was to go out at once or not at all, and for one that is sent again when its time is over."""
    if message.expires_at is None:
        return message.properties
    # Less what times of day are rounded by: a whole second must not become one more. The clock may be set back, too.
    rest = ceil(message.expires_at - now - ROUNDING)
    return {**message.properties, Property.MESSAGE_EXPIRY: min(max(0, rest), LONGEST_EXPIRY)}
