"""The bus between workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Bus(Protocol):
    """Between workers: at most once, coalesced per turn of the reactor."""

    def publish(self, topic: str, message: bytes) -> None: ...

    def subscribe(self, topic: str, receive: Callable[[bytes], None]) -> Callable[[], None]:
        """Returns what cancels it."""
