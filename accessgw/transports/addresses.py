"""How many connections an address has, and how fast it may open more."""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address

from accessgw.model.listener_settings import TransportLimits

MAX_BUCKETS = 65_536
"""Addresses whose accept rate is remembered; past it the one not seen for longest is forgotten."""


def counted_as(address: str) -> str:
    """The key an address counts under: IPv6 by its /64, which is what one subscriber has."""
    if ":" not in address:
        return address
    parsed = IPv6Address(address.partition("%")[0])
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return parsed.packed[:8].hex(":", 2) + "::/64"


class AddressLimits:
    """Open connections per address, and a token bucket of accepts per address.

    Memory is bounded by the open connections and `MAX_BUCKETS`.
    """

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Address -> (tokens, when they were counted)."""

    def admit(self, key: str, now: float, limits: TransportLimits) -> str:
        """Count one more connection of `key`; or say why not (`per_address`, `accept_rate`)."""
        buckets = self._buckets
        tokens = capacity = float(limits.accept_burst_per_address)
        bucket = buckets.get(key)
        if bucket is not None:
            tokens, since = bucket
            tokens += (now - since) * limits.accepts_per_address_per_second
            tokens = min(tokens, capacity)
            buckets.move_to_end(key)
        elif len(buckets) >= MAX_BUCKETS:
            buckets.popitem(last=False)
        if tokens < 1.0:
            buckets[key] = (tokens, now)
            return "accept_rate"
        buckets[key] = (tokens - 1.0, now)
        count = self._open.get(key, 0)
        if count >= limits.max_connections_per_address:
            return "per_address"
        self._open[key] = count + 1
        return ""

    def release(self, key: str) -> None:
        """One connection of `key` has ended."""
        count = self._open.get(key, 0)
        if count > 1:
            self._open[key] = count - 1
        else:
            self._open.pop(key, None)
