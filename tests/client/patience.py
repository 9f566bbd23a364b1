"""A client that suspects no connection: where the gateway of a test is slow, the machine is, and no path is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from accessgw.client.rtt import RoundTrip


@contextmanager
def patience() -> Iterator[None]:
    """Within it, of all clients of this process: none probes, or gives up, a connection that is silent for less than a
    minute. What is counted or noted in the test is then not more, or other, because somebody else had the processor."""
    properties = {name: vars(RoundTrip)[name] for name in ("probe_after", "inspect_after")}
    try:
        for name in properties:
            setattr(RoundTrip, name, 60.0)
        yield
    finally:
        for name, real in properties.items():
            setattr(RoundTrip, name, real)
