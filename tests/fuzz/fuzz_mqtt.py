"""Feeds connections of both roles and all versions with changed packets: python -m tests.fuzz.fuzz_mqtt --packets N.

Nothing but RemoteError may come of it. The same seed feeds the same bytes.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

from protocols.errors import RemoteError
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
    Unsubscribe,
    Will,
)
from protocols.mqtt.properties import ALLOWED, BINARY, FORMS, PAIR, STRING, WILL_PROPERTIES
from protocols.mqtt.reason_tables import REASONS
from tests.fuzz.command import run
from tests.fuzz.faults import with_faults

_LIMITS = (
    Limits(),
    Limits(receive_maximum=1),
    Limits(max_packet=200, max_connect=150, receive_maximum=1, topic_alias_maximum=2, max_qos=1, max_topic_length=20,
           max_topic_levels=3, max_user_properties=2, max_filters=2, retain_available=False),
)  # fmt: skip
_TEXTS = ("", "a", "a/b", "device/7/state", "é", "\ufeff", "x" * 130, "$SYS/a", "$share/g/a/#", "a/+/b", "#")
_METHOD = {Property.AUTHENTICATION_METHOD: "SCRAM"}
_MESSAGES = (PacketType.PUBLISH, PacketType.PUBLISH, PacketType.PUBACK, PacketType.PUBREC, PacketType.PUBREL,
             PacketType.PUBCOMP)  # fmt: skip
_LIKELY = {
    Role.SERVER: (*_MESSAGES, PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE, PacketType.PINGREQ),
    Role.CLIENT: (*_MESSAGES, PacketType.SUBACK, PacketType.UNSUBACK, PacketType.PINGRESP),
}


class Maker:
    """Makes packets that are mostly in order, and then are not."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def properties(self, allowed: frozenset[int], version: int, many: bool = False) -> dict:
        if version != 5 or self.random.random() < 0.4:
            return {}
        chosen = self.random.sample(sorted(allowed), min(len(allowed), self.random.randrange(4)))
        return {each: self._value(each, many) for each in chosen}

    def _value(self, identifier: int, many: bool):
        form, pick = FORMS[identifier], self.random
        if identifier == Property.RESPONSE_TOPIC:
            return "r/t"
        if identifier == Property.SUBSCRIPTION_IDENTIFIER and many:
            return [pick.randint(1, form.high) for _ in range(pick.randint(1, 3))]
        if form.kind == STRING:
            return pick.choice(_TEXTS)
        if form.kind == BINARY:
            return pick.randbytes(pick.randrange(9))
        if form.kind == PAIR:
            return [(pick.choice(_TEXTS), pick.choice(_TEXTS)) for _ in range(pick.randint(1, 3))]
        return pick.choice((form.low, form.high, pick.randint(form.low, form.high)))

    def connect(self, version: int) -> Connect:
        pick = self.random
        will = None
        if pick.random() < 0.5:
            will = Will(
                "w/t", b"gone", pick.randrange(3), pick.random() < 0.5, self.properties(WILL_PROPERTIES, version)
            )
        properties = self.properties(ALLOWED[PacketType.CONNECT], version)
        properties.pop(Property.AUTHENTICATION_DATA, None)
        return Connect("me", version, True, 60, pick.choice((None, "u")) if version == 5 else "u",
                       pick.choice((None, b"p")), will, properties)  # fmt: skip

    def packet(self, version: int, role: Role) -> Packet:
        """Mostly one that a connection of this role may hear."""
        pick = self.random
        packet_id = pick.randint(1, 65535)
        kind = pick.choice(tuple(PacketType) if pick.random() < 0.1 else _LIKELY[role])

        def more(many: bool = False) -> dict:
            return self.properties(ALLOWED[kind], version, many)

        def reason() -> int:
            return pick.choice(sorted(REASONS[kind])) if version == 5 else 0

        match kind:
            case PacketType.CONNECT:
                return self.connect(version)
            case PacketType.CONNACK:
                code = reason()
                return Connack(not code and version > 3, code, more())
            case PacketType.PUBLISH:
                qos = pick.randrange(3)
                topic = pick.choice(("a", "a/b", "device/7/state", "é", "a/topic/of/five/levels"))
                payload = pick.randbytes(pick.choice((0, 1, 20, 120, 130, 300)))
                return Publish(topic, payload, qos, pick.random() < 0.2, False, packet_id if qos else 0, more(True))
            case PacketType.PUBACK:
                return Puback(packet_id, reason(), more())
            case PacketType.PUBREC:
                return Pubrec(packet_id, reason(), more())
            case PacketType.PUBREL:
                return Pubrel(packet_id, reason(), more())
            case PacketType.PUBCOMP:
                return Pubcomp(packet_id, reason(), more())
            case PacketType.SUBSCRIBE:
                requests = [
                    SubscriptionRequest(pick.choice(_TEXTS[1:5]), pick.randrange(3)) for _ in range(pick.randint(1, 3))
                ]
                return Subscribe(packet_id, requests, more())
            case PacketType.SUBACK:
                return Suback(packet_id, [pick.randrange(3)], more())
            case PacketType.UNSUBSCRIBE:
                return Unsubscribe(packet_id, [pick.choice(_TEXTS[1:])], more())
            case PacketType.UNSUBACK:
                return Unsuback(packet_id, [0], more())
            case PacketType.PINGREQ:
                return Pingreq()
            case PacketType.PINGRESP:
                return Pingresp()
            case PacketType.AUTH if version == 5:
                return Auth(reason(), {**_METHOD, **more()})
        return Disconnect(reason() if version == 5 and kind is PacketType.DISCONNECT else 0)

    def change(self, frame: bytes) -> bytes:
        """The frame with up to three faults."""
        return with_faults(frame, self.random, (0, 0, 0, 0, 1, 1, 2, 3))

    def connection(self, version: int, role: Role) -> Connection:
        """A connection, mostly an open one."""
        pick = self.random
        connection = Connection(role, limits=pick.choice(_LIMITS), now=0.0)
        properties = _METHOD if version == 5 and pick.random() < 0.2 else {}
        connect = Connect("me", version, properties=properties)
        if role is Role.CLIENT:
            connection.send(connect)
            if pick.random() < 0.8:
                connection.receive(encode(Connack(properties=properties), version), 0.0)
        elif pick.random() < 0.9:
            connection.receive(encode(connect, version), 0.0)
            if pick.random() < 0.8:
                connection.accept(Connack())
        connection.to_send(0.0)
        connection.events()
        return connection


def fuzz(packets: int, seed: int) -> Iterator[tuple[str, int]]:
    """Feeds that many packets; gives (what became of each, reason code or 0). Anything but RemoteError goes through."""
    maker = Maker(seed)
    pick = maker.random
    version, role = 5, Role.SERVER
    connection = maker.connection(version, role)
    silent = 0
    for _ in range(packets):
        if connection.closed or silent > 2 or pick.random() < 0.02:
            silent = 0
            version, role = pick.choice((3, 4, 5, 5)), pick.choice((Role.SERVER, Role.SERVER, Role.CLIENT))
            connection = maker.connection(version, role)
        data = maker.change(encode(maker.packet(version, role), version))
        cut = pick.randrange(len(data) + 1) if pick.random() < 0.3 else len(data)
        code = 0
        try:
            connection.receive(data[:cut], 0.0)
            connection.receive(data[cut:], 0.0)
        except RemoteError as error:
            if not connection.closed:
                raise AssertionError(f"{data.hex()}: an error that does not close") from error
            code = error.code
        events = connection.events()
        silent = 0 if events else silent + 1
        for packet in events:
            encode(packet, version)
        said = connection.to_send(0.0)
        if connection.closed and said and said[0] >> 4 in (PacketType.CONNACK, PacketType.DISCONNECT):
            decode(said, 5 if len(said) != 4 else 4)
        yield ("refused" if code else "taken" if events else "incomplete"), code


if __name__ == "__main__":
    sys.exit(run(fuzz, __doc__, what="MQTT", code="#04x"))
