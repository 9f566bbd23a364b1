"""Bounds on what an HTTP/1.1 peer may make us keep."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits of one connection; sizes are bytes."""

    max_head: int = 32 * 1024
    """Start line and header fields together."""
    max_fields: int = 100
    """Header fields of one head."""
    max_target: int = 8 * 1024
    """Request target (RFC 9112 asks for at least 8,000)."""
    max_body: int | None = None
    """Body of one message; None leaves the bound to whoever takes the data."""
    max_held: int = 256 * 1024
    """Server: pipelined input that waits for the answer before it. See ServerConnection.blocked."""


DEFAULT_LIMITS = HttpLimits()
