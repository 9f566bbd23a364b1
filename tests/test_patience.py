"""Tests of the settings under which all tests run."""

from __future__ import annotations

from hypothesis import HealthCheck, settings


def test_no_example_has_to_be_quick() -> None:
    for profile in (settings(), settings(max_examples=1)):
        assert profile.deadline is None
        assert HealthCheck.too_slow in profile.suppress_health_check
