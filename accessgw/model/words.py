"""Words of log lines and messages."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """Such as "1 certificate", "2 certificates"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
