"""What every MqttStore holds to, whatever it keeps its rows in: sizes, expiry, which packet ids there are."""

from __future__ import annotations

from collections.abc import Iterable

from accessgw.core.interfaces.mqtt_state import Message
from accessgw.model.counters import MqttCounters

SWEEP = 500
"""Rows of each kind that one sweep looks for."""


def size_of(message: Message) -> int:
    """Bytes that it counts for in a queue."""
    return message.size


def has_expired(expires_at: float | None, now: float) -> bool:
    """Whether nobody gets it any more."""
    return expires_at is not None and expires_at <= now


def bad_packet_id(packet_ids: Iterable[int]) -> ValueError | None:
    """What to say of the first that cannot be one."""
    for packet_id in packet_ids:
        if not 1 <= packet_id <= 0xFFFF:
            return ValueError(f"packet id: expected 1 to 65535, got {packet_id}")
    return None


def count_dropped(counters: MqttCounters, messages: int) -> None:
    """Count deliveries that did not happen because a queue was full."""
    dropped = counters.dropped_messages
    dropped["queue_full"] = dropped.get("queue_full", 0) + messages
