"""What a trace of a device shows of MQTT's packets: never payloads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accessgw.core import tracing as traces
from protocols.errors import RemoteError
from protocols.mqtt import packets
from protocols.mqtt.decoding import decode
from protocols.mqtt.packets import PacketType, Property


def received(packet: packets.Packet) -> dict[str, Any]:
    """A packet of the client."""
    details: dict[str, Any] = {"kind": "frame", "direction": "in", "frame": type(packet).__name__.lower()}
    if isinstance(packet, packets.Publish):
        details.update(topic=packet.topic, qos=packet.qos, bytes=len(packet.payload))
    elif isinstance(packet, packets.Subscribe):
        details.update(filters=[request.filter for request in packet.requests])
    elif isinstance(packet, packets.Unsubscribe):
        details.update(filters=packet.filters)
    packet_id = getattr(packet, "packet_id", 0)
    return {**details, "id": packet_id} if packet_id else details


def sent(frame: bytes, version: int, aliases: Mapping[int, str] | None) -> dict[str, Any]:
    """A whole frame for the client; `aliases` are the topics that it was told to know by them, `frame`'s included."""
    name = PacketType(frame[0] >> 4).name.lower()
    try:
        packet = decode(frame, version)
    except RemoteError as error:
        return traces.sent(name, {"bytes": len(frame), "unclear": str(error)})
    if not isinstance(packet, packets.Publish):
        return traces.sent(name, {"bytes": len(frame)})
    alias = packet.properties.get(Property.TOPIC_ALIAS, 0)
    details: dict[str, Any] = {
        "topic": packet.topic or (aliases or {}).get(alias, ""),
        "qos": packet.qos,
        "bytes": len(packet.payload),
    }
    for key, value in (("alias", alias), ("retain", packet.retain), ("dup", packet.dup), ("id", packet.packet_id)):
        if value:
            details[key] = value
    return traces.sent(name, details)
