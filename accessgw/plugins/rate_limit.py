"""Filter `rate-limit`: token buckets per device, and per device and operation; refusals have status 9.

    [[filters]]
    name = "rate-limit"
    [filters.settings]
    per_device = { rate = 20, burst = 40 }
    max_devices = 100000
    operations = { "payments.*" = { rate = 2, burst = 5 } }

`rate` is calls per second in the long run, `burst` calls at once. An operation counts against the
first pattern that fits it, exact names before prefixes, longer prefixes first.
"""

from __future__ import annotations

from typing import Any

from accessgw.core.interfaces import Filter, Refused
from accessgw.model.calls import Call
from accessgw.plugins.settings import expect_keys, expect_number, expect_table
from accessgw.policy.limits import KeyedLimiter
from protocols.mmtp.statuses import Status

MAX_DEVICES = 100_000


class RateLimit(Filter):
    """Time is the call's own arrival, so this filter needs no clock."""

    def __init__(self, per_device: KeyedLimiter | None, operations: list[tuple[str, KeyedLimiter]]) -> None:
        self._per_device = per_device
        self._operations = operations

    def call(self, call: Call) -> None:
        """Raises Refused(RATE_LIMIT)."""
        now = call.received_at
        # Anonymous HTTP requests are told apart by address.
        who = call.identity.device or call.identity.user or (call.connection.peer if call.connection else "")
        if self._per_device is not None and not self._per_device.take(who, now):
            raise Refused(Status.RATE_LIMIT, f"{who} makes too many calls")
        for pattern, limiter in self._operations:
            if pattern == call.operation or (pattern.endswith("*") and call.operation.startswith(pattern[:-1])):
                if not limiter.take(who, now):
                    raise Refused(Status.RATE_LIMIT, f"{who} makes too many calls of {pattern}")
                return


def make(settings: dict[str, Any]) -> RateLimit:
    """The filter. Raises ValueError that begins with the key that is wrong."""
    expect_keys("", settings, ("per_device", "operations", "max_devices"))
    max_devices = int(expect_number("max_devices", settings.get("max_devices", MAX_DEVICES), least=1))
    per_device = None
    if "per_device" in settings:
        per_device = _limiter("per_device", settings["per_device"], max_devices)
    operations = []
    for pattern, bounds in expect_table("operations", settings.get("operations", {})).items():
        if not pattern or "*" in pattern[:-1]:
            raise ValueError(f'operations.{pattern}: expected a name or a prefix that ends with "*"')
        operations.append((pattern, _limiter(f"operations.{pattern}", bounds, max_devices)))
    operations.sort(key=lambda item: (item[0].endswith("*"), -len(item[0])))
    if per_device is None and not operations:
        raise ValueError("per_device: expected per_device or operations, got neither")
    return RateLimit(per_device, operations)


def _limiter(path: str, value: Any, max_devices: int) -> KeyedLimiter:
    table = expect_table(path, value)
    expect_keys(path, table, ("rate", "burst"))
    if "rate" not in table:
        raise ValueError(f"{path}.rate: expected a number, got none")
    rate = expect_number(f"{path}.rate", table["rate"], least=0, open_bound=True)
    burst = expect_number(f"{path}.burst", table.get("burst", max(1.0, rate)), least=1)
    return KeyedLimiter(rate, burst, max_devices)
