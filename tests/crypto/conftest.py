"""What tests of certificates and lists hear of the log."""

from __future__ import annotations

import pytest
from twisted.logger import LogLevel, formatEvent, globalLogPublisher


@pytest.fixture
def logged():
    """Errors so far, one line each."""
    lines = []

    def observe(event):
        if event["log_level"] is LogLevel.error:
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield lambda: list(lines)
    globalLogPublisher.removeObserver(observe)
