"""The filter rate-limit."""

from __future__ import annotations

from typing import Any

import pytest

from accessgw.core.interfaces import Refused
from accessgw.model.calls import Call
from accessgw.model.identity import Identity
from accessgw.plugins.rate_limit import make
from protocols.mmtp.statuses import Status


def refused(limit: Any, now: float, operation: str = "feed", device: str = "d1") -> bool:
    try:
        limit.call(Call(operation, Identity(device), 1, [], received_at=now))
    except Refused as error:
        assert error.status == Status.RATE_LIMIT
        return True
    return False


def test_a_device_has_its_burst_and_then_its_rate() -> None:
    limit = make({"per_device": {"rate": 2, "burst": 3}})
    assert [refused(limit, 10.0) for _ in range(4)] == [False, False, False, True]
    assert not refused(limit, 10.0, device="d2")
    assert not refused(limit, 10.5)
    assert refused(limit, 10.5)


def test_operations_have_their_own_the_closest_pattern_counts() -> None:
    limit = make({"operations": {
        "*": {"rate": 100}, "pay.*": {"rate": 1, "burst": 1}, "pay.look": {"rate": 1, "burst": 2},
    }})  # fmt: skip
    assert [refused(limit, 1.0, "pay.send") for _ in range(2)] == [False, True]
    assert refused(limit, 1.0, "pay.back")
    assert [refused(limit, 1.0, "pay.look") for _ in range(3)] == [False, False, True]
    assert not refused(limit, 1.0, "feed")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "per_device: "),
        ({"pre_device": {}}, "pre_device: unknown key"),
        ({"per_device": 5}, "per_device: expected a table, got 5"),
        ({"per_device": {}}, "per_device.rate: "),
        ({"per_device": {"rate": 0}}, "per_device.rate: expected a number above 0, got 0"),
        ({"per_device": {"rate": True}}, "per_device.rate: "),
        ({"per_device": {"rate": 1, "burst": 0}}, "per_device.burst: "),
        ({"per_device": {"rate": 1, "brust": 1}}, "per_device.brust: unknown key"),
        ({"operations": {"a*b": {"rate": 1}}}, "operations.a*b: "),
        ({"operations": {"a": {"rate": "x"}}}, "operations.a.rate: expected a number above 0, got 'x'"),
        ({"per_device": {"rate": 1}, "max_devices": 0}, "max_devices: "),
    ],
)
def test_bad_settings_name_the_key(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        make(settings)
    assert str(caught.value).startswith(message)
