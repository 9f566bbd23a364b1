"""Which reason codes a packet may have, by its type."""

from __future__ import annotations

from protocols.mqtt.packets import PacketType

_DELIVERY = frozenset((0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99))
_ENDS = (*range(0x80, 0x84), 0x87, 0x89, 0x8B, *range(0x8D, 0x91), *range(0x93, 0xA3))
_RELEASE = frozenset((0x00, 0x92))

REASONS: dict[int, frozenset[int]] = {
    PacketType.CONNACK: frozenset((0x00, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, *range(0x99, 0x9E), 0x9F)),
    PacketType.PUBACK: _DELIVERY,
    PacketType.PUBREC: _DELIVERY,
    PacketType.PUBREL: _RELEASE,
    PacketType.PUBCOMP: _RELEASE,
    PacketType.SUBACK: frozenset((0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2)),
    PacketType.UNSUBACK: frozenset((0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91)),
    PacketType.DISCONNECT: frozenset((*_ENDS, 0x00, 0x04)),
    PacketType.AUTH: frozenset((0x00, 0x18, 0x19)),
}
"""Packet type -> its reason codes (sections 3.2.2.2, 3.4.2.1 and so on)."""

RETURN_CODES = {
    PacketType.CONNACK: frozenset(range(6)),
    PacketType.SUBACK: frozenset((0, 1, 2, 0x80)),
}
"""The same before MQTT 5 (3.1.1, sections 3.2.2.3 and 3.9.3)."""
